"""Computes the digests that close a run of a project directory, from its log."""

import asyncio
from collections.abc import Iterator

from events.subjects import GOLD, LOG, run_of
from replay.closing import Closing, RunDigest, closing_with, digest_of
from replay.history import gold_messages
from runtime.log import lineage
from runtime.log.jetstream import Connection
from runtime.log.port import Stored
from runtime.log.socket import BulkReader

PAGE_SIZE = 5000


async def read_closing(connection: Connection, run: str) -> Closing:
    """The digests that close a run, as the two logs are now."""
    log = connection.log(LOG)
    start, _ = await lineage.run_start(log, run)
    end = await log.end()

    def on_log() -> RunDigest:
        reader = BulkReader(connection.credentials, LOG)
        try:
            return digest_of(_messages(reader, run, start.sequence, end))
        finally:
            reader.close()

    gold = digest_of(await gold_messages(connection.log(GOLD), run))
    return closing_with(run, await asyncio.to_thread(on_log), gold)


def _messages(reader: BulkReader, run: str, position: int, end: int) -> Iterator[Stored]:
    while position <= end:
        page = reader.read(position, min(PAGE_SIZE, end - position + 1))
        yield from (stored for stored in page if run_of(stored.subject) == run)
        position = page[-1].sequence + 1 if page else end + 1
