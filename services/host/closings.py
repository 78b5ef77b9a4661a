"""Reads a run of a project directory's log in one pass, and computes the digests that close it.

Those of a finished run are kept in the project directory: reading 200,000 events for them takes a second. What is kept
counts only while the files that hold its events were not touched, and no later decision or audit of it stands on the
log.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from events.gold import AuditFinished
from events.subjects import GOLD, LOG, PREFIX, check_run_name, head, subject
from replay.closing import PENDING, Closing, RunDigest, closing_with, digest_of
from replay.history import gold_messages
from runtime.broker import store
from runtime.broker.credentials import write_private
from runtime.log import lineage
from runtime.log.jetstream import Connection
from runtime.log.port import Stored
from runtime.log.socket import BulkReader
from services.host.node import Node

PAGE_SIZE = 5000


async def read_closing(connection: Connection, run: str) -> Closing:
    """The digests that close a run, as the two logs are now."""
    log = connection.log(LOG)
    start, _ = await lineage.run_start(log, run)
    count, end = await log.count(run, start.sequence), await log.end()

    def on_log() -> RunDigest:
        with reading(connection, run, start.sequence, end, count) as messages:
            return digest_of(messages)

    gold = digest_of(await gold_messages(connection.log(GOLD), run))
    return closing_with(run, await asyncio.to_thread(on_log), gold)


@contextlib.contextmanager
def reading(connection: Connection, run: str, position: int, end: int, count: int) -> Iterator[Iterator[Stored]]:
    """A run's messages on EVOLOG in these sequences, at least `count` if there are as many, one after the other, for a
    thread other than the connection's.
    """
    reader = BulkReader(connection.credentials, LOG)
    try:
        yield _messages(reader, run, position, end, count)
    finally:
        reader.close()


def _messages(reader: BulkReader, run: str, position: int, end: int, count: int) -> Iterator[Stored]:
    own = f"{PREFIX[LOG]}.{run}."
    while position <= end and count > 0:
        page = reader.read(position, min(PAGE_SIZE, end - position + 1))
        messages = [stored for stored in page if stored.subject.startswith(own)]
        yield from messages
        count -= len(messages)
        position = page[-1].sequence + 1 if page else end + 1


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    closing: Closing
    last: dict[str, int]
    """The sequence of the last message on each subject that closes the run."""
    files: list[tuple[str, int, int, int]]
    """Of each file that holds events of it: path, inode, size, and when it was last changed in any way."""


async def kept_closing(connection: Connection, node: Node, run: str) -> Closing:
    """As `read_closing`, of a finished run of a directory, whose messages are read only if they must be."""
    last = {
        stored.subject: stored.sequence
        for log, place in (
            (connection.log(LOG), head(run)),
            (connection.log(GOLD), subject(GOLD, run, "*", AuditFinished.tag())),
        )
        for stored in (await log.last([place])).values()
    }
    path = node.closings / f"{check_run_name(run)}.json"
    with contextlib.suppress(OSError, ValueError):  # what msgspec and UTF-8 raise are ValueErrors
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        if (kept.closing.run, kept.last, kept.files) == (run, last, _files(node, kept.closing.sequence)):
            return kept.closing
    found = await read_closing(connection, run)
    if PENDING not in msgspec.structs.astuple(found):
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            text = msgspec.json.encode(_Kept(found, last, _files(node, found.sequence))).decode()
            write_private(path, text)
    return found


def _files(node: Node, sequence: int) -> list[tuple[str, int, int, int]]:
    """The files of both streams, of the loop's up to the one that holds this sequence."""
    paths = store.blocks(node.directory, GOLD)
    for path in store.blocks(node.directory, LOG):
        with path.open("rb") as file:
            first = int.from_bytes(file.read(12)[4:], "little")  # behind the record's length, as in `store`
        if first <= sequence:
            paths.append(path)
    return [_file(path) for path in paths]


def _file(path: Path) -> tuple[str, int, int, int]:
    found = path.stat()
    return str(path), found.st_ino, found.st_size, found.st_ctime_ns
