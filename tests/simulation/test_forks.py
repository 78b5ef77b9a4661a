"""Forks of a run whose parent was left in the middle of a play: what its past recorded is found, and not paid again."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch")

from events.codec import Event
from events.rollouts import ModelCalled, RolloutsRequested, TrajectoryRecorded
from events.run import RunFinished, RunStarted
from events.secret import Scanner
from events.subjects import GOLD, LOG
from runtime.log import lineage
from runtime.log.memory import MemoryLog
from runtime.log.port import append_once, readable
from tests.harness import invariants
from tests.harness.stand_ins import Setting
from tests.simulation.simulation import System

PARENT, WAITING = "r", 1.0
"""The run that is forked, and virtual seconds between two looks at whether it is finished."""


class ForkingSystem(System):
    """A system in which each play of a finished run is forked after its first recorded calls; then the fork is."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        super().__init__(setting, None, folder)
        self.forks: list[str] = []

    async def _operate(self) -> None:
        await super()._operate()
        await self._finished(PARENT)
        events = readable(self.log())
        plays = {event.id: event.data for event in events if isinstance(event.data, RolloutsRequested)}
        for number, play in enumerate(plays):
            first = f"fork-{number}"
            await self._fork(PARENT, first, self._first_call(events, play))
            await self._finished(first)
        own = [event for event in readable(self.log()) if event.run == self.forks[0]]
        asked = next(event.id for event in own if isinstance(event.data, RolloutsRequested))
        await self._fork(self.forks[0], "fork-of-a-fork", self._first_call(own, asked))

    def _first_call(self, events: Sequence[Event], request: str) -> str:
        """The id of the last event of the batch in which the first calls of a request were recorded."""
        first = next(at for at, event in enumerate(events) if event.cause == request)
        assert isinstance(events[first].data, ModelCalled)
        return events[first].id

    async def _fork(self, parent: str, name: str, last: str) -> None:
        log = MemoryLog(self.world.streams[LOG])
        _, started = await lineage.run_start(log, parent)
        past = await lineage.past(log, parent) + await lineage.messages(log, lineage.Span(parent))
        at = next(stored for stored in past if f".{last}." in stored.subject)
        past = [stored for stored in past if stored.sequence <= at.sequence]
        order = msgspec.structs.replace(
            started,
            parent_run=parent,
            parent_sequence=at.sequence,
            parent_digest=lineage.past_digest(past),
        )
        # the stand-in of the policy says something else when it is asked again for what the past recorded
        self.world.streams[LOG].sampled = {
            event.data.sampling_seed for event in readable(past) if isinstance(event.data, ModelCalled)
        }
        self.forks.append(name)
        await append_once(log, [self._said(name, order)], Scanner([]))

    async def _finished(self, run: str) -> None:
        while not any(event.run == run and isinstance(event.data, RunFinished) for event in readable(self.log())):
            await asyncio.sleep(WAITING)

    def _audited(self) -> bool:
        audited = {event.run for event in readable(self.log(GOLD)) if event.tag == "audit_finished"}
        return bool(self.forks) and {*self.setting.runs, *self.forks, "fork-of-a-fork"} == audited


def finished(system: System, run: str) -> tuple[Any, ...]:
    (end,) = (e.data for e in readable(system.log()) if e.run == run and isinstance(e.data, RunFinished))
    return end.reason, end.score, end.scaffold, end.adapter, end.rollouts, end.tokens, end.micro_usd


@pytest.mark.parametrize(
    "setting",
    [Setting(1, levers=("scaffold",)), Setting(1, levers=("scaffold",), generations=4, strategy="dgm", width=4)],
    ids=["chain", "dgm, width 4"],
)
def test_a_fork_in_the_middle_of_a_play_finds_the_calls_of_its_past_and_ends_as_its_parent(
    setting: Setting, tmp_path: Path
) -> None:
    system = ForkingSystem(setting, tmp_path)
    system.run()
    assert not system.trouble and len(system.forks) > 3
    assert {run: finished(system, run) for run in system.forks} == dict.fromkeys(system.forks, finished(system, PARENT))
    events = readable(system.log())
    invariants.causes_come_first(events)
    runs = {event.id: event.run for event in events}
    used = {
        (event.run, runs[use.call])
        for event in events
        if isinstance(event.data, TrajectoryRecorded)
        for use in event.data.calls
    }
    assert {(run, PARENT) for run in system.forks} <= used and ("fork-of-a-fork", system.forks[0]) in used
    assert not any(isinstance(event.data, RunStarted) and event.run not in (PARENT, *system.forks) for event in events)
