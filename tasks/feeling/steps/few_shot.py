"""Shows a few train words with their classes before the word."""

from typing import Any

SHOWN = 1
"""Words of each class."""


def texts(word: str, data: Any, so_far: list[str]) -> list[str]:
    """One text: of each class the shortest train words, which are common ones, in the order of the classes."""
    lines = [f"{known}: {label}" for label in data.labels for known in _shown(label, data)]
    return ["\n".join([*lines, f"{word}:"])]


def _shown(label: str, data: Any) -> list[str]:
    words = [example.prompt.split('"')[1] for example in data.train if example.label == label]
    return sorted(words, key=lambda word: (len(word), word))[:SHOWN]
