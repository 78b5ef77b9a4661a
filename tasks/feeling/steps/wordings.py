"""Asks by several texts, whose answers vote."""

from typing import Any

FURTHER = ('When someone says "{word}", the feeling is', "Feelings of words:\n{word}:")


def texts(word: str, data: Any, so_far: list[str]) -> list[str]:
    """The text so far, which decides where all differ, and two others."""
    return [*so_far[:1], *(text.format(word=word) for text in FURTHER)]
