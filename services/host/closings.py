"""Reads a run of a project directory's log in one pass, and computes the digests that close it."""

import asyncio
import contextlib
from collections.abc import Iterator

from events.subjects import GOLD, LOG, PREFIX
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
        with reading(connection, run, start.sequence, end) as messages:
            return digest_of(messages)

    gold = digest_of(await gold_messages(connection.log(GOLD), run))
    return closing_with(run, await asyncio.to_thread(on_log), gold)


@contextlib.contextmanager
def reading(connection: Connection, run: str, position: int, end: int) -> Iterator[Iterator[Stored]]:
    """A run's messages on EVOLOG in these sequences, one after the other, for a thread other than the connection's."""
    reader = BulkReader(connection.credentials, LOG)
    try:
        yield _messages(reader, run, position, end)
    finally:
        reader.close()


def _messages(reader: BulkReader, run: str, position: int, end: int) -> Iterator[Stored]:
    own = f"{PREFIX[LOG]}.{run}."
    while position <= end:
        page = reader.read(position, min(PAGE_SIZE, end - position + 1))
        yield from (stored for stored in page if stored.subject.startswith(own))
        position = page[-1].sequence + 1 if page else end + 1
