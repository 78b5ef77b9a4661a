"""Ask for the label, among the two whose train texts share most words."""

from typing import Any


def solve(item: Any, model: Any, data: Any) -> Any:
    """The label that the model names."""
    words, votes = set(item.prompt.split()), dict.fromkeys(data.labels, 0.0)
    for example in data.train:
        votes[example.label] += len(words & set(example.prompt.split())) ** 2
    best = sorted(votes, key=lambda label: votes[label], reverse=True)[:2]
    return model.complete(item.prompt, choices=best, bias=[votes[label] / 80 for label in best]).text
