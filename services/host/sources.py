"""Reads the runs of a project directory, whether it is up or not, and runs that are here as files: imported ones and
exports.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

from events import subjects
from events.errors import NotFound, UsageError, UserError
from events.gold import AuditFinished
from events.run import DecisionMade, RunFinished, RunStarted
from events.subjects import GOLD, LOG
from events.time import rfc3339
from replay.best_answer import best_answers
from replay.closing import closing
from replay.exports import folder
from replay.exports.contents import check_contents
from replay.exports.folder import Manifest
from replay.history import History, read_history
from replay.report import Report, Reporter, follow_both
from replay.run_state import ListedRun, listed_run
from runtime.blobs.directory import Blobs
from runtime.blobs.stream import StreamBlobs
from runtime.broker.accounts import BOOTSTRAP
from runtime.broker.server import EmbeddedServer, end_left_over
from runtime.broker.store import FREE_AT_START, ended_well, require_room
from runtime.broker.streams import bootstrap
from runtime.log.jetstream import Connection
from runtime.log.lineage import firsts, run_start, run_starts
from runtime.log.port import Log, Stored, readable
from services.host.best_answers import add_best_answers
from services.host.blobs import operator_blobs, operator_gold_blobs
from services.host.closings import kept_closing
from services.host.context import operator
from services.host.imports import find_export, imported_runs, matching_runs
from services.host.node import Node, owner_alone

T = TypeVar("T")
PAGE_SIZE = 2000
POLL_SECONDS = 0.1
"""Seconds between two reads of the log's end."""


@contextlib.asynccontextmanager
async def open_logs(node: Node) -> AsyncIterator[Connection]:
    """The operator's connection to a directory's broker, which is started for as long as this lasts if nothing is up.

    After an end that was not in good order it is started on a copy: a server would cut what is damaged, and reading
    changes nothing. Raises `NotFound` where the directory holds no log, and `TryAgain` while it is starting or
    stopping, or without room for the copy.
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
        async with copy_logs(node) as copy, temporary_server(copy) as connection:
            yield connection


def require_log(node: Node) -> None:
    """Raise `NotFound` where the directory holds no log."""
    if not node.nats_dir.is_dir():
        raise NotFound(
            f"There is no log in {node.directory}: name the directory of a run with --dir, or make one with `evolog "
            "run TASK`."
        )


@contextlib.asynccontextmanager
async def copy_logs(node: Node) -> AsyncIterator[Node]:
    """A temporary copy of the streams of a directory in which nothing is up. The directory is locked meanwhile.

    Raises `TryAgain` without room for the copy.
    """
    with node.hold():
        await end_left_over(node.directory)
        require_room(node.directory, FREE_AT_START + sum(path.stat().st_size for path in node.nats_dir.rglob("*")))
        with tempfile.TemporaryDirectory(dir=node.directory, prefix="copy-") as temporary:
            copy = Node(Path(temporary))
            shutil.copytree(node.nats_dir, copy.nats_dir)
            yield copy


@contextlib.asynccontextmanager
async def temporary_server(node: Node) -> AsyncIterator[Connection]:
    """The operator's connection to a broker that is started on a directory, whatever the state of the files there."""
    server = EmbeddedServer(node.directory)
    try:
        await server.start()
        await bootstrap(server.credentials(BOOTSTRAP))
        async with operator(node) as connection:
            yield connection
    finally:
        await server.stop()


def with_logs(directory: Path, work: Callable[[Log, Log], Awaitable[T]]) -> T:
    """Call `work` with the two logs of a directory, whether or not it is up: the loop's and the auditor's."""

    async def call() -> T:
        async with open_logs(Node(directory)) as connection:
            return await work(connection.log(LOG), connection.log(GOLD))

    return asyncio.run(call())


async def find_run(log: Log, name: str) -> str:
    """The run of that name, or the only one whose name begins so, as in `matching_runs`.

    Raises `NotFound` for none, `UsageError` for several.
    """
    with contextlib.suppress(NotFound, UsageError):  # to look for all that began takes seconds on a long log
        subjects.check_run_name(name)
        await run_start(log, name)
        return name
    starts = await run_starts(log)

    def owner_of(run: str) -> str:
        started = fact_of(starts[run])
        return started.owner if isinstance(started, RunStarted) else ""

    matching = matching_runs(name, starts, owner_of)
    if len(matching) > 1:
        raise UsageError(
            f"{name!r} begins the names of {len(matching)} runs ({', '.join(matching[:5])}); give more of it."
        )
    if not matching:
        raise NotFound(f"There is no run {name!r} here; `evolog ls` shows those that there are.")
    return matching[0]


def load_history(directory: Path, name: str) -> History:
    """The run of that name: an export's folder, an imported run, or one on the directory's log, by the beginning of its
    name too.
    """
    node = Node(directory)
    if (export := find_export(node, name)) is not None:
        return folder.read(export)

    async def read() -> History:
        async with open_logs(node) as connection:
            return await whole_history(connection, node, await find_run(connection.log(LOG), name))

    return asyncio.run(read())


async def whole_history(connection: Connection, node: Node, run: str) -> History:
    """A run of the log, with the blobs that it names at hand, whether or not the broker stays."""
    blobs, gold_blobs = operator_blobs(node, connection.login), operator_gold_blobs(node, connection.login)
    history = await read_history(connection.log(LOG), connection.log(GOLD), run, blobs, gold_blobs)
    await asyncio.to_thread(_have_named, blobs, history.everything)
    await asyncio.to_thread(_have_named, gold_blobs, history.gold)
    return history


def _have_named(blobs: Blobs, messages: Iterable[Stored]) -> None:
    # of a stream: those that messages name, and the files of those that are folders
    if isinstance(blobs, StreamBlobs):
        for digest in folder.digests_in(messages):
            with contextlib.suppress(UserError):  # it is missing or no folder, which whoever needs it finds
                if blobs.fetch(digest) and blobs.get(digest).startswith(folder.TREE):
                    for member in blobs.members(digest).values():
                        blobs.fetch(member)


def read_report(directory: Path, name: str) -> Report:
    """The report of the run of that name, found as by `load_history`."""
    node = Node(directory)
    if find_export(node, name) is not None:
        run = load_history(directory, name)
        reporter = asyncio.run(follow_both(run.log, run.gold_log, run.run))
        if reporter.report.graded:
            reporter.put_best_answers(best_answers(run.events))
        reporter.report.closing = closing(run) if run.finished else None
        return reporter.report

    async def read() -> Reporter:
        async with open_logs(node) as connection:
            log = connection.log(LOG)
            reporter = await follow_both(log, connection.log(GOLD), await find_run(log, name))
            report = reporter.report
            report.closing = await kept_closing(connection, node, report.run) if report.ended else None
            return reporter

    reporter = asyncio.run(read())
    add_best_answers(directory, reporter)
    return reporter.report


async def list_log(log: Log, gold: Log) -> list[ListedRun]:
    """The runs on a directory's logs, the oldest first."""
    ends, heads = await firsts(log, RunFinished), await log.last([subjects.head("*")])
    audits = await gold.last([subjects.subject(gold.stream, "*", "*", AuditFinished.tag())])
    audited = {subjects.run_of(place) for place in audits}
    listed = []
    for run, stored in (await run_starts(log)).items():
        started = fact_of(stored)
        if not isinstance(started, RunStarted):
            continue
        end, head = (fact_of(found) if found else None for found in (ends.get(run), heads.get(subjects.head(run))))
        finished = end if isinstance(end, RunFinished) else None
        decisions = head.number if isinstance(head, DecisionMade) else 0
        one = listed_run(run, started, rfc3339(stored.time), finished, decisions, audited=run in audited)
        if finished is None:  # its pauses and the best so far take the run's decisions, which are few
            reporter = Reporter(run)
            await reporter.follow(log)
            report = reporter.report
            one.state, one.score, one.reason = report.state, report.score, report.reason
        listed.append(one)
    return listed


def fact_of(stored: Stored) -> object:
    """The fact in a message; None where it cannot be read."""
    return next((event.data for event in readable([stored])), None)


async def tail(
    log: Log, since: int, *, run: str | None, follow: bool, waiting: Callable[[], None] = lambda: None
) -> AsyncIterator[Stored]:
    """The messages of one run, or of all, from a sequence on.

    Ends with the run; without `follow`, at the end of the log. `waiting` is called as often as there is nothing new.
    """
    position = since - 1
    while True:
        page = await log.read(position + 1, PAGE_SIZE)
        for stored in page:
            position = stored.sequence
            if run is not None and subjects.run_of(stored.subject) != run:
                continue
            yield stored
            if run is not None and subjects.tag_of(stored.subject) == RunFinished.tag():
                return
        if not page:
            if not follow:
                return
            waiting()
            await asyncio.sleep(POLL_SECONDS)


def import_export(directory: Path, source: Path) -> Manifest:
    """Copy an export into a project directory, where its run is found by name, once the copy is checked; returns its
    description.

    Raises `CheckFailed` for an export that is damaged or not whole, `UsageError` for a run that is in the directory
    already, and `TryAgain` without room for the copy.
    """
    node, run = Node(directory), folder.read_manifest(source).run
    if run in imported_runs(node) or (node.nats_dir.is_dir() and run in with_logs(directory, _run_names)):
        raise UsageError(f"There is a run {run!r} in {directory} already: import this one into another --dir.")
    size = sum(size for _, size in folder.files(source))
    owner_alone()
    node.make()
    node.imports.mkdir(exist_ok=True)
    require_room(node.imports, size)
    temporary = Path(tempfile.mkdtemp(dir=node.imports, prefix="."))
    try:
        folder.copy(source, temporary / run)
        check_contents(folder.read(temporary / run))
        (temporary / run).rename(node.imports / run)
    except UserError as wrong:
        raise type(wrong)(str(wrong).replace(str(temporary / run), str(source)), code=wrong.code) from wrong
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder.read_manifest(node.imports / run)


async def _run_names(log: Log, gold: Log) -> set[str]:
    del gold
    return set(await run_starts(log))
