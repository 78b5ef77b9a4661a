"""The reward that a run learns from: the answer is the label, character for character."""

from tasks.contract import Scored

VERSION = "exact-match-1"


def score(answer: str | None, label: str) -> Scored:
    """1 for the exact label, else 0; no answer, or an empty one, counts as unparsed.

    Spaces are not stripped: a label is owed.
    """
    if not answer:
        return Scored(0.0, "unparsed")
    return Scored(1.0, "right") if answer == label else Scored(0.0, "wrong")
