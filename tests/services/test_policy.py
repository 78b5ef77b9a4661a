"""What the policy service knows of adapters that were published before it was started."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from events.codec import Event, event
from events.secret import Scanner
from events.weights import AdapterPublished, Canary
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import append_once
from services import policy
from services.policy import published_canaries
from tests.harness.broker import account, broker
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


def test_a_policy_loads_what_is_published_from_its_start_on_whichever_host_checks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "POLL_SECONDS", 0.01)
    loaded: list[str] = []

    def load(model: str) -> None:
        loaded.append(model.partition("@")[2])
        if model.endswith("broken"):
            raise ValueError("no weights in it")

    async def check() -> None:
        async with (
            broker(tmp_path) as server,
            account(server, "trainer") as trainer,
            account(server, "policy") as connection,
        ):
            await append_once(trainer.log(), [published("r", "before")], Scanner([]))
            loading = asyncio.create_task(policy.load_served(connection.log(), load))
            await asyncio.sleep(0.3)
            for adapter in ("first", "broken", "last"):
                await append_once(trainer.log(), [published(adapter, adapter)], Scanner([]))
            while "last" not in loaded:
                assert not loading.done()
                await asyncio.sleep(0.01)
            loading.cancel()

    asyncio.run(check())
    assert loaded == ["first", "broken", "last"]
