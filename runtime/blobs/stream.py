"""Blobs in a stream of JetStream: what a host reaches that has a broker's address and no folder of anybody else's.

A blob is cut into chunks, each on a subject of its own: `blob.<sha256>.<n>`. All chunks but the last hold `CHUNK`
bytes, and the last holds fewer, or none. So a blob is whole once a shorter chunk follows full ones. That one is sent
when the others are stored, and each with the expectation that its place is free. Whoever finds a part of a blob there,
such as of an upload that was broken off, adds the rest. The stream is as append-only as the log is, so nothing in it is
ever freed.

What was read or written lies in a folder of the host too, up to so many bytes: what was used longest ago goes first.
"""

import hashlib
import itertools
import logging
import os
import time
import zlib
from collections.abc import Callable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TypeVar

from events.errors import CheckFailed, NotHere, TryAgain, Unavailable, UsageError
from events.subjects import BLOB_PREFIX
from runtime.blobs.directory import Blobs, write_sparse
from runtime.blobs.files import open_regular
from runtime.broker.accounts import API
from runtime.log.port import Refused
from runtime.log.socket import NatsSocket, sequence_in

logger = logging.getLogger("evolog")

CHUNK = 1 << 20
"""Bytes of a chunk. It stays as it is for ever: who adds the rest of a blob must cut it as its beginning was cut."""
WINDOW = 4
"""Chunks that are on their way at once."""
NARROW = 2.0
"""Seconds for a chunk from which on the next ones are asked for one by one: the server hangs up on whoever takes more
than a minute for what it has sent.
"""
CACHE_LIMIT = 10 * 10**9
"""Bytes that a host keeps of blobs, unless that is set."""
ROOM_MADE = 0.9
"""The part of that limit to which files are removed once it is reached."""
PAUSES = (0.1, 0.2, 0.4, 0.8, 1.0)
"""Seconds before a broker that is away is asked again; the last one repeats."""
_PACKED, _PLAIN = b"z", b"="
_SOME_ZEROS = bytes(4096)

T = TypeVar("T")


class ChunkSocket(NatsSocket):
    """A connection that stores and reads the chunks of blobs in one stream."""

    def upload(self, digest: str, data: bytes) -> None:
        """Store the bytes of that digest, or what is missing of them, and return when they are whole.

        Raises `TryAgain` where the disk is full, `Misconfigured` where the account may not do this, and `Unavailable`
        where no answer comes.
        """
        with self._lock:
            self._guarded(lambda: self._upload(digest, data))

    def download(self, digest: str, write: Callable[[bytes], object]) -> bool:
        """Hand on the bytes of that digest, chunk by chunk; whether they were whole. Raises as `upload`."""
        with self._lock:
            return self._guarded(lambda: self._download(digest, write))

    def _upload(self, digest: str, data: bytes) -> None:
        last = len(data) // CHUNK
        if last and not self.store(digest, data, [0]) and self._chunks(digest, [last]) != [None]:
            return  # somebody began before, and ended
        for start in range(1, last, WINDOW):
            self.store(digest, data, range(start, min(start + WINDOW, last)))
        self.store(digest, data, [last])

    def store(self, digest: str, data: bytes, numbers: Sequence[int]) -> bool:
        """Store these chunks, and wait until they are stored; whether one was not there before."""
        replies = []
        for number in numbers:
            payload = _packed(data[number * CHUNK : (number + 1) * CHUNK])
            header = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 0\r\n\r\n"
            sizes = f"{len(header)} {len(header) + len(payload)}"
            replies.append(reply := f"{self._inbox}.b{next(self._numbers)}")
            frame = f"HPUB {self._subject(digest, number)} {reply} {sizes}\r\n".encode()
            self._send_all(b"".join((frame, header, payload, b"\r\n")))
        new = False
        for header, answer in self._answers(replies):
            if header:
                raise Unavailable(f"No stream at {self._url} takes blobs: the broker has no {self._stream}.")
            try:
                new = bool(sequence_in(answer, 1)) or new
            except Refused:
                pass  # it is there
        return new

    def _download(self, digest: str, write: Callable[[bytes], object]) -> bool:
        numbers: Sequence[int] = [0]  # most blobs have one chunk
        while True:
            began = time.monotonic()
            for chunk in self._chunks(digest, numbers):
                if chunk is None:
                    return False
                write(chunk)
                if len(chunk) < CHUNK:
                    return True
            narrow = time.monotonic() - began > NARROW * len(numbers)
            numbers = range(numbers[-1] + 1, numbers[-1] + 1 + (1 if narrow else WINDOW))

    def _chunks(self, digest: str, numbers: Sequence[int]) -> list[bytes | None]:
        """These chunks, or None for one that is not there."""
        replies = []
        for number in numbers:
            replies.append(reply := f"{self._inbox}.c{next(self._numbers)}")
            subject = f"{API}.DIRECT.GET.{self._stream}.{self._subject(digest, number)}"
            (self._socket or self._connect()).sendall(f"PUB {subject} {reply} 0\r\n\r\n".encode())
        chunks: list[bytes | None] = []
        for header, data in self._answers(replies):
            status = header[: header.find(b"\r\n")].removeprefix(b"NATS/1.0").strip()
            if status[:3] not in (b"", b"404") or not header:
                what = status.decode() or repr(data[:200])
                raise Unavailable(f"The broker at {self._url} does not read {self._stream}: {what}.")
            chunks.append(None if status else _unpacked(digest, data))
        return chunks

    def _answers(self, replies: Sequence[str]) -> list[tuple[bytes, bytes]]:
        """The header and data of the answer to each of these, in their order."""
        answers: dict[str, tuple[bytes, bytes]] = {}
        while len(answers) < len(replies):
            subject, header, data = self._message()
            if (reply := subject.decode()) in replies:  # else an answer that a broken-off call left behind
                answers[reply] = header, data
        return [answers[reply] for reply in replies]

    def _subject(self, digest: str, number: int) -> str:
        return f"{BLOB_PREFIX[self._stream]}.{digest}.{number}"


class StreamBlobs(Blobs):
    """Blobs that stand in a stream, with a folder in which this host keeps up to `limit` bytes of them (None: all).

    Several processes may share the folder. With `patient`, a broker that is away is waited for; else `Unavailable` is
    raised. For threads; also beside each other.
    """

    def __init__(self, cache: Path, chunks: ChunkSocket, *, limit: int | None = None, patient: bool = False) -> None:
        super().__init__(cache)
        self._chunks, self._limit, self._patient = chunks, limit, patient
        self._fresh = limit or 0
        """Bytes that came since the folder was last looked through."""

    def close(self) -> None:
        """Drop the connection to the broker; the next call that needs it makes a new one."""
        self._chunks.close()

    def put(self, data: bytes) -> str:
        """As `Blobs.put`; they are on the broker's disk before this returns."""
        digest = hashlib.sha256(data).hexdigest()
        if not self.path(digest).exists():
            self.upload(digest, data)
            with self._new_file(digest) as file:
                write_sparse(file, data)
            self._make_room(len(data))
        return digest

    def upload(self, digest: str, data: bytes) -> None:
        """Store the bytes of that digest in the stream, whatever the folder holds."""
        self._wait(lambda: self._chunks.upload(digest, data))

    def get(self, digest: str) -> bytes:
        """As `Blobs.get`; where the folder's copy is damaged, the stream's counts."""
        try:
            return super().get(digest)
        except CheckFailed:
            self.path(digest).unlink(missing_ok=True)
            return super().get(digest)

    def fetch(self, digest: str) -> bool:
        """Have the bytes of that digest in the folder; whether they are to be had."""
        try:
            self._open(digest).close()
        except NotHere:
            return False
        return True

    def free(self, digest: str) -> None:
        """Raise `UsageError`: the stream is append-only."""
        raise UsageError(f"Blob {digest} stands in an append-only stream, which nobody can take anything out of.")

    def _open(self, digest: str) -> BufferedReader:
        path = self.path(digest)
        while True:
            try:
                file = open_regular(path)
            except FileNotFoundError:
                self._wait(lambda: self._download(digest))
            else:
                os.utime(file.fileno())
                return file

    def _download(self, digest: str) -> None:
        size, total = 0, hashlib.sha256()

        with self._new_file(digest) as file:

            def write(chunk: bytes, file: BinaryIO = file) -> None:
                nonlocal size
                write_sparse(file, chunk, size)
                total.update(chunk)
                size += len(chunk)

            if not self._chunks.download(digest, write):
                if self.freed(digest):  # before it came into a stream
                    super()._open(digest)
                raise NotHere(
                    f"Blob {digest} is not in the broker's stream of blobs, or was not uploaded to its end; whoever "
                    "has its bytes can put them again."
                )
            self._require(digest, total.hexdigest())
        self._make_room(size)

    def _make_room(self, added: int) -> None:
        """Remove what was used longest ago, once the folder may have come to its limit."""
        self._fresh += added
        if self._limit is None or self._fresh < self._limit * (1 - ROOM_MADE):
            return
        self._fresh = 0
        files = []
        for path in self.files():
            try:
                status = path.stat()
            except FileNotFoundError:  # another process removes files too
                continue
            files.append((status.st_mtime_ns, status.st_blocks * 512, path))
        total = sum(size for _, size, _ in files)
        if total <= self._limit:
            self._fresh = max(0, total - int(self._limit * ROOM_MADE))
            return
        for _, size, path in sorted(files)[:-1]:  # the last one was just added, whatever its size
            path.unlink(missing_ok=True)
            if (total := total - size) <= self._limit * ROOM_MADE:
                break

    def _wait(self, call: Callable[[], T]) -> T:
        trouble = ""
        for number, pause in enumerate(itertools.chain(PAUSES, itertools.repeat(PAUSES[-1]))):
            try:
                return call()
            except (Unavailable, TryAgain) as wrong:
                if number and not self._patient:  # a server hangs up on whoever was silent for long
                    raise
                if trouble != str(wrong):
                    logger.warning("%s", wrong)
                trouble = str(wrong)
                time.sleep(pause)
        raise AssertionError


def _packed(chunk: bytes) -> bytes:
    """A chunk as it is stored: smaller where zeros are many, as in an optimiser's state."""
    if chunk.count(_SOME_ZEROS) * len(_SOME_ZEROS) * 4 > len(chunk):
        return _PACKED + zlib.compress(chunk, 1)
    return _PLAIN + chunk


def _unpacked(digest: str, stored: bytes) -> bytes:
    form, rest = stored[:1], stored[1:]
    try:
        if form == _PLAIN:
            return rest
        if form == _PACKED:
            packed = zlib.decompressobj()
            return packed.decompress(rest, CHUNK + 1)
    except zlib.error as wrong:
        raise CheckFailed(f"Blob {digest} is damaged in the broker's stream: {wrong}.") from wrong
    raise CheckFailed(f"Blob {digest} is damaged in the broker's stream: a chunk begins with {form!r}.")
