"""What a decider is, and the session that feeds it one run's events and gives its decisions as batches of bytes.

A decider is three pure functions: `initial(run)`, `evolve(state, event) -> state` and `decide(state, event, version) ->
facts`; evolve comes first. Everything it needs from outside arrives in events. Where nothing is due in a state, and an
event leaves it as it is, nothing is due. The session folds a decision's own
outputs at once and skips them when they come back from the log. Every replay does the same, which is why both arrive at
the same bytes.

A deliberate change of what is decided is a step of the version, and `decide` goes on knowing the rules before it: a
recorded decision is decided again under the version in its head, a new one under the present version. So a run that
older code began goes on, by the new rules from its next decision on. A field that decided facts gain is left out of
decisions of versions before it (`Fact.SINCE`).
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from events import codec
from events.codec import Event
from events.digest import sha256
from events.fact import Fact
from events.run import DecisionMade
from events.time import rfc3339
from runtime.log.port import Message, Stored

State = TypeVar("State")

GENESIS = hashlib.sha256(b"evolog decisions").hexdigest()
"""The digest that the first decision of a run chains on."""


class Decider(NamedTuple, Generic[State]):
    """The three functions, and the version of the rules that new decisions are made by."""

    version: int
    initial: Callable[[str], State]
    evolve: Callable[[State, Event], State]
    decide: Callable[[State, Event, int], list[Fact]]


class Decision(NamedTuple):
    """What was decided at one input: the events in order, the head first, with their bytes."""

    cause: Event
    events: list[Event]
    payloads: list[bytes]

    @property
    def made(self) -> DecisionMade:
        """The data of the head event `decision_made`."""
        made = self.events[0].data
        assert isinstance(made, DecisionMade)
        return made

    def messages(self, head_sequence: int) -> list[Message]:
        """The atomic batch.

        Its first message is fenced by the last sequence on the run's head; the others must be new.
        """
        subjects = [event.subject for event in self.events]
        expected = [head_sequence] + [0] * (len(subjects) - 1)
        return [Message(*parts) for parts in zip(subjects, self.payloads, expected, strict=True)]


class DecisionSession(Generic[State]):
    """One run as its decider sees it: fed with the run's events in the order of the log, it gives the decisions in
    order.

    `versions` are those of the recorded decisions by number: a recorded decision is made again by its own rules. One
    that does not remember is fed with each event once, and with nothing that it has decided.
    """

    def __init__(
        self,
        decider: Decider[State],
        run: str,
        source: str = "controller",
        versions: Mapping[int, int] | None = None,
        remembers: bool = True,
    ) -> None:
        self.decider = decider
        self.run = run
        self.source = source
        self.versions = versions or {}
        self.state = decider.initial(run)
        self.decisions = 0
        self._remembers = remembers
        self._known: set[str] = set()
        """The ids of what was folded or decided: what comes with one of them is skipped."""
        self._settled = -1
        """The version by which nothing is due in the state as it is."""
        self._chain = GENESIS
        self._folded = hashlib.sha256()

    def inherit(self, past: Iterable[Event]) -> None:
        """Fold a forked run's past, in the order that `runtime.log.lineage.in_folding_order` gives.

        This run's chain holds its digest only.
        """
        for event in past:
            self.state = self.decider.evolve(self.state, event)
        self._settled = -1

    def feed(self, stored: Stored, event: Event, data_digest: bytes = b"") -> Decision | None:
        """Fold one event of the log; the decision that it leads to, if it leads to one. `data_digest` is the SHA-256 of
        its message's data, where the caller knows it.

        The session's own outputs are folded already, and of several events with one id the first counts.
        """
        if event.id in self._known:
            return None
        before = self.state
        self._fold(event, data_digest or sha256(stored.data))
        version = self.versions.get(self.decisions + 1, self.decider.version)
        if self.state is before and self._settled == version:
            return None
        facts = self.decider.decide(self.state, event, version)
        self._settled = version  # once what is due is decided, too
        return self._decision(event, rfc3339(stored.time), facts, version) if facts else None

    def _decision(self, cause: Event, time: str, facts: Sequence[Fact], version: int) -> Decision:
        """Fold what was decided and decide again, until nothing more is due; all of it is one decision."""
        self._chain = hashlib.sha256(self._chain.encode() + self._folded.digest()).hexdigest()
        self._folded = hashlib.sha256()
        self.decisions += 1
        events: list[Event] = []
        payloads: list[bytes] = []
        while facts:
            for fact in facts:
                events.append(self._event(fact, cause, time))
                payloads.append(codec.encode(events[-1], version))
                self._fold(events[-1], sha256(payloads[-1]))
            facts = self.decider.decide(self.state, cause, version)
        made = DecisionMade(
            number=self.decisions, input=cause.id, decider=version, digest=self._chain, outputs=len(events)
        )
        head = self._event(made, cause, time)
        self._known.add(head.id)
        return Decision(cause, [head, *events], [codec.encode(head, version), *payloads])

    def _event(self, fact: Fact, cause: Event, time: str) -> Event:
        return codec.event(fact, run=self.run, source=self.source, cause=cause.id, time=time)

    def _fold(self, event: Event, data_digest: bytes) -> None:
        if self._remembers:
            self._known.add(event.id)
        self._folded.update(event.id.encode() + data_digest)
        self.state = self.decider.evolve(self.state, event)
