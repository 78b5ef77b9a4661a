"""Reads the log of a directory from beginning to end, and every blob that it names."""

import asyncio
from collections.abc import Callable, Mapping

from events.errors import CheckFailed, UserError
from events.subjects import GOLD, LOG
from replay.archive.query import query, query_file
from replay.integrity import Examination, Health, LogFault, StreamSummary, damaged, forks_of
from runtime.blobs.directory import Blobs
from runtime.broker.accounts import API
from runtime.log.jetstream import Connection
from services.host.context import operator
from services.host.node import Node
from services.host.sources import runs_of

PAGE_SIZE = 5000


async def examine(connection: Connection, node: Node, said: Callable[[str], None], lost: Mapping[str, int]) -> Health:
    """Read both streams and every blob that they name; the server has `lost` so many bytes of a stream's files when it started."""
    faults: list[LogFault] = []
    streams: list[StreamSummary] = []
    blobs = 0
    for stream, root in ((LOG, node.blobs), (GOLD, node.gold_blobs)):
        log = connection.log(stream)
        examination = Examination(stream, forks_of((await runs_of(log)).values()) if stream == LOG else {})
        state = (await connection.client.jetstream(prefix=API).stream_info(stream)).state
        position = 0
        # a pattern, since a plain read stops at a gap
        while read := await log.read(position + 1, PAGE_SIZE, ">"):
            for stored in read:
                if stored.sequence <= state.last_seq:
                    examination.take(stored)
            position = read[-1].sequence
            said(f"{stream}: {position:,} of {state.last_seq:,} events read")
            if position >= state.last_seq:
                break
        found = examination.end(state.last_seq, state.messages, await asyncio.to_thread(archive_cursor, node, stream), lost.get(stream, 0))
        for number, named in enumerate(examination.blobs.values(), 1):
            said(f"{stream}: {number:,} of {len(examination.blobs):,} blobs read")
            if why := await asyncio.to_thread(damaged, Blobs(root), named):
                found.append(
                    LogFault(stream, named.sequence, named.sequence, f"sequence {named.sequence} ({named.tag}) names a blob: {why}")
                )
        streams.append(examination.summary())
        blobs += len(examination.blobs)
        faults += sorted(found, key=lambda fault: fault.first)
    return Health(streams, blobs, faults)


def archive_cursor(node: Node, stream: str) -> int:
    """The last sequence that the stream's archive has read; 0 where there is none that can be asked."""
    try:
        asked = "SELECT seq FROM cursor"
        found = query(node.directory, asked) if stream == LOG else query_file(node.gold_archive, asked)
        return int(found.rows[0][0])
    except UserError:
        return 0


async def require_end(node: Node) -> None:
    """Raise `CheckFailed` where a stream ends before what its archive has read: a server cuts off what is damaged at the end, silently."""
    async with operator(node) as connection:
        for stream, archive in ((LOG, node.archive), (GOLD, node.gold_archive)):
            archived, end = await asyncio.to_thread(archive_cursor, node, stream), await connection.log(stream).end()
            if end < archived:
                raise CheckFailed(
                    f"The stream {stream} in {node.directory} ends at sequence {end}, and its archive has read to {archived}: "
                    f"{archived - end:,} events were lost, by a damaged file or a store put back from an older copy. Put back "
                    f"{node.nats_dir} from a copy that has them; or go on from what is left by deleting {archive}."
                )
