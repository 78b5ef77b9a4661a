"""Decides a recorded run again and compares, byte for byte; and folds it to the state that it had at any point."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from events.errors import UsageError
from events.run import DecisionMade, RunFinished
from events.subjects import HEAD
from replay.chain import Chain
from replay.history import History
from runtime.log import lineage
from runtime.log.port import Stored, readable
from runtime.run.decide import DECIDER
from runtime.run.decider import Decider, Decision, DecisionSession
from runtime.run.state import RunState

Say = Callable[[int, int], None]
"""Progress: how many messages are done, of how many."""
STEP = 1000


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first place where what is recorded is not what this code decides; nothing in `decided` if it decides nothing there."""

    sequence: int
    decision: int
    why: str
    recorded: str
    decided: str


class Redecided(msgspec.Struct, frozen=True, kw_only=True):
    """What came of deciding a run again. `decisions` are those that came out the same."""

    version: int = 1
    run: str
    events: int
    decisions: int
    finished: bool
    difference: Difference | None
    next: int | None = None
    """The sequence of an event at which this code decides and nothing is recorded yet, as in a run that goes on."""


class _Recorded(NamedTuple):
    """A decision as it stands on the log, its messages with the head first."""

    made: DecisionMade
    messages: Sequence[Stored]

    @property
    def sequence(self) -> int:
        """Where its head stands."""
        return self.messages[0].sequence


def redecide(history: History, decider: Decider[Any] = DECIDER, say: Say = lambda done, total: None) -> Redecided:
    """Let this code decide at every recorded event of a run, and compare with what is recorded, up to the first difference.

    Raises `CheckFailed` where a forked run's past is not what it was forked from.
    """
    messages = history.messages
    recorded = decisions(messages)
    course = DecisionSession(decider, history.run, versions={number: one.made.decider for number, one in recorded.items()})
    if history.started.parent_run:
        lineage.require(history.past, history.started)
        course.inherit(lineage.as_folded(history.past))
    heads = {one.sequence: one for one in recorded.values()}
    same, finished = 0, False
    difference: Difference | None = None
    following: int | None = None
    for place, stored in enumerate(messages):
        if place % STEP == 0:
            say(place, len(messages))
        head = heads.get(stored.sequence)
        if head and head.made.number > course.decisions:
            difference = _missing(head)
        for event in () if difference or finished else readable([stored]):
            if (decision := course.feed(stored, event)) is None:
                continue
            if decision.made.number not in recorded:
                later = next((other for other in messages[place + 1 :] if other.subject.split(".", 3)[2] == HEAD), None)
                difference = _unread(decision, later) if later else None
                following = None if later else stored.sequence
                break
            one = recorded[decision.made.number]
            difference = _newer(one, decider.version) or _compare(decision, one, messages)
            same += difference is None
            finished = isinstance(decision.events[-1].data, RunFinished)
        if difference or following:
            break
    say(len(messages), len(messages))
    return Redecided(run=history.run, events=len(messages), decisions=same, finished=finished, difference=difference, next=following)


def decisions(messages: Sequence[Stored]) -> dict[int, _Recorded]:
    """The recorded decisions of one run by number."""
    found: dict[int, _Recorded] = {}
    for place, stored in enumerate(messages):
        if stored.subject.split(".", 3)[2] == HEAD:
            for event in readable([stored]):
                assert isinstance(event.data, DecisionMade)
                found[event.data.number] = _Recorded(event.data, messages[place : place + event.data.outputs + 1])
    return found


def _unread(decision: Decision, head: Stored) -> Difference:
    why = f"decision {decision.made.number} of this code is not among the recorded ones that can be read"
    return _difference(decision.made.number, head, decision.payloads[0], why)


def _newer(head: _Recorded, known: int) -> Difference | None:
    if (version := head.made.decider) <= known:
        return None
    why = f"decision {head.made.number} was made by version {version} of the decider, and this code knows them up to {known}"
    return Difference(sequence=head.sequence, decision=head.made.number, why=why, recorded=_text(head.messages[0]), decided="")


def _missing(head: _Recorded) -> Difference:
    return Difference(
        sequence=head.sequence,
        decision=head.made.number,
        why=f"decision {head.made.number} is recorded as the answer to event {head.made.input}, and this code decides nothing there",
        recorded=_text(head.messages[1]),
        decided="",
    )


def _compare(decision: Decision, recorded: _Recorded, messages: Sequence[Stored]) -> Difference | None:
    """The first difference of a decision. Its head comes last, since its digest says only that something differs before it."""
    number, made, now = decision.made.number, recorded.made, decision.made
    pairs = list(zip(recorded.messages, decision.payloads, strict=False))
    if now.input != made.input:
        why = f"decision {number} is recorded as the answer to event {made.input}, and this code makes it at event {now.input}"
        return _difference(number, *pairs[0], why)
    for place, (stored, payload) in enumerate(pairs[1:], 1):
        if stored.data != payload:
            return _difference(number, stored, payload, f"event {place} of decision {number} is another")
    if now.outputs != made.outputs:
        return _difference(number, *pairs[0], f"decision {number} has {made.outputs} events, and {now.outputs} by this code")
    if pairs[0][0].data != pairs[0][1]:
        chain = Chain(decision.events[0].run)
        for stored in messages:
            if readable([stored]) and chain.take(stored.sequence, stored.subject, stored.data):
                break
        first = chain.broken.first if chain.broken else messages[0].sequence
        where = f"one of sequences {first} to {recorded.sequence} is not as it was"
        why = f"decision {number} was made on other events than those that stand before it: {where}"
        return _difference(number, *pairs[0], why)
    return None


def _difference(number: int, stored: Stored, payload: bytes, why: str) -> Difference:
    return Difference(sequence=stored.sequence, decision=number, why=why, recorded=_text(stored), decided=payload.decode())


def _text(stored: Stored) -> str:
    return stored.data.decode(errors="replace")


def point(messages: Sequence[Stored], at: str) -> int:
    """The sequence that is meant by `1234`, or by `2026-11-21T10:00:00Z`: that of the last message of the run that was stored by then.

    A decision is stored whole, so what lies within one means its end; what lies behind the run means the run's end. Raises `UsageError` for
    what is neither, or lies before the run.
    """
    if at.isascii() and at.isdecimal():
        sequence = int(at)
    else:
        try:
            time = datetime.fromisoformat(at)
        except ValueError as wrong:
            raise UsageError(f"{at!r} is no point in a run: give a sequence, or a time such as 2026-11-21T10:00:00Z.") from wrong
        nanoseconds = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1e9
        sequence = max((stored.sequence for stored in messages if stored.time <= nanoseconds), default=0)
    if not messages or sequence < messages[0].sequence:
        begins = f"its first message has sequence {messages[0].sequence}" if messages else "it has no message"
        raise UsageError(f"Nothing of the run stands on the log by {at}: {begins}.")
    for one in decisions(messages).values():
        if one.sequence <= sequence < one.messages[-1].sequence:
            return one.messages[-1].sequence
    return min(sequence, messages[-1].sequence)


def state_at(history: History, sequence: int) -> RunState:
    """The state that the run's decider was in when the messages up to this sequence had been folded."""
    state = DECIDER.initial(history.run)
    for part in (history.past, history.messages):
        for event in lineage.as_folded(stored for stored in part if stored.sequence <= sequence):
            state = DECIDER.evolve(state, event)
    return state
