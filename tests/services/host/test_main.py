"""When a process takes work at all: by the version of its host, and by what its host lacks."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from events.errors import HostUnfit, Misconfigured, NotHere, Unavailable, UserError
from runtime.status import StatusReporter, Waiting
from services.host import context as host_context
from services.host.context import Context
from services.host.main import _work
from services.host.node import version
from tests.harness.facts import trajectory


class Broker:
    """A connection to a broker that is away when it is asked first, and then wants one version after the other."""

    def __init__(self, *wanted: str) -> None:
        self.wanted, self.away, self.client_object = [*wanted], True, object()

    async def client(self) -> object:
        return self.client_object

    async def wanted_version(self) -> str:
        if self.away:
            self.away = False
            raise Unavailable("The broker is away.")
        return self.wanted.pop(0) if len(self.wanted) > 1 else self.wanted[0]


def context(broker: Broker) -> Any:
    made = object.__new__(Context)
    fields: Any = made
    fields.connection, fields.status = broker, StatusReporter("executor")
    return made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_context, "VERSION_SECONDS", 0.0)
    monkeypatch.setattr(host_context, "RECONNECT_SECONDS", 0.0)


def test_a_process_waits_and_says_so_while_the_broker_wants_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    place, said = context(Broker("0.0.9", version())), list[tuple[Waiting, ...]]()
    monkeypatch.setattr(place.status, "on_change", lambda: said.append(place.status.status().waiting))
    asyncio.run(place.wait_for_version())
    assert said[0][0].waiting_for == "evolog 0.0.9" and f"This host has evolog {version()}" in said[0][0].error
    assert place.status.status().waiting == ()


@pytest.mark.parametrize("wanted", ["", version()])
def test_a_process_of_this_version_takes_work_at_once(wanted: str) -> None:
    place = context(Broker(wanted))
    asyncio.run(place.wait_for_version())
    assert place.status.status().last_error == ""


def test_a_broker_that_comes_back_with_another_version_is_noticed() -> None:
    async def check() -> None:
        broker = Broker(version())
        watching = asyncio.ensure_future(context(broker).watch_version())
        while broker.away:
            await asyncio.sleep(0)
        broker.wanted = ["0.0.9"]
        for _ in range(50):  # the connection is the same: nobody asks again
            await asyncio.sleep(0)
        assert not watching.done()
        broker.client_object = object()
        assert "the broker was started by 0.0.9" in await watching

    asyncio.run(check())


async def never() -> Any:
    await asyncio.Event().wait()


async def at_once() -> str:
    return "of another version"


def served(
    serve: Callable[[Any], Awaitable[None]], watch: Callable[[], Awaitable[str]] = never
) -> tuple[UserError, StatusReporter]:
    """What serving ends with, and the status then."""

    async def fits() -> None:
        pass

    place: Any = SimpleNamespace(status=StatusReporter("executor"), wait_for_version=fits, watch_version=watch)
    with pytest.raises(UserError) as ended:
        asyncio.run(_work(place, serve, 0.0))  # type: ignore[arg-type]  # a stand-in for a coroutine function
    return ended.value, place.status


def closing_service() -> tuple[Callable[[Any], Coroutine[Any, Any, None]], list[str]]:
    """A service that goes on for ever, and the list in which it notes that it was closed."""
    ended: list[str] = []

    async def serve(_: object) -> None:
        try:
            await never()
        finally:
            await asyncio.sleep(0)
            ended.append("closed")

    return serve, ended


def test_work_ends_in_good_order_once_the_version_is_another() -> None:
    serve, ended = closing_service()
    error, _ = served(serve, at_once)
    assert (str(error), error.code, ended) == ("of another version", Misconfigured.code, ["closed"])


@pytest.mark.parametrize(("error", "said"), [(HostUnfit("No sandbox."), "No sandbox."), (Misconfigured("Gone."), "")])
def test_what_a_host_lacks_is_said_before_the_process_ends(error: UserError, said: str) -> None:
    async def serve(_: object) -> None:
        raise error

    raised, status = served(serve)
    assert raised is error and status.status().last_error == said


def test_a_service_that_is_told_to_stop_is_cancelled_with_its_clean_up() -> None:
    serve, ended = closing_service()

    async def check() -> None:
        place: Any = SimpleNamespace(wait_for_version=at_once, watch_version=never)
        working = asyncio.ensure_future(_work(place, serve, 0.0))
        for _ in range(5):
            await asyncio.sleep(0)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(check())
    assert ended == ["closed"]


def test_what_is_put_off_stands_in_the_status_run_by_run() -> None:
    place = context(Broker(""))
    wants = place.wants()
    first, second, other = trajectory(0), trajectory(1), trajectory(0, run="other")
    for event in (first, second, other):
        wants.put_off(event, NotHere("No data."))
    assert [(one.run, one.put_off) for one in place.status.status().waiting] == [("r", 2), ("other", 1)]
    wants.done([first, second])
    (left,) = place.status.status().waiting
    assert (left.run, left.error, left.waiting_for) == ("other", "No data.", host_context.LACKING)
