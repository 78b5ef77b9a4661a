"""The answer is the label; there is one answer that it chokes on."""

from tasks.contract import Scored

VERSION = "tiny-1"


def score(answer: str | None, label: str) -> Scored:
    """1 for the label, else 0."""
    if answer == "unscorable":
        raise ValueError("an answer that this verifier does not survive")
    if not answer:
        return Scored(0.0, "unparsed")
    return Scored(1.0, "right") if answer == label else Scored(0.0, "wrong")
