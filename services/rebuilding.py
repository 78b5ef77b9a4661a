"""`evolog replay --into`: an archive made from the log from nothing, checked on the way, and given out as Parquet if wanted."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import duckdb
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from events.errors import CheckFailed, UsageError
from events.subjects import LOG
from replay.chain import Broken
from replay.rebuild import Read
from replay.rebuild import rebuild as rebuild_file
from runtime.log import Log
from runtime.server import OPERATOR
from runtime.wire import Bulk
from services.context import read_credentials
from services.node import Node
from services.reading import find_run, reading

BOOKKEEPING = ("cursor", "made")
"""Tables that say what the file is, and hold no events."""


class Source(NamedTuple):
    """A log to rebuild from."""

    read: Read
    end: int
    run: str
    """The whole name of the run that was asked for."""


class Summary(msgspec.Struct, kw_only=True):
    """What is printed; `events` counts those that were new to the file, `decisions` all that were found right."""

    version: int = 1
    into: str
    run: str
    sequence: int
    events: int
    tables: int
    """Those that hold anything."""
    seconds: float
    decisions: int
    broken: dict[str, str | int] | None
    gap: str
    parquet: str


def rebuild(directory: Path, run: str | None, into: Path, parquet: Path | None, as_json: bool) -> int:
    """Bring the file to the end of the directory's log, from nothing or from where it stands; the exit code, 3 at a gap or broken chain.

    Raises `UsageError` where the file or the folder for Parquet holds something else.
    """
    if parquet is not None:
        require_empty(parquet)
    into.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with _source(directory, run or "") as source, _bar() as told:
        found = rebuild_file(source.read, into, source.run, end=source.end, told=told)
    seconds = time.monotonic() - began
    if parquet is not None:
        write_parquet(into, parquet)
    summary = Summary(
        into=str(into),
        run=source.run,
        sequence=source.end,
        events=found.events,
        tables=len(_tables(into)),
        seconds=round(seconds, 3),
        decisions=found.decisions,
        broken=_told(found.broken),
        gap=found.gap,
        parquet=str(parquet or ""),
    )
    click.echo(msgspec.json.encode(summary).decode() if as_json else _words(summary))
    return CheckFailed.code if found.broken or found.gap else 0


def require_empty(folder: Path) -> None:
    """Raise `UsageError` for a folder that holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder, and Parquet files of another time would be mixed with these: name another.")


def write_parquet(archive: Path, folder: Path) -> None:
    """Write each table that holds anything to FOLDER/TABLE/run=RUN/*.parquet, compressed by zstd, in the order of the log."""
    require_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # a connection of its own: an archive's own reaches no files
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH {_quoted(archive)} AS archive (READ_ONLY)").fetchall()
        for table in _tables(archive):
            run = ", split_part(subject, '.', 2) AS run" if table == "unreadable" else ""
            where = _quoted(folder / table)
            rows = f'SELECT *{run} FROM archive."{table}" ORDER BY seq'
            connection.execute(f"COPY ({rows}) TO {where} (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (run))").fetchall()


@contextlib.contextmanager
def _source(directory: Path, run: str) -> Iterator[Source]:
    """The log of a directory that is up."""

    async def look(log: Log, gold: Log) -> tuple[int, str]:
        return await log.end(), await find_run(log, run) if run else ""

    end, name = reading(directory, look)
    bulk = Bulk(read_credentials(Node(directory).credentials(OPERATOR)), LOG)
    try:
        yield Source(bulk.read, end, name)
    finally:
        bulk.close()


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, and what moves it; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("events"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False), transient=True) as progress:
        bar = progress.add_task("rebuilding", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def _tables(archive: Path) -> list[str]:
    """The tables that hold anything, but for the bookkeeping."""
    with duckdb.connect(str(archive), read_only=True) as connection:
        names = connection.execute("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'main' ORDER BY table_name").fetchall()
        found = [name for (name,) in names if name not in BOOKKEEPING]
        return [name for name in found if connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()]


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _told(broken: Broken | None) -> dict[str, str | int] | None:
    return {**broken._asdict(), "text": str(broken)} if broken else None


def _words(of: Summary) -> str:
    what = f"run {of.run}" if of.run else "all runs"
    rate = of.events / of.seconds if of.seconds else 0
    lines = [
        f"{of.into}: {what} up to sequence {of.sequence:,}; {of.events:,} events read in {of.seconds:.1f} s ({rate:,.0f} a second), "
        f"{of.tables} tables filled",
        f"{of.decisions:,} decisions checked: " + (f"{of.broken['text']}" if of.broken else "their hash chains hold"),
    ]
    lines += [of.gap] if of.gap else []
    lines += [f"{of.parquet}: the tables as Parquet, one folder a run"] if of.parquet else []
    return "\n".join(lines)
