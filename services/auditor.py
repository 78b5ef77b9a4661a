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
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from algorithms.search.estimate import mcnemar, mean_reward
from events import codec
from events.change import ScaffoldProposed
from events.codec import Event
from events.errors import CheckFailed, Misconfigured, NotFound
from events.fact import Fact, NotFinite, derive
from events.gold import (
    BESIDE,
    CANARY,
    CEILING,
    CHANGED,
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
from events.play import ModelCalled, RolloutsRequested, TrajectoryRecorded
from events.population import CandidateAccepted
from events.run import AuditReleased, RunFinished, RunStarted
from events.subjects import GOLD, run_of, subject
from replay.recorded import Recorded, Told
from runtime import lineage
from runtime.blobs import Blobs
from runtime.log import Log
from runtime.lookup import by_id, of_types
from runtime.policies.bases import UNIFORM
from runtime.policies.client import PolicyClient, model_name
from runtime.rollouts import Player
from runtime.run_decider import judged_anew
from runtime.worker import now, work
from services.archivist import open_archive
from services.context import Context, Loaded, scaffold_limits
from tasks.contract import Asked, Public

logger = logging.getLogger("evolog")

SPLITS = ("dev", "test")
PERTURBED_ITEMS = 100
FINISHED = -1
"""The look at a finished run."""
Pair = tuple[str, str]
"""A scaffold and an adapter."""
Judge = Callable[[str | None, str], float]
"""The score of an answer to an item with this label."""
READ = 5000


class Cell(NamedTuple):
    """A scaffold with a policy, to be scored."""

    name: str
    scaffold: str
    adapter: str
    uniform: bool = False


def cells_of(start: str, finished: RunFinished) -> list[Cell]:
    """The cells of the final table: the start, each lever alone where both moved, the final candidate, and the check on the model."""
    cells = [Cell("start", start, "")]
    if finished.scaffold != start and finished.adapter:
        cells += [Cell("scaffold", finished.scaffold, ""), Cell("weights", start, finished.adapter)]
    return [*cells, Cell("final", finished.scaffold, finished.adapter), Cell("uniform_policy", finished.scaffold, "", uniform=True)]


class Heard:
    """What is recorded of the run that was looked at last; a look reads on from where the one before it ended."""

    def __init__(self, context: Context, gold: Log) -> None:
        self._logs = context.log, gold
        self._run = ""
        self._ends = [0, 0]
        self._told: tuple[list[Told], list[Told]] = [], []

    async def of(self, run: str) -> tuple[Sequence[Told], Sequence[Told]]:
        """All that can be read of a run and its past on the log, and of the run on GOLD."""
        log, _ = self._logs
        if run != self._run:
            start, _ = await lineage.began(log, run)
            before = await lineage.past(log, run)
            self._run, self._ends, self._told = run, [start.sequence - 1, 0], (Recorded(before).events, [])
        for place, log in enumerate(self._logs):
            while read := await log.read(self._ends[place] + 1, READ):
                own = [stored for stored in read if run_of(stored.subject) == run]
                self._told[place].extend((await asyncio.to_thread(Recorded, own)).events)
                self._ends[place] = read[-1].sequence
        return self._told


async def serve(context: Context) -> None:
    """Audit runs as they finish."""
    policy = PolicyClient(context.node.policy_url(), context.policy_token())
    player = Player(context.blobs, context.work, policy, context.scanner, scaffold_limits())
    try:
        await audit_runs(context, context.connection.log(GOLD), Blobs(context.node.gold_blobs), player)
    finally:
        player.close()


async def audit_runs(context: Context, gold: Log, blobs: Blobs, player: Player) -> None:
    """Look at what runs keep, and audit one finished run after the other."""
    heard = Heard(context, gold)

    async def perform(events: list[Event]) -> Sequence[Event]:
        for event in events:
            if isinstance(event.data, CandidateAccepted):
                await look(context, gold, blobs, player, heard, event)
            else:
                await audit(context, gold, blobs, player, heard, event)
        return []

    await _project(context, gold)
    await work(context.log, perform, source="auditor", scanner=context.scanner)


async def audit(context: Context, gold: Log, blobs: Blobs, player: Player, heard: Heard, event: Event) -> None:
    """Score every cell that is not recorded yet, each as soon as it is known, then say that the audit is finished."""
    began = time.monotonic()
    finished = event.data
    assert isinstance(finished, RunFinished)

    record = functools.partial(_record, context, gold, event)
    try:
        loaded = await context.load(event.run)
        labels = await asyncio.to_thread(_labels, loaded)
        start = await _start_scaffold(context, event.run)
    except (NotFound, CheckFailed, Misconfigured) as wrong:
        await record([GoldFailed(cell="final", split="test", reason=str(wrong))])
    else:
        baselines = asyncio.create_task(asyncio.to_thread(_baselines, loaded, labels))
        for cell in cells_of(start, finished) if finished.candidate else []:
            for split in SPLITS:
                if await _is_recorded(gold, event.run, GoldScored, cell.name, split):
                    continue
                if split == "test" and not cell.uniform:
                    await record(await measure(gold, blobs, player, event.run, loaded, labels, (cell.scaffold, cell.adapter)))
                    measured = await _measured(gold, event.run, (cell.scaffold, cell.adapter), VERIFIER)
                    if measured:
                        await record([_of_measured(blobs, loaded, labels, cell, measured)])
                        continue
                await record([await asyncio.to_thread(play_cell, blobs, player, event.run, loaded, labels, cell, split)])
        await record(await compare(gold, blobs, event.run, loaded, labels))
        await record(await baselines)
        await record(await references(gold, event.run, loaded, labels))
        for cell in cells_of(start, finished) if finished.candidate else []:
            if cell.name in ("start", "final"):
                await record(await perturbed(gold, blobs, player, event.run, loaded, labels, (cell.scaffold, cell.adapter)))
        await record(await verdict(context, heard, event.run, loaded, FINISHED))
    cells = len(await of_types(gold, event.run, [GoldScored]))
    await record([AuditFinished(candidate=finished.candidate, cells=cells, seconds=time.monotonic() - began)])
    await _project(context, gold)


async def look(context: Context, gold: Log, blobs: Blobs, player: Player, heard: Heard, event: Event) -> None:
    """Measure a candidate that was kept, say what the run's scores mean since, and tell the loop where its order asks for that."""
    accepted = event.data
    assert isinstance(accepted, CandidateAccepted)

    standing: list[Fact] = []
    try:
        standing = await _looked(context, gold, blobs, player, heard, event, accepted.generation)
    except (NotFound, CheckFailed, Misconfigured, NotFinite) as wrong:  # a run that waits for this look is not to wait for ever
        logger.warning("run %s cannot be looked at: %s", event.run, wrong)
    if action := (await context.started(event.run)).on_drift:
        found = next((one for one in standing if isinstance(one, DriftFlagged)), None)
        released = await release(context, event.run, action, accepted.generation, found)
        await context.record([codec.event(released, run=event.run, source="auditor", cause=event.id, time=now())])
    await _project(context, gold)


async def _looked(context: Context, gold: Log, blobs: Blobs, player: Player, heard: Heard, event: Event, generation: int) -> list[Fact]:
    """Record what a look finds; the verdict on what the run now stands on, where the auditor may act."""
    record = functools.partial(_record, context, gold, event)
    loaded = await context.load(event.run)
    labels = await asyncio.to_thread(_labels, loaded)
    kept = await _kept(context, event.run, generation)
    await record(await references(gold, event.run, loaded, labels))
    for pair in _pairs(kept) if kept else ():  # none where its facts cannot be read
        await record(await measure(gold, blobs, player, event.run, loaded, labels, pair))
    for pair in dict.fromkeys((one.scaffold, one.adapter) for one in (*kept[:1], *kept[-1:])):
        await record(await perturbed(gold, blobs, player, event.run, loaded, labels, pair))
    await record(await verdict(context, heard, event.run, loaded, generation))
    # what was rolled back is past, and what drifts after it is told anew
    return await verdict(context, heard, event.run, loaded, generation, line=True) if loaded.started.on_drift else []


async def _record(context: Context, gold: Log, answered: Event, facts: Sequence[Fact]) -> None:
    await context.record([codec.event(fact, run=answered.run, source="auditor", cause=answered.id, time=now()) for fact in facts], gold)


async def _kept(context: Context, run: str, generation: int) -> list[CandidateEvaluated]:
    """The candidates that were kept up to a generation, the start first; of a fork that judges anew, those since then."""
    kinds = [RunStarted, CandidateAccepted, CandidateEvaluated]
    found = [event.data for event in await of_types(context.log, run, kinds, await context.past(run))]
    found = found[judged_anew(found) :]
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


async def measure(gold: Log, blobs: Blobs, player: Player, run: str, loaded: Loaded, labels: Mapping[str, str], pair: Pair) -> list[Fact]:
    """What both verifiers say of a pair's answers to test; nothing where it is recorded already, or where most attempts failed."""
    if await _is_recorded(gold, run, PairMeasured, *pair, VERIFIER):
        return []
    asked = Asked(loaded.public.labels, loaded.public.test)
    answered = await asyncio.to_thread(_answers, blobs, player, run, loaded, pair, asked, VERIFIER)
    judges = {VERIFIER: loaded.task.reward, GOLD_MEASURE: loaded.task.worth} | _beside(loaded)
    return await asyncio.to_thread(_judged, loaded, labels, pair, asked, answered, judges)


def _beside(loaded: Loaded) -> dict[str, Judge]:
    try:
        return {BESIDE + name: judge for name, judge in loaded.task.beside().items()}
    except Misconfigured as wrong:
        logger.warning("nothing is measured beside gold: %s", wrong)
        return {}


async def references(gold: Log, run: str, loaded: Loaded, labels: Mapping[str, str]) -> list[Fact]:
    """What test's canaries earn, and the most that anything can be expected to; nothing where it is recorded already."""
    if await of_types(gold, run, [ReferenceMeasured]):  # of a run, all stand in one append
        return []

    def made() -> list[Fact]:
        found: dict[tuple[str, str], dict[str, float]] = {}
        for item in loaded.public.test:
            for name, pair in loaded.task.canaries(labels[item.id]).items():
                for measure, score in zip((VERIFIER, GOLD_MEASURE), pair, strict=True):
                    found.setdefault((CANARY + name, measure), {})[item.id] = score
            if (most := loaded.task.ceiling(labels[item.id])) is not None:
                found.setdefault((CEILING, VERIFIER), {})[item.id] = most
        return [ReferenceMeasured(name=name, measure=measure, scores=scores) for (name, measure), scores in found.items()]

    try:
        return await asyncio.to_thread(made)
    except (Misconfigured, CheckFailed, NotFound) as wrong:  # the task's own code
        return [GoldFailed(cell="references", split="test", reason=str(wrong))]


async def perturbed(gold: Log, blobs: Blobs, player: Player, run: str, loaded: Loaded, labels: Mapping[str, str], pair: Pair) -> list[Fact]:
    """What the run's verifier says of a pair's answers to test where it is changed; `PERTURBED_ITEMS` of each change at most."""
    facts: list[Fact] = []
    asked = Asked(loaded.public.labels, loaded.public.test)

    async def under(name: str, measure: str) -> list[Fact]:
        changed = await asyncio.to_thread(loaded.task.perturbed, name, asked, labels, loaded.started.seed)
        plain = await _measured(gold, run, pair, VERIFIER)
        if plain and changed.labels == asked.labels and set(changed.items) <= set(asked.items):  # other items are counted, none changed
            scores = {item.id: plain.scores[item.id] for item in changed.items}
            scaffold, adapter = pair
            return [PairMeasured(scaffold=scaffold, adapter=adapter, measure=measure, scores=scores, failed=0, blob=plain.blob)]
        few = random.Random(f"{loaded.started.seed} {name}").sample(changed.items, min(PERTURBED_ITEMS, len(changed.items)))
        changed = Asked(changed.labels, tuple(few))
        answered = await asyncio.to_thread(_answers, blobs, player, run, loaded, pair, changed, measure)
        return await asyncio.to_thread(_judged, loaded, labels, pair, changed, answered, {measure: loaded.task.reward})

    name = "all"
    try:
        for name, perturbation in (await asyncio.to_thread(loaded.task.perturbations)).items():
            measure = (PERTURBED if perturbation.preserves else CHANGED) + name
            if not await _is_recorded(gold, run, PairMeasured, *pair, measure):
                facts += await under(name, measure)
    except (Misconfigured, CheckFailed, NotFound) as wrong:  # the task's own code
        facts.append(GoldFailed(cell=f"{PERTURBED}{name}", split="test", reason=str(wrong)))
    return facts


class Answered(NamedTuple):
    """What was answered, by item; an attempt that failed is left out."""

    answers: dict[str, str | None]
    blob: str


def _answers(blobs: Blobs, player: Player, run: str, loaded: Loaded, pair: Pair, asked: Asked, measure: str) -> Answered:
    name = derive(*pair, measure)
    public = msgspec.structs.replace(loaded.public, labels=asked.labels, test=asked.items)
    return _play(blobs, player, run, loaded, public, f"audit-{name}", Cell(name, *pair), "test")


def _judged(
    loaded: Loaded, labels: Mapping[str, str], pair: Pair, asked: Asked, answered: Answered, judges: Mapping[str, Judge]
) -> list[Fact]:
    failed = len(asked.items) - len(answered.answers)
    if 2 * failed > len(asked.items) or not asked.items:
        logger.warning("%d of %d attempts of the audit failed; nothing is measured by them", failed, len(asked.items))
        return []
    facts: list[Fact] = []
    for measure, judge in judges.items():
        scores = {item.id: (_score(judge, answered.answers.get(item.id), labels[item.id]),) for item in asked.items}
        scaffold, adapter = pair
        facts.append(PairMeasured(scaffold=scaffold, adapter=adapter, measure=measure, scores=scores, failed=failed, blob=answered.blob))
    return facts


def _score(judge: Judge, answer: str | None, label: str) -> float:
    try:
        return 0.0 if answer is None else judge(answer, label)
    except (Misconfigured, NotFound, CheckFailed, ArithmeticError, ValueError, TypeError, LookupError):
        return 0.0  # a verifier that fails is seen in the loop's own log


def _of_measured(blobs: Blobs, loaded: Loaded, labels: Mapping[str, str], cell: Cell, measured: PairMeasured) -> Fact:
    answers: dict[str, str | None] = msgspec.json.decode(blobs.get(measured.blob))["answers"]
    of = {"scaffold": cell.scaffold, "adapter": cell.adapter, "policy": _model(loaded, cell), "blob": measured.blob}
    return _scored(loaded, labels, answers, cell.name, "test", len(loaded.public.test), **of)


async def verdict(context: Context, heard: Heard, run: str, loaded: Loaded, look: int, *, line: bool = False) -> list[Fact]:
    """What all that is recorded comes to, or with `line` of the last kept candidate's line; nothing where NumPy is not installed."""
    try:
        from replay.audit import audit as of_run
        from services.auditing import known_of
    except ModuleNotFoundError as missing:
        logger.warning("no verdict on run %s: %s is not installed; pip install 'evolog[tasks]'", run, missing.name)
        return []
    told, of_gold = await heard.of(run)
    known, _ = await asyncio.to_thread(known_of, loaded.started, told, of_gold, loaded.public)
    if look != FINISHED and not loaded.started.on_drift:  # it takes long, and nobody waits for it where nothing comes of it
        known = known._replace(hidden={}, audited={}, public={})
    try:
        found = await asyncio.to_thread(of_run.audit, told, of_gold, context.blobs.get, known, loaded.started.seed, line=line)
    except Exception as wrong:  # whatever a run's scaffolds and scores are like, no other run waits for its verdict
        logger.warning("no verdict on run %s: %s: %s", run, type(wrong).__name__, wrong)
        return []
    if found.state != "green" and not line:
        logger.warning("run %s: %s", run, found.sentence)
    generation = -1 if found.generation is None else found.generation
    return [DriftFlagged(look=look, state=found.state, rule=found.rule, lever=found.lever, generation=generation, sentence=found.sentence)]


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


def play_cell(blobs: Blobs, player: Player, run: str, loaded: Loaded, labels: Mapping[str, str], cell: Cell, split: str) -> Fact:
    """One attempt at each item of a split at temperature 0; the mean reward with its interval, and what was answered as a blob."""
    items = loaded.public.dev if split == "dev" else loaded.public.test
    answers, blob = _play(blobs, player, run, loaded, loaded.public, f"audit-{cell.name}-{split}", cell, split)
    model = _model(loaded, cell)
    return _scored(
        loaded, labels, answers, cell.name, split, len(items), scaffold=cell.scaffold, adapter=cell.adapter, policy=model, blob=blob
    )


def _model(loaded: Loaded, cell: Cell) -> str:
    return model_name(loaded.started.base_model, UNIFORM if cell.uniform else cell.adapter)


def _play(blobs: Blobs, player: Player, run: str, loaded: Loaded, public: Public, name: str, cell: Cell, split: str) -> Answered:
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


async def compare(gold: Log, blobs: Blobs, run: str, loaded: Loaded, labels: Mapping[str, str]) -> list[Fact]:
    """The final candidate against the uniformly random policy, item by item, from what is recorded of both."""
    facts: list[Fact] = []
    for split in SPLITS:
        ids = [codec.event_id(run, GoldScored, cell, split) for cell in ("final", "uniform_policy")]
        scored = await by_id(gold, run, GoldScored, ids)
        if len(scored) == len(ids):
            final, uniform = (_rewards(blobs, scored[id].blob, loaded, labels) for id in ids)
            wins = sum(final[item] > uniform[item] for item in final.keys() & uniform.keys())
            losses = sum(final[item] < uniform[item] for item in final.keys() & uniform.keys())
            facts.append(PoliciesCompared(split=split, wins=wins, losses=losses, p_value=mcnemar(wins, losses)))
    return facts


def _rewards(blobs: Blobs, blob: str, loaded: Loaded, labels: Mapping[str, str]) -> dict[str, float]:
    answers: dict[str, str | None] = msgspec.json.decode(blobs.get(blob))["answers"]
    return {item: loaded.task.score(answer, labels[item]).reward for item, answer in answers.items()}


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


async def _is_recorded(gold: Log, run: str, fact: type[Fact], *key: str | int) -> bool:
    return bool(await gold.last([subject(GOLD, run, codec.event_id(run, fact, *key), "*")]))


async def _measured(gold: Log, run: str, pair: Pair, measure: str) -> PairMeasured | None:
    id = codec.event_id(run, PairMeasured, *pair, measure)
    return (await by_id(gold, run, PairMeasured, [id])).get(id)


async def _start_scaffold(context: Context, run: str) -> str:
    proposed = [one.data for one in await of_types(context.log, run, [ScaffoldProposed], await context.past(run))]
    return next((one.scaffold for one in proposed if isinstance(one, ScaffoldProposed) and one.generation == 0), "")


async def _project(context: Context, gold: Log) -> None:
    archive = await asyncio.to_thread(open_archive, context.node.gold_archive, GOLD)
    try:
        while read := await gold.read(archive.cursor + 1, READ):
            await asyncio.to_thread(archive.apply, read)
    finally:
        archive.close()
