"""Puts the word at the end of a plain text: a model of this size goes on better than it answers."""

from typing import Any

QUESTION = "How do words feel: terrible, bad, good or wonderful?"


def texts(word: str, data: Any, so_far: list[str]) -> list[str]:
    """One text. What all words share comes first, so that it is read once."""
    return [f"{QUESTION}\n{word}:"]
