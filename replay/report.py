"""The report of a run, built from its log: one row for each generation, and the auditor's final scores."""

from collections.abc import Iterable, Mapping

import msgspec

from events import codec, subjects
from events.change import (
    ChildRunFinished,
    ChildRunOrdered,
    ChildRunRequested,
    ProposalFailed,
    ScaffoldProposed,
    WeightUpdateRequested,
)
from events.choice import LeverChosen, ParentSelected
from events.codec import Event
from events.fact import Fact
from events.gold import AuditFinished, GoldFailed, GoldScored, PoliciesCompared
from events.judgement import CandidateEvaluated, CandidateRechecked, StageEvaluated
from events.population import ArtefactPublished, CandidateAccepted, CandidateKept, CandidateRejected
from events.rollouts import RolloutsRequested, TrajectoryRecorded
from events.run import DecisionMade, EventSetAside, RunFinished, RunPaused, RunResumed, RunStarted
from events.weights import AdapterPublished, TrainingBatchSealed, WeightUpdateFailed, WeightUpdateFinished
from replay.closing import Closing
from replay.votes import DevVote, read_vote
from runtime.agents.providers import RULES
from runtime.log.lineage import Span, ancestors
from runtime.log.port import Log, Stored, exclusive_key, readable

PAGE_SIZE = 5000
REPORTED_TYPES: tuple[type[Fact], ...] = (
    LeverChosen,
    ScaffoldProposed,
    WeightUpdateRequested,
    ProposalFailed,
    ChildRunRequested,
    ChildRunFinished,
    ArtefactPublished,
    AdapterPublished,
    WeightUpdateFailed,
    RunStarted,
    RunPaused,
    RunResumed,
    EventSetAside,
)
"""Types of event that a report needs besides the controller's decisions. A run has few of each."""

STANDINGS: Mapping[type[Fact], str] = {
    CandidateAccepted: "accepted",
    CandidateKept: "kept",
    CandidateRejected: "rejected",
}
"""What became of a candidate, by the fact that says so."""


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
    micro_usd: int = 0
    seconds: float = 0.0
    began: int = 0
    """When its change was chosen, in nanoseconds since 1970."""


class Report(msgspec.Struct, kw_only=True):
    """A run in figures: its generations, its cost, its outcome, and the auditor's scores (`cells`)."""

    version: int = 1
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
    state: str = "unknown"
    """`unknown` before the run has begun; `running`, `paused`, `finished` (the audit is under way) or `audited`."""
    reason: str = ""
    generations: list[Generation] = []
    rollouts: int = 0
    tokens: int = 0
    micro_usd: int = 0
    set_aside: int = 0
    score: float | None = None
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
        return self.state in ("finished", "audited")


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
        self._folded_ids: set[str] = set()
        self._position = 0
        self._began = 0
        self._forked = 0
        """When a forked run itself began, in nanoseconds since 1970."""

    async def follow(self, log: Log) -> list[Event]:
        """Fold the events appended since the last call, and return them in the order of the log.

        A forked run's past comes first.
        """
        new_events: list[tuple[Event, int]] = []
        if not self._folded_ids:
            for span in reversed(await ancestors(log, self.report.run)):
                new_events += await self._read_new(log, span, 0)
        new_events += await self._read_new(log, Span(self.report.run), self._position)
        for event, time in new_events:
            if event.id in self._folded_ids:  # a second one on its place
                continue
            self._folded_ids.add(event.id)
            if isinstance(event.data, RolloutsRequested):
                self._waiting[event.id] = event.run, event.data
            self._fold(event, time)
        return [event for event, _ in new_events]

    async def _read_new(self, log: Log, span: Span, position: int) -> list[tuple[Event, int]]:
        """The events after a position, each with the time when it was stored, in nanoseconds since 1970."""
        new_events: dict[int, tuple[Event, int]] = {}
        for head in await log.read(position + 1, PAGE_SIZE, subjects.head(span.run)):
            if head.sequence > span.last:
                break
            made = codec.decode_at(head.subject, head.data).data
            assert isinstance(made, DecisionMade)
            self._position = head.sequence
            for stored in await log.read(head.sequence + 1, made.outputs):
                new_events[stored.sequence] = codec.decode_at(stored.subject, stored.data), stored.time
        if new_events or not self._folded_ids:
            others = await log.last(
                [subjects.subject(log.stream, span.run, "*", kind.tag()) for kind in REPORTED_TYPES]
            )
            for place in others:
                if subjects.entity_of(place) not in self._folded_ids:
                    (stored,) = await log.read(1, 1, place)  # not what was appended there later
                    for event in readable([stored] if stored.sequence <= span.last else []):
                        new_events[stored.sequence] = event, stored.time
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
            case AuditFinished():
                self.report.state = "audited"
                self.report.seconds = (stored.time - self._began) / 1e9

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
                report.state, self._began = "running", time
                report.generations = report.generations or [Generation(generation=0, began=time)]
                self._forked = time if fact.parent_run else 0
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
            case ChildRunFinished(generation=generation):
                self.row(generation).rollouts += fact.rollouts
                report.rollouts += fact.rollouts
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
            case RolloutsRequested(generation=generation) if (
                fact.key() not in self._counted
            ):  # a fork asks again for what its parent was not given
                self._counted.add(fact.key())
                planned = len(fact.items) * fact.attempts
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
                row.tokens, row.micro_usd = fact.tokens - report.tokens, fact.micro_usd - report.micro_usd
                report.tokens, report.micro_usd = fact.tokens, fact.micro_usd
            case (
                CandidateAccepted(generation=generation)
                | CandidateKept(generation=generation)
                | CandidateRejected(generation=generation)
            ):
                row = self.row(generation)
                row.standing, row.verdict = STANDINGS[type(fact)], fact.reason
                row.accepted = row.standing == "accepted"
                row.seconds = (time - (max(row.began, self._forked) or time)) / 1e9
            case RunPaused():
                report.state = "paused"
            case RunResumed():
                report.state = "running"
            case RunFinished():
                report.state, report.reason, report.score = (
                    "finished",
                    fact.reason,
                    fact.score if fact.candidate else None,
                )
                report.scaffold, report.adapter = fact.scaffold, fact.adapter
                report.rollouts, report.tokens, report.micro_usd = fact.rollouts, fact.tokens, fact.micro_usd
                report.seconds = (time - self._began) / 1e9
                last = report.generations[-1] if report.generations else None
                if last and last.lever == "stop" and not last.standing:
                    report.generations.pop()
            case EventSetAside():
                report.set_aside += 1


async def follow_gold(gold: Log, reporter: Reporter, position: int) -> int:
    """Fold what stands on the stream GOLD after a position; returns the new position."""
    while read := await gold.read(position + 1, PAGE_SIZE):
        for stored in read:
            reporter.fold_gold(stored)
        position = read[-1].sequence
    return position


async def collect(log: Log, gold: Log, run: str) -> Report:
    """The report of one run as the two logs are now."""
    reporter = Reporter(run)
    await reporter.follow(log)
    await follow_gold(gold, reporter, 0)
    await add_vote(log, reporter.report)
    return reporter.report


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
    "start": "start: reference scaffold, base weights",
    VOTE_OF_K: "start, vote of k",
    BEST_OF_K: "start, best of k by the verifier: an upper bound, which no user has",
    START_OF_K: "start, vote and best of k",
    "scaffold": "scaffold lever alone: final scaffold, base weights",
    "weights": "weights lever alone: the start's scaffold, the final adapter",
    "final": "final candidate: what the levers arrived at together",
    "uniform_policy": "final scaffold, uniformly random policy",
    "baselines": "what needs no agent",
}
"""Each cell in words."""
STARTS = {"agent": "start: the Meta-Agent's scaffold, base weights", "owner": "start: the candidate of its owner"}
"""The start in words, where that is not the reference scaffold."""


def cell_label(name: str, *reports: Report) -> str:
    """A cell of one run, or of several of one order, in words, with the k that was played."""
    if name.startswith("baseline:"):
        return f"no agent: {name.removeprefix('baseline:')}"
    if name == "start" and any(report.owner for report in reports):
        return STARTS["owner"]
    if name == "start" and any(report.agent not in ("", RULES) for report in reports):
        return STARTS["agent"]
    label = CELL_NAMES.get(name, name)
    played = sorted({cell.attempts for report in reports for cell in report.cells if cell.cell == name})
    if name in (VOTE_OF_K, BEST_OF_K) and played:
        return label.replace(" of k", f" of {' to '.join(map(str, dict.fromkeys((played[0], played[-1]))))}")
    return label


def sort_cells(cells: Iterable[GoldScored]) -> list[GoldScored]:
    """The cells in the order of `CELLS`, then the baselines by name."""
    return sorted(
        cells, key=lambda cell: (CELLS.index(cell.cell) if cell.cell in CELLS else len(CELLS), cell.cell, cell.split)
    )
