"""Rebuilds the archive from the log, and checks on the way that no sequence is missing and that every run's hash chain
holds.

The tables are those of the live archive, whatever the size of the pages in which the log is read. A rebuild that is
killed goes on from its cursor: the state of the chains is saved in the same file (the schema `rebuild`) and moves with
the cursor in one transaction. A file that the archivist filled lacks that state; its part of the log is then read once
more for the chains alone.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec

from events.digest import sha256
from events.errors import CheckFailed, UsageError
from events.subjects import LOG, run_of
from replay.archive.projection import Archive
from replay.chain import Chain, ChainBreak
from replay.closing import RunDigest
from replay.history import EventProgress, History
from runtime.log.port import Stored, require_contiguous
from runtime.run.controller import uncollected

PAGE_SIZE = 20_000
COMMIT_ROWS, COMMIT_BYTES = 250_000, 512 * 1024 * 1024
"""A transaction is committed when it holds that many rows or bytes: DuckDB writes large ones to the disk once, small
ones twice.
"""
READ_AHEAD = 2
"""Pages that are read ahead of the one that is being written."""

ReadMessages = Callable[[int, int], list[Stored]]
"""Reads messages in order: from a sequence on (first argument), at most so many (second); an empty list at the end of
the log.
"""


class RebuildResult(NamedTuple):
    """What a rebuild read and found."""

    events: int
    """Messages that were new to the file."""
    decisions: int
    """Decisions whose digests are right, those that earlier rebuilds of this file checked included."""
    broken: ChainBreak | None
    """The first break of any run's chain."""
    gap: str
    """The first gap of the log as a sentence; nothing behind it was read. Empty where there is none."""
    digests: dict[str, RunDigest]
    """The digest of each run's messages."""
    grown: set[str]
    """The runs of which something was new to the file."""


class _SavedChains(msgspec.Struct):
    """All chains as they are at a sequence of the log."""

    sequence: int = 0
    chains: list[bytes] = []
    broken: ChainBreak | None = None
    digests: dict[str, RunDigest] | None = None
    """None in a file of an evolog that did not keep them."""


def rebuild(
    read: ReadMessages,
    into: Path,
    run: str = "",
    *,
    end: int,
    whole: bool = True,
    progress: EventProgress = lambda done, total: None,
) -> RebuildResult:
    """Bring the archive file `into` from its cursor to the sequence `end` of the log: all runs, or the one named.

    A source that is not `whole`, such as an export of one run, may lack sequences.
    Raises what `Archive` does, and `UsageError` where the file holds another run or was filled from another log.
    """
    archive = Archive(into, LOG, run)
    try:
        with uncollected():  # what is made here by the million has no cycles
            result = _Rebuild(archive, read, end, whole, progress).go_on()
            archive.keep_attempts()
            return result
    finally:
        archive.close()


def rebuild_from_history(
    history: History, into: Path, progress: EventProgress = lambda done, total: None
) -> RebuildResult:
    """As `rebuild`, from a run in memory, such as an export of one."""
    messages = history.everything
    sequences = [stored.sequence for stored in messages]

    def read(start: int, limit: int) -> list[Stored]:
        first = bisect_left(sequences, start)
        return messages[first : first + limit]

    return rebuild(read, into, history.run, end=sequences[-1], whole=False, progress=progress)


class _Rebuild:
    def __init__(self, archive: Archive, read: ReadMessages, end: int, whole: bool, progress: EventProgress) -> None:
        self.archive, self.source, self.end, self.whole, self.progress = archive, read, end, whole, progress
        self.chains: dict[str, Chain] = {}
        self.broken: ChainBreak | None = None
        self.digests: dict[str, RunDigest] = {}
        self.grown: set[str] = set()

    def go_on(self) -> RebuildResult:
        cursor = self.archive.cursor
        self._require_same_log()
        position, gap, rows, size = self._restore(cursor), "", 0, 0
        written: deque[Future[None]] = deque()
        # one thread reads and parses, one writes: the database works outside of Python's lock
        with ThreadPoolExecutor(1, "writing") as writer:

            def later(work: Callable[..., None], *arguments: object) -> None:
                written.append(writer.submit(work, *arguments))
                if len(written) > READ_AHEAD:
                    written.popleft().result()

            while position < self.end:
                try:
                    read = self._read(
                        position + 1, min(PAGE_SIZE, (cursor if position < cursor else self.end) - position)
                    )
                except CheckFailed as missing:
                    gap = str(missing)
                    break
                if not read:
                    break
                position = read[-1].sequence
                parsed = self.archive.read(read)
                self._check(read, {sequence for sequence, *_ in parsed.unreadable}, cursor)
                self.progress(position, self.end)
                if position <= cursor:
                    continue
                later(self.archive.add, parsed)
                rows, size = rows + len(read), size + sum(len(stored.data) for stored in read)
                if rows >= COMMIT_ROWS or size >= COMMIT_BYTES:
                    later(self._commit, self._state(position))
                    rows, size = 0, 0
            if rows:
                later(self._commit, self._state(position))
            while written:
                written.popleft().result()
        return RebuildResult(
            max(0, position - cursor),
            sum(chain.decisions for chain in self.chains.values()),
            self.broken,
            gap,
            self.digests,
            self.grown,
        )

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
        last = self.archive.connection.execute(
            "SELECT seq, epoch_us(time), subject FROM events ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        log_rows = (
            [(stored.sequence, stored.time // 1000, stored.subject) for stored in self.source(last[0], 1)]
            if last
            else []
        )
        if last and log_rows != [last]:
            raise UsageError(
                f"{self.archive.path} was filled from another log, up to sequence {last[0]}: name another file."
            )

    def _check(self, read: list[Stored], unreadable: set[int], cursor: int) -> None:
        """Feed the messages to their runs' digests, and the readable ones to the chains."""
        for stored in read:
            run = run_of(stored.subject)
            if not run or self.archive.run not in ("", run):
                continue
            if (digest := self.digests.get(run)) is None:
                digest = self.digests[run] = RunDigest()
            data_digest = sha256(stored.data)
            digest.take(stored, data_digest)
            if stored.sequence > cursor:
                self.grown.add(run)
            if stored.sequence in unreadable:
                continue
            if (chain := self.chains.get(run)) is None:
                chain = self.chains[run] = Chain(run)
            if broken := chain.take(stored.sequence, stored.subject, stored.data, data_digest):
                self.broken = self.broken or broken

    def _state(self, position: int) -> bytes:
        return msgspec.msgpack.encode(
            _SavedChains(position, [chain.save() for chain in self.chains.values()], self.broken, self.digests)
        )

    def _commit(self, state: bytes) -> None:
        self.archive.connection.execute("UPDATE rebuild.chains SET state = $1", [state]).fetchall()
        self.archive.commit()

    def _restore(self, cursor: int) -> int:
        """Load the chains from the file; the sequence up to which they are known."""
        connection = self.archive.connection
        connection.execute("CREATE SCHEMA IF NOT EXISTS rebuild").fetchall()
        connection.execute("CREATE TABLE IF NOT EXISTS rebuild.chains (state BLOB)").fetchall()
        row = connection.execute("FROM rebuild.chains").fetchone()
        state = msgspec.msgpack.decode(row[0], type=_SavedChains) if row else _SavedChains()
        if not row:
            connection.execute("INSERT INTO rebuild.chains VALUES ($1)", [msgspec.msgpack.encode(state)]).fetchall()
        if state.sequence != cursor or state.digests is None:
            self.archive.taken.clear()
            return 0
        self.chains = {chain.run: chain for chain in map(Chain.restore, state.chains)}
        self.broken, self.digests = state.broken, state.digests
        return cursor
