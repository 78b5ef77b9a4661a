"""Rebuilds an archive from the log of a project directory or from an export, and writes its tables as Parquet if
wanted.
"""

import asyncio
import time
from pathlib import Path

import msgspec

from events.subjects import LOG
from replay.archive.projection import require_duckdb
from replay.archive.rebuild import RebuildResult, rebuild, rebuild_from_history
from replay.exports.parquet import filled_tables, require_empty, write_parquet
from replay.history import EventProgress
from runtime.log.socket import BulkReader
from services.host.node import Node
from services.host.sources import find_export, find_run, load_history, open_logs


class RebuildSummary(msgspec.Struct, kw_only=True):
    """The outcome of rebuilding an archive.

    `events` counts the messages that were new to the file, `decisions` all whose digests are right, `tables` those that
    have rows. `broken` is the first break of a hash chain, `gap` the first gap of the log as a sentence.
    """

    version: int = 1
    into: str
    run: str
    sequence: int
    events: int
    tables: int
    seconds: float
    decisions: int
    broken: dict[str, str | int] | None
    gap: str
    parquet: str


def rebuild_archive(
    directory: Path, run: str, into: Path, parquet: Path | None, progress: EventProgress
) -> RebuildSummary:
    """Bring the archive file `into` to the end of the log, for one run or, with an empty name, for all.

    A file that was rebuilt in part is gone on with. Raises `UsageError` where the file or the folder for Parquet holds
    something else.
    """
    if parquet is not None:
        require_empty(parquet)
    require_duckdb(into)
    into.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if run and find_export(Node(directory), run) is not None:
        history = load_history(directory, run)
        name, end, result = history.run, history.everything[-1].sequence, rebuild_from_history(history, into, progress)
    else:
        name, end, result = asyncio.run(_from_log(Node(directory), run, into, progress))
    seconds = time.monotonic() - began
    if parquet is not None:
        write_parquet(into, parquet)
    return RebuildSummary(
        into=str(into),
        run=name,
        sequence=end,
        events=result.events,
        tables=len(filled_tables(into)),
        seconds=round(seconds, 3),
        decisions=result.decisions,
        broken={**result.broken._asdict(), "text": str(result.broken)} if result.broken else None,
        gap=result.gap,
        parquet=str(parquet or ""),
    )


async def _from_log(node: Node, run: str, into: Path, progress: EventProgress) -> tuple[str, int, RebuildResult]:
    """From the directory's log, up or not: the run's whole name, the last sequence of the log, and the outcome."""
    async with open_logs(node) as connection:
        log = connection.log(LOG)
        name, end = await find_run(log, run) if run else "", await log.end()
        bulk = BulkReader(connection.credentials, LOG)
        try:
            return name, end, await asyncio.to_thread(rebuild, bulk.read, into, name, end=end, progress=progress)
        finally:
            bulk.close()
