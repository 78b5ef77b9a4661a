"""The reward that a run learns from: the answer is the word's class, letter for letter."""

from tasks.contract import Scored

VERSION = "exact-match-1"


def score(answer: str | None, label: str) -> Scored:
    """1 for the exact class, else 0; no answer, or an empty one, counts as unparsed."""
    if not answer:
        return Scored(0.0, "unparsed")
    return Scored(1.0, "right") if answer == label else Scored(0.0, "wrong")
