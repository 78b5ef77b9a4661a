"""Examines the log of a project directory: reads both streams from end to end, and every blob that they name; and the
runs that were imported.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec

from events.errors import CheckFailed, NotFound, UserError
from events.subjects import GOLD, LOG
from replay.archive.query import query, query_file
from replay.closing import RunDigest, closing_with
from replay.exports import folder
from replay.exports.contents import check_contents
from replay.history import read_decided
from replay.integrity import Examination, Health, LogFault, StreamSummary, find_damage, forks_among
from replay.replayer import redecide
from runtime.blobs.directory import Blobs
from runtime.broker.store import bytes_lost
from runtime.log import lineage
from runtime.log.jetstream import Connection
from runtime.log.port import Log
from services.host.blobs import blobs_as_kept
from services.host.context import operator
from services.host.imports import imported_runs
from services.host.node import Node
from services.host.sources import copy_logs, require_log, temporary_server

PAGE_SIZE = 5000


async def examine(node: Node, say: Callable[[str], None]) -> Health:
    """The state of a directory's log, its blobs and what was imported. `say` hears how far the reading has come.

    Raises `NotFound` where there is neither a log nor an import, and `TryAgain` without room for a copy of the log.
    """
    imports = imported_runs(node)
    health = Health([], 0, []) if imports and not node.nats_dir.is_dir() else await _examine_log(node, say)
    damage = [fault for name in imports for fault in await asyncio.to_thread(_examine_import, node, name, say)]
    return msgspec.structs.replace(health, faults=health.faults + damage, imports=len(imports))


def _examine_import(node: Node, name: str, say: Callable[[str], None]) -> list[LogFault]:
    say(f"reading {name}, which was imported")
    try:
        check_contents(folder.read(node.imports / name))
    except UserError as wrong:
        return [LogFault(f"import {name}", 0, 0, str(wrong).removesuffix("."), name)]
    return []


async def _examine_log(node: Node, say: Callable[[str], None]) -> Health:
    if node.alive():
        async with operator(node) as connection:
            return await _examine(connection, node, say, {})
    require_log(node)
    # a copy: a server that starts on damaged files cuts them, and they may be all there is
    async with copy_logs(node) as copy, temporary_server(copy) as connection:
        return await _examine(connection, node, say, bytes_lost(node.nats_dir, copy.nats_dir))


async def _examine(connection: Connection, node: Node, say: Callable[[str], None], lost: Mapping[str, int]) -> Health:
    # the server cut off `lost` bytes of a stream's files when it started
    faults: list[LogFault] = []
    streams: list[StreamSummary] = []
    digests: list[dict[str, RunDigest]] = []
    blobs = 0
    for place, stream in enumerate((LOG, GOLD)):
        log = connection.log(stream)
        examination = Examination(
            stream, forks_among((await lineage.run_starts(log)).values()) if stream == LOG else {}
        )
        state = await log.state()
        position = 0
        # a pattern, since a plain read stops at a gap
        while page := await log.read(position + 1, PAGE_SIZE, ">"):
            for stored in page:
                if stored.sequence <= state.last_seq:
                    examination.take(stored)
            position = page[-1].sequence
            say(f"{stream}: {position:,} of {state.last_seq:,} events read")
            if position >= state.last_seq:
                break
        damage = examination.end(
            state.last_seq, state.messages, await asyncio.to_thread(archive_cursor, node, stream), lost.get(stream, 0)
        )
        with blobs_as_kept(node, connection.login) as kept:
            damage += await _examine_blobs(kept[place], stream, examination, say)
        if stream == LOG:
            damage += await _decided_otherwise(log, examination, damage, say)
        streams.append(examination.summary())
        digests.append(examination.digests)
        blobs += len(examination.blobs)
        faults += sorted(damage, key=lambda fault: fault.first)
    of_log, of_gold = digests
    closings = [closing_with(run, digest, of_gold.get(run, RunDigest())) for run, digest in of_log.items() if run]
    return Health(streams, blobs, faults, closings)


async def _examine_blobs(
    blobs: Blobs, stream: str, examination: Examination, say: Callable[[str], None]
) -> list[LogFault]:
    damage = []
    for number, reference in enumerate(examination.blobs.values(), 1):
        say(f"{stream}: {number:,} of {len(examination.blobs):,} blobs read")
        if why := await asyncio.to_thread(find_damage, blobs, reference):
            what = f"sequence {reference.sequence} ({reference.tag}) names a blob: {why}"
            damage.append(LogFault(stream, reference.sequence, reference.sequence, what))
    return damage


async def _decided_otherwise(
    log: Log, examination: Examination, known: Sequence[LogFault], say: Callable[[str], None]
) -> list[LogFault]:
    """The runs without a known fault of which a decision does not come out the same again, each with the first."""
    faults = []
    for run in examination.runs:
        if any(fault.run in ("", run) for fault in known):
            continue
        say(f"{LOG}: deciding {run} again")
        try:
            history = await read_decided(log, run)
        except NotFound:  # messages on the subjects of a run that never began
            continue
        try:
            difference = (await asyncio.to_thread(redecide, history)).difference
        except CheckFailed as wrong:
            what = f"run {run} does not come out again: {str(wrong).removesuffix('.')}"
            faults.append(LogFault(LOG, history.messages[0].sequence, history.messages[-1].sequence, what, run))
            continue
        if difference and not difference.newer:
            faults.append(LogFault(LOG, difference.sequence, difference.sequence, str(difference), run))
    return faults


def archive_cursor(node: Node, stream: str) -> int:
    """The last sequence that the stream's archive has read; 0 where no archive answers."""
    try:
        sql = "SELECT coalesce(max(seq), 0)::BIGINT FROM cursor"
        result = query(node.directory, sql) if stream == LOG else query_file(node.gold_archive, sql)
        return int(result.rows[0][0])
    except UserError:
        return 0


async def require_end(node: Node) -> None:
    """Raise `CheckFailed` where a stream ends before what its archive has read: a server cuts off what is damaged at
    the end, silently.
    """
    async with operator(node) as connection:
        for stream, archive in ((LOG, node.archive), (GOLD, node.gold_archive)):
            archived, end = await asyncio.to_thread(archive_cursor, node, stream), await connection.log(stream).end()
            if end < archived:
                raise CheckFailed(
                    f"The stream {stream} in {node.directory} ends at sequence {end}, and its archive has read to "
                    f"{archived}: "
                    f"{archived - end:,} events were lost, by a damaged file or a store put back from an older copy. "
                    "Put back "
                    f"{node.nats_dir} from a copy that has them; or go on from what is left by deleting {archive}."
                )
