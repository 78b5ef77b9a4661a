"""The scaffold that a run starts from: ask the question as a user's turn, with the four answers on offer.

A step is a module of the folder `steps`. `fit(data)` learns from the train words, once for all attempts.
`texts(word, data, texts)` gives plain texts that end where the answer goes on, in place of those so far.
`bias(word, data)` gives what is added to the log-odds of each answer. Where there are several texts, the answers vote.
"""

import re
from collections import Counter
from importlib import import_module
from typing import Any

STEPS: tuple[str, ...] = ()
QUOTED = re.compile(r'"([^"]+)"')


def prepare(data: Any) -> None:
    """Import the steps, and let them learn what they need."""
    for step in map(load, STEPS):
        if hasattr(step, "fit"):
            step.fit(data)


def load(name: str) -> Any:
    """The step of this name."""
    return import_module(f"steps.{name}")


def solve(item: Any, model: Any, data: Any) -> str:
    """The class of the word in quotes, by the steps in order, then the model."""
    quoted = QUOTED.search(item.prompt)
    word = quoted[1] if quoted else item.prompt
    texts: list[str] = []
    bias = [0.0] * len(data.labels)
    for step in map(load, STEPS):
        if hasattr(step, "texts"):
            texts = step.texts(word, data, texts)
        if hasattr(step, "bias"):
            bias = [sum(pair) for pair in zip(bias, step.bias(word, data), strict=True)]
    if not texts:
        answer: str = model.complete(item.prompt, choices=data.labels, bias=bias).text
        return answer
    votes: Counter[str] = Counter(
        model.complete(text, choices=data.labels, bias=bias, plain=True).text for text in texts
    )
    return votes.most_common(1)[0][0]
