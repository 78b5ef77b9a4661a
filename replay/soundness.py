"""Whether a recorded run is what was recorded: the chain of its decisions holds, the last one comes out the same again,
and an export is what its description says.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from events import codec
from events.errors import CheckFailed
from events.subjects import run_of
from replay.chain import Chain
from replay.closing import Closing, closing, first_changed, marks_of
from replay.history import History
from replay.replayer import redecide
from runtime.log import lineage
from runtime.log.port import Stored

MARK_LOG, MARK_GOLD = 100, 1
"""An export's description has a mark after so many messages of a stream."""
Marks = tuple[tuple[str, ...], tuple[str, ...]]
"""Of EVOLOG and of GOLD: see `replay.closing.marks_of`."""


class Digests(NamedTuple):
    """What an export's description says of its events by digests."""

    closing: Closing
    marks: Marks


def digests_of(history: History) -> Digests:
    """The digests of a recorded run."""
    return Digests(closing(history), (marks_of(history.messages, MARK_LOG), marks_of(history.gold, MARK_GOLD)))


def require_recorded(history: History) -> None:
    """Raise `CheckFailed`, naming the first bad event or the range that it lies in, unless the chain of decisions holds
    to the last event of the last decision.

    It does not decide again: see `require_decided`.
    """
    run, started = history.run, history.started
    chain = Chain(run)
    for stored in _first_of_each(history.messages):
        if broken := chain.take(stored.sequence, stored.subject, stored.data):
            raise CheckFailed(
                f"Run {run} is not as it was recorded. {broken} What was changed or lost lies in the sequences "
                f"{broken.first} to {broken.last}."
            )
    if chain.awaited:
        raise CheckFailed(
            f"Run {run} is not as it was recorded. After sequence {history.messages[-1].sequence} the last "
            f"{chain.awaited} events of decision {chain.decisions} are missing, which were stored with it."
        )
    if started.parent_run:
        lineage.require_past(history.past, started)
    elif history.past:
        raise CheckFailed(
            f"Sequence {history.past[0].sequence} is of run {run_of(history.past[0].subject)}, and run {run} has no "
            "past: it is no fork."
        )


def require_decided(history: History) -> None:
    """As `require_recorded`, and the last decision, which no later one vouches for, must come out the same again.

    A decision of a newer version of the decider than this code knows is left as it is.
    """
    if not history.exported:  # else it was when it was read
        require_recorded(history)
    difference = redecide(history).difference
    if difference and not difference.newer:
        raise CheckFailed(f"Run {history.run} is not as it was recorded: {difference}.")


def require_described(history: History, now: Digests, described: Digests) -> None:
    """Raise `CheckFailed`, naming the first bad event or the range that it lies in, unless the run's digests are those
    that were described.
    """
    for stream, messages, every, marks, known in (
        ("EVOLOG", history.messages, MARK_LOG, now.marks[0], described.marks[0]),
        ("GOLD", history.gold, MARK_GOLD, now.marks[1], described.marks[1]),
    ):
        if bad := first_changed(messages, every, marks, known):
            raise CheckFailed(
                f"The events of run {history.run} on {stream} are not those that were exported: the first that was "
                f"changed, added or lost lies at {_range(bad)}."
            )
    for what in Closing.__struct_fields__:
        is_now, was = getattr(now.closing, what), getattr(described.closing, what)
        if is_now != was:
            raise CheckFailed(
                f"The description of run {history.run} says that it closes with {what} {was}, and its events give "
                f"{is_now}: the description is not as it was written."
            )


def _range(messages: Sequence[Stored]) -> str:
    first, last = messages[0].sequence, messages[-1].sequence
    return f"sequence {first}" if first == last else f"the sequences {first} to {last}"


def _first_of_each(messages: Sequence[Stored]) -> Iterator[Stored]:
    """The messages that hold events, of several with one id the first."""
    taken = set[str]()
    for stored in messages:
        with suppress(codec.Unreadable):
            event = codec.plain_at(stored.subject, stored.data)
            if event.id not in taken:
                taken.add(event.id)
                yield stored
