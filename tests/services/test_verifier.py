"""The verifier service: its lease is kept while it scores, and a host without the data scores nothing."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from events import codec
from events.codec import Event
from events.fact import Fact
from events.judgement import CudaScoringRequested, TrajectoryScored
from events.rollouts import RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.secret import Scanner
from runtime.effects.scoring import AskJudge, Failed, in_process
from runtime.log import worker
from runtime.log.memory import MemoryDelivery, MemoryLog, MemoryStream
from runtime.log.port import append_once, readable
from runtime.run.loading import LoadedRun
from runtime.status import StatusReporter
from services import verifier
from services.host import capabilities
from tasks.contract import Item, Scored
from tasks.loading import load
from tests.harness.facts import RUN, TIME, started, trajectory
from tests.harness.paths import TOY

T = TypeVar("T")
SCANNER = Scanner([])


class Judge:
    """A task whose verifier is done when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()

    def labels(self, seed: int) -> dict[str, str]:
        return {"i": "a"}

    submissions, repeats, judge_model = False, 1, ""
    needs: tuple[str, ...] = ()

    def score(self, item: Item, answer: str | None, label: str | None) -> Scored:
        assert self.let.wait(60)
        return Scored(1.0, "right")


def context_of(log: MemoryLog, task: Any) -> Any:
    async def load(run: str) -> Any:
        started = SimpleNamespace(seed=0, verifier="v")
        return SimpleNamespace(task=task, started=started, items=lambda ids: {id: Item(id, "") for id in ids})

    return SimpleNamespace(log=log, scanner=SCANNER, load=load, wants=worker.Wants, status=StatusReporter("verifier"))


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


WHOLE = """
from tasks.contract import Scored, Submission
VERSION = "1"
def score_submission(items, answers, labels):
    return Submission(Scored(len(answers) / len(items), "wrong"))
"""


def test_a_submission_is_scored_once_and_when_it_is_whole() -> None:
    task = load(str(TOY)).with_verifier(WHOLE, "verifier.py")
    loaded = LoadedRun(started(), task, task.public(0))
    requested = RolloutsRequested(
        generation=0,
        purpose="dev",
        round=1,
        shard=0,
        scaffold="s",
        adapter="",
        split="dev",
        fold=-1,
        items=("dev0", "dev1", "dev2"),
        attempts=2,
        temperature=0.0,
        seed=0,
    )
    request = codec.event(requested, run=RUN, source="controller", cause="", time=TIME)

    def outcome(item: str, attempt: int, failed: bool = False) -> Event:
        fields: dict[str, Any] = {"request": request.id, "item": item, "attempt": attempt, "purpose": "dev"}
        fact: Fact = (
            RolloutFailed(**fields, kind="hung", reason="")
            if failed
            else TrajectoryRecorded(
                **fields, split="dev", generation=0, scaffold="s", adapter="", answer="a", calls=(), seconds=0.0
            )
        )
        return codec.event(fact, run=RUN, source="executor", cause=request.id, time=TIME)

    async def load_run(run: str) -> LoadedRun:
        return loaded

    async def check() -> list[TrajectoryScored]:
        log = MemoryLog(MemoryStream(), ["trajectory_recorded"])
        context: Any = SimpleNamespace(
            log=log, scanner=SCANNER, load=load_run, wants=worker.Wants, status=StatusReporter("verifier")
        )
        outcomes = [outcome("dev2", 0), outcome("dev0", 0), outcome("dev1", 0, failed=True)]
        outcomes += [outcome(item, 1) for item in requested.items]
        await append_once(log, [request, *outcomes], SCANNER)
        working = asyncio.create_task(verifier.score_trajectories(context, in_process))
        while len(log.memory.messages) < 12:
            await log.memory.grown.wait()
        working.cancel()
        return [fact for event in readable(log.memory.messages) if isinstance(fact := event.data, TrajectoryScored)]

    scored = asyncio.run(asyncio.wait_for(check(), 60))
    assert sorted((fact.item, fact.attempt, round(fact.reward, 2)) for fact in scored) == [
        ("dev0", 0, 0.67),
        ("dev0", 1, 1.0),
        ("dev1", 1, 1.0),
        ("dev2", 0, 0.67),
        ("dev2", 1, 1.0),
    ]


class OnDevice(Judge):
    """A task whose verifier needs a device."""

    needs = ("cuda",)

    def __init__(self) -> None:
        super().__init__()
        self.let.set()


@pytest.mark.parametrize("recorded", [1, 3])
def test_a_verifier_without_the_device_hands_on_what_one_with_it_scores(
    recorded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> list[Event]:
        stream = MemoryStream()
        plain = MemoryLog(stream, ["trajectory_recorded"])
        handed_on = MemoryLog(stream, ["cuda_scoring_requested"])
        trajectories = [trajectory(number) for number in range(recorded)]
        await append_once(plain, trajectories, SCANNER)
        monkeypatch.setitem(capabilities.HAS, "cuda", lambda: False)
        context, able = context_of(plain, OnDevice()), context_of(MemoryLog(stream), OnDevice())
        without = asyncio.create_task(verifier.score_trajectories(context, in_process, lambda name: handed_on))
        while len(stream.messages) < 2 * recorded or plain.pending:
            await asyncio.sleep(0)
        assert not handed_on.pending, "it is handed none of what it cannot do"
        without.cancel()
        assert context.status.status().capabilities == ()
        monkeypatch.setitem(capabilities.HAS, "cuda", lambda: True)
        capable = asyncio.create_task(verifier.score_trajectories(able, in_process, lambda name: handed_on))
        while len(stream.messages) < 3 * recorded or handed_on.pending:
            await asyncio.sleep(0)
        assert able.status.status().capabilities == ("cuda",)
        capable.cancel()
        return readable(stream.messages)

    events = asyncio.run(asyncio.wait_for(check(), 60))
    trajectories, requests, scored = events[:recorded], events[recorded : 2 * recorded], events[2 * recorded :]
    assert [event.data.trajectory for event in requests if isinstance(event.data, CudaScoringRequested)] == [
        event.id for event in trajectories
    ]
    assert {event.cause for event in scored} == {event.id for event in trajectories}, "as if it had been handed them"
    assert all(isinstance(event.data, TrajectoryScored) and event.data.reward == 1.0 for event in scored)
