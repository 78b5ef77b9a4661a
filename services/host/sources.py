"""Where a recorded run is read from: a broker that is up, one that is started for this alone, what was imported, or an export."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from events import subjects
from events.errors import NotFound, UsageError
from events.run import RunStarted
from events.subjects import GOLD, LOG
from replay import history
from replay.exports import folder
from replay.history import History
from runtime.blobs.directory import Blobs
from runtime.broker.accounts import BOOTSTRAP
from runtime.broker.server import EmbeddedServer, end_left_over
from runtime.broker.store import FREE_AT_START, ended_well, require_room
from runtime.broker.streams import bootstrap
from runtime.log.jetstream import Connection
from runtime.log.port import Log, Stored
from services.host.context import operator
from services.host.node import Node

T = TypeVar("T")


@contextlib.asynccontextmanager
async def opened(node: Node) -> AsyncIterator[Connection]:
    """The operator's connection to the broker of a directory, which is started for as long as this lasts if nothing is up.

    After an end that was not in good order it is started on a copy: a server would cut what is damaged, and reading changes nothing.
    Raises `NotFound` where the directory holds no log, and `TryAgain` while it is starting or stopping, or without room for the copy.
    """
    if node.alive():
        async with operator(node) as connection:
            yield connection
        return
    require_log(node)
    if ended_well(node.directory):
        with node.hold():
            async with temporary_server(node) as connection:
                yield connection
    else:
        async with copied(node) as copy, temporary_server(copy) as connection:
            yield connection


def require_log(node: Node) -> None:
    """Raise `NotFound` where the directory holds no log."""
    if not node.nats_dir.is_dir():
        raise NotFound(f"There is no log in {node.directory}: name the directory of a run with --dir, or make one with `evolog run TASK`.")


@contextlib.asynccontextmanager
async def copied(node: Node) -> AsyncIterator[Node]:
    """A copy of the log of a directory in which nothing is up, which is held meanwhile; raises `TryAgain` without room for it."""
    with node.hold():
        await end_left_over(node.directory)
        require_room(node.directory, FREE_AT_START + sum(path.stat().st_size for path in node.nats_dir.rglob("*")))
        with tempfile.TemporaryDirectory(dir=node.directory, prefix="copy-") as folder:
            copy = Node(Path(folder))
            shutil.copytree(node.nats_dir, copy.nats_dir)
            yield copy


@contextlib.asynccontextmanager
async def temporary_server(node: Node) -> AsyncIterator[Connection]:
    """The operator's connection to a broker that is started on a directory, whatever the files there are like."""
    server = EmbeddedServer(node.directory)
    try:
        await server.start()
        await bootstrap(server.url, BOOTSTRAP, server.passwords[BOOTSTRAP])
        async with operator(node) as connection:
            yield connection
    finally:
        await server.stop()


def with_logs(directory: Path, work: Callable[[Log, Log], Awaitable[T]]) -> T:
    """Do something with the two logs of a directory, whether or not it is up."""

    async def within() -> T:
        async with opened(Node(directory)) as connection:
            return await work(connection.log(LOG), connection.log(GOLD))

    return asyncio.run(within())


async def runs_of(log: Log) -> dict[str, Stored]:
    """The message that began each run, in the order in which they began."""
    found = await log.last([subjects.subject(LOG, "*", "*", RunStarted.tag())])
    return {subjects.run_of(subject): stored for subject, stored in sorted(found.items(), key=lambda row: row[1].sequence)}


async def find_run(log: Log, name: str) -> str:
    """The run of that name, or the only one whose name begins so."""
    runs = await runs_of(log)
    if name in runs:
        return name
    having = [run for run in runs if run.startswith(name)]
    if len(having) > 1:
        raise UsageError(f"{name!r} begins the names of {len(having)} runs ({', '.join(having[:5])}); give more of it.")
    if not having:
        raise NotFound(f"There is no run {name!r} here; `evolog ls` shows those that there are.")
    return having[0]


def imported(node: Node) -> list[str]:
    """The names of the runs that were imported."""
    return sorted(path.name for path in node.imports.glob("*") if folder.is_export(path))


def find_export(node: Node, name: str) -> Path | None:
    """Where a run is that is here as files: an imported one by its name or the only one that begins so, or the path of an export."""
    having = [run for run in imported(node) if run == name] or [run for run in imported(node) if run.startswith(name)]
    if len(having) == 1:
        return node.imports / having[0]
    named = Path(name)
    return named if folder.is_export(named) and (len(named.parts) > 1 or not node.nats_dir.is_dir()) else None


def recorded(directory: Path, name: str) -> History:
    """The run of that name: an export's folder, an imported run, or one on the directory's log, by the beginning of its name too."""
    node = Node(directory)
    if (export := find_export(node, name)) is not None:
        return folder.read(export)

    async def look(log: Log, gold: Log) -> History:
        return await history.of_log(log, gold, await find_run(log, name), Blobs(node.blobs), Blobs(node.gold_blobs))

    return with_logs(directory, look)
