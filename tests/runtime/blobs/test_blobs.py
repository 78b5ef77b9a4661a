"""Blobs: named by their bytes, whole or absent, checked when read."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from events.errors import CheckFailed, NotFound, TryAgain
from runtime.blobs.directory import Blobs


def test_bytes_come_back_under_their_digest(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    assert blobs.get(blobs.put(b"hello")) == b"hello"
    assert blobs.put(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_damaged_blob_is_refused_with_its_path(tmp_path: Path) -> None:
    digest = Blobs(tmp_path).put(b"hello")
    path = next(tmp_path.rglob(digest))
    path.write_bytes(b"hellp")
    with pytest.raises(CheckFailed, match=f"{digest}.*damaged.*Restore"):
        Blobs(tmp_path).get(digest)


def test_a_missing_blob_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="0" * 64):
        Blobs(tmp_path).get("0" * 64)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63])
def test_a_name_that_is_no_digest_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckFailed):
        Blobs(tmp_path).get(name)


def test_a_folder_comes_back_whatever_the_order_of_its_files(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    digest = blobs.put_tree({"b.py": b"2", "a/c.py": b"1"})
    assert digest == blobs.put_tree({"a/c.py": b"1", "b.py": b"2"})
    folder = blobs.unpack(digest, tmp_path / "out")
    assert (folder / "a" / "c.py").read_bytes() == b"1" and blobs.put_folder(folder) == digest


def test_an_unpacked_folder_that_was_changed_is_written_anew(tmp_path: Path) -> None:
    digest = Blobs(tmp_path).put_tree({"agent.py": b"honest"})
    folder = Blobs(tmp_path).unpack(digest, tmp_path / "out")
    for path, text in (("agent.py", b"edited"), ("more.py", b"")):
        (folder / path).write_bytes(text)
        Blobs(tmp_path).unpack(digest, tmp_path / "out")
        assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("agent.py", b"honest")]


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a\\b", "a\0b"])
def test_a_folder_holds_no_path_that_leads_out(tmp_path: Path, path: str) -> None:
    with pytest.raises(CheckFailed):
        Blobs(tmp_path).put_tree({path: b""})


@pytest.mark.parametrize("text", [b'{"files":{"x":"%s","x/y":"%s"}}', b'{"files":{"\xff":"%s%s"}}', b"[" * 100_000])
def test_what_is_no_folder_is_not_unpacked(tmp_path: Path, text: bytes) -> None:
    blobs = Blobs(tmp_path)
    file = blobs.put(b"1").encode()
    digest = blobs.put(text % (file, file) if b"%" in text else text)
    with pytest.raises(CheckFailed, match="is no folder"):
        blobs.unpack(digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("put", [lambda path: path.symlink_to("/dev/zero"), os.mkfifo, os.mkdir])
def test_a_blob_is_a_regular_file(tmp_path: Path, put: Callable[[Path], object]) -> None:
    path = Blobs(tmp_path).path("0" * 64)
    path.parent.mkdir(parents=True)
    put(path)
    for read in (Blobs(tmp_path).get, Blobs(tmp_path).check):
        with pytest.raises(CheckFailed, match="expected a regular file"):
            read("0" * 64)


@pytest.mark.parametrize("paths", [("x", "x/y"), ("a/b/c", "a"), ("x/y", "x/.")])
def test_no_path_of_a_folder_is_a_file_and_a_folder(tmp_path: Path, paths: tuple[str, ...]) -> None:
    with pytest.raises(CheckFailed, match="is a file and the folder of another one"):
        Blobs(tmp_path).put_tree(dict.fromkeys(paths, b""))


def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TryAgain, match="No room left"):
        Blobs(tmp_path).put(b"hello")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_zeros_take_no_room_and_come_back(tmp_path: Path) -> None:
    blobs, page = Blobs(tmp_path), bytes(4096)
    data = b"a" + page * 300 + b"b" * 4096 + page * 300 + b"c" + page * 2
    path = blobs.path(digest := blobs.put(data))
    assert blobs.get(digest) == path.read_bytes() == data
    assert path.stat().st_blocks * 512 < len(data) / 10
    assert Blobs(tmp_path).get(blobs.put(page)) == page


def test_a_blob_that_was_freed_says_so_until_it_is_put_again(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    digest, other = blobs.put(b"a state"), blobs.put(b"another")
    blobs.free(digest)
    blobs.free(digest)
    assert blobs.freed(digest) and not blobs.freed(other) and not blobs.freed("0" * 64)
    with pytest.raises(NotFound, match=f"{digest} was freed by `evolog gc`"):
        Blobs(tmp_path).get(digest)
    assert blobs.put(b"a state") == digest and not blobs.freed(digest) and blobs.get(digest) == b"a state"
    blobs.path(digest).unlink()  # which is not the same as being freed
    with pytest.raises(NotFound, match="copy it there"):
        blobs.get(digest)
