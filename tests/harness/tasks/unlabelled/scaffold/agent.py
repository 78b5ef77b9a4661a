"""Puts the word at the end of a plain text."""

from typing import Any


def solve(item: Any, model: Any, data: Any) -> str:
    """One of the four classes."""
    word = item.prompt.split('"')[1]
    text = f"How do words feel: terrible, bad, good or wonderful?\n{word}:"
    answer: str = model.complete(text, choices=data.labels, plain=True).text
    return answer
