"""How far a run is, in one word, and how far its audit is: the one definition that every command shows.

The view `runs` of the archive says the same word in SQL; a test compares the two on the same runs. The archive has
nothing of an audit, since that stands on GOLD.
"""

from typing import Literal

from events.run import RunFinished

RunWord = Literal["unknown", "running", "paused", "finished", "failed", "cancelled", "budget exhausted"]
"""A run's state in a word.

`unknown`: it has not begun.
`running`: it goes on, whether services are up or not.
`paused`: the operator asked it to make no further decision.
`finished`: it had nothing more to try.
`failed`: it ended without a candidate.
`cancelled`: the operator ended it, or the run that it belongs to.
`budget exhausted`: it spent what it was given.
"""
AuditWord = Literal["", "under way", "done"]
"""How far the audit of a run is: empty while the run goes on."""

CANCELLED, EXHAUSTED = "cancelled", "budget exhausted"


def run_word(finished: RunFinished | None, *, paused: bool) -> RunWord:
    """The state of a run that has begun: by the event that it ended with, or else by whether it is paused."""
    if finished is None:
        return "paused" if paused else "running"
    if finished.reason == CANCELLED or finished.reason.startswith(f"{CANCELLED}: "):
        return "cancelled"
    if not finished.candidate:
        return "failed"
    return "budget exhausted" if finished.reason == EXHAUSTED else "finished"


def audit_word(finished: RunFinished | None, *, audited: bool) -> AuditWord:
    """How far the audit of a run is: it is finished with `audited`, and begins with the run's end."""
    if finished is None:
        return ""
    return "done" if audited else "under way"


def state_in_words(state: str, audit: str) -> str:
    """Both in words, such as `finished, audit under way`."""
    match audit:
        case "":
            return state
        case "done":
            return f"{state}, audited"
        case _:
            return f"{state}, audit {audit}"
