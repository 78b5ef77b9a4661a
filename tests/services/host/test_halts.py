"""A service that pauses a run until the operator has put something right: without a broker."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from events import codec
from events.choice import FeedbackRequested
from events.codec import Event
from events.errors import NotHere, RunHalted
from events.fact import Fact
from events.run import RunPaused, RunResumed, RunStarted
from events.secret import Scanner, Secret
from runtime.log.lookup import events_of_types
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import append_once
from runtime.log.worker import Wants
from services.host.agent_session import halt, require_unhalted
from services.host.orders import require_not_halted
from tests.harness.agents import request_for_feedback
from tests.harness.facts import TIME, started

KEY = "sk-planted-0123456789"


class Place:
    """A log with a run `root` and a run `child` that belongs to it, as a service sees it."""

    def __init__(self) -> None:
        self.log, self.scanner = MemoryLog(MemoryStream()), Scanner([Secret(KEY)])
        own = {"root": started(), "child": msgspec.structs.replace(started(), owner="root")}

        async def began(run: str) -> RunStarted:
            return own[run]

        async def record(events: Sequence[Event]) -> bool:
            return await append_once(self.log, events, self.scanner)

        self.context: Any = SimpleNamespace(log=self.log, scanner=self.scanner, started=began, record=record)

    async def say(self, fact: Fact, run: str = "root") -> None:
        event = codec.event(fact, run=run, source="operator", cause="", time=TIME)
        await append_once(self.log, [event], self.scanner)

    async def pauses(self, run: str) -> list[Fact]:
        return [event.data for event in await events_of_types(self.log, run, [RunPaused])]


def asked(run: str = "root") -> Event:
    requested: FeedbackRequested = request_for_feedback()
    return codec.event(requested, run=run, source="controller", cause="", time=TIME)


def go(story: Callable[[Place], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(story(Place()))


def test_a_run_is_paused_once_until_it_is_resumed() -> None:
    async def story(place: Place) -> None:
        await require_unhalted(place.context, "root")
        for _ in range(2):  # as by two generations that are under way
            error = await halt(place.context, asked(), "feedback_agent", f"The key {KEY} was not accepted.")
        assert isinstance(error, RunHalted) and error.code == 78
        (paused,) = await place.pauses("root")
        assert isinstance(paused, RunPaused) and (paused.number, paused.by) == (1, "feedback_agent")
        assert KEY not in paused.reason
        with pytest.raises(RunHalted, match="was not accepted"):
            await require_unhalted(place.context, "root")
        await place.say(RunResumed(number=1))
        await require_unhalted(place.context, "root")
        await halt(place.context, asked(), "feedback_agent", "Still not.")
        assert [fact.number for fact in await place.pauses("root") if isinstance(fact, RunPaused)] == [1, 2]

    go(story)


def test_a_pause_of_the_operators_keeps_no_agent_from_its_work_and_is_followed_by_one_of_its_own() -> None:
    async def story(place: Place) -> None:
        await place.say(RunPaused(number=1, reason="lunch"))
        await require_unhalted(place.context, "root")
        await halt(place.context, asked(), "meta_agent", "No key.")
        assert len(await place.pauses("root")) == 2

    go(story)


def test_the_run_that_others_belong_to_is_the_one_that_is_paused() -> None:
    async def story(place: Place) -> None:
        await halt(place.context, asked("child"), "feedback_agent", "No key.")
        assert len(await place.pauses("root")) == 1 and await place.pauses("child") == []
        for run in ("root", "child"):
            with pytest.raises(RunHalted):
                await require_unhalted(place.context, run)

    go(story)


def test_a_halted_run_is_waited_for_without_end() -> None:
    told: list[str | None] = []
    wants = Wants(-1.0, lambda run, sentence: told.append(sentence))
    for _ in range(3):
        wants.put_off(asked(), RunHalted("No key."))
    assert len(told) == 3 and told[0] and "No key" in told[0]
    with pytest.raises(NotHere):
        wants.put_off(asked(), NotHere("No disk."))


def test_who_follows_a_run_is_told_what_to_do() -> None:
    with pytest.raises(
        RunHalted, match=r"^Run r is paused: Fix it\. Then `evolog resume r` goes on with it\.$"
    ) as halted:
        require_not_halted("r", RunPaused(number=1, reason="Fix it.", by="meta_agent"))
    assert halted.value.code == 78
    require_not_halted("r", RunPaused(number=1, reason="lunch"))
    require_not_halted("r", RunResumed(number=1))
