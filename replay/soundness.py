"""Whether a recorded run is what was recorded: the chain of its decisions holds, the last one comes out the same again,
and an export is what its description says.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from events import codec
from events.errors import CheckFailed
from events.subjects import run_of
from replay.chain import Chain
from replay.closing import Closing, closing, first_changed
from replay.history import History
from replay.replayer import redecide
from runtime.log import lineage
from runtime.log.port import Stored

MARK_LOG, MARK_GOLD = 100, 1
"""An export's description has a mark after so many messages of a stream."""
Marks = tuple[tuple[str, ...], tuple[str, ...]]
"""Of EVOLOG and of GOLD: see `replay.closing.marks_of`."""


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
    require_recorded(history)
    difference = redecide(history).difference
    if difference and not difference.newer:
        raise CheckFailed(f"Run {history.run} is not as it was recorded: {difference}.")


def require_described(history: History, described: Closing, marks: Marks) -> None:
    """Raise `CheckFailed`, naming the first bad event or the range that it lies in, unless these are the digests and
    marks of the run.
    """
    for stream, messages, every, known in (
        ("EVOLOG", history.messages, MARK_LOG, marks[0]),
        ("GOLD", history.gold, MARK_GOLD, marks[1]),
    ):
        if bad := first_changed(messages, every, known):
            raise CheckFailed(
                f"The events of run {history.run} on {stream} are not those that were exported: the first that was "
                f"changed, added or lost lies at {_range(bad)}."
            )
        if len(known) < len(messages) // every:
            raise CheckFailed(f"Run {history.run} has events on {stream} that were not exported.")
    now = closing(history)
    for what in Closing.__struct_fields__:
        if getattr(now, what) != getattr(described, what):
            raise CheckFailed(
                f"The description of run {history.run} says that it closes with {what} {getattr(described, what)}, and "
                f"its events give {getattr(now, what)}: the description is not as it was written."
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
