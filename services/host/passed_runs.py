"""Reads a run of the log for its audit in one pass: decides it again, digests it, and gathers what the audit needs."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np

from events import codec
from events.codec import Event
from events.digest import sha256
from events.subjects import GOLD, LOG, head
from replay.audit.audit import PassedRun
from replay.audit.passing import Passing
from replay.closing import RunDigest, closing_with, digest_of
from replay.history import EventProgress, History, gold_messages, second_events
from replay.recorded import StoredEvent
from replay.replayer import PROGRESS_EVERY, OutOfLine, Redecision
from runtime.blobs.stream import StreamBlobs
from runtime.log import lineage
from runtime.log.jetstream import Connection
from runtime.log.port import Stored
from runtime.log.socket import EVERYTHING
from runtime.run.controller import uncollected
from services.host.blobs import operator_blobs
from services.host.closings import reading
from services.host.node import Node
from services.host.sources import find_run, open_logs, whole_history


def load_passed(
    directory: Path, name: str, progress: EventProgress, meanwhile: Callable[[], object] = lambda: None
) -> PassedRun | History:
    """The run of that name, or the only one whose name begins so, on the log of a directory; as `pass_run`. While the
    broker starts, `meanwhile` is called in a thread, and the log is read once it has returned.
    """
    node = Node(directory)

    async def work() -> PassedRun | History:
        beside = asyncio.ensure_future(asyncio.to_thread(meanwhile))
        async with open_logs(node) as connection:
            await beside
            return await pass_run(connection, node, await find_run(connection.log(LOG), name), progress)

    return asyncio.run(work())


async def pass_run(
    connection: Connection, node: Node, run: str, progress: EventProgress = lambda done, total: None
) -> PassedRun | History:
    """A run that comes out the same when it is decided again, once its events have gone by; else its history, for
    `replay.soundness.require_decided` to say what is wrong, if anything is. A fork's past is read as a history too.
    """
    log, gold_log = connection.log(LOG), connection.log(GOLD)
    blobs = operator_blobs(node, connection.login)
    start, started = await lineage.run_start(log, run)
    count, end = await log.count(run, start.sequence), await log.end()
    with suppress(OutOfLine):
        if started.parent_run or isinstance(blobs, StreamBlobs):  # the audit reads them when the broker may be gone
            raise OutOfLine
        heads = [stored for stored in await log.read(1, EVERYTHING, head(run)) if stored.sequence <= end]
        gold = await gold_messages(gold_log, run)

        def on_log() -> tuple[Passing, RunDigest]:
            with reading(connection, run, start.sequence, end, count) as messages, uncollected():
                return _pass(run, heads, messages, lambda sequence: progress(sequence, end))

        passing, digest = await asyncio.to_thread(on_log)
        closing = closing_with(run, digest, digest_of(gold))
        return PassedRun(started, passing, gold, blobs.get, closing, second_events(gold))
    return await whole_history(connection, node, run)


def _pass(
    run: str, heads: Iterable[Stored], messages: Iterable[Stored], at: Callable[[int], None]
) -> tuple[Passing, RunDigest]:
    """Let a run's messages go by, of which `at` hears the sequences now and then. Raises `OutOfLine` where they are not
    as they are decided, or two have one id.
    """
    passing, digest, redecision, ids = Passing(), RunDigest(), Redecision(run, heads), bytearray()
    messages = iter(messages)
    while page := list(islice(messages, PROGRESS_EVERY)):  # one thing after the other, which caches like
        data_digests = [sha256(stored.data) for stored in page]
        events = [_event(stored) for stored in page]
        for stored, data_digest in zip(page, data_digests, strict=True):
            digest.take(stored, data_digest)
        for stored, event, data_digest in zip(page, events, data_digests, strict=True):
            redecision.take(stored, event, data_digest)
        for stored, event in zip(page, events, strict=True):
            if event:
                ids += bytes.fromhex(event.id[:16])  # as in `SeenIds`
                passing.take(StoredEvent(stored, event))
        at(page[-1].sequence)
    redecision.end()
    sorted_ids = np.sort(np.frombuffer(ids, np.uint64))
    if (sorted_ids[1:] == sorted_ids[:-1]).any():
        raise OutOfLine
    return passing, digest


def _event(stored: Stored) -> Event | None:
    try:
        return codec.decode_at(stored.subject, stored.data)
    except codec.Unreadable:
        return None
