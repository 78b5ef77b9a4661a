"""Holds each kept candidate against what the task is for, and scores what a finished run arrived at; all of it on the stream GOLD.

Of each candidate that is kept, while the run goes on: what the run's verifier and the gold verifier say of its answers to test, what the
verifier says of them where test is perturbed, and, where a lever other than the last one made it, what both say of its scaffold and its
adapter with those of the start. Then the verdict (`replay/audit`). It alone reads the labels of test. Nothing of what it finds reaches
the loop.
"""

import asyncio
import functools
import logging
import math
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from algorithms.statistics import mcnemar, mean_reward
from events import codec
from events.change import ScaffoldProposed
from events.codec import Event
from events.errors import CheckFailed, Misconfigured, NotFound
from events.fact import Fact, NotFinite, derive
from events.gold import (
    CANARY,
    CEILING,
    CHANGED,
    EXTRA,
    PERTURBED,
    VERIFIER,
    AuditFinished,
    DriftFlagged,
    GoldFailed,
    GoldScored,
    PairMeasured,
    PoliciesCompared,
    ReferenceMeasured,
)
from events.gold import GOLD as GOLD_MEASURE
from events.judgement import CandidateEvaluated
from events.population import CandidateAccepted
from events.rollouts import ModelCalled, RolloutsRequested, TrajectoryRecorded
from events.run import AuditReleased, RunFinished, RunStarted
from events.subjects import GOLD, run_of, subject
from replay.archive.projection import open_archive
from replay.recorded import EventIndex, StoredEvent
from runtime.blobs.directory import Blobs
from runtime.log import lineage
from runtime.log.lookup import by_id, of_types
from runtime.log.port import Log
from runtime.log.worker import now, work
from runtime.policies.bases import UNIFORM
from runtime.policies.client import PolicyClient, model_name
from runtime.rollouts.runner import RolloutRunner
from runtime.run.fork import comparable_from
from runtime.run.loading import Loaded
from services.host.context import Context
from services.host.settings import scaffold_limits
from tasks.contract import EvaluationSet, Public

logger = logging.getLogger("evolog")

SPLITS = ("dev", "test")
PERTURBED_ITEMS = 100
FINISHED = -1
"""The look at a finished run."""
Pair = tuple[str, str]
"""A scaffold and an adapter."""
Judge = Callable[[str | None, str], float]
"""The score of an answer to an item with this label."""
PAGE_SIZE = 5000
PLAYERS = 2
"""How much is played side by side."""
T = TypeVar("T")


class Cell(NamedTuple):
    """A scaffold with a policy, to be scored."""

    name: str
    scaffold: str
    adapter: str
    uniform: bool = False

    @property
    def pair(self) -> Pair:
        return self.scaffold, self.adapter


def cells_of(start: str, finished: RunFinished) -> list[Cell]:
    """The cells of the final table: the start, each lever alone where both moved, the final candidate, and the check on the model."""
    cells = [Cell("start", start, "")]
    if finished.scaffold != start and finished.adapter:
        cells += [Cell("scaffold", finished.scaffold, ""), Cell("weights", start, finished.adapter)]
    return [*cells, Cell("final", finished.scaffold, finished.adapter), Cell("uniform_policy", finished.scaffold, "", uniform=True)]


class RunTail:
    """What is recorded of the run that was looked at last; a look reads on from where the one before it ended."""

    def __init__(self, context: Context, gold: Log) -> None:
        self._logs = context.log, gold
        self._run = ""
        self._ends = [0, 0]
        self._told: tuple[list[StoredEvent], list[StoredEvent]] = [], []

    async def of(self, run: str) -> tuple[Sequence[StoredEvent], Sequence[StoredEvent]]:
        """All that can be read of a run and its past on the log, and of the run on GOLD."""
        log, _ = self._logs
        if run != self._run:
            start, _ = await lineage.began(log, run)
            before = await lineage.past(log, run)
            self._run, self._ends, self._told = run, [start.sequence - 1, 0], (EventIndex(before).events, [])
        for place, log in enumerate(self._logs):
            while read := await log.read(self._ends[place] + 1, PAGE_SIZE):
                own = [stored for stored in read if run_of(stored.subject) == run]
                self._told[place].extend((await asyncio.to_thread(EventIndex, own)).events)
                self._ends[place] = read[-1].sequence
        return self._told


async def serve(context: Context) -> None:
    """Audit runs as they finish."""
    players = []
    for number in range(PLAYERS):
        policy = PolicyClient(context.node.policy_url(), context.policy_token())  # which is for one thread
        players.append(RolloutRunner(context.blobs, context.work / f"player-{number}", policy, context.scanner, scaffold_limits()))
    try:
        await audit_runs(context, context.connection.log(GOLD), Blobs(context.node.gold_blobs), *players)
    finally:
        for player in players:
            player.close()


async def audit_runs(context: Context, gold: Log, blobs: Blobs, *players: RolloutRunner) -> None:
    """Look at what runs keep, and audit one finished run after the other."""
    auditor = Auditor(context, gold, blobs, players)

    async def perform(events: list[Event]) -> Sequence[Event]:
        for event in events:
            await (auditor.look(event) if isinstance(event.data, CandidateAccepted) else auditor.audit(event))
        return []

    await _project(context, gold)
    await work(context.log, perform, source="auditor", scanner=context.scanner)


class Auditor:
    """What the service has in its hands. Its players play side by side; of a task's own code one piece runs at a time.

    A thread cannot be stopped: what nobody waits for any longer has its player, or holds up the task's code, until it ends.
    """

    def __init__(self, context: Context, gold: Log, blobs: Blobs, players: Sequence[RolloutRunner]) -> None:
        self.context, self.gold, self.blobs, self.heard = context, gold, blobs, RunTail(context, gold)
        self._task_code = asyncio.Lock()
        self._idle: asyncio.Queue[RolloutRunner] = asyncio.Queue()
        for player in players:
            self._idle.put_nowait(player)

    async def played(self, play: Callable[[RolloutRunner], T]) -> T:
        """What comes of a play, as soon as a player is idle."""
        player = await self._idle.get()
        return await _to_its_end(functools.partial(play, player), lambda: self._idle.put_nowait(player))

    async def alone(self, code: Callable[[], T]) -> T:
        """What comes of a task's own code."""
        await self._task_code.acquire()
        return await _to_its_end(code, self._task_code.release)

    async def audit(self, event: Event) -> None:
        """Score every cell that is not recorded yet, then say that the audit is finished."""
        began = time.monotonic()
        finished = event.data
        assert isinstance(finished, RunFinished)
        try:
            case = await self._case(event)
            start = await _start_scaffold(self.context, event.run)
        except (NotFound, CheckFailed, Misconfigured) as wrong:
            await self.record(event, [GoldFailed(cell="final", split="test", reason=str(wrong))])
        else:
            cells = cells_of(start, finished) if finished.candidate else []
            await case.record_each(map(case.measure, dict.fromkeys(cell.pair for cell in cells if not cell.uniform)))
            await case.record_each([*(case.scored(cell, split) for cell in cells for split in SPLITS), case.baselines(), case.references()])
            await case.record(await case.compare())
            await case.perturb(cell.pair for cell in cells if cell.name in ("start", "final"))
            await case.record(await case.verdict(FINISHED))
        cells_scored = len(await of_types(self.gold, event.run, [GoldScored]))
        await self.record(event, [AuditFinished(candidate=finished.candidate, cells=cells_scored, seconds=time.monotonic() - began)])
        await _project(self.context, self.gold)

    async def look(self, event: Event) -> None:
        """Measure a candidate that was kept, say what the run's scores mean since, and tell the loop where its order asks for that."""
        accepted = event.data
        assert isinstance(accepted, CandidateAccepted)

        standing: list[Fact] = []
        try:
            standing = await self._looked(event, accepted.generation)
        except (NotFound, CheckFailed, Misconfigured, NotFinite) as wrong:  # a run that waits for this look is not to wait for ever
            logger.warning("run %s cannot be looked at: %s", event.run, wrong)
        if action := (await self.context.started(event.run)).on_drift:
            found = next((one for one in standing if isinstance(one, DriftFlagged)), None)
            released = await release(self.context, event.run, action, accepted.generation, found)
            await self.record(event, [released], self.context.log)
        await _project(self.context, self.gold)

    async def _looked(self, event: Event, generation: int) -> list[Fact]:
        """Record what a look finds; the verdict on what the run now stands on, where the auditor may act."""
        case = await self._case(event)
        kept = await _kept(self.context, event.run, generation)
        pairs = dict.fromkeys(_pairs(kept)) if kept else ()  # none where its facts cannot be read
        await case.record_each([case.references(), *map(case.measure, pairs)])
        await case.perturb((one.scaffold, one.adapter) for one in (*kept[:1], *kept[-1:]))
        await case.record(await case.verdict(generation))
        # what was rolled back is past, and what drifts after it is told anew
        return await case.verdict(generation, lineage_only=True) if case.loaded.started.on_drift else []

    async def _case(self, event: Event) -> "RunAudit":
        loaded = await self.context.load(event.run)
        return RunAudit(self, event, loaded, await asyncio.to_thread(_labels, loaded))

    async def record(self, answered: Event, facts: Sequence[Fact], log: Log | None = None) -> None:
        """Append facts that an event brought to light, where they are not recorded yet; on GOLD, or on another log."""
        events = [codec.event(fact, run=answered.run, source="auditor", cause=answered.id, time=now()) for fact in facts]
        await self.context.record(events, log or self.gold)


async def _to_its_end(work: Callable[[], T], then: Callable[[], object]) -> T:
    """What comes of work in a thread, and what is to be done when it has ended, which may be after nobody waits for it."""

    def ended(working: asyncio.Future[T]) -> None:
        if not working.cancelled():
            working.exception()  # or it would be complained of where nobody waits
        then()

    working = asyncio.ensure_future(asyncio.to_thread(work))
    working.add_done_callback(ended)
    return await asyncio.shield(working)


async def _kept(context: Context, run: str, generation: int) -> list[CandidateEvaluated]:
    """The candidates that were kept up to a generation, the start first; of a fork that judges anew, those since then."""
    kinds = [RunStarted, CandidateAccepted, CandidateEvaluated]
    found = [event.data for event in await of_types(context.log, run, kinds, await context.past(run))]
    found = found[comparable_from(found) :]
    names = {one.candidate for one in found if isinstance(one, CandidateAccepted)}
    kept = [one for one in found if isinstance(one, CandidateEvaluated) and one.candidate in names and one.generation <= generation]
    return sorted(kept, key=lambda one: one.generation)


def _pairs(kept: Sequence[CandidateEvaluated]) -> list[Pair]:
    """What is played of the last of them: the start, itself, and at a switch of levers its scaffold and its adapter with the start's."""
    start, last = kept[0], kept[-1]
    pairs = [(start.scaffold, start.adapter), (last.scaffold, last.adapter)]
    if len(kept) > 1 and kept[-2].lever != last.lever and last.scaffold != start.scaffold and last.adapter != start.adapter:
        pairs += [(last.scaffold, start.adapter), (start.scaffold, last.adapter)]
    return pairs


class Answered(NamedTuple):
    """What was answered, by item; an attempt that failed is left out."""

    answers: dict[str, str | None]
    blob: str


class RunAudit:
    """A run, with the event that asks for a look at it. What a method returns is still to be recorded."""

    def __init__(self, auditor: Auditor, answered: Event, loaded: Loaded, labels: Mapping[str, str]) -> None:
        self.auditor, self.answered, self.loaded, self.labels = auditor, answered, loaded, labels
        self.run = answered.run
        self.gold, self.blobs = auditor.gold, auditor.blobs

    async def record(self, facts: Sequence[Fact]) -> None:
        """Append what is not recorded yet."""
        await self.auditor.record(self.answered, facts)

    async def record_each(self, works: Iterable[Coroutine[None, None, Sequence[Fact]]]) -> None:
        """Do all of it side by side, and append what each finds once those before it are done: facts stand in one order on GOLD."""
        tasks = [asyncio.create_task(work) for work in works]
        try:
            for task in tasks:
                await self.record(await task)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def measure(self, pair: Pair) -> Sequence[Fact]:
        """What both verifiers say of a pair's answers to test; nothing where it is recorded already, or where most attempts failed."""
        if await self._is_recorded(PairMeasured, *pair, VERIFIER):
            return []
        asked = EvaluationSet(self.loaded.public.labels, self.loaded.public.test)
        judges = {VERIFIER: self.loaded.task.reward, GOLD_MEASURE: self.loaded.task.worth} | _beside(self.loaded)
        return await self._judged(pair, asked, await self._answers(pair, asked, VERIFIER), judges)

    async def references(self) -> Sequence[Fact]:
        """What test's canaries earn, and the most that anything can be expected to; nothing where it is recorded already."""
        if await of_types(self.gold, self.run, [ReferenceMeasured]):  # of a run, all stand in one append
            return []
        return await self.auditor.alone(lambda: _references(self.loaded, self.labels))

    async def baselines(self) -> Sequence[Fact]:
        """What the task's baselines score on dev and test."""
        return await self.auditor.alone(lambda: _baselines(self.loaded, self.labels))

    async def perturb(self, pairs: Iterable[Pair]) -> None:
        """Record what the run's verifier says of pairs' answers to test where it is changed; `PERTURBED_ITEMS` of each change at most."""
        if not (each := dict.fromkeys(pairs)):
            return
        try:
            perturbations = await self.auditor.alone(self.loaded.task.perturbations)
        except (Misconfigured, CheckFailed, NotFound) as wrong:  # the task's own code
            await self.record([GoldFailed(cell=f"{PERTURBED}all", split="test", reason=str(wrong))])
        else:
            of = perturbations.items()
            await self.record_each(self._perturbed(pair, name, one.preserves) for pair in each for name, one in of)

    async def _perturbed(self, pair: Pair, name: str, preserves: bool) -> Sequence[Fact]:
        measure = (PERTURBED if preserves else CHANGED) + name
        if await self._is_recorded(PairMeasured, *pair, measure):
            return []
        try:
            return await self._under(pair, name, measure)
        except (Misconfigured, CheckFailed, NotFound) as wrong:  # the task's own code
            return [GoldFailed(cell=f"{PERTURBED}{name}", split="test", reason=str(wrong))]

    async def _under(self, pair: Pair, name: str, measure: str) -> Sequence[Fact]:
        asked, seed = EvaluationSet(self.loaded.public.labels, self.loaded.public.test), self.loaded.started.seed
        changed = await self.auditor.alone(lambda: self.loaded.task.perturbed(name, asked, self.labels, seed))
        plain = await self._measured(pair)
        if plain and changed.labels == asked.labels and set(changed.items) <= set(asked.items):  # other items are counted, none changed
            scores = {item.id: plain.scores[item.id] for item in changed.items}
            scaffold, adapter = pair
            return [PairMeasured(scaffold=scaffold, adapter=adapter, measure=measure, scores=scores, failed=0, blob=plain.blob)]
        few = random.Random(f"{seed} {name}").sample(changed.items, min(PERTURBED_ITEMS, len(changed.items)))
        changed = EvaluationSet(changed.labels, tuple(few))
        return await self._judged(pair, changed, await self._answers(pair, changed, measure), {measure: self.loaded.task.reward})

    async def scored(self, cell: Cell, split: str) -> Sequence[Fact]:
        """One attempt at each item of a split at temperature 0, as measured already or made now: the mean reward with its interval."""
        if await self._is_recorded(GoldScored, cell.name, split):
            return []
        if split == "test" and not cell.uniform and (measured := await self._measured(cell.pair)):
            answered = Answered(_said(self.blobs, measured.blob), measured.blob)
        else:
            answered = await self._played(f"audit-{cell.name}-{split}", cell, split, self.loaded.public)
        return [await self.auditor.alone(lambda: _of_cell(self.loaded, self.labels, cell, split, answered))]

    async def compare(self) -> Sequence[Fact]:
        """The final candidate against the uniformly random policy, item by item, from what is recorded of both."""
        facts: list[Fact] = []
        for split in SPLITS:
            ids = [codec.event_id(self.run, GoldScored, cell, split) for cell in ("final", "uniform_policy")]
            scored = await by_id(self.gold, self.run, GoldScored, ids)
            if len(scored) == len(ids):
                final, uniform = (self._rewards(scored[id].blob) for id in ids)
                wins = sum(final[item] > uniform[item] for item in final.keys() & uniform.keys())
                losses = sum(final[item] < uniform[item] for item in final.keys() & uniform.keys())
                facts.append(PoliciesCompared(split=split, wins=wins, losses=losses, p_value=mcnemar(wins, losses)))
        return facts

    async def verdict(self, look: int, *, lineage_only: bool = False) -> Sequence[Fact]:
        """The verdict on all that is recorded, or on the last candidate's lineage alone; nothing where NumPy is not installed."""
        try:
            from replay.audit import audit as of_run
            from replay.audit.known import known_of, known_of_log
        except ModuleNotFoundError as missing:
            logger.warning("no verdict on run %s: %s is not installed; pip install 'evolog[tasks]'", self.run, missing.name)
            return []
        started = self.loaded.started
        told, of_gold = await self.auditor.heard.of(self.run)
        if look == FINISHED or started.on_drift:
            known, _ = await asyncio.to_thread(known_of, started, told, of_gold, self.loaded.public)
        else:  # to look for hidden items takes long, and nothing would come of it
            known, _ = known_of_log(told, of_gold)
        try:
            found = await asyncio.to_thread(
                of_run.audit, told, of_gold, self.auditor.context.blobs.get, known, started.seed, lineage_only=lineage_only
            )
        except Exception as wrong:  # whatever a run's scaffolds and scores are like, no other run waits for its verdict
            logger.warning("no verdict on run %s: %s: %s", self.run, type(wrong).__name__, wrong)
            return []
        if found.state != "green" and not lineage_only:
            logger.warning("run %s: %s", self.run, found.sentence)
        generation = -1 if found.generation is None else found.generation
        return [
            DriftFlagged(look=look, state=found.state, rule=found.rule, lever=found.lever, generation=generation, sentence=found.sentence)
        ]

    async def _answers(self, pair: Pair, asked: EvaluationSet, measure: str) -> Answered:
        name = derive(*pair, measure)
        public = msgspec.structs.replace(self.loaded.public, labels=asked.labels, test=asked.items)
        return await self._played(f"audit-{name}", Cell(name, *pair), "test", public)

    async def _played(self, name: str, cell: Cell, split: str, public: Public) -> Answered:
        return await self.auditor.played(lambda player: _play(self.blobs, player, self.run, self.loaded, public, name, cell, split))

    async def _judged(self, pair: Pair, asked: EvaluationSet, answered: Answered, judges: Mapping[str, Judge]) -> Sequence[Fact]:
        return await self.auditor.alone(lambda: _judged(self.loaded, self.labels, pair, asked, answered, judges))

    async def _is_recorded(self, fact: type[Fact], *key: str | int) -> bool:
        return bool(await self.gold.last([subject(GOLD, self.run, codec.event_id(self.run, fact, *key), "*")]))

    async def _measured(self, pair: Pair) -> PairMeasured | None:
        id = codec.event_id(self.run, PairMeasured, *pair, VERIFIER)
        return (await by_id(self.gold, self.run, PairMeasured, [id])).get(id)

    def _rewards(self, blob: str) -> dict[str, float]:
        return {item: self.loaded.task.score(answer, self.labels[item]).reward for item, answer in _said(self.blobs, blob).items()}


def _beside(loaded: Loaded) -> dict[str, Judge]:
    try:
        return {EXTRA + name: judge for name, judge in loaded.task.beside().items()}
    except Misconfigured as wrong:
        logger.warning("nothing is measured beside gold: %s", wrong)
        return {}


def _references(loaded: Loaded, labels: Mapping[str, str]) -> list[Fact]:
    found: dict[tuple[str, str], dict[str, float]] = {}
    try:
        for item in loaded.public.test:
            for name, pair in loaded.task.canaries(labels[item.id]).items():
                for measure, score in zip((VERIFIER, GOLD_MEASURE), pair, strict=True):
                    found.setdefault((CANARY + name, measure), {})[item.id] = score
            if (most := loaded.task.ceiling(labels[item.id])) is not None:
                found.setdefault((CEILING, VERIFIER), {})[item.id] = most
    except (Misconfigured, CheckFailed, NotFound) as wrong:  # the task's own code
        return [GoldFailed(cell="references", split="test", reason=str(wrong))]
    return [ReferenceMeasured(name=name, measure=measure, scores=scores) for (name, measure), scores in found.items()]


def _judged(
    loaded: Loaded, labels: Mapping[str, str], pair: Pair, asked: EvaluationSet, answered: Answered, judges: Mapping[str, Judge]
) -> list[Fact]:
    failed = len(asked.items) - len(answered.answers)
    if 2 * failed > len(asked.items) or not asked.items:
        logger.warning("%d of %d attempts of the audit failed; nothing is measured by them", failed, len(asked.items))
        return []
    scores: dict[str, dict[str, tuple[float]]] = {measure: {} for measure in judges}
    for item in asked.items:  # what judges of one answer have in common, they can keep for the next
        for measure, judge in judges.items():
            scores[measure][item.id] = (_score(judge, answered.answers.get(item.id), labels[item.id]),)
    scaffold, adapter = pair
    return [
        PairMeasured(scaffold=scaffold, adapter=adapter, measure=measure, scores=found, failed=failed, blob=answered.blob)
        for measure, found in scores.items()
    ]


def _score(judge: Judge, answer: str | None, label: str) -> float:
    try:
        return 0.0 if answer is None else judge(answer, label)
    except (Misconfigured, NotFound, CheckFailed, ArithmeticError, ValueError, TypeError, LookupError):
        return 0.0  # a verifier that fails is seen in the loop's own log


def _said(blobs: Blobs, blob: str) -> dict[str, str | None]:
    answers: dict[str, str | None] = msgspec.json.decode(blobs.get(blob))["answers"]
    return answers


async def release(context: Context, run: str, action: str, look: int, found: DriftFlagged | None) -> AuditReleased:
    """What the loop is told of a look, where the run's order asks for it: of each drift once, and nothing of what is not drift.

    Its price is what the loop can tell apart: drift or not at each look so far (1 bit each), and of a drift the lever (log2 3) and,
    where it names a candidate to go back to, the generation (log2 of those so far).
    """
    told = [one.data for one in await of_types(context.log, run, [AuditReleased], await context.past(run))]
    before = [one for one in told if isinstance(one, AuditReleased) and one.look < look]
    bits = before[-1].bits + 1 if before else 1.0
    old = any(one.action != "none" and one.generation >= found.generation for one in before) if found else False
    if found is None or found.state != "drift" or old:
        return AuditReleased(look=look, action="none", lever="", generation=-1, bits=bits)
    named = {"stop": 0.0, "freeze": math.log2(3), "rollback": math.log2(3) + math.log2(look + 1)}[action]
    lever = found.lever if found.lever in ("scaffold", "weights") else "both"
    return AuditReleased(look=look, action=action, lever=lever, generation=max(0, found.generation), bits=bits + named)


def _model(loaded: Loaded, cell: Cell) -> str:
    return model_name(loaded.started.base_model, UNIFORM if cell.uniform else cell.adapter)


def _play(blobs: Blobs, player: RolloutRunner, run: str, loaded: Loaded, public: Public, name: str, cell: Cell, split: str) -> Answered:
    items = public.dev if split == "dev" else public.test
    requested = RolloutsRequested(
        generation=0,
        purpose="audit",
        round=0,
        shard=0,
        scaffold=cell.scaffold,
        adapter=cell.adapter,
        split=split,
        fold=-1,
        items=tuple(item.id for item in items),
        attempts=1,
        temperature=0.0,
        seed=loaded.started.seed,
    )
    calls: list[ModelCalled] = []
    play = functools.partial(player.play, sandbox=loaded.started.sandbox, max_tokens=loaded.started.max_tokens)
    facts = play(run, name, requested, public, _model(loaded, cell), lambda ids: {}, calls.extend)
    answers = {fact.item: fact.answer for fact in facts if isinstance(fact, TrajectoryRecorded)}
    return Answered(answers, blobs.put(msgspec.json.encode({"answers": answers, "calls": calls}, order="deterministic")))


def _of_cell(loaded: Loaded, labels: Mapping[str, str], cell: Cell, split: str, answered: Answered) -> Fact:
    items = len(loaded.public.dev if split == "dev" else loaded.public.test)
    of = {"scaffold": cell.scaffold, "adapter": cell.adapter, "policy": _model(loaded, cell), "blob": answered.blob}
    return _scored(loaded, labels, answered.answers, cell.name, split, items, **of)


def _scored(
    loaded: Loaded,
    labels: Mapping[str, str],
    answers: Mapping[str, str | None],
    cell: str,
    split: str,
    items: int,
    *,
    scaffold: str = "",
    adapter: str = "",
    policy: str = "",
    blob: str = "",
) -> Fact:
    try:
        rewards = [loaded.task.score(answer, labels[item]).reward for item, answer in answers.items()]
        if not rewards:
            return GoldFailed(cell=cell, split=split, reason="no attempt ran to its end")
        estimate = mean_reward(rewards)
        return GoldScored(
            cell=cell,
            split=split,
            scaffold=scaffold,
            adapter=adapter,
            policy=policy,
            score=estimate.mean,
            low=estimate.low,
            high=estimate.high,
            items=items,
            failed=items - len(rewards),
            rollouts=items if policy else 0,
            blob=blob,
        )
    except (Misconfigured, NotFinite, ArithmeticError, ValueError, TypeError, LookupError) as wrong:
        return GoldFailed(cell=cell, split=split, reason=f"{type(wrong).__name__}: {wrong}")


def _labels(loaded: Loaded) -> dict[str, str]:
    return {**loaded.task.labels(loaded.started.seed), **loaded.task.gold()}


def _baselines(loaded: Loaded, labels: Mapping[str, str]) -> list[Fact]:
    facts: list[Fact] = []
    try:
        baselines = loaded.task.baselines()
    except Misconfigured as wrong:
        return [GoldFailed(cell="baselines", split="test", reason=str(wrong))]
    for name, predict in baselines.items():
        items = [*loaded.public.dev, *loaded.public.test]
        try:
            predicted = predict(loaded.public, items)
            answers = {item.id: predicted[item.id] for item in items}
        except Exception as wrong:  # the task's own code
            reason = f"{type(wrong).__name__}: {wrong}"
            facts += [GoldFailed(cell=f"baseline:{name}", split=split, reason=reason) for split in SPLITS]
            continue
        for split, part in (("dev", loaded.public.dev), ("test", loaded.public.test)):
            facts.append(_scored(loaded, labels, {item.id: answers[item.id] for item in part}, f"baseline:{name}", split, len(part)))
    return facts


async def _start_scaffold(context: Context, run: str) -> str:
    proposed = [one.data for one in await of_types(context.log, run, [ScaffoldProposed], await context.past(run))]
    return next((one.scaffold for one in proposed if isinstance(one, ScaffoldProposed) and one.generation == 0), "")


async def _project(context: Context, gold: Log) -> None:
    archive = await asyncio.to_thread(open_archive, context.node.gold_archive, GOLD)
    try:
        while read := await gold.read(archive.cursor + 1, PAGE_SIZE):
            await asyncio.to_thread(archive.apply, read)
    finally:
        archive.close()
