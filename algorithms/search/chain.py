"""SIA's strategy (arXiv 2605.27276): one chain of candidates, each made from the best so far and kept only if it scores higher on dev."""

from typing import NamedTuple

FAILED_LIMIT = 0.05
"""Share of attempts that may fail to run before a candidate is refused, whatever the rest of them scored."""


class Acceptance(NamedTuple):
    """Whether a candidate is kept, and why."""

    accepted: bool
    reason: str


def judge(score: float, best: float | None, failed: int, items: int) -> Acceptance:
    """Keep the candidate if nearly all of its attempts ran and its mean reward beats the best so far."""
    if items == 0 or failed > FAILED_LIMIT * items:
        return Acceptance(False, f"{failed} of {items} attempts failed to run, at most {FAILED_LIMIT:.0%} may")
    if best is None:
        return Acceptance(True, f"the start, {score:.4f} on dev")
    if score > best:
        return Acceptance(True, f"{score:.4f} on dev, the best so far was {best:.4f}")
    return Acceptance(False, f"{score:.4f} on dev does not beat {best:.4f}")
