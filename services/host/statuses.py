"""What the services of a directory do at present, as they answer over the broker."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from types import TracebackType

import msgspec

from events import subjects
from events.catalogue import SERVICES
from events.errors import UserError
from runtime.broker.accounts import status_subject
from runtime.broker.credentials import Login
from runtime.log.jetstream import Connection
from runtime.status import Status
from services.host.context import operator
from services.host.node import Node

POLL_SECONDS = 0.5
"""Seconds between two questions while a run is followed."""
REMEMBERED, SILENT = 30.0, 3.0
"""Seconds for which a process counts as it was that no longer answers, since its interpreter may be held up, and after
which it is said that it does not answer.
"""


async def ask_statuses(connection: Connection) -> list[Status]:
    """What each process that answers does at present, by name; nothing from a broker whose accounts do not allow it."""
    found = []
    for answer in await connection.gather([status_subject(service) for service in SERVICES]):
        with contextlib.suppress(msgspec.DecodeError):  # of another version
            found.append(msgspec.json.decode(answer, type=Status))
    return sorted(found, key=lambda status: (status.service, status.index))


def read_statuses(node: Node, login: Login | None = None) -> list[Status]:
    """The statuses of a directory's services at present, or of those of the broker of a login; nothing where none is
    up, or the broker cannot be asked.
    """

    async def ask() -> list[Status]:
        async with operator(node, login) as connection:
            return await ask_statuses(connection)

    if login is None and not node.alive():
        return []
    try:
        return asyncio.run(ask())
    except UserError:
        return []


def read_present(node: Node, run: str) -> tuple[list[Status], float | None]:
    """The statuses of a directory's services, and when a run's last decision was stored, in seconds since 1970; None
    where that is not known.
    """

    async def ask() -> tuple[list[Status], float | None]:
        async with operator(node) as connection:
            head = subjects.head(run or "-")
            decided = (await connection.log(subjects.LOG).last([head])).get(head)
            return await ask_statuses(connection), decided.time / 1e9 if decided else None

    if not node.alive():
        return [], None
    try:
        return asyncio.run(ask())
    except UserError:
        return [], None


class StatusBoard:
    """Asks again and again while it is entered, and remembers what each process answered last."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._seen: dict[str, tuple[float, Status]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "StatusBoard":
        self._asking = asyncio.create_task(self._ask())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None
    ) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking

    def statuses(self) -> list[Status]:
        """The processes that have answered lately."""
        return latest(self._seen, time.monotonic())

    async def _ask(self) -> None:
        while self._asking is not None:  # nats-py swallows a cancellation that comes together with an answer
            with contextlib.suppress(UserError):
                for status in await ask_statuses(self._connection):
                    self._seen[f"{status.host} {status.process}"] = time.monotonic(), status
            await asyncio.sleep(POLL_SECONDS)


def latest(seen: Mapping[str, tuple[float, Status]], now: float) -> list[Status]:
    """Those that answered within the last `REMEMBERED` seconds, by name."""
    remembered = [
        msgspec.structs.replace(status, silent=now - heard if now - heard > SILENT else 0.0)
        for heard, status in seen.values()
        if now - heard <= REMEMBERED
    ]
    return sorted(remembered, key=lambda status: (status.service, status.index))
