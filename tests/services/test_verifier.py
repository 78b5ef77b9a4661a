"""The verifier service: its lease is kept while it scores, and a host without the data scores nothing."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from events.secret import Scanner
from runtime.effects.scoring import AskJudge, Failed, in_process
from runtime.log import worker
from runtime.log.memory import MemoryDelivery, MemoryLog, MemoryStream
from runtime.log.port import append_once
from services import verifier
from tasks.contract import Item, Scored
from tests.harness.facts import trajectory

T = TypeVar("T")
SCANNER = Scanner([])


class Judge:
    """A task whose verifier is done when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()

    def labels(self, seed: int) -> dict[str, str]:
        return {"i": "a"}

    submissions, repeats, needs, judge_model = False, 1, (), ""

    def score(self, item: Item, answer: str | None, label: str | None) -> Scored:
        assert self.let.wait(60)
        return Scored(1.0, "right")


def context_of(log: MemoryLog, task: Any) -> Any:
    async def load(run: str) -> Any:
        started = SimpleNamespace(seed=0, verifier="v")
        return SimpleNamespace(task=task, started=started, items=lambda ids: {id: Item(id, "") for id in ids})

    return SimpleNamespace(log=log, scanner=SCANNER, load=load, wants=worker.Wants)


def test_a_verifier_asks_for_more_time_while_it_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Judge()

    async def in_progress(delivery: MemoryDelivery) -> None:
        task.let.set()  # else it would score for ever

    async def check() -> None:
        log = MemoryLog(MemoryStream(), ["trajectory_recorded"])
        await append_once(log, [trajectory(0)], SCANNER)
        working = asyncio.create_task(verifier.score_trajectories(context_of(log, task), in_process))
        while len(log.memory.messages) < 2:
            await log.memory.grown.wait()
        working.cancel()

    monkeypatch.setattr(worker, "HEARTBEAT", 0.01)
    monkeypatch.setattr(MemoryDelivery, "in_progress", in_progress)
    asyncio.run(asyncio.wait_for(check(), 60))


def test_attempts_of_two_runs_in_one_batch_are_answered_in_order() -> None:
    def scorer(
        function: Callable[..., T], calls: Sequence[tuple[object, ...]], ask: AskJudge | None = None
    ) -> list[T | Failed]:
        return [Failed("not today") for _ in calls]

    async def check() -> list[str]:
        log = MemoryLog(MemoryStream(), ["trajectory_recorded"])
        events = [trajectory(number) for number in range(3)]
        await append_once(log, events, SCANNER)
        working = asyncio.create_task(verifier.score_trajectories(context_of(log, Judge()), scorer))
        while len(log.memory.messages) < 6:
            await log.memory.grown.wait()
        working.cancel()
        return [stored.subject.rpartition(".")[2] for stored in log.memory.messages[3:]]

    assert asyncio.run(asyncio.wait_for(check(), 60)) == ["scoring_failed"] * 3
