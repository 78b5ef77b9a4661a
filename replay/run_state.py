"""How far a run is, in one word, and how far its audit is: the one definition that every command shows.

The view `runs` of the archive says the same word in SQL; a test compares the two on the same runs. The archive has
nothing of an audit, since that stands on GOLD.
"""

from typing import Literal

import msgspec

from events.run import RunFinished, RunStarted

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


class ListedRun(msgspec.Struct, kw_only=True):
    """One run in a list of runs. `started` is RFC 3339 to the second; `reason` is why it ended, or why it is paused."""

    run: str
    task: str
    seed: int
    levers: tuple[str, ...]
    started: str
    state: RunWord
    audit: AuditWord
    decisions: int
    score: float | None
    """Dev score of the candidate that it ended with, or else of the best so far."""
    reason: str
    strategy: str
    width: int
    owner: str
    """Of a child run: the run that it belongs to; else empty."""
    imported: bool = False
    """Whether it is here as files."""


def listed_run(
    run: str, started: RunStarted, began: str, finished: RunFinished | None, decisions: int, *, audited: bool
) -> ListedRun:
    """A run in a list, by its first event, when that was stored, and its last. One that goes on has no score here."""
    return ListedRun(
        run=run,
        task=started.task,
        seed=started.seed,
        levers=started.levers,
        started=began[:19] + "Z",
        state=run_word(finished, paused=False),
        audit=audit_word(finished, audited=audited),
        decisions=decisions,
        score=finished.score if finished and finished.candidate else None,
        reason=finished.reason if finished else "",
        strategy=started.strategy,
        width=started.width,
        owner=started.owner,
    )


def state_in_words(state: str, audit: str) -> str:
    """Both in words, such as `finished, audit under way`."""
    match audit:
        case "":
            return state
        case "done":
            return f"{state}, audited"
        case _:
            return f"{state}, audit {audit}"
