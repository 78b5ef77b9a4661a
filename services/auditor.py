"""Scores what a finished run arrived at, on dev and once on test, and what needs no agent beside it; all of it on the stream GOLD.

It alone reads the labels of test. Nothing of what it finds reaches the loop.
"""

import asyncio
import functools
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from algorithms.search.estimate import mcnemar, mean_reward
from events import codec
from events.change import ScaffoldProposed
from events.codec import Event
from events.errors import CheckFailed, Misconfigured, NotFound
from events.fact import Fact, NotFinite
from events.gold import AuditFinished, GoldFailed, GoldScored, PoliciesCompared
from events.play import ModelCalled, RolloutsRequested, TrajectoryRecorded
from events.run import RunFinished
from events.subjects import GOLD, subject
from runtime.blobs import Blobs
from runtime.log import Log
from runtime.lookup import by_id, of_types
from runtime.policies.bases import UNIFORM
from runtime.policies.client import PolicyClient, model_name
from runtime.rollouts import Player
from runtime.worker import now, work
from services.archivist import open_archive
from services.context import Context, Loaded, scaffold_limits

SPLITS = ("dev", "test")
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


async def serve(context: Context) -> None:
    """Audit runs as they finish."""
    policy = PolicyClient(context.node.policy_url(), context.policy_token())
    player = Player(context.blobs, context.work, policy, context.scanner, scaffold_limits())
    try:
        await audit_runs(context, context.connection.log(GOLD), Blobs(context.node.gold_blobs), player)
    finally:
        player.close()


async def audit_runs(context: Context, gold: Log, blobs: Blobs, player: Player) -> None:
    """Audit one finished run after the other."""

    async def perform(events: list[Event]) -> Sequence[Event]:
        for event in events:
            await audit(context, gold, blobs, player, event)
        return []

    await _project(context, gold)
    await work(context.log, perform, source="auditor", scanner=context.scanner)


async def audit(context: Context, gold: Log, blobs: Blobs, player: Player, event: Event) -> None:
    """Score every cell that is not recorded yet, each as soon as it is known, then say that the audit is finished."""
    began = time.monotonic()
    finished = event.data
    assert isinstance(finished, RunFinished)

    async def record(facts: Sequence[Fact]) -> None:
        await context.record([codec.event(fact, run=event.run, source="auditor", cause=event.id, time=now()) for fact in facts], gold)

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
                if not await _is_recorded(gold, event.run, cell.name, split):
                    await record([await asyncio.to_thread(play_cell, blobs, player, event.run, loaded, labels, cell, split)])
        await record(await compare(gold, blobs, event.run, loaded, labels))
        await record(await baselines)
    cells = len(await of_types(gold, event.run, [GoldScored]))
    await record([AuditFinished(candidate=finished.candidate, cells=cells, seconds=time.monotonic() - began)])
    await _project(context, gold)


def play_cell(blobs: Blobs, player: Player, run: str, loaded: Loaded, labels: Mapping[str, str], cell: Cell, split: str) -> Fact:
    """One attempt at each item of a split at temperature 0; the mean reward with its interval, and what was answered as a blob."""
    items = loaded.public.dev if split == "dev" else loaded.public.test
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
    model = model_name(loaded.started.base_model, UNIFORM if cell.uniform else cell.adapter)
    play = functools.partial(player.play, sandbox=loaded.started.sandbox, max_tokens=loaded.started.max_tokens)
    facts = play(run, f"audit-{cell.name}-{split}", requested, loaded.public, model, lambda ids: {}, calls.extend)
    answers = {fact.item: fact.answer for fact in facts if isinstance(fact, TrajectoryRecorded)}
    blob = blobs.put(msgspec.json.encode({"answers": answers, "calls": calls}, order="deterministic"))
    return _scored(
        loaded, labels, answers, cell.name, split, len(items), scaffold=cell.scaffold, adapter=cell.adapter, policy=model, blob=blob
    )


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


async def _is_recorded(gold: Log, run: str, cell: str, split: str) -> bool:
    return bool(await gold.last([subject(GOLD, run, codec.event_id(run, GoldScored, cell, split), "*")]))


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
