"""`evolog watch`, `ls` and `show`: what stands in the log, for a person or as JSON."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click
import msgspec
from rich.table import Table

from events import codec, subjects
from events.errors import NotFound, UsageError
from events.run import DecisionMade, RunFinished, RunStarted
from events.subjects import GOLD, LOG
from runtime.log import Log, Stored, readable
from runtime.wire import rfc3339
from services.context import operator
from services.node import Node
from services.report import Report, collect
from services.tables import final_table, generations_table, stdout

T = TypeVar("T")
READ = 2000
LOOK = 0.1


def reading(directory: Path, work: Callable[[Log, Log], Awaitable[T]]) -> T:
    """Do something with the two logs of a directory that is up."""

    async def within() -> T:
        node = Node(directory)
        node.require_up()
        async with operator(node) as connection:
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


class Listed(msgspec.Struct, kw_only=True):
    """One run in a list."""

    run: str
    task: str
    seed: int
    levers: tuple[str, ...]
    started: str
    state: str
    decisions: int
    score: float | None
    reason: str


def list_runs(directory: Path, as_json: bool) -> None:
    """Print the runs, oldest first."""

    async def look(log: Log, gold: Log) -> list[Listed]:
        del gold
        runs = await runs_of(log)
        ends = await log.last([subjects.subject(LOG, "*", "*", RunFinished.tag()), subjects.head("*")])
        listed = []
        for run, stored in runs.items():
            started = _data(stored)
            if not isinstance(started, RunStarted):
                continue
            finished = next(
                (_data(end) for where, end in ends.items() if where.startswith(f"evolog.{run}.") and where.endswith(RunFinished.tag())),
                None,
            )
            made = ends.get(subjects.head(run))
            head = _data(made) if made else None
            listed.append(
                Listed(
                    run=run,
                    task=started.task,
                    seed=started.seed,
                    levers=started.levers,
                    started=rfc3339(stored.time)[:19] + "Z",
                    state="finished" if finished else "running",
                    decisions=head.number if isinstance(head, DecisionMade) else 0,
                    score=finished.score if isinstance(finished, RunFinished) and finished.candidate else None,
                    reason=finished.reason if isinstance(finished, RunFinished) else "",
                )
            )
        return listed

    listed = reading(directory, look)
    if as_json:
        click.echo(msgspec.json.encode({"version": 1, "runs": listed}).decode())
        return
    table = Table()
    for column in ("run", "task", "seed", "levers", "started", "state", "decisions", "dev", "why it ended"):
        table.add_column(column, overflow="fold")
    for row in listed:
        score = "" if row.score is None else f"{row.score:.4f}"
        table.add_row(row.run, row.task, str(row.seed), "+".join(row.levers), row.started, row.state, str(row.decisions), score, row.reason)
    stdout().print(table)


def show_run(directory: Path, name: str, as_json: bool) -> None:
    """Print one run."""

    async def look(log: Log, gold: Log) -> Report:
        return await collect(log, gold, await find_run(log, name))

    report = reading(directory, look)
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
        return
    console = stdout()
    generations_table(console, report)
    if report.cells:
        final_table(console, report)
    if report.set_aside:
        console.print(
            f'{report.set_aside} messages could not be read and were set aside: evolog sql "from event_set_aside"', soft_wrap=True
        )


def watch(directory: Path, name: str | None, since: int, follow: bool, as_json: bool) -> int:
    """Print events from a sequence on; ends with the run, or when interrupted."""

    async def look(log: Log, gold: Log) -> int:
        del gold
        run = await find_run(log, name) if name else None
        position = since - 1
        while True:
            read = await log.read(position + 1, READ)
            for stored in read:
                position = stored.sequence
                if run is not None and subjects.run_of(stored.subject) != run:
                    continue
                click.echo(_line(stored, as_json))
                if run is not None and subjects.tag_of(stored.subject) == RunFinished.tag():
                    return 0
            if not read:
                if not follow:
                    return 0
                await asyncio.sleep(LOOK)

    try:
        return reading(directory, look)
    except KeyboardInterrupt:
        return 130


def _data(stored: Stored) -> object:
    return next((event.data for event in readable([stored])), None)


def _line(stored: Stored, as_json: bool) -> str:
    if as_json:
        envelope = {"sequence": stored.sequence, "stored": rfc3339(stored.time), "subject": stored.subject}
        try:
            codec.decode_at(stored.subject, stored.data)
            return msgspec.json.encode(envelope | {"event": msgspec.Raw(stored.data)}).decode()
        except codec.Unreadable as wrong:
            return msgspec.json.encode(envelope | {"unreadable": str(wrong)}).decode()
    try:
        event = codec.decode_at(stored.subject, stored.data)
    except codec.Unreadable as wrong:
        return f"{stored.sequence:>8}  {rfc3339(stored.time)[11:23]}  {stored.subject}  UNREADABLE: {wrong}"
    shown = msgspec.json.encode(event.data).decode()
    short = shown if len(shown) <= 160 else shown[:157] + "..."
    return f"{stored.sequence:>8}  {rfc3339(stored.time)[11:23]}  {event.run}  {event.tag:<22}  {short}"
