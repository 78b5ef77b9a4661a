"""The controller over a log: it goes on where the record ends, and a stale decision is refused."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from events import codec
from events.change import ChildRunFinished, ChildRunOrdered, ChildRunRequested, ScaffoldProposed, ScaffoldRequested
from events.errors import Unavailable
from events.fact import Fact
from events.judgement import CandidateEvaluated, TrajectoryScored
from events.population import CandidateRejected
from events.rollouts import RolloutsRequested
from events.run import (
    Budget,
    DecisionMade,
    EventSetAside,
    RunCancelled,
    RunFinished,
    RunPaused,
    RunResumed,
    RunStarted,
    TimeSpent,
)
from events.secret import Scanner
from events.subjects import tag_of
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import Message, Stored, append_once, readable
from runtime.run.controller import Controller
from runtime.run.decide import DECIDER
from runtime.run.state import RunState
from tests.harness.facts import RUN, chosen, proposed, publisher, scores, started
from tests.harness.given import given


async def say(log: MemoryLog, *facts: Fact, run: str = RUN) -> None:
    events = [
        codec.event(fact, run=run, source=publisher(fact), cause="", time="2026-01-01T00:00:00Z") for fact in facts
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


def test_what_came_while_the_broker_was_away_is_set_aside_though_no_run_is_open_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Away(MemoryLog):
        """Fails to be read once, after something came that nobody can read."""

        left = 0

        async def read(self, start: int, limit: int, subject: str = "") -> list[Stored]:
            if self.left == 1 and not subject:
                self.left = 0
                await self.append([Message(f"evolog.{RUN}.x.trajectory_guessed", b"what?")])
                raise Unavailable("away")
            return await super().read(start, limit, subject)

    async def check() -> None:
        log = Away(MemoryStream())
        await say(log, started(), RunCancelled(reason=""))
        one = controller(log)
        await drive(one)
        assert facts_of(log, RunFinished)
        monkeypatch.setattr("runtime.run.controller.PAUSE", 0.0)
        log.left = 1
        await one.serve(lambda: log.left == 0 and one._loaded and one._position == len(log.memory.messages))
        assert len(facts_of(log, EventSetAside)) == 1

    asyncio.run(check())


def facts_of(log: MemoryLog, kind: type[Fact], run: str = RUN) -> list[Any]:
    events = readable(log.memory.messages)
    return [event.data for event in events if event.run == run and isinstance(event.data, kind)]


def answers(log: MemoryLog, run: str, right: set[str]) -> list[Fact]:
    """A score for each attempt that a run asked for and that has none."""
    asked = facts_of(log, RolloutsRequested, run)
    told = {(one.request, one.item, one.attempt) for one in facts_of(log, TrajectoryScored, run)}
    found = [
        msgspec.structs.replace(fact, request=codec.event_id(run, RolloutsRequested, *requested.key()))
        for requested in asked
        for fact in scores([requested], right)
    ]
    return [fact for fact in found if (fact.request, fact.item, fact.attempt) not in told]


async def owner_of_a_child(log: MemoryLog) -> str:
    """A run whose first change is a run of its own; the child's name."""
    await to_first_score(log)
    await say(log, *answers(log, RUN, {"d1"}))
    await drive(controller(log))
    wanted = ChildRunRequested(generation=1, levers=("scaffold",), generations=2, rollouts=None, reason="deeper")
    await say(log, wanted)
    await drive(controller(log))
    (ordered,) = facts_of(log, ChildRunOrdered)
    return str(ordered.child)


def test_a_run_of_a_candidate_is_started_awaited_and_read() -> None:
    async def check() -> None:
        log = MemoryLog(MemoryStream())
        child = await owner_of_a_child(log)
        (begun,) = facts_of(log, RunStarted, child)
        assert (begun.owner, begun.owner_generation, begun.start_scaffold, begun.levers) == (
            RUN,
            1,
            "s0",
            ("scaffold",),
        )
        await drive(controller(log))
        await say(log, *answers(log, child, {"d1"}), run=child)
        await drive(controller(log))
        await say(log, proposed(1, "s1"), run=child)
        await drive(controller(log))
        await say(log, *answers(log, child, {"d1", "d2"}), run=child)
        await drive(controller(log))
        await say(log, chosen(2, "stop"), run=child)
        for _ in range(3):
            await drive(controller(log))  # a fresh one each time tells nobody twice
        (ended,) = facts_of(log, ChildRunFinished)
        assert (ended.child, ended.scaffold, ended.rollouts) == (child, "s1", 12)
        asked = [one for one in facts_of(log, RolloutsRequested) if one.generation == 1]
        assert {one.scaffold for one in asked} == {"s1"}
        await say(log, *answers(log, RUN, {"d1", "d2"}))
        await drive(controller(log))
        (evaluated,) = [one for one in facts_of(log, CandidateEvaluated) if one.generation == 1]
        assert (evaluated.lever, evaluated.rollouts) == ("child", 6 + 12 + 6)

    asyncio.run(check())


@pytest.mark.parametrize("restarted", [False, True])
def test_a_run_of_a_candidate_ends_with_its_owner(restarted: bool) -> None:
    async def check() -> None:
        log = MemoryLog(MemoryStream())
        child = await owner_of_a_child(log)
        one = controller(log)
        await drive(one)
        await say(log, RunCancelled(reason="enough"))
        await one.step()
        if restarted:
            one = controller(log)
        await drive(one)
        await drive(one)
        assert [end.reason for end in facts_of(log, RunFinished)] == ["cancelled: enough"]
        (end,) = facts_of(log, RunFinished, child)
        assert end.reason == f"cancelled: run {RUN}, to which it belongs, has ended"
        assert not facts_of(log, ChildRunFinished)

    asyncio.run(check())


def test_an_owner_is_told_of_a_run_that_cannot_be_driven() -> None:
    """Its decisions were made by other code. Also after a restart, when that is found before the owner orders it."""

    async def check() -> None:
        log = MemoryLog(MemoryStream())
        child = await owner_of_a_child(log)
        await drive(controller(log))
        await say(log, *answers(log, child, {"d1"}), run=child)
        await drive(controller(log))

        def decided_otherwise(state: RunState, event: codec.Event, version: int) -> list[Fact]:
            facts = DECIDER.decide(state, event, version)
            return [
                msgspec.structs.replace(fact, summary="another") if isinstance(fact, ScaffoldProposed) else fact
                for fact in facts
            ]

        for _ in range(2):
            await drive(Controller(log, DECIDER._replace(decide=decided_otherwise), Scanner([])))
        (ended,) = facts_of(log, ChildRunFinished)
        assert ended.scaffold == "" and "cannot be driven: Run r-child-1 was decided by other code" in ended.reason
        await drive(controller(log))
        (rejected,) = [one for one in facts_of(log, CandidateRejected) if one.generation == 1]
        assert "cannot be driven" in rejected.reason

    asyncio.run(check())


def test_a_run_of_another_under_the_childs_name_is_not_taken_for_it() -> None:
    async def check() -> None:
        log = MemoryLog(MemoryStream())
        await say(log, started(generations=0), run=f"{RUN}-child-1")
        child = await owner_of_a_child(log)
        await drive(controller(log))
        (ended,) = facts_of(log, ChildRunFinished)
        assert ended.reason == f"there was a run {child} already, which is none of this one's"
        await say(log, RunCancelled(reason=""))
        await drive(controller(log))
        await drive(controller(log))
        assert not facts_of(log, RunCancelled, child)

    asyncio.run(check())


def test_a_decision_that_no_batch_holds_ends_the_driving_of_that_run_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        log, one = MemoryLog(MemoryStream()), started(shard_size=1)
        dev = tuple(f"d{number}" for number in range(1100))
        await say(log, msgspec.structs.replace(one, items=msgspec.structs.replace(one.items, dev=dev)), run="large")
        await say(log, proposed(), run="large")
        await say(log, one)
        await drive(controller(log))
        await drive(controller(log))
        assert facts_of(log, ScaffoldRequested) and not facts_of(log, RolloutsRequested, "large")

    asyncio.run(check())
    assert "does not fit one batch" in caplog.text


def test_time_is_recorded_while_a_run_is_driven_and_ends_it() -> None:
    async def check() -> None:
        log, clock = MemoryLog(MemoryStream()), [0.0]

        def timed() -> Controller:
            return Controller(log, DECIDER, Scanner([]), lambda: clock[0])

        async def pass_time(one: Controller, seconds: int) -> None:
            for _ in range(seconds):
                clock[0] += 1
                await one.keep_time()
                await drive(one)
                await one.keep_time()

        await say(log, started(budget=Budget(seconds=10.0)))
        one = timed()
        await drive(one)
        await pass_time(one, 4)
        assert [tick.seconds for tick in facts_of(log, TimeSpent)] == [1.0, 2.0, 3.0]
        clock[0] += 1000  # nobody drives it
        await pass_time(one := timed(), 3)
        assert facts_of(log, TimeSpent)[-1].seconds == 5.0
        await say(log, RunPaused(number=1, reason=""))
        await drive(one)
        await pass_time(one, 100)
        assert facts_of(log, TimeSpent)[-1].seconds == 5.0 and not facts_of(log, RunFinished)
        await say(log, RunResumed(number=1))
        await drive(one)
        await pass_time(one, 10)
        assert facts_of(log, TimeSpent)[-1].seconds == 10.0
        assert [end.reason for end in facts_of(log, RunFinished)] == ["budget exhausted"]

    asyncio.run(check())
