"""Blobs in a directory and in a stream keep one contract; and what a stream adds: chunks, torn uploads, a cache, and
rights.
"""

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from events.errors import CheckFailed, Misconfigured, NotFound, NotHere, UsageError
from events.subjects import BLOBS, GOLD_BLOBS
from runtime.blobs.directory import Blobs
from runtime.blobs.stream import CHUNK, StreamBlobs
from runtime.broker.accounts import API, BLOB_USERS, USERS
from runtime.broker.credentials import credentials_file, read_credentials
from runtime.broker.server import EmbeddedServer
from runtime.log.port import Message
from runtime.log.socket import NatsSocket
from tests.harness.broker import broker_beside, chunk_socket

Open = Callable[[], Blobs]
SIZES = (0, 1, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 6 * CHUNK)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with broker_beside(tmp_path_factory.mktemp("broker")) as server:
        yield server


@pytest.fixture(params=["directory", "stream"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, server: EmbeddedServer) -> Open:
    """Opens the same blobs each time, as another process would; of a stream, with an empty cache."""
    folders = iter(range(99))

    def open_stream() -> Blobs:
        return StreamBlobs(tmp_path / f"cache{next(folders)}", chunk_socket(server, "executor"))

    return (lambda: Blobs(tmp_path / "blobs")) if request.param == "directory" else open_stream


def bytes_of(size: int, seed: str) -> bytes:
    """So many bytes that no other test stores."""
    return random.Random(f"{seed} {size}").randbytes(size)


@pytest.mark.parametrize("size", SIZES)
def test_bytes_come_back_under_their_digest(opened: Open, size: int) -> None:
    data = bytes_of(size, "come back")
    digest = opened().put(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert opened().put(data) == digest
    assert opened().get(digest) == data
    opened().check(digest)


def test_zeros_come_back(opened: Open) -> None:
    data = bytes(2 * CHUNK) + b"a state of an optimiser" + bytes(CHUNK) + b"end"
    assert opened().get(opened().put(data)) == data


def test_a_folder_comes_back(opened: Open, tmp_path: Path) -> None:
    digest = opened().put_tree({"b.py": b"2", "a/c.py": b"1"})
    folder = opened().unpack(digest, tmp_path / "out")
    assert (folder / "a" / "c.py").read_bytes() == b"1" and opened().put_folder(folder) == digest


@pytest.mark.parametrize("wanted", [lambda blobs: blobs.get, lambda blobs: blobs.check, lambda blobs: blobs.members])
def test_a_missing_blob_is_named(opened: Open, wanted: Callable[[Blobs], Callable[[str], object]]) -> None:
    with pytest.raises(NotHere, match="0" * 64):
        wanted(opened())("0" * 64)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "*", "blob.>"])
def test_a_name_that_is_no_digest_is_refused(opened: Open, name: str) -> None:
    with pytest.raises(CheckFailed):
        opened().get(name)


def test_several_writers_of_one_blob_do_no_harm(opened: Open) -> None:
    data, digests = bytes_of(5 * CHUNK + 3, "together"), list[str]()
    writers = [threading.Thread(target=lambda: digests.append(opened().put(data))) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert digests == [hashlib.sha256(data).hexdigest()] * 4 and opened().get(digests[0]) == data


@pytest.mark.parametrize("there", [[0], [0, 1], [1], [0, 2], [2, 1]])
def test_a_torn_upload_is_finished_by_whoever_uploads_again_and_never_read_as_whole(
    server: EmbeddedServer, tmp_path: Path, there: list[int]
) -> None:
    data = bytes_of(3 * CHUNK + 7, f"torn {there}")
    digest = hashlib.sha256(data).hexdigest()
    for number in there:
        chunk_socket(server, "executor").store(digest, data, [number])
    blobs = StreamBlobs(tmp_path, chunk_socket(server, "trainer"))
    for read in (blobs.get, blobs.check):
        with pytest.raises(NotHere, match="not uploaded to its end"):
            read(digest)
    assert not blobs.path(digest).exists() and not blobs.fetch(digest)
    blobs.put(data)
    assert StreamBlobs(tmp_path / "other", chunk_socket(server, "policy")).get(digest) == data


@pytest.mark.parametrize("payload", [b"=other bytes", b"znot packed", b"?", b""])
def test_other_bytes_than_the_name_says_are_refused(server: EmbeddedServer, tmp_path: Path, payload: bytes) -> None:
    digest = hashlib.sha256(b"named " + payload).hexdigest()
    socket = NatsSocket(read_credentials(credentials_file(server.directory, "executor")), BLOBS)
    socket.append([Message(f"blob.{digest}.0", payload)])
    blobs = StreamBlobs(tmp_path, chunk_socket(server, "executor"))
    with pytest.raises(CheckFailed, match=f"{digest}.*damaged"):
        blobs.get(digest)
    assert not blobs.path(digest).exists()


def test_a_damaged_copy_of_the_cache_is_fetched_anew(server: EmbeddedServer, tmp_path: Path) -> None:
    blobs = StreamBlobs(tmp_path, chunk_socket(server, "executor"))
    digest = blobs.put(b"hello, stream")
    blobs.path(digest).write_bytes(b"hello, strean")
    assert blobs.get(digest) == blobs.path(digest).read_bytes() == b"hello, stream"


def test_the_cache_keeps_what_was_used_last(server: EmbeddedServer, tmp_path: Path) -> None:
    blobs = StreamBlobs(tmp_path, chunk_socket(server, "executor"), limit=1_000_000)
    digests = [blobs.put(bytes_of(200_000, f"cached {number}")) for number in range(4)]
    time.sleep(0.02)  # file systems count times in steps of some milliseconds
    blobs.get(digests[0])
    later = [blobs.put(bytes_of(200_000, f"cached later {number}")) for number in range(3)]
    here = {path.name for path in tmp_path.rglob("?" * 64)}
    assert {digests[0], *later} <= here and digests[1] not in here
    assert sum(path.stat().st_size for path in tmp_path.rglob("?" * 64)) <= 1_000_000
    assert blobs.get(digests[1]) == bytes_of(200_000, "cached 1")
    large = StreamBlobs(tmp_path / "small", chunk_socket(server, "executor"), limit=10)
    assert large.get(large.put(bytes_of(5000, "larger than the cache"))) == bytes_of(5000, "larger than the cache")


def test_nothing_is_freed_of_a_stream(server: EmbeddedServer, tmp_path: Path) -> None:
    blobs = StreamBlobs(tmp_path, chunk_socket(server, "executor"))
    digest = blobs.put(b"a state")
    with pytest.raises(UsageError, match="append-only"):
        blobs.free(digest)
    assert StreamBlobs(tmp_path / "other", chunk_socket(server, "executor")).get(digest) == b"a state"


def test_what_was_freed_before_it_came_into_a_stream_says_so(server: EmbeddedServer, tmp_path: Path) -> None:
    digest = Blobs(tmp_path).put(b"a state of before")
    Blobs(tmp_path).free(digest)
    with pytest.raises(NotFound, match=f"{digest} was freed"):
        StreamBlobs(tmp_path, chunk_socket(server, "executor")).get(digest)


@pytest.mark.parametrize("stream", [BLOBS, GOLD_BLOBS])
@pytest.mark.parametrize("user", [user for user in USERS if user != "bootstrap"])
def test_an_account_reaches_the_blobs_that_it_may_and_no_others(
    server: EmbeddedServer, tmp_path: Path, user: str, stream: str
) -> None:
    blobs = StreamBlobs(tmp_path, chunk_socket(server, user, stream))
    if user in BLOB_USERS[stream]:
        assert blobs.get(blobs.put(f"{user} of {stream}".encode())) == f"{user} of {stream}".encode()
        return
    with pytest.raises(Misconfigured, match="may not do this"):
        blobs.put(b"mine")
    with pytest.raises(Misconfigured, match="may not do this"):
        blobs.get(hashlib.sha256(b"theirs").hexdigest())


def test_no_account_takes_anything_out_of_a_stream_of_blobs(server: EmbeddedServer, tmp_path: Path) -> None:
    digest = StreamBlobs(tmp_path, chunk_socket(server, "executor")).put(b"to stay")
    for user in ("executor", "auditor", "operator"):
        for verb in ("STREAM.DELETE", "STREAM.PURGE", "STREAM.UPDATE", "STREAM.MSG.DELETE", "STREAM.RESTORE"):
            with pytest.raises(Misconfigured, match="may not do this"):
                chunk_socket(server, user).append([Message(f"{API}.{verb}.{BLOBS}", b"")])
        assert StreamBlobs(tmp_path / user, chunk_socket(server, user)).get(digest) == b"to stay"
