"""Runs as sentences: `given(started()).when(fact).then(fact)` feeds the decider as the controller does, and says what
it decides.

A history that no log can hold is refused, with the fact and the reason: what follows from it would prove nothing.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from events import codec
from events.catalogue import BY_FACT
from events.change import (
    ChildRunFinished,
    ChildRunOrdered,
    ChildRunRequested,
    ProposalFailed,
    ScaffoldProposed,
    ScaffoldRequested,
    WeightUpdateRequested,
)
from events.choice import AgentCalled, ContextAssembled, FeedbackRequested, LeverChosen, TrialFinished
from events.fact import Fact
from events.judgement import LabelEstimated, ScoringFailed, TrajectoryScored
from events.population import ArtefactPublished, CandidateAccepted
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import AuditReleased, RunFinished, RunPaused, RunResumed, RunStarted, TimeSpent
from events.subjects import LOG
from events.weights import (
    AdapterPublished,
    AdapterRejected,
    AdapterServed,
    OptimizerStepApplied,
    TrainingBatchSealed,
    WeightUpdateFailed,
)
from runtime.log.port import Stored
from runtime.run.decide import DECIDER
from runtime.run.decider import Decision, DecisionSession
from tests.harness.facts import RUN, TIME, publisher

Outcome = TrajectoryScored | ScoringFailed | RolloutFailed
Ending = ScaffoldProposed | ProposalFailed | WeightUpdateRequested | ChildRunRequested
MEASURED = (ChildRunFinished, TimeSpent)
"""What the controller says and the decider does not."""


class Scenario:
    """A run so far. `decided` holds the facts that the last `when`, `late` or `given` led to, without the decisions'
    heads.

    `version` is that of the rules by which it is decided; older ones are those of logs that older code wrote.
    """

    def __init__(self, run: str = RUN, version: int = DECIDER.version) -> None:
        self.session: DecisionSession[Any] = DecisionSession(DECIDER._replace(version=version), run)
        self.decisions: list[Decision] = []
        self.decided: list[Fact] = []
        self._known = KnownFacts(run)
        self._sequence = 0

    def when(self, *facts: Fact) -> "Scenario":
        """Feed the facts, one after the other. Raises AssertionError at the first that no run can have there."""
        return self._feed(facts, late=False)

    def late(self, *facts: Fact) -> "Scenario":
        """Feed what comes when nobody waits for it any more: a second outcome of an attempt, or an answer of a
        generation that is over.

        Logs hold such facts where work was handed out twice. Raises AssertionError for a fact that is not late.
        """
        return self._feed(facts, late=True)

    def of(self, kind: type[Fact]) -> list[Any]:
        """The facts of one type among those decided last."""
        return [fact for fact in self.decided if isinstance(fact, kind)]

    def then(self, *expected: Fact) -> "Scenario":
        """Check that exactly these facts were decided last, in this order.

        Raises AssertionError with the first difference.
        """
        difference = first_difference(expected, self.decided)
        assert difference is None, difference
        return self

    def then_nothing(self) -> "Scenario":
        """Check that nothing was decided last."""
        return self.then()

    def _feed(self, facts: Sequence[Fact], late: bool) -> "Scenario":
        self.decided = []
        for fact in facts:
            reason = self._known.impossible(fact, late)
            assert reason is None, f"No run can have {fact!r} here: {reason}."
            self._known.add(fact)
            self._sequence += 1
            event = codec.event(fact, run=self.session.run, source=publisher(fact), cause="", time=TIME)
            stored = Stored(self._sequence, self._sequence * 1_000_000_000, event.subject, codec.encode(event))
            decision = self.session.feed(stored, event)
            if decision:
                self.decisions.append(decision)
                for decided in decision.events[1:]:
                    self._known.add(decided.data)
                    self.decided.append(decided.data)
        return self


def given(*facts: Fact, version: int = DECIDER.version) -> Scenario:
    """A run in which these facts came one after the other. Raises AssertionError where no run can have them so."""
    return Scenario(version=version).when(*facts)


def first_difference(expected: Sequence[Fact], decided: Sequence[Fact]) -> str | None:
    """The first fact, and its first field, that was decided otherwise than expected, as a sentence; None where there is
    none.
    """
    for number, (wanted, got) in enumerate(zip_longest(expected, decided), 1):
        if wanted is None:
            return f"Fact {number}: nothing more was expected, decided was {got!r}."
        if got is None:
            return f"Fact {number}: expected {wanted!r}, nothing more was decided."
        if type(wanted) is not type(got):
            return f"Fact {number}: expected {wanted!r}, decided was {got!r}."
        for field in wanted.__struct_fields__:
            before, after = getattr(wanted, field), getattr(got, field)
            if before != after:
                return f"Fact {number}, {type(got).__name__}.{field}: expected {before!r}, decided was {after!r}."
    return None


class KnownFacts:
    """What a run's log holds so far, as far as it says which facts can come next."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.ids: set[str] = set()
        self.started: RunStarted | None = None
        self.finished = False
        self.paused: int | None = None
        self.requests: dict[str, RolloutsRequested] = {}
        self.outcomes: set[tuple[str, str, int]] = set()
        self.levers: dict[int, tuple[str, ...]] = {}
        """By generation that an agent was asked for: the levers that it may pull."""
        self.chosen: dict[int, str] = {}
        self.answered: set[int] = set()
        self.sealed: dict[str, TrainingBatchSealed] = {}
        self.trained: set[str] = set()
        self.published: set[tuple[str, str]] = set()
        self.served: set[tuple[str, str]] = set()
        self.accepted: set[int] = set()
        self.children: dict[int, str] = {}
        """The child run that was ordered for a generation."""

    def add(self, fact: Fact) -> None:
        """Take in a fact that stands on the log now."""
        self.ids.add(self._id(fact))
        match fact:
            case RunStarted():
                self.started = fact
            case RunFinished():
                self.finished = True
            case RunPaused(number=number):
                self.paused = number
            case RunResumed():
                self.paused = None
            case RolloutsRequested():
                self.requests[self._id(fact)] = fact
            case TrajectoryScored() | ScoringFailed() | RolloutFailed():
                self.outcomes.add((fact.request, fact.item, fact.attempt))
            case ScaffoldRequested(generation=generation):
                self.levers[generation] = ("scaffold",)
            case FeedbackRequested(generation=generation, levers=levers):
                self.levers[generation] = levers
            case LeverChosen(generation=generation, lever=lever):
                self.chosen[generation] = lever
                if lever == "stop":
                    self.answered.add(generation)
            case ScaffoldProposed() | ProposalFailed() | WeightUpdateRequested() | ChildRunRequested():
                self.answered.add(fact.generation)
            case ChildRunOrdered(generation=generation, child=child):
                self.children[generation] = child
            case TrainingBatchSealed(digest=digest):
                self.sealed[digest] = fact
            case WeightUpdateFailed(batch=batch):
                self.trained.add(batch)
            case AdapterPublished(batch=batch, adapter=adapter):
                self.trained.add(batch)
                self.published.add((adapter, batch))
            case AdapterServed(adapter=adapter, batch=batch) | AdapterRejected(adapter=adapter, batch=batch):
                self.served.add((adapter, batch))
            case CandidateAccepted(generation=generation):
                self.accepted.add(generation)

    def impossible(self, fact: Fact, late: bool) -> str | None:
        """Why no run can have this fact next, as the end of a sentence; None if one can.

        `late`: it is said to come too late to matter.
        """
        if reason := self._unsayable(fact):
            return reason
        match fact:
            case RunStarted():
                return (
                    "the run was started already, and this is no fork" if self.started and not fact.parent_run else None
                )
            case TrajectoryScored() | ScoringFailed() | RolloutFailed():
                return self._no_such_attempt(fact) or _timing(
                    late, (fact.request, fact.item, fact.attempt) in self.outcomes, "the attempt has an outcome already"
                )
            case TrajectoryRecorded():
                return self._no_such_attempt(fact)
            case ModelCalled(request=request, item=item):
                return self._no_such_item(request, item)
            case ScaffoldProposed() | ProposalFailed() | WeightUpdateRequested() | ChildRunRequested() | LeverChosen():
                return self._no_such_question(fact) or _timing(
                    late,
                    fact.generation in self.answered,
                    f"generation {fact.generation} has its answer already and is under way no more",
                )
        if late:
            return "only outcomes of attempts and answers of agents come late"
        match fact:
            case ChildRunFinished(generation=generation, child=child):
                return None if self.children.get(generation) == child else f"nobody ordered the run {child!r} there"
            case AgentCalled() | ContextAssembled() | TrialFinished() | ArtefactPublished():
                generation = fact.generation
                waiting = generation in self.levers and generation not in self.answered
                return None if waiting else f"no agent was asked for generation {generation}, or it has answered"
            case OptimizerStepApplied(batch=batch) | LabelEstimated(batch=batch):
                return None if batch in self.sealed.keys() - self.trained else f"no batch {batch!r} is being trained on"
            case AdapterPublished() | WeightUpdateFailed():
                return self._no_such_batch(fact)
            case AdapterServed() | AdapterRejected():
                return self._no_such_adapter(fact)
            case RunPaused():
                return None if self.paused is None else "the run is paused already"
            case RunResumed(number=number):
                return None if self.paused == number else f"pause {number} does not last"
            case AuditReleased():
                return self._no_such_look(fact)
        return None

    def _unsayable(self, fact: Fact) -> str | None:
        """Why nobody can say it now, whatever it is about."""
        entry = BY_FACT[type(fact)]
        if entry.stream != LOG:
            return f"it stands on the stream {entry.stream}"
        if entry.publishers == ("controller",) and not isinstance(fact, MEASURED):
            return "only the decider says it"
        if self.finished:
            return "the run is finished"
        if self.started is None and not isinstance(fact, RunStarted):
            return "the run is not started"
        if self._id(fact) in self.ids and not isinstance(fact, RunStarted):
            return "the log holds it already, and holds nothing twice"
        return None

    def _no_such_item(self, request: str, item: str) -> str | None:
        if request not in self.requests:
            return f"nobody made the request {request!r}"
        return None if item in self.requests[request].items else f"request {request!r} has no item {item!r}"

    def _no_such_attempt(self, fact: Outcome | TrajectoryRecorded) -> str | None:
        if reason := self._no_such_item(fact.request, fact.item):
            return reason
        requested = self.requests[fact.request]
        if fact.attempt not in range(requested.attempts):
            return (
                f"request {fact.request!r} asked for {requested.attempts} attempts, and this is attempt "
                f"{fact.attempt} counted from 0"
            )
        if isinstance(fact, RolloutFailed | TrajectoryRecorded) and fact.purpose != requested.purpose:
            return f"request {fact.request!r} is for {requested.purpose!r}, not for {fact.purpose!r}"
        return None

    def _no_such_question(self, fact: Ending | LeverChosen) -> str | None:
        levers = self.levers.get(fact.generation)
        if levers is None:
            return f"generation {fact.generation} is not under way"
        match fact:
            case ProposalFailed():
                return None
            case LeverChosen(lever=lever):
                known = (*levers, "child", "stop") if fact.generation else ()
            case ScaffoldProposed():
                lever, known = "scaffold", levers
            case WeightUpdateRequested():
                lever, known = "weights", levers
            case ChildRunRequested(levers=pulled):
                if unknown := " and ".join(lever for lever in pulled if lever not in levers):
                    return f"the levers {unknown} were not on offer in generation {fact.generation}"
                lever, known = "child", ("child",)
        if lever not in known:
            return f"the lever {lever!r} was not on offer in generation {fact.generation}"
        chosen = self.chosen.get(fact.generation)
        if isinstance(fact, Ending) and fact.generation not in self.answered and chosen not in (None, lever):
            return f"the agent chose the lever {chosen!r} in generation {fact.generation}"
        return None

    def _no_such_batch(self, fact: AdapterPublished | WeightUpdateFailed) -> str | None:
        sealed = self.sealed.get(fact.batch)
        if sealed is None:
            return f"no batch {fact.batch!r} was sealed"
        if (sealed.generation, sealed.round) != (fact.generation, fact.round):
            return f"batch {fact.batch!r} is that of generation {sealed.generation}, round {sealed.round}"
        if isinstance(fact, AdapterPublished) and fact.parent_adapter != sealed.parent_adapter:
            return f"batch {fact.batch!r} trains the adapter {sealed.parent_adapter!r}, not {fact.parent_adapter!r}"
        return f"the training on batch {fact.batch!r} has ended already" if fact.batch in self.trained else None

    def _no_such_adapter(self, fact: AdapterServed | AdapterRejected) -> str | None:
        if (fact.adapter, fact.batch) not in self.published:
            return f"no adapter {fact.adapter!r} was published for batch {fact.batch!r}"
        sealed = self.sealed[fact.batch]
        if (sealed.generation, sealed.round) != (fact.generation, fact.round):
            return f"batch {fact.batch!r} is that of generation {sealed.generation}, round {sealed.round}"
        return "the adapter was served or rejected already" if (fact.adapter, fact.batch) in self.served else None

    def _no_such_look(self, fact: AuditReleased) -> str | None:
        assert self.started
        if not self.started.on_drift:
            return "the auditor may not act on this run"
        if fact.action not in ("none", self.started.on_drift):
            return f"the auditor may {self.started.on_drift}, not {fact.action}"
        return None if fact.look in self.accepted else f"no candidate of generation {fact.look} was accepted"

    def _id(self, fact: Fact) -> str:
        return codec.event_id(self.run, type(fact), *fact.key())


def _timing(late: bool, over: bool, reason: str) -> str | None:
    """Whether a fact comes too late, as it was said to or not."""
    if over and not late:
        return reason
    return "it is not late" if late and not over else None
