"""The nearer the better."""

from algorithms.demos import toys
from tasks.contract import Scored

VERSION = "numbers-1"


def score(answer: str | None, label: str) -> Scored:
    """1 - the mean distance over 75, and 0 for what is no two numbers."""
    numbers, target = toys.parse_numbers(answer or ""), toys.parse_numbers(label)
    assert target
    if numbers is None:
        return Scored(0.0, "unparsed")
    return Scored(toys.closeness(numbers, target), "right" if numbers == target else "wrong")
