"""Rebuilds an archive from the log of a project directory or from an export, and writes its tables as Parquet if
wanted.
"""

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from events.errors import NotFound
from events.subjects import GOLD, LOG
from replay.archive.projection import require_duckdb
from replay.archive.rebuild import RebuildResult, rebuild, rebuild_from_history
from replay.chain import ChainBreak
from replay.closing import Closing, closing, closing_with, digest_of
from replay.exports.parquet import filled_tables, require_empty, write_parquet
from replay.history import EventProgress, History, gold_messages, read_decided
from replay.replayer import redecide
from runtime.log.jetstream import Connection
from runtime.log.socket import BulkReader
from services.host.imports import find_export
from services.host.node import Node
from services.host.sources import find_run, load_history, open_logs


class RebuildSummary(msgspec.Struct, kw_only=True):
    """The outcome of rebuilding an archive.

    `events` counts the messages that were new to the file, `decisions` all whose digests are right, `tables` those that
    have rows. `broken` is the first decision that its chain or this code's decider does not give, `gap` the first gap
    of the log as a sentence, `closings` are the digests that close the runs.
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
    closings: list[Closing]


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
        checked = CheckedRuns([closing(history)], _decided_otherwise(history, progress))
    else:
        name, end, result, checked = asyncio.run(_from_log(Node(directory), run, into, progress))
    broken = result.broken or checked.broken
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
        broken={**broken._asdict(), "text": str(broken)} if broken else None,
        gap=result.gap,
        parquet=str(parquet or ""),
        closings=checked.closings,
    )


class CheckedRuns(NamedTuple):
    """The digests that close the runs, and the first decision that does not come out the same again."""

    closings: list[Closing]
    broken: ChainBreak | None


def _decided_otherwise(history: History, progress: EventProgress) -> ChainBreak | None:
    """The first decision of a run that this code's decider makes otherwise; the last one has no chain above it."""
    difference = redecide(history, progress=progress).difference
    if difference is None or difference.newer:
        return None
    at = difference.sequence
    return ChainBreak(history.run, difference.decision, at, at, f"is not as it was decided: {difference.why}")


async def _check(connection: Connection, result: RebuildResult, progress: EventProgress) -> CheckedRuns:
    log, gold, broken = connection.log(LOG), connection.log(GOLD), result.broken
    closings = []
    for run, digest in result.digests.items():
        closings.append(closing_with(run, digest, digest_of(await gold_messages(gold, run))))
        if run in result.grown and not broken and not result.gap:
            try:
                history = await read_decided(log, run)
            except NotFound:  # messages on the subjects of a run that never began
                continue
            broken = await asyncio.to_thread(_decided_otherwise, history, progress)
    return CheckedRuns(closings, broken)


async def _from_log(
    node: Node, run: str, into: Path, progress: EventProgress
) -> tuple[str, int, RebuildResult, CheckedRuns]:
    """From the directory's log, up or not: the run's whole name, the last sequence of the log, the outcome, and what
    was checked besides.
    """
    async with open_logs(node) as connection:
        log = connection.log(LOG)
        name, end = await find_run(log, run) if run else "", await log.end()
        bulk = BulkReader(connection.credentials, LOG)
        try:
            result = await asyncio.to_thread(rebuild, bulk.read, into, name, end=end, progress=progress)
        finally:
            bulk.close()
        return name, end, result, await _check(connection, result, progress)
