"""What the policy service knows of adapters that were published before it was started."""

import asyncio
from types import SimpleNamespace
from typing import Any

from events.codec import Event, event
from events.secret import Scanner
from events.weights import AdapterPublished, Canary
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import append_once
from services.policy import published_canaries
from tests.harness.facts import example


def published(run: str, adapter: str) -> Event:
    fact = example(AdapterPublished, adapter=adapter, canary=(Canary(f"of {adapter}", (-1.0,), (5,)),))
    return event(fact, run=run, source="trainer", cause="", time="2026-01-01T00:00:00.000000Z")


def test_the_canaries_of_an_adapter_are_found_on_the_log_whichever_run_published_it() -> None:
    async def check() -> None:
        log = MemoryLog(MemoryStream())
        await append_once(log, [published("one", "a"), published("two", "b")], Scanner([]))
        context: Any = SimpleNamespace(log=log)
        (canary,) = await published_canaries(context, "b")
        assert canary.prompt == "of b" and await published_canaries(context, "c") == ()

    asyncio.run(check())
