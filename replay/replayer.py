"""Decides a recorded run again with this code's decider, which must decide the same to the byte.

Also folds a run to its state at any point.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from events.codec import Event
from events.errors import CheckFailed, UsageError
from events.run import DecisionMade, RunFinished
from events.subjects import HEAD, entity_of
from replay.chain import Chain
from replay.closing import Closing, closing
from replay.history import EventProgress, History, second_events
from runtime.log import lineage
from runtime.log.port import Stored, readable
from runtime.run.decide import DECIDER
from runtime.run.decider import Decider, Decision, DecisionSession
from runtime.run.state import RunState

PROGRESS_EVERY = 1000
"""Messages between two reports of progress."""


class DecisionDifference(msgspec.Struct, frozen=True, kw_only=True):
    """The first place where this code decides otherwise than is recorded.

    `recorded` and `decided` are the two messages as text; `decided` is empty if this code decides nothing there.
    `newer`: only because a later version of the decider made the recorded one.
    """

    sequence: int
    decision: int
    why: str
    recorded: str
    decided: str
    newer: bool = False

    def __str__(self) -> str:
        """A sentence without its full stop."""
        return f"sequence {self.sequence} is not as it was decided: {self.why}"


class ReplayResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of deciding a run again.

    `events` counts the messages that the run has, `decisions` those that came out the same.
    """

    version: int = 1
    run: str
    events: int
    decisions: int
    finished: bool
    difference: DecisionDifference | None
    next: int | None = None
    """The sequence of an event at which this code decides and nothing is recorded yet, as in a run that goes on."""
    closing: Closing
    second: list[str] = []
    """A sentence for each event on a place that was taken."""


class RecordedDecision(NamedTuple):
    """A decision as the log has it. `messages` has its head first, then its outputs."""

    made: DecisionMade
    messages: Sequence[Stored]

    @property
    def sequence(self) -> int:
        """The sequence of its head."""
        return self.messages[0].sequence


def redecide(
    history: History, decider: Decider[Any] = DECIDER, progress: EventProgress = lambda done, total: None
) -> ReplayResult:
    """Let this code decide at every recorded event of a run, and compare with what is recorded, up to the first
    difference.

    Raises `CheckFailed` where a forked run's past is not what it was forked from.
    """
    messages = history.messages
    recorded = decisions(messages)
    session = DecisionSession(
        decider, history.run, versions={number: one.made.decider for number, one in recorded.items()}
    )
    if history.started.parent_run:
        lineage.require_past(history.past, history.started)
        session.inherit(lineage.in_folding_order(history.past))
    heads = {one.sequence: one for one in recorded.values()}
    unchanged, finished = 0, False
    difference: DecisionDifference | None = None
    next_input: int | None = None
    for index, stored in enumerate(messages):
        if index % PROGRESS_EVERY == 0:
            progress(index, len(messages))
        head = heads.get(stored.sequence)
        if head and head.made.number > session.decisions:
            difference = _not_decided(head)
        for event in () if difference or finished else readable([stored]):
            try:
                decision = session.feed(stored, event)
            except Exception as wrong:  # whatever a decider meets in events that no service said
                raise CheckFailed(
                    f"Run {history.run} cannot be decided at sequence {stored.sequence}, {event.tag}: it does not "
                    f"follow from the events before it ({type(wrong).__name__}: {wrong})."
                ) from wrong
            if decision is None:
                continue
            if decision.made.number not in recorded:
                later = next((other for other in messages[index + 1 :] if entity_of(other.subject) == HEAD), None)
                difference = _not_recorded(decision, later) if later else None
                next_input = None if later else stored.sequence
                break
            one = recorded[decision.made.number]
            difference = _too_new(one, decider.version) or _compare(decision, one, messages)
            unchanged += difference is None
            finished = isinstance(decision.events[-1].data, RunFinished)
        if difference or next_input:
            break
    progress(len(messages), len(messages))
    return ReplayResult(
        run=history.run,
        events=len(messages),
        decisions=unchanged,
        finished=finished,
        difference=difference,
        next=next_input,
        closing=closing(history),
        second=second_events(messages),
    )


class OutOfLine(Exception):
    """A run's messages are not what `Redecision` goes by: it is for `redecide` to say whether something is wrong."""


class Redecision:
    """Lets this code decide at a run's messages as they go by, each once, and compares with what is recorded.

    It raises `OutOfLine` at whatever differs, and keeps nothing but what is decided and still to come.
    """

    def __init__(self, run: str, heads: Iterable[Stored], decider: Decider[Any] = DECIDER) -> None:
        """`heads` are the run's recorded heads of decisions up to where the messages end."""
        made = [event.data for event in readable(heads)]
        self._versions = {one.number: one.decider for one in reversed(made) if isinstance(one, DecisionMade)}
        self._session = DecisionSession(decider, run, versions=self._versions, remembers=False)
        self._newest = decider.version
        self._due: deque[deque[bytes]] = deque()
        """The messages of each decision that is still to come, its head first."""
        self._coming: deque[bytes] = deque()
        """Those that are still to come of the decision whose head came last."""
        self._over = False

    def take(self, stored: Stored, event: Event | None, data_digest: bytes = b"") -> None:
        """Take the next message, with its event if that can be read; `data_digest` is the SHA-256 of its data, where
        the caller knows it.
        """
        is_head = entity_of(stored.subject) == HEAD
        if is_head:
            if self._coming or not self._due:
                raise OutOfLine
            self._coming = self._due.popleft()
        if self._coming:
            if self._coming.popleft() != stored.data:
                raise OutOfLine
        elif event and not self._over:
            self._feed(stored, event, data_digest)

    def end(self) -> None:
        """Raise `OutOfLine` if a decision is not there whole."""
        if self._coming:
            raise OutOfLine

    def _feed(self, stored: Stored, event: Event, data_digest: bytes) -> None:
        try:
            decision = self._session.feed(stored, event, data_digest)
        except Exception as wrong:  # whatever a decider meets in events that no service said
            raise OutOfLine from wrong
        if decision is None:
            return
        number = decision.made.number
        if self._versions.get(number, 0) > self._newest:
            raise OutOfLine
        self._due.append(deque(decision.payloads))
        # of a run that goes on, what was not recorded yet
        self._over = number not in self._versions or isinstance(decision.events[-1].data, RunFinished)


def decisions(messages: Sequence[Stored]) -> dict[int, RecordedDecision]:
    """The recorded decisions of one run, by their numbers."""
    by_number: dict[int, RecordedDecision] = {}
    for index, stored in enumerate(messages):
        if entity_of(stored.subject) == HEAD:
            for event in readable([stored]):
                assert isinstance(event.data, DecisionMade)
                by_number.setdefault(
                    event.data.number,
                    RecordedDecision(event.data, messages[index : index + event.data.outputs + 1]),
                )
    return by_number


def _not_recorded(decision: Decision, head: Stored) -> DecisionDifference:
    why = f"decision {decision.made.number} of this code is not among the recorded ones that can be read"
    return _difference(decision.made.number, head, decision.payloads[0], why)


def _too_new(head: RecordedDecision, known: int) -> DecisionDifference | None:
    if (version := head.made.decider) <= known:
        return None
    why = (
        f"decision {head.made.number} was made by version {version} of the decider, and this code knows them up to "
        f"{known}"
    )
    return DecisionDifference(
        sequence=head.sequence,
        decision=head.made.number,
        why=why,
        recorded=_text(head.messages[0]),
        decided="",
        newer=True,
    )


def _not_decided(head: RecordedDecision) -> DecisionDifference:
    return DecisionDifference(
        sequence=head.sequence,
        decision=head.made.number,
        why=f"decision {head.made.number} is recorded as the answer to event {head.made.input}, and this code "
        "decides nothing there",
        recorded=_text(head.messages[1]),
        decided="",
    )


def _compare(decision: Decision, recorded: RecordedDecision, messages: Sequence[Stored]) -> DecisionDifference | None:
    """The first difference of a decision.

    Its head comes last, since its digest says only that something differs before it.
    """
    number, made, now = decision.made.number, recorded.made, decision.made
    pairs = list(zip(recorded.messages, decision.payloads, strict=False))
    if len(recorded.messages) <= made.outputs:
        last, lost = recorded.messages[-1], made.outputs + 1 - len(recorded.messages)
        why = f"the last {lost} events of decision {number} are missing after it, which were stored with it"
        return _difference(number, last, decision.payloads[-1], why)
    if now.input != made.input:
        why = (
            f"decision {number} is recorded as the answer to event {made.input}, and this code makes it at event "
            f"{now.input}"
        )
        return _difference(number, *pairs[0], why)
    for index, (stored, payload) in enumerate(pairs[1:], 1):
        if stored.data != payload:
            return _difference(number, stored, payload, f"event {index} of decision {number} is another")
    if now.outputs != made.outputs:
        return _difference(
            number, *pairs[0], f"decision {number} has {made.outputs} events, and {now.outputs} by this code"
        )
    if pairs[0][0].data != pairs[0][1]:
        chain = Chain(decision.events[0].run)
        for stored in messages:
            if readable([stored]) and chain.take(stored.sequence, stored.subject, stored.data):
                break
        first = chain.broken.first if chain.broken else messages[0].sequence
        damage = f"one of sequences {first} to {recorded.sequence} is not as it was"
        why = f"decision {number} was made on other events than those that stand before it: {damage}"
        return _difference(number, *pairs[0], why)
    return None


def _difference(number: int, stored: Stored, payload: bytes, why: str) -> DecisionDifference:
    return DecisionDifference(
        sequence=stored.sequence, decision=number, why=why, recorded=_text(stored), decided=payload.decode()
    )


def _text(stored: Stored) -> str:
    return stored.data.decode(errors="replace")


def parse_point(at: str) -> int | datetime:
    """The point in a run that a user means: a sequence such as `1234`, or a time such as `2026-11-21T10:00:00Z`.

    Raises `UsageError` for text that is neither.
    """
    if at.isascii() and at.isdecimal():
        return int(at)
    try:
        return datetime.fromisoformat(at)
    except ValueError as wrong:
        raise UsageError(
            f"{at!r} is no point in a run: give a sequence, or a time such as 2026-11-21T10:00:00Z."
        ) from wrong


def find_sequence(messages: Sequence[Stored], at: str) -> int:
    """The sequence that a user means by a point, as `parse_point` reads it.

    A time means the run's last message that was stored by then. A point within a decision means the decision's end,
    since a decision is stored whole; a point behind the run means the run's end. Raises `UsageError` for text that is
    no point, or a point before the run.
    """
    point = parse_point(at)
    if isinstance(point, int):
        sequence = point
    else:
        nanoseconds = (point if point.tzinfo else point.replace(tzinfo=UTC)).timestamp() * 1e9
        sequence = max((stored.sequence for stored in messages if stored.time <= nanoseconds), default=0)
    if not messages or sequence < messages[0].sequence:
        begins = f"its first message has sequence {messages[0].sequence}" if messages else "it has no message"
        raise UsageError(f"Nothing of the run stands on the log by {at}: {begins}.")
    for one in decisions(messages).values():
        if one.sequence <= sequence < one.messages[-1].sequence:
            return one.messages[-1].sequence
    return min(sequence, messages[-1].sequence)


def beyond(messages: Sequence[Stored], at: str) -> str:
    """That a sequence lies beyond the run's last, in a sentence; empty where it does not."""
    point, last = parse_point(at), messages[-1].sequence if messages else 0
    if not isinstance(point, int) or point <= last:
        return ""
    return f"sequence {point:,} is beyond the run's last, which is {last:,}: this is its end so far"


def state_at(history: History, sequence: int) -> RunState:
    """The state of the run's decider after all messages up to this sequence."""
    state = DECIDER.initial(history.run)
    for part in (history.past, history.messages):
        for event in lineage.in_folding_order(stored for stored in part if stored.sequence <= sequence):
            state = DECIDER.evolve(state, event)
    return state
