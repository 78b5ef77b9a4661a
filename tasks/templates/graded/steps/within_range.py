"""Ask once, and keep each digit within the range that it has in train."""

from typing import Any


def digits(text: str) -> list[int]:
    """The numbers of a text."""
    return [int(word) for word in text.split() if word.isdecimal()]


def solve(item: Any, model: Any, data: Any) -> Any:
    """The model's answer, no further off than any best answer of train."""
    said = model.complete(item.prompt).text
    ranges = list(zip(*(digits(example.label) for example in data.train), strict=True))
    if len(digits(said)) != len(ranges):
        return said
    return " ".join(str(min(max(of), max(min(of), digit))) for digit, of in zip(digits(said), ranges, strict=True))
