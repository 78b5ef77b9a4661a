"""What a decider is, and the shell that makes one live: it folds the log, decides, and appends fenced batches.

A decider is three pure functions: `initial(run)`, `evolve(state, event) -> state` and `decide(state, event) -> facts`; evolve comes
first. Everything it needs from outside arrives in events. The shell folds a decision's own outputs at once and skips them when
they come back from the log; so does every replay, which is why both arrive at the same bytes.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from events import codec
from events.codec import Event
from events.fact import Fact
from events.run import DecisionMade
from runtime.log import Message, Stored
from runtime.wire import rfc3339

State = TypeVar("State")

GENESIS = hashlib.sha256(b"evolog decisions").hexdigest()
"""The digest that the first decision of a run chains on."""


class Decider(NamedTuple, Generic[State]):
    """The three functions, and the version that changes with any change of what they decide."""

    version: int
    initial: Callable[[str], State]
    evolve: Callable[[State, Event], State]
    decide: Callable[[State, Event], list[Fact]]


class Decision(NamedTuple):
    """What was decided at one input: the events in order, the head first, and the messages that append them."""

    cause: Event
    events: list[Event]

    def messages(self, head_sequence: int) -> list[Message]:
        """The atomic batch. Its first message is fenced by the last sequence on the run's head; the others must be new."""
        return [Message(event.subject, codec.encode(event), head_sequence if place == 0 else 0) for place, event in enumerate(self.events)]


class Course(Generic[State]):
    """One run as its decider sees it: fed with the run's events in the order of the log, it gives the decisions in order."""

    def __init__(self, decider: Decider[State], run: str, source: str = "controller") -> None:
        self.decider = decider
        self.run = run
        self.source = source
        self.state = decider.initial(run)
        self.decisions = 0
        self._own: set[str] = set()
        self._chain = GENESIS
        self._folded = hashlib.sha256()

    def feed(self, stored: Stored, event: Event) -> Decision | None:
        """Fold one event of the log; the decision that it leads to, if it leads to one."""
        if event.id in self._own:
            self._own.discard(event.id)
            return None
        self._fold(event, stored.data)
        facts = self.decider.decide(self.state, event)
        return self._decision(event, rfc3339(stored.time), facts) if facts else None

    def _decision(self, cause: Event, time: str, facts: Sequence[Fact]) -> Decision:
        """Fold what was decided and decide again, until nothing more is due; all of it is one decision."""
        self._chain = hashlib.sha256(self._chain.encode() + self._folded.digest()).hexdigest()
        self._folded = hashlib.sha256()
        self.decisions += 1
        outputs: list[Event] = []
        while facts:
            for fact in facts:
                outputs.append(self._event(fact, cause, time))
                self._fold(outputs[-1], codec.encode(outputs[-1]))
            facts = self.decider.decide(self.state, cause)
        head = DecisionMade(number=self.decisions, input=cause.id, decider=self.decider.version, digest=self._chain, outputs=len(outputs))
        events = [self._event(head, cause, time), *outputs]
        self._own.update(event.id for event in events)
        return Decision(cause, events)

    def _event(self, fact: Fact, cause: Event, time: str) -> Event:
        return codec.event(fact, run=self.run, source=self.source, cause=cause.id, time=time)

    def _fold(self, event: Event, data: bytes) -> None:
        self._folded.update(event.id.encode() + hashlib.sha256(data).digest())
        self.state = self.decider.evolve(self.state, event)
