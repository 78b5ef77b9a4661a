"""The reward that a run learns from: the answer is the label."""

from tasks.contract import Scored

VERSION = "exact-1"


def score(answer: str | None, label: str) -> Scored:
    """1 for the label, else 0."""
    if not answer:
        return Scored(0.0, "unparsed")
    return Scored(1.0, "right") if answer == label else Scored(0.0, "wrong")
