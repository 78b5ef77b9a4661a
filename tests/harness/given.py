"""Runs told as sentences: `given(run).when(fact)` feeds a decider as the live shell does, and says what it decides."""

from collections.abc import Sequence
from typing import Any

from events import codec
from events.change import ScaffoldProposed, ScaffoldRequested, WeightUpdateRequested
from events.choice import FeedbackRequested
from events.fact import Fact, derive, derive_seed
from events.judgement import TrajectoryScored
from events.population import CandidateAccepted
from events.rollouts import RolloutsRequested
from events.run import AuditReleased, RunStarted
from events.weights import AdapterPublished, AdapterRejected, AdapterServed, TrainingBatchSealed
from runtime.log.lineage import as_folded
from runtime.log.port import Stored, readable
from runtime.run.decide import DECIDER
from runtime.run.decider import Decider, Decision, DecisionSession

RUN = "r"


class Story:
    """A run so far. `decided` holds the facts of the last decision."""

    def __init__(self, run: str = RUN) -> None:
        self.course: DecisionSession[Any] = DecisionSession(DECIDER, run)
        self.decisions: list[Decision] = []
        self.decided: list[Fact] = []
        self._sequence = 0

    def when(self, *facts: Fact) -> "Story":
        """Feed the facts, one after the other."""
        self.decided = []
        for fact in facts:
            self._sequence += 1
            event = codec.event(fact, run=self.course.run, source="test", cause="", time="2026-01-01T00:00:00Z")
            stored = Stored(self._sequence, self._sequence * 1_000_000_000, event.subject, codec.encode(event))
            decision = self.course.feed(stored, event)
            if decision:
                self.decisions.append(decision)
                self.decided += [of.data for of in decision.events[1:]]
        return self

    def of(self, kind: type[Fact]) -> list[Any]:
        """The facts of one type in the last decisions."""
        return [fact for fact in self.decided if isinstance(fact, kind)]


def given(*facts: Fact) -> Story:
    """A run in which these facts came one after the other."""
    return Story().when(*facts)


class Told:
    """A log as it comes to stand: what is said, and what is decided at it. A `late` controller hears facts only when all are appended."""

    def __init__(self, late: bool = False, run: str = RUN, decider: Decider[Any] = DECIDER, past: Sequence[Stored] = ()) -> None:
        self.late, self.run = late, run
        self.messages: list[Stored] = []
        self.course: DecisionSession[Any] = DecisionSession(decider, run)
        self.course.inherit(as_folded(past))
        self.unheard: list[Stored] = []
        self._before = past[-1].sequence if past else 0

    def say(self, *facts: Fact) -> None:
        """Append these, and then what is decided at each of them."""
        for fact in facts:
            self.unheard.append(self.append(codec.event(fact, run=self.run, source="test", cause="", time="")))
            if not self.late:
                self.hear()
        self.hear()

    def hear(self) -> None:
        while self.unheard:
            stored = self.unheard.pop(0)
            decision = self.course.feed(stored, codec.decode(stored.data))
            self.unheard += [self.append(event) for event in (decision.events if decision else ())]

    def append(self, event: codec.Event) -> Stored:
        sequence = self._before + len(self.messages) + 1
        self.messages.append(Stored(sequence, sequence * 10**9, event.subject, codec.encode(event)))
        return self.messages[-1]

    def go_on(self, limit: int = 1 << 30) -> "Told":
        """Answer what is asked, one fact after the other, until the run is finished or so many messages stand."""
        while len(self.messages) < limit and (facts := unanswered(self.messages)):
            self.say(facts[0])
        return self


def unanswered(messages: Sequence[Stored]) -> list[Fact]:
    """What services would say to all that is asked for in these messages and has no answer there. Answers follow from what is asked."""
    events = readable(messages)
    found: list[Fact] = []
    there = {event.id for event in events}
    acted_on = {event.run for event in events if isinstance(event.data, RunStarted) and event.data.on_drift}
    for event in events:
        if event.run in acted_on and isinstance(event.data, CandidateAccepted):
            quiet = AuditReleased(look=event.data.generation, action="none", lever="", generation=-1, bits=0.0)
            found += [quiet] if codec.event_id(event.run, AuditReleased, *quiet.key()) not in there else []
        found += [fact for fact in answers(event) if codec.event_id(event.run, type(fact), *fact.key()) not in there]
    return found


def answers(event: codec.Event) -> list[Fact]:
    """What services say to one event: two edits, then updates of two rounds of which every other adapter is refused."""
    match event.data:
        case ScaffoldRequested():
            return [ScaffoldProposed(generation=0, scaffold="s0", parent="", summary="", reason="")]
        case FeedbackRequested(generation=number) if number <= 2:
            return [ScaffoldProposed(generation=number, scaffold=f"s{number}", parent="", summary="", reason="")]
        case FeedbackRequested(generation=number):
            order = {"algorithm": "grpo", "hyper": {}, "rounds": 2, "resample": "unsolved", "memory": "update", "hints": number == 3}
            return [WeightUpdateRequested(generation=number, **order, reason="")]
        case RolloutsRequested() as asked:
            return [
                TrajectoryScored(
                    trajectory=derive(asked.seed, item, attempt),
                    request=event.id,
                    item=item,
                    attempt=attempt,
                    reward=float(derive_seed(asked.seed, asked.scaffold, asked.adapter, item, attempt) % 3 == 0),
                    outcome="right",
                    verifier="v1",
                )
                for item in asked.items
                for attempt in range(asked.attempts)
            ]
        case TrainingBatchSealed() as sealed:
            place = {"generation": sealed.generation, "round": sealed.round, "parent_adapter": sealed.parent_adapter}
            named = derive("adapter", sealed.parent_adapter, sealed.training_seed, sealed.trajectories)
            made = {"base_model": "b", "batch": sealed.digest, "algorithm": sealed.algorithm, "canary": (), "trained_on": 1}
            return [AdapterPublished(**place, **made, adapter=named, state=f"{named} left")]
        case AdapterPublished() as published:
            place = {"generation": published.generation, "round": published.round, "adapter": published.adapter, "batch": published.batch}
            if published.generation == 4:
                return [AdapterRejected(**place, reason="its canary differs")]
            return [AdapterServed(**place, error=0.0)]
        case _:
            return []
