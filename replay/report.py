"""The report of a run, built from its log: one row for each generation, and the auditor's final scores."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from algorithms.statistics import Estimate, is_share
from events import codec, subjects
from events.change import (
    ChildRunFinished,
    ChildRunOrdered,
    ChildRunRequested,
    ProposalFailed,
    ScaffoldProposed,
    ScaffoldRequested,
    WeightUpdateRequested,
)
from events.choice import AgentCalled, LeverChosen, ParentSelected, TrialFinished
from events.codec import Event
from events.fact import Fact
from events.gold import (
    AuditFinished,
    DevAnswersScored,
    GoldDescribed,
    GoldFailed,
    GoldScored,
    PoliciesCompared,
)
from events.judgement import (
    CandidateEvaluated,
    CandidateRechecked,
    JudgeCalled,
    ScoringFailed,
    StageEvaluated,
    TrajectoryScored,
)
from events.population import ArtefactPublished, CandidateAccepted, CandidateKept, CandidateRejected
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import AuditReleased, DecisionMade, EventSetAside, RunFinished, RunPaused, RunResumed, RunStarted
from events.weights import AdapterPublished, TrainingBatchSealed, WeightUpdateFailed, WeightUpdateFinished
from replay.best_answer import BestAnswer, to_show
from replay.closing import Closing
from replay.run_state import AuditWord, RunWord, audit_word, run_word
from replay.votes import DevVote, read_vote
from runtime.agents.providers import RULES
from runtime.log.lineage import Span, ancestors
from runtime.log.port import Log, Stored, exclusive_key, readable
from runtime.run.evolve import drifted
from runtime.run.fork import scores_not_comparable
from runtime.run.state import Candidate

PAGE_SIZE = 5000
FAILURES = 200
"""Attempts of a generation that are looked at to say what they failed of."""
REPORTED_TYPES: tuple[type[Fact], ...] = (
    LeverChosen,
    AgentCalled,
    TrialFinished,
    ScaffoldProposed,
    WeightUpdateRequested,
    ProposalFailed,
    ChildRunRequested,
    ChildRunFinished,
    ArtefactPublished,
    AdapterPublished,
    WeightUpdateFailed,
    AuditReleased,
    RunStarted,
    RunPaused,
    RunResumed,
    EventSetAside,
)
"""Types of event that a report needs besides the controller's decisions. A run has few of each."""

CALLS = frozenset(kind.tag() for kind in (ModelCalled, TrajectoryScored, JudgeCalled))
"""Tags of what has a cost, besides the agents' calls."""

STANDINGS: Mapping[type[Fact], str] = {
    CandidateAccepted: "accepted",
    CandidateKept: "kept",
    CandidateRejected: "rejected",
}
"""What became of a candidate, by the fact that says so."""


class Spent(msgspec.Struct, kw_only=True):
    """What was spent. Tokens and millionths of a US dollar are those of the calls that told them."""

    rollouts: int = 0
    tokens: int = 0
    micro_usd: int = 0
    unreported: int = 0
    """Number of calls of the agents' language model whose server reported no tokens."""
    unpriced: int = 0
    """Number of those calls whose cost is not known: no tokens were reported, or no price is known."""

    def add(self, other: "Spent") -> None:
        """Count what another has spent too."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Generation(msgspec.Struct, kw_only=True):
    """One generation of a run: its change, the reason for it, its score on dev with 95 % interval, and its cost."""

    generation: int
    parents: tuple[int, ...] = ()
    """The generations of the one or two candidates that it was made from; none for the start."""
    lever: str = "start"
    change: str = ""
    reason: str = ""
    score: float | None = None
    low: float | None = None
    high: float | None = None
    items: int = 0
    failed: int = 0
    failure: str = ""
    """Where attempts failed: what the first ones most often failed of, in a sentence."""
    stage: str = ""
    """What came of the first items, where they were asked first."""
    recheck: str = ""
    """What a second look said, where there was one."""
    accepted: bool = False
    standing: str = ""
    """`accepted`, `kept` or `rejected`; empty while that is open."""
    verdict: str = ""
    """Why, in a sentence."""
    child: str = ""
    """The run of its own that made its candidate."""
    artefacts: int = 0
    """Number of artefacts that it published."""
    masked_tokens: int = 0
    """Tokens that its training left out, since their recorded log-probabilities are far from the trainer's."""
    repeated: int = 0
    """Completions in its training batches that repeat an earlier one against all chance."""
    rollouts: int = 0
    """Rollouts of this generation alone, for training and evaluation."""
    tokens: int = 0
    """Tokens that it cost; of one that is under way, those of the agent alone."""
    micro_usd: int = 0
    """What it cost, in millionths of a US dollar; of one that is under way, the agent's calls alone."""
    unreported: int = 0
    """Number of the agent's calls whose server reported no tokens."""
    unpriced: int = 0
    """Number of the agent's calls whose cost is not known."""
    inherited: bool = False
    """Of a fork: whether it was judged in the past that it shares."""
    seconds: float = 0.0
    began: int = 0
    """When its change was chosen, in nanoseconds since 1970."""


class Report(msgspec.Struct, kw_only=True):
    """A run in figures: its generations, its cost, its outcome, and the auditor's scores (`cells`)."""

    version: int = 2
    run: str
    task: str = ""
    seed: int = 0
    levers: tuple[str, ...] = ()
    strategy: str = ""
    agent: str = ""
    """Whose first scaffold it began with; of a fork that is its first ancestor's."""
    width: int = 1
    owner: str = ""
    """Of a child run: the run that it belongs to."""
    sandbox: str = ""
    parent: str = ""
    """Of a fork: the run that it was made from, and up to which sequence."""
    state: RunWord = "unknown"
    audit: AuditWord = ""
    reason: str = ""
    """Why it ended, or why it is paused; empty while it goes on."""
    generations: list[Generation] = []
    rollouts: int = 0
    """Number of rollouts; of a fork with those that it inherited, as for tokens and cost."""
    tokens: int = 0
    micro_usd: int = 0
    unreported: int = 0
    unpriced: int = 0
    inherited: Spent | None = None
    """Of a fork: what was spent in the past that it shares, and counts in its parent too."""
    set_aside: int = 0
    score: float | None = None
    """Dev score of the candidate that it ended with, or else of the best so far; None where there is none."""
    graded: bool = False
    """Whether a reward of a candidate's dev score was neither 0 nor 1."""
    best_answers: list[BestAnswer] = []
    """Of a run with graded rewards: the answer with the highest reward, and that to dev, where the archive has them."""
    best_answers_missing: str = ""
    """Why they are not known."""
    rebaselined: bool = False
    """Of a fork whose scores mean something else than its parent's: its start is the best candidate until then."""
    scaffold: str = ""
    adapter: str = ""
    cells: list[GoldScored] = []
    cells_failed: list[GoldFailed] = []
    compared: list[PoliciesCompared] = []
    seconds: float = 0.0
    vote: DevVote | None = None
    """Of a run that asks its start again: what a vote over all its attempts at dev scores."""
    closing: Closing | None = None
    """The digests that close it; None while it goes on."""

    @property
    def ended(self) -> bool:
        """Whether the loop has nothing more to decide."""
        return self.state not in ("unknown", "running", "paused")

    @property
    def own(self) -> Spent:
        """What the run spent itself: of a fork, without what it inherited."""
        past = self.inherited or Spent()
        return Spent(**{name: getattr(self, name) - getattr(past, name) for name in Spent.__struct_fields__})


class _Flight(msgspec.Struct):
    """A generation that is not settled: what its agent's calls and its child run cost, and where its other calls stand
    on the log.
    """

    generation: int
    agents: Spent
    requests: set[str]
    """Its requests for rollouts."""
    dev: list[tuple[str, str, int]] = []
    """The attempts at dev items that it asked for: request, item and number."""
    first: int = 0
    """The sequence of the first of them."""
    failed: bool = False
    """Whether its agent could not give a change."""


class _Settled(NamedTuple):
    """A generation that was evaluated or lost at a sequence; or, without one, the point where a fork begins."""

    sequence: int
    flights: tuple[_Flight, ...]
    """That generation; of a fork's beginning all that were under way."""
    evaluated: CandidateEvaluated | None = None
    fork: bool = False
    landed: tuple[int, ...] = ()
    """Those under way that the fork begins again, or leaves: what they cost is the run's."""


class Reporter:
    """Builds a run's report from its decisions and a few other events. The many rollouts are never read."""

    def __init__(self, run: str) -> None:
        self.report = Report(run=run, generations=[], cells=[], cells_failed=[], compared=[])
        self.done = 0
        """Rollouts of the requests that are answered, as of the last `count`."""
        self._generations: dict[str, int] = {}
        """The generation of each candidate, by id."""
        self._waiting: dict[str, tuple[str, RolloutsRequested]] = {}
        self._counted: set[tuple[str | int, ...]] = set()
        self._own_rollouts = 0
        self._flights: dict[int, _Flight] = {}
        """The generations that are not settled, by number."""
        self._closed: set[int] = set()
        """Those that are."""
        self._to_settle: list[_Settled] = []
        self._settled = Spent()
        """What the settled generations cost."""
        self._past = Spent()
        """Of a fork: what its past cost, without rollouts."""
        self._before_fork: dict[int, Spent] = {}
        """What a fork's past spent on generations that it begins again."""
        self._evaluated: dict[str, Candidate] = {}
        self._population: tuple[Candidate, ...] = ()
        """The candidates that were accepted or kept, without those that the auditor had rolled back."""
        self._started: RunStarted | None = None
        self._paused = False
        self._finished: RunFinished | None = None
        self._audited = False
        self._dev_gold: dict[str, Mapping[str, tuple[float, ...]]] = {}
        self._gold_is_verifier = False
        self._folded_ids: set[str] = set()
        self._position = 0
        self._began = 0
        self._forked = 0
        """When a forked run itself began, in nanoseconds since 1970."""

    async def follow(self, log: Log) -> list[Event]:
        """Fold the events appended since the last call, and return them in the order of the log.

        A forked run's past comes first.
        """
        new_events: list[tuple[Event, Stored]] = []
        if not self._folded_ids:
            for span in reversed(await ancestors(log, self.report.run)):
                new_events += await self._read_new(log, span, 0)
        new_events += await self._read_new(log, Span(self.report.run), self._position)
        for event, stored in new_events:
            if event.id in self._folded_ids:  # a second one on its place
                continue
            self._folded_ids.add(event.id)
            if isinstance(event.data, RolloutsRequested):
                self._waiting[event.id] = event.run, event.data
            self._account(event, stored.sequence)
            self._fold(event, stored.time)
        await self._settle(log)
        return [event for event, _ in new_events]

    async def _read_new(self, log: Log, span: Span, position: int) -> list[tuple[Event, Stored]]:
        """The events after a position, each with the message that holds it."""
        new_events: dict[int, tuple[Event, Stored]] = {}
        for head in await log.read(position + 1, PAGE_SIZE, subjects.head(span.run)):
            if head.sequence > span.last:
                break
            made = codec.decode_at(head.subject, head.data).data
            assert isinstance(made, DecisionMade)
            self._position = head.sequence
            for stored in await log.read(head.sequence + 1, made.outputs):
                new_events[stored.sequence] = codec.decode_at(stored.subject, stored.data), stored
        if new_events or not self._folded_ids:
            others = await log.last(
                [subjects.subject(log.stream, span.run, "*", kind.tag()) for kind in REPORTED_TYPES]
            )
            places = [place for place in others if subjects.entity_of(place) not in self._folded_ids]
            # at once, for an agent makes many calls; the first on its place, not what was appended there later
            for (stored,) in await asyncio.gather(*(log.read(1, 1, place) for place in places)):
                for event in readable([stored] if stored.sequence <= span.last else []):
                    new_events[stored.sequence] = event, stored
        return [new_events[sequence] for sequence in sorted(new_events)]

    async def count(self, log: Log) -> None:
        """Bring `done` up to date. A request is answered when its last attempt is in the log, recorded or failed."""
        requests = {}
        for request, (run, requested) in self._waiting.items():
            last = codec.event_id(run, TrajectoryRecorded, request, requested.items[-1], requested.attempts - 1)
            requests[subjects.subject(log.stream, run, last, "*")] = request
        for subject in await log.last(list(requests)) if requests else []:
            _, requested = self._waiting.pop(requests[exclusive_key(subject)])
            self.done += len(requested.items) * requested.attempts

    def fold_gold(self, stored: Stored) -> None:
        """Fold one message of the stream GOLD."""
        if subjects.run_of(stored.subject) != self.report.run:
            return
        event = codec.decode_at(stored.subject, stored.data)
        if event.id in self._folded_ids:  # a second one on its place
            return
        self._folded_ids.add(event.id)
        match event.data:
            case GoldScored() as scored:
                self.report.cells.append(scored)
            case GoldFailed() as failed:
                self.report.cells_failed.append(failed)
            case PoliciesCompared() as compared:
                self.report.compared.append(compared)
            case GoldDescribed(own=own):
                self._gold_is_verifier = own
            case DevAnswersScored() as answered:
                self._dev_gold[answered.candidate] = answered.scores
            case AuditFinished():
                self._audited = True
                self._say_state()
                self.report.seconds = (stored.time - self._began) / 1e9

    def put_best_answers(self, answers: Sequence[BestAnswer]) -> None:
        """Put the best answers that were found elsewhere into the report, with gold's scores of them."""
        self.report.best_answers = [
            msgspec.structs.replace(one, by_gold=self._gold_of(one)) for one in to_show(answers)
        ]

    def _gold_of(self, answer: BestAnswer) -> float | None:
        """Gold's score of an answer; None where gold was not asked about it."""
        if self._gold_is_verifier:
            return answer.reward
        of = next((id for id, generation in self._generations.items() if generation == answer.generation), "")
        scores = self._dev_gold.get(of, {}).get(answer.item, ()) if answer.purpose == "dev" else ()
        return scores[0] if scores and answer.attempt == 0 else None

    def _say_state(self) -> None:
        """Say how far the run is, and the score that it stands at."""
        report, finished = self.report, self._finished
        if self._started is None:
            return
        report.state = run_word(finished, paused=self._paused)
        report.audit = audit_word(finished, audited=self._audited)
        if finished:
            report.score = finished.score if finished.candidate else None
        else:
            best = next((one for one in reversed(self._population) if one.accepted), None)
            report.score = best.score if best else None

    def _account(self, event: Event, sequence: int) -> None:
        """Note which generations are under way, and what is known of their cost."""
        match event.data:
            case RunStarted(parent_run=parent) as started if parent and self._started:
                rebaselined = scores_not_comparable(self._started, started)
                under_way = tuple(self._flights.values())
                landed = tuple(one.generation for one in under_way if rebaselined or not (one.requests or one.failed))
                self._to_settle.append(_Settled(sequence, under_way, fork=True, landed=landed))
                self._flights = {number: one for number, one in self._flights.items() if number not in landed}
            case ScaffoldRequested(generation=generation) | ParentSelected(generation=generation):
                self._flight(generation)
            case AgentCalled(generation=generation) as called:
                self._flight(generation).agents.add(_cost_of(called))
            case ChildRunFinished(generation=generation, tokens=tokens, micro_usd=micro_usd):
                self._flight(generation).agents.add(Spent(tokens=tokens, micro_usd=micro_usd))
            case TrialFinished(generation=generation) as trial:
                tokens = trial.prompt_tokens + trial.completion_tokens
                self._flight(generation).agents.add(Spent(tokens=tokens, micro_usd=trial.micro_usd))
            case ProposalFailed(generation=generation):
                self._flight(generation).failed = True
            case RolloutsRequested(generation=generation) as requested:
                flight = self._flight(generation)
                flight.requests.add(event.id)
                if requested.purpose == "dev":
                    flight.dev += [(event.id, item, n) for item in requested.items for n in range(requested.attempts)]
                flight.first = flight.first or sequence
            case CandidateEvaluated(generation=generation) as evaluated:
                self._close(generation, sequence, evaluated)
            case CandidateRejected(generation=generation) if generation in self._flights:
                self._close(generation, sequence)

    def _flight(self, generation: int) -> _Flight:
        """The generation, if it is under way; one that nobody looks at any more if it is settled."""
        if generation in self._closed:
            return _Flight(generation, Spent(), set())
        return self._flights.setdefault(generation, _Flight(generation, Spent(), set()))

    def _close(self, generation: int, sequence: int, evaluated: CandidateEvaluated | None = None) -> None:
        flight = self._flights.pop(generation, None) or _Flight(generation, Spent(), set())
        self._closed.add(generation)
        self._to_settle.append(_Settled(sequence, (flight,), evaluated))

    async def _settle(self, log: Log) -> None:
        """Say what the generations cost that were settled since the last call, and what the run cost so far.

        An evaluation says what all that was settled has cost with it. What became no candidate has its own calls.
        """
        report, settled = self.report, self._settled
        to_settle, self._to_settle = self._to_settle, []
        for one in to_settle:
            if one.fork:
                costs = {flight.generation: await self._cost(log, flight, one.sequence) for flight in one.flights}
                self._past = msgspec.structs.replace(settled)
                for generation, cost in costs.items():
                    self._past.add(cost)
                    if generation in one.landed:
                        settled.add(cost)
                        self._before_fork[generation] = cost
                continue
            (flight,) = one.flights
            if one.evaluated is None:
                cost = await self._cost(log, flight, one.sequence)
            else:
                cost = msgspec.structs.replace(flight.agents)
                cost.tokens = one.evaluated.tokens - settled.tokens
                cost.micro_usd = one.evaluated.micro_usd - settled.micro_usd
            settled.add(cost)
            self._put_cost(flight.generation, cost)
            if flight.generation < len(report.generations):
                row = report.generations[flight.generation]
                row.failure = "" if one.evaluated and not row.failed else await self._failure(log, flight)
        total = msgspec.structs.replace(settled)
        for flight in self._flights.values():
            total.add(flight.agents)
            self._put_cost(flight.generation, flight.agents)
        if self._finished and len(self._flights) == 1:  # all that is left over is its
            (flight,) = self._flights.values()
            cost = msgspec.structs.replace(flight.agents)
            cost.tokens = self._finished.tokens - settled.tokens
            cost.micro_usd = self._finished.micro_usd - settled.micro_usd
            self._put_cost(flight.generation, cost)
        report.unreported, report.unpriced = total.unreported, total.unpriced
        if self._finished is None:
            report.tokens, report.micro_usd = total.tokens, total.micro_usd
        if report.inherited is not None:
            report.inherited = msgspec.structs.replace(self._past, rollouts=report.rollouts - self._own_rollouts)

    async def _failure(self, log: Log, flight: _Flight) -> str:
        """What a generation's attempts at dev failed of, the commonest reason among the first; empty if none failed."""
        run, places = self.report.run, []
        for request, item, attempt in flight.dev[:FAILURES]:
            trajectory = codec.event_id(run, TrajectoryRecorded, request, item, attempt)
            judgement = codec.event_id(run, ScoringFailed, trajectory)
            places.append(subjects.subject(log.stream, run, trajectory, RolloutFailed.tag()))
            places.append(subjects.subject(log.stream, run, judgement, ScoringFailed.tag()))
        stored = await log.last(places) if places else {}
        failed = readable(stored[place] for place in places if place in stored)
        reasons = Counter(
            event.data.reason for event in failed if isinstance(event.data, RolloutFailed | ScoringFailed)
        )
        return max(reasons, key=lambda reason: reasons[reason]) if reasons else ""

    def _put_cost(self, generation: int, cost: Spent) -> None:
        if generation >= len(self.report.generations):
            return  # the agent chose to stop, and there is no row of it
        row, before = self.report.generations[generation], self._before_fork.get(generation, Spent())
        for name in ("tokens", "micro_usd", "unreported", "unpriced"):
            setattr(row, name, getattr(cost, name) + getattr(before, name))

    async def _cost(self, log: Log, flight: _Flight, last: int) -> Spent:
        """What a generation cost that became no candidate, up to a sequence: no event says that of all its calls."""
        cost = msgspec.structs.replace(flight.agents)
        position = flight.first
        while flight.requests and position <= last:
            page = await log.read(position, min(PAGE_SIZE, last - position + 1))
            for stored in page:
                if subjects.tag_of(stored.subject) not in CALLS:
                    continue
                for event in readable([stored]):
                    match event.data:
                        case ModelCalled(request=request) as called if request in flight.requests:
                            cost.tokens += called.prompt_tokens + called.completion_tokens
                            cost.micro_usd += called.micro_usd
                        case TrajectoryScored(request=request, micro_usd=micro_usd) if request in flight.requests:
                            cost.micro_usd += micro_usd
                        case JudgeCalled(generation=flight.generation) as judged if event.run == self.report.run:
                            cost.add(_cost_of(judged))
            position = page[-1].sequence + 1 if page else last + 1
        return cost

    def row(self, number: int) -> Generation:
        """The row of a generation, which is added if it is missing."""
        rows = self.report.generations
        while len(rows) <= number:
            rows.append(Generation(generation=len(rows)))
        return rows[number]

    def _fold(self, event: Event, time: int) -> None:
        report, fact = self.report, event.data
        match fact:
            case RunStarted():
                report.parent = f"{fact.parent_run} up to sequence {fact.parent_sequence}" if fact.parent_run else ""
                report.task, report.seed, report.levers, report.sandbox = (
                    fact.task,
                    fact.seed,
                    fact.levers,
                    fact.sandbox,
                )
                report.strategy, report.width, report.owner = fact.strategy, fact.width, fact.owner
                report.agent = report.agent or fact.agent
                self._began = time
                report.generations = report.generations or [Generation(generation=0, began=time)]
                if fact.parent_run and self._started:
                    self._fork(self._started, fact)
                self._forked = time if fact.parent_run else 0
                self._started = fact
                self._say_state()
            case ParentSelected(generation=generation):
                row = self.row(generation)
                parents = (fact.candidate, fact.second)
                row.parents = tuple(self._generations[id] for id in parents if id in self._generations)
                if fact.change == "repeat":
                    row.lever, row.change, row.began = "repeat", "nothing: asked again with other seeds", time
            case LeverChosen(generation=generation):
                row = self.row(generation)
                row.lever, row.reason, row.began = fact.lever, fact.reason, time
                row.change = (
                    row.change or fact.action
                )  # one call may read the change itself, and only the next the choice
            case ScaffoldProposed(generation=generation):
                self.row(generation).change = fact.summary
            case ProposalFailed(generation=generation):
                row = self.row(generation)
                row.lever, row.change = (
                    ("none" if generation and row.lever == "start" else row.lever),
                    "no change came of it",
                )
            case WeightUpdateRequested(generation=generation):
                self.row(generation).change = f"{fact.algorithm}, up to {fact.rounds} rounds"
            case ChildRunRequested(generation=generation):
                row = self.row(generation)
                row.change, row.reason = f"a run of its own, up to {fact.generations} generations", fact.reason
            case ChildRunOrdered(generation=generation):
                self.row(generation).child = fact.child
            case ChildRunFinished(generation=generation) | TrialFinished(generation=generation):
                self.row(generation).rollouts += fact.rollouts
                report.rollouts += fact.rollouts
                self._own_rollouts += fact.rollouts if event.run == report.run else 0
            case ArtefactPublished(generation=generation):
                self.row(generation).artefacts += 1
            case AdapterPublished(generation=generation):
                row = self.row(generation)
                row.masked_tokens, row.repeated = row.masked_tokens + fact.masked_tokens, row.repeated + fact.repeated
            case StageEvaluated(generation=generation):
                self.row(generation).stage = fact.reason
            case CandidateRechecked(generation=generation):
                self.row(generation).recheck = (
                    f"{fact.difference:+.4f} [{fact.low:+.4f}, {fact.high:+.4f}] against the best, "
                    f"{fact.attempts} more attempts an item"
                )
            case TrainingBatchSealed(generation=generation, algorithm=algorithm) if (
                algorithm not in self.row(generation).change
            ):
                self.row(generation).change = f"{algorithm} in place of {self.row(generation).change}"
            case WeightUpdateFinished(generation=generation):
                self.row(generation).change += f" ({fact.rounds} played, {fact.solved} items solved)"
            case RolloutsRequested(generation=generation):
                planned = len(fact.items) * fact.attempts
                self._own_rollouts += planned if event.run == report.run else 0
                if fact.key() not in self._counted:  # a fork asks again for what its parent was not given
                    self._counted.add(fact.key())
                    self.row(generation).rollouts += planned
                    report.rollouts += planned
            case CandidateEvaluated(generation=generation):
                row = self.row(generation)
                row.score, row.low, row.high, row.items, row.failed = (
                    fact.score,
                    fact.low,
                    fact.high,
                    fact.items,
                    fact.failed,
                )
                self._generations[fact.candidate] = generation
                if fact.lever == "child":
                    row.lever = "child"
                if fact.lever == "start" and generation:
                    row.change = "the best candidate so far, judged anew"
                report.graded = report.graded or _is_graded(fact)
                self._evaluated[fact.candidate] = Candidate(
                    fact.candidate,
                    generation,
                    fact.scaffold,
                    fact.adapter,
                    fact.lever,
                    "",
                    fact.parents,
                    score=fact.score,
                )
            case (
                CandidateAccepted(generation=generation)
                | CandidateKept(generation=generation)
                | CandidateRejected(generation=generation)
            ):
                row = self.row(generation)
                row.standing, row.verdict = STANDINGS[type(fact)], fact.reason
                row.accepted = row.standing == "accepted"
                row.seconds = (time - (max(row.began, self._forked) or time)) / 1e9
                if not isinstance(fact, CandidateRejected) and fact.candidate in self._evaluated:
                    member = msgspec.structs.replace(self._evaluated[fact.candidate], accepted=row.accepted)
                    self._population = (*self._population, member)
                self._say_state()
            case AuditReleased(action="rollback", generation=generation):
                gone = drifted(self._population, generation)
                self._population = tuple(one for one in self._population if one.id not in gone)
                self._say_state()
            case RunPaused():
                self._paused, report.reason = True, fact.reason
                self._say_state()
            case RunResumed():
                self._paused, report.reason = False, ""
                self._say_state()
            case RunFinished():
                self._finished, report.reason = fact, fact.reason
                self._say_state()
                report.scaffold, report.adapter = fact.scaffold, fact.adapter
                report.rollouts, report.tokens, report.micro_usd = fact.rollouts, fact.tokens, fact.micro_usd
                report.seconds = (time - self._began) / 1e9
                last = report.generations[-1] if report.generations else None
                if last and last.lever == "stop" and not last.standing:
                    report.generations.pop()
            case EventSetAside():
                report.set_aside += 1

    def _fork(self, before: RunStarted, started: RunStarted) -> None:
        """Begin a fork: its past is folded, and how that ended is not how the fork does."""
        report = self.report
        self._finished, self._paused, self._audited, report.reason, report.seconds = None, False, False, "", 0.0
        report.scaffold = report.adapter = ""
        report.inherited = Spent()
        if scores_not_comparable(before, started):
            report.rebaselined, self._population = True, ()
        for row in report.generations:
            row.inherited = bool(row.standing)


def _cost_of(called: AgentCalled | JudgeCalled) -> Spent:
    """What a call of a language model cost, as far as it is known."""
    told = [count for count in (called.prompt_tokens, called.completion_tokens) if count is not None]
    return Spent(
        tokens=sum(told),
        micro_usd=called.micro_usd or 0,
        unreported=int(len(told) < 2),
        unpriced=int(called.micro_usd is None),
    )


def _is_graded(fact: CandidateEvaluated) -> bool:
    """Whether rewards behind a score are neither 0 nor 1."""
    return not is_share(Estimate(fact.score, fact.low, fact.high), fact.items - fact.failed)


async def follow_gold(gold: Log, reporter: Reporter, position: int) -> int:
    """Fold what stands on the stream GOLD after a position; returns the new position."""
    while read := await gold.read(position + 1, PAGE_SIZE):
        for stored in read:
            reporter.fold_gold(stored)
        position = read[-1].sequence
    return position


async def collect(log: Log, gold: Log, run: str) -> Report:
    """The report of one run as the two logs are now; without its best answers, which they are too long for."""
    return (await follow_both(log, gold, run)).report


async def follow_both(log: Log, gold: Log, run: str) -> Reporter:
    """A reporter that has folded what the two logs have of a run by now."""
    reporter = Reporter(run)
    await reporter.follow(log)
    await follow_gold(gold, reporter, 0)
    await add_vote(log, reporter.report)
    return reporter


async def add_vote(log: Log, report: Report) -> None:
    """Add to the report of a run that asks its start again what a vote scores; it reads all of the run."""
    if report.strategy == "best_of_k":
        report.vote = await read_vote(log, report.run)


REFERENCE, BEST_OF_K, VOTE_OF_K, START_OF_K = "reference", "start_best_of_k", "start_vote_of_k", "start_of_k"
"""Names of the auditor's cells. The last stands for the two before it, where these are not played."""
CELLS = (REFERENCE, "start", VOTE_OF_K, BEST_OF_K, "scaffold", "weights", "final", "uniform_policy")
"""The auditor's cells, in the order in which they are shown; the baselines follow."""

CELL_NAMES = {
    REFERENCE: "reference scaffold, base weights: no part of the run",
    "start": "start",
    VOTE_OF_K: "start, vote of k",
    BEST_OF_K: "start, best of k by the verifier: an upper bound, which no user has",
    START_OF_K: "start, vote and best of k",
    "scaffold": "scaffold lever alone",
    "weights": "weights lever alone: the start's scaffold, the final adapter",
    "final": "final candidate",
    "uniform_policy": "final scaffold, uniformly random policy",
    "baselines": "what needs no agent",
}
"""Each cell in words that hold in every run."""


def cell_label(name: str, *reports: Report) -> str:
    """A cell in the words of what was played for it: in one run, or in several where it was the same in all."""
    if name.startswith("baseline:"):
        return f"no agent: {name.removeprefix('baseline:')}"
    label = CELL_NAMES.get(name, name)
    if name in (VOTE_OF_K, BEST_OF_K):
        played = sorted({cell.attempts for report in reports for cell in report.cells if cell.cell == name})
        ends = " to ".join(map(str, dict.fromkeys((played[0], played[-1])))) if played else "k"
        return label.replace(" of k", f" of {ends}")
    labels = {words for report in reports if (words := _played(name, report))}
    return labels.pop() if len(labels) == 1 else label


def _played(name: str, report: Report) -> str:
    """What was played for a cell of one run, by the scaffold and adapter that its score names; empty where that says no
    more than its name.
    """
    cells = {cell.cell: cell for cell in report.cells}
    if name not in cells:
        return ""
    label, cell, start = CELL_NAMES.get(name, ""), cells[name], cells.get("start")
    match name:
        case "start":
            return f"start: {_start_in_words(report)}, {'its adapter' if cell.adapter else 'base weights'}"
        case "scaffold":
            adapter = "the start's adapter" if cell.adapter else "base weights"
            return f"{label}: final scaffold, {adapter}"
        case "final" if start:
            by_scaffold, by_weights = cell.scaffold != start.scaffold, cell.adapter != start.adapter
            if by_scaffold and by_weights:
                return f"{label}: what the levers arrived at together"
            if by_scaffold or by_weights:
                return f"{label}: what the {'scaffold' if by_scaffold else 'weights'} lever arrived at"
            return f"{label}: the start, as it was"
        case _:
            return ""


def _start_in_words(report: Report) -> str:
    """Whose scaffold the run began with; the auditor plays the task's own beside one that a Meta-Agent wrote."""
    if report.rebaselined:
        return "the best candidate of the run that it was forked from"
    if report.owner:
        return "the candidate of its owner"
    beside = REFERENCE in {cell.cell for cell in report.cells} | {cell.cell for cell in report.cells_failed}
    if beside or (report.agent not in ("", RULES) and report.audit != "done"):
        return "the Meta-Agent's scaffold"
    return "reference scaffold"


def sort_cells(cells: Iterable[GoldScored]) -> list[GoldScored]:
    """The cells in the order of `CELLS`, then the baselines by name."""
    return sorted(
        cells, key=lambda cell: (CELLS.index(cell.cell) if cell.cell in CELLS else len(CELLS), cell.cell, cell.split)
    )
