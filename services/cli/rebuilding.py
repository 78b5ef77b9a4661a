"""`evolog replay --into`: an archive made from the log from nothing, checked on the way, and given out as Parquet if wanted."""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

import click
import duckdb
import msgspec

from events.errors import CheckFailed, UsageError
from events.subjects import LOG
from replay.archive.rebuild import RebuildResult
from replay.archive.rebuild import rebuild as rebuild_file
from replay.chain import ChainBreak
from replay.history import History
from runtime.log.port import Stored
from runtime.log.socket import BulkReader
from services.host.node import Node
from services.host.sources import find_export, find_run, opened, recorded
from services.views.progress import counting

Progress = Callable[[int, int], None]
BOOKKEEPING = ("cursor", "made")
"""Tables that say what the file is, and hold no events."""


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
    require_duckdb(into)
    into.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    node = Node(directory)
    with counting("rebuilding", "events") as told:
        if run and find_export(node, run) is not None:
            name, end, found = _of_files(recorded(directory, run), into, told)
        else:
            name, end, found = asyncio.run(_of_log(node, run or "", into, told))
    seconds = time.monotonic() - began
    if parquet is not None:
        write_parquet(into, parquet)
    summary = Summary(
        into=str(into),
        run=name,
        sequence=end,
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


def require_duckdb(file: Path) -> None:
    """Raise `UsageError` for a file that is there and is no DuckDB file."""
    if file.is_file() and file.stat().st_size and file.open("rb").read(12)[8:] != b"DUCK":
        raise UsageError(f"{file} is no DuckDB file, and is left as it is: name another.")


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


async def _of_log(node: Node, run: str, into: Path, told: Progress) -> tuple[str, int, RebuildResult]:
    """From the directory's log, up or not: the run's whole name, how far the log goes, and what was done."""
    async with opened(node) as connection:
        log = connection.log(LOG)
        name, end = await find_run(log, run) if run else "", await log.end()
        bulk = BulkReader(connection.credentials, LOG)
        try:
            return name, end, await asyncio.to_thread(rebuild_file, bulk.read, into, name, end=end, told=told)
        finally:
            bulk.close()


def _of_files(run: History, into: Path, told: Progress) -> tuple[str, int, RebuildResult]:
    """From an export."""
    messages = run.everything
    sequences, end = [stored.sequence for stored in messages], messages[-1].sequence

    def read(start: int, limit: int) -> list[Stored]:
        first = bisect_left(sequences, start)
        return messages[first : first + limit]

    return run.run, end, rebuild_file(read, into, run.run, end=end, whole=False, told=told)


def _tables(archive: Path) -> list[str]:
    """The tables that hold anything, but for the bookkeeping."""
    with duckdb.connect(str(archive), read_only=True) as connection:
        names = connection.execute("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'main' ORDER BY table_name").fetchall()
        found = [name for (name,) in names if name not in BOOKKEEPING]
        return [name for name in found if connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()]


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _told(broken: ChainBreak | None) -> dict[str, str | int] | None:
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
