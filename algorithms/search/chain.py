"""The rule that accepts a candidate: it replaces the best so far if its score on dev is higher (SIA, arXiv 2605.27276).

Candidates form a chain: each is made from the best so far. One of which too many attempts failed to run is rejected,
whatever its score.
"""

from typing import NamedTuple

FAILED_LIMIT = 0.05
"""The share of dev attempts that may fail to run.

With more, a candidate is rejected, whatever the rest of them scored.
"""


class Acceptance(NamedTuple):
    """Whether a candidate is accepted, and the sentence that is recorded as the reason."""

    accepted: bool
    reason: str


def judge(score: float, best: float | None, failed: int, items: int) -> Acceptance:
    """Accept a candidate if nearly all of its dev attempts ran and its mean reward beats the best so far.

    `score` is the mean reward of the attempts that ran, `best` that of the best candidate so far (None: this is the
    first), `failed` how many of the `items` dev attempts did not run.
    """
    if items == 0 or failed > FAILED_LIMIT * items:
        return Acceptance(False, f"{failed} of {items} attempts failed to run, at most {FAILED_LIMIT:.0%} may")
    if best is None:
        return Acceptance(True, f"the start, {score:.4f} on dev")
    if score > best:
        return Acceptance(True, f"{score:.4f} on dev, the best so far was {best:.4f}")
    return Acceptance(False, f"{score:.4f} on dev does not beat {best:.4f}")
