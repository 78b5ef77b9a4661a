"""The controller over a log: it goes on where the record ends, and a stale decision is refused."""

import asyncio
from collections.abc import Sequence

import pytest

from events import codec
from events.errors import Unavailable
from events.fact import Fact
from events.rollouts import RolloutsRequested
from events.run import DecisionMade, EventSetAside
from events.secret import Scanner
from events.subjects import tag_of
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import Message, append_once
from runtime.run.controller import Controller
from runtime.run.decide import DECIDER
from tests.harness.facts import RUN, proposed, publisher, scores, started
from tests.harness.given import given


async def say(log: MemoryLog, *facts: Fact) -> None:
    events = [
        codec.event(fact, run=RUN, source=publisher(fact), cause="", time="2026-01-01T00:00:00Z") for fact in facts
    ]
    await append_once(log, events, Scanner([]))


async def drive(controller: Controller) -> None:
    while await controller.step():
        pass


def controller(log: MemoryLog) -> Controller:
    return Controller(log, DECIDER, Scanner([]))


def decisions(log: MemoryLog) -> list[str]:
    return [tag_of(stored.subject) for stored in log.memory.messages if b'"source":"controller"' in stored.data]


async def to_first_score(log: MemoryLog) -> list[Fact]:
    await say(log, started())
    await drive(controller(log))
    await say(log, proposed())
    await drive(controller(log))
    return [*scores(given(started(), proposed()).of(RolloutsRequested), {"d1"})]


def test_a_fresh_controller_each_time_decides_as_one_would_that_never_died() -> None:
    async def live(restarts: bool) -> list[str]:
        log = MemoryLog(MemoryStream())
        facts = await to_first_score(log)
        one = controller(log)
        for fact in facts:
            await say(log, fact)
            await drive(controller(log) if restarts else one)
        return decisions(log)

    never, always = asyncio.run(live(False)), asyncio.run(live(True))
    assert never == always and never.count("candidate_evaluated") == 1


def test_two_controllers_record_each_decision_once() -> None:
    async def check() -> None:
        log = MemoryLog(MemoryStream())
        one, other = controller(log), controller(log)
        await say(log, started())
        await asyncio.gather(drive(one), drive(other))
        await say(log, proposed())
        await drive(one)
        await drive(other)
        numbers = [
            data.number
            for stored in log.memory.messages
            if isinstance(data := codec.decode(stored.data).data, DecisionMade)
        ]
        assert numbers == [1, 2]

    asyncio.run(check())


def test_a_decision_on_an_old_view_is_refused_and_made_again() -> None:
    class Late(MemoryLog):
        """Appends only after somebody else has."""

        async def append(self, messages: Sequence[Message]) -> int:
            if len(messages) > 1:
                await drive(controller(MemoryLog(self.memory)))
            return await super().append(messages)

    async def check() -> None:
        log = Late(MemoryStream())
        await say(log, started())
        await drive(controller(log))
        assert decisions(log) == ["decision_made", "scaffold_requested"]

    asyncio.run(check())


def test_a_confirmation_that_is_lost_does_not_make_a_second_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(MemoryLog):
        """Stores the first batch and says that it did not."""

        lost = False

        async def append(self, messages: Sequence[Message]) -> int:
            end = await super().append(messages)
            if len(messages) > 1 and not self.lost:
                self.lost = True
                raise Unavailable("no answer")
            return end

    async def check() -> None:
        log = Forgetful(MemoryStream())
        await say(log, started())
        monkeypatch.setattr("runtime.run.controller.PAUSE", 0.0)
        await drive(controller(log))
        assert decisions(log) == ["decision_made", "scaffold_requested"]

    asyncio.run(check())


def test_what_cannot_be_read_is_set_aside_once_and_stops_nothing() -> None:
    async def check() -> None:
        log = MemoryLog(MemoryStream())
        await log.append([Message(f"evolog.{RUN}.x.trajectory_guessed", b"what?")])
        await say(log, started())
        for _ in range(2):
            one = controller(log)
            await drive(one)
            await one.sweep()
        aside = [
            data
            for stored in log.memory.messages[1:]
            if isinstance(data := codec.decode(stored.data).data, EventSetAside)
        ]
        assert [fact.sequence for fact in aside] == [1] and decisions(log).count("scaffold_requested") == 1

    asyncio.run(check())
