"""The archive, made from the log from nothing, with every gap and every run's hash chain looked at on the way.

Whatever the parts in which the log is read, the tables are those of the live archive, and a rebuild that is killed goes on from its cursor.
What the chains stand at is kept in the file too (the schema `rebuild`) and moves with the cursor in one transaction. For a file that lacks
it, since the archivist filled it, that part of the log is read once more for the chains alone.
"""

import gc
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec

from events.errors import CheckFailed, UsageError
from events.subjects import LOG
from replay.archive.projection import Archive, Part
from replay.chain import Broken, Chain
from runtime.log.port import Stored, require_contiguous

PAGE_SIZE = 20_000
COMMIT_ROWS, COMMIT_BYTES = 250_000, 512 * 1024 * 1024
"""A transaction ends when it holds as much: large ones are written to the disk once, small ones twice."""
WAITING = 2
"""Parts that are read ahead of those that are being written."""

Read = Callable[[int, int], list[Stored]]
"""Up to so many messages from a sequence on, in order; none at the end of the log."""


class Rebuilt(NamedTuple):
    """What a rebuild did."""

    events: int
    """Messages that it read and that were new to the file."""
    decisions: int
    """Decisions whose digests were found right, those of earlier rebuilds of this file included."""
    broken: Broken | None
    """The first decision of all runs that does not hold."""
    gap: str
    """What is missing in the log, as a sentence; nothing behind it was read."""


class _State(msgspec.Struct):
    """The chains as they stand at a sequence of the log."""

    sequence: int = 0
    chains: list[bytes] = []
    broken: Broken | None = None


def rebuild(
    read: Read, into: Path, run: str = "", *, end: int, whole: bool = True, told: Callable[[int, int], None] = lambda done, total: None
) -> Rebuilt:
    """Bring the file from where it stands to the sequence `end` of the log: all runs, or one of them.

    Where the source is not `whole`, as an export of one run, sequences may be missing. `told` hears how far the log was read, and `end`.
    Raises what `Archive` does, and `UsageError` where the file holds another run or was filled from another log.
    """
    archive, collected = Archive(into, LOG, run), gc.isenabled()
    gc.disable()  # what is made here by the million has no cycles
    try:
        return _Rebuild(archive, read, end, whole, told).go_on()
    finally:
        if collected:
            gc.enable()
        archive.close()


class _Rebuild:
    def __init__(self, archive: Archive, read: Read, end: int, whole: bool, told: Callable[[int, int], None]) -> None:
        self.archive, self.source, self.end, self.whole, self.told = archive, read, end, whole, told
        self.chains: dict[str, Chain] = {}
        self.broken: Broken | None = None

    def go_on(self) -> Rebuilt:
        cursor = self.archive.cursor
        self._require_same_log()
        position, gap, rows, size = self._restore(cursor), "", 0, 0
        written: deque[Future[None]] = deque()
        # one thread reads and takes apart, one writes: the database works outside of Python's lock
        with ThreadPoolExecutor(1, "writing") as writer:

            def later(work: Callable[..., None], *arguments: object) -> None:
                written.append(writer.submit(work, *arguments))
                if len(written) > WAITING:
                    written.popleft().result()

            while position < self.end:
                try:
                    read = self._read(position + 1, min(PAGE_SIZE, (cursor if position < cursor else self.end) - position))
                except CheckFailed as missing:
                    gap = str(missing)
                    break
                if not read:
                    break
                position = read[-1].sequence
                part = self.archive.read(read)
                self._check(part)
                self.told(position, self.end)
                if position <= cursor:
                    continue
                later(self.archive.add, part)
                rows, size = rows + len(read), size + sum(len(stored.data) for stored in read)
                if rows >= COMMIT_ROWS or size >= COMMIT_BYTES:
                    later(self._commit, self._state(position))
                    rows, size = 0, 0
            if rows:
                later(self._commit, self._state(position))
            while written:
                written.popleft().result()
        return Rebuilt(max(0, position - cursor), sum(chain.decisions for chain in self.chains.values()), self.broken, gap)

    def _read(self, start: int, limit: int) -> list[Stored]:
        """The next messages, those before a gap first; raises `CheckFailed` where the very next is missing."""
        try:
            read = self.source(start, limit)
            if self.whole:
                require_contiguous(read, start)
        except CheckFailed:
            if limit == 1:
                raise
            return self._read(start, limit // 2)
        return read

    def _require_same_log(self) -> None:
        last = self.archive.connection.execute("SELECT seq, epoch_us(time), subject FROM events ORDER BY seq DESC LIMIT 1").fetchone()
        found = [(stored.sequence, stored.time // 1000, stored.subject) for stored in self.source(last[0], 1)] if last else []
        if last and found != [last]:
            raise UsageError(f"{self.archive.path} was filled from another log, up to sequence {last[0]}: name another file.")

    def _check(self, part: Part) -> None:
        chains = self.chains
        for stored, event in part.readable:
            if (chain := chains.get(event.run)) is None:
                chain = chains[event.run] = Chain(event.run)
            if broken := chain.take(stored.sequence, stored.subject, stored.data):
                self.broken = self.broken or broken

    def _state(self, position: int) -> bytes:
        return msgspec.msgpack.encode(_State(position, [chain.saved() for chain in self.chains.values()], self.broken))

    def _commit(self, state: bytes) -> None:
        self.archive.connection.execute("UPDATE rebuild.chains SET state = $1", [state]).fetchall()
        self.archive.commit()

    def _restore(self, cursor: int) -> int:
        """The sequence up to which the chains are known."""
        connection = self.archive.connection
        connection.execute("CREATE SCHEMA IF NOT EXISTS rebuild").fetchall()
        connection.execute("CREATE TABLE IF NOT EXISTS rebuild.chains (state BLOB)").fetchall()
        found = connection.execute("FROM rebuild.chains").fetchone()
        state = msgspec.msgpack.decode(found[0], type=_State) if found else _State()
        if not found:
            connection.execute("INSERT INTO rebuild.chains VALUES ($1)", [msgspec.msgpack.encode(state)]).fetchall()
        if state.sequence != cursor:
            return 0
        self.chains = {chain.run: chain for chain in map(Chain.restored, state.chains)}
        self.broken = state.broken
        return cursor
