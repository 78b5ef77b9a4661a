"""A directory of files named by the SHA-256 of their bytes: written before the event that names them, checked when
read.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import msgspec

from events.errors import CheckFailed, NotFound, NotHere, disk_is_full, no_room
from runtime.blobs.files import open_regular

HOLE = 4096
"""Bytes of a block that becomes a hole where it holds zeros alone: a page of most file systems."""
_ZEROS = memoryview(bytes(HOLE))
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class Tree(msgspec.Struct, frozen=True):
    """A folder as a blob: the digest of each file by its path, with forward slashes."""

    files: dict[str, str]


class Blobs:
    """A directory of blobs; what stands in streams is reached by the same calls (`runtime.blobs.stream.StreamBlobs`).

    Two writers of one blob write the same bytes, and the rename makes the file appear whole.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._unpacked: set[Path] = set()

    def put(self, data: bytes) -> str:
        """Store the bytes and return their digest; they are on disk, synced, before this returns.

        Raises `TryAgain` without room for them.
        """
        digest = hashlib.sha256(data).hexdigest()
        target = self.path(digest)
        if target.exists():
            return digest
        with self._new_file(digest) as file:
            write_sparse(file, data)
            file.flush()
            os.fsync(file.fileno())
        _sync_directory(target.parent)
        self._mark(digest).unlink(missing_ok=True)
        return digest

    @contextlib.contextmanager
    def _new_file(self, digest: str) -> Iterator[BinaryIO]:
        """The file of a digest, to be written; it appears whole, and not at all where writing it raises."""
        target = self.path(digest)
        with _room_in(self.root):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=target.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    yield file
                os.replace(temporary, target)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise

    def get(self, digest: str) -> bytes:
        """The bytes of that digest; raises `NotHere` if there are none and `CheckFailed` if they are damaged."""
        with self._open(digest) as file:
            data = file.read()
        self._require(digest, hashlib.sha256(data).hexdigest())
        return data

    def check(self, digest: str) -> None:
        """Read the bytes of that digest, whatever their number, in little memory; raises as `get`."""
        with self._open(digest) as file:
            self._require(digest, hashlib.file_digest(file, "sha256").hexdigest())

    def _open(self, digest: str) -> BufferedReader:
        try:
            return open_regular(self.path(digest))
        except FileNotFoundError as wrong:
            if self.freed(digest):
                raise NotFound(
                    f"Blob {digest} was freed by `evolog gc`, or left out of an export as it holds private prompts; a "
                    "backup from before that, or the directory that the run was made in, has it."
                ) from wrong
            raise NotHere(
                f"Blob {digest} is not in {self.root}; copy it there from the host or the backup that has it."
            ) from wrong

    def _require(self, digest: str, actual: str) -> None:
        if actual != digest:
            raise CheckFailed(
                f"Blob {digest} in {self.root} is damaged: its bytes hash to {actual}. Restore {self.path(digest)} "
                "from a backup."
            )

    def put_tree(self, files: Mapping[str, bytes]) -> str:
        """Store a folder, given as bytes by relative path; returns its digest."""
        _check_paths(files)
        return self.put(
            msgspec.json.encode(
                Tree({path: self.put(data) for path, data in sorted(files.items())}), order="deterministic"
            )
        )

    def put_folder(self, folder: Path) -> str:
        """Store all files below a folder; returns its digest."""
        return self.put_tree(
            {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        )

    def get_tree(self, digest: str) -> dict[str, bytes]:
        """The files of a folder, as bytes by relative path."""
        members = self.members(digest)
        contents = {file_digest: self.get(file_digest) for file_digest in set(members.values())}
        return {path: contents[file_digest] for path, file_digest in members.items()}

    def members(self, digest: str) -> dict[str, str]:
        """The digest of each file of a folder by its relative path."""
        data = self.get(digest)
        try:
            tree = msgspec.json.decode(data, type=Tree)
            _check_paths(tree.files)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, CheckFailed) as wrong:
            raise CheckFailed(f"Blob {digest} in {self.root} is no folder: {str(wrong).removesuffix('.')}.") from wrong
        return tree.files

    def unpack(self, digest: str, target: Path) -> Path:
        """Write a folder out at `target`, which appears whole; raises as `get` and `put` do.

        What this process has not written itself is compared first, and written anew if it differs.
        """
        if target in self._unpacked and target.exists():
            return target
        if target.exists():
            if _digests(target) == self.members(digest):
                self._unpacked.add(target)
                return target
            shutil.rmtree(target)
        with _room_in(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=target.parent))
            try:
                for path, data in self.get_tree(digest).items():
                    (temporary / path).parent.mkdir(parents=True, exist_ok=True)
                    (temporary / path).write_bytes(data)
                temporary.chmod(0o755)
                temporary.rename(target)
            except BaseException as wrong:
                shutil.rmtree(temporary)
                if not (isinstance(wrong, OSError) and target.exists()):  # else another process was first
                    raise
        self._unpacked.add(target)
        return target

    def free(self, digest: str) -> None:
        """Delete a blob for good; that it was freed is on disk, synced, before it is gone. Freeing it again does no
        harm.
        """
        mark = self._mark(digest)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        _sync_directory(mark.parent)
        self.path(digest).unlink(missing_ok=True)

    def freed(self, digest: str) -> bool:
        """Whether a blob that is not here was freed, and is not lost."""
        return self._mark(digest).exists() and not self.path(digest).exists()

    def _mark(self, digest: str) -> Path:
        return self.root / "freed" / self.path(digest).name

    def files(self) -> Iterator[Path]:
        """The files of all blobs in the directory, in no order."""
        for path in (self.root / "sha256").rglob("*"):
            if _DIGEST.match(path.name):
                yield path

    def path(self, digest: str) -> Path:
        """The path of that digest's file, which need not exist."""
        if not _DIGEST.match(digest):
            raise CheckFailed(f"{digest!r} names no blob; expected the 64 hexadecimal digits of a SHA-256.")
        return self.root / "sha256" / digest[:2] / digest


@contextlib.contextmanager
def _room_in(folder: Path) -> Iterator[None]:
    """Raise `TryAgain` where the disk of a folder is full."""
    try:
        yield
    except OSError as wrong:
        if disk_is_full(wrong):
            raise no_room(str(folder)) from wrong
        raise


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _check_paths(paths: Collection[str]) -> None:
    """Raise `CheckFailed` unless a folder can hold files at all of these paths, and none leads out of it."""
    for path in paths:
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts or "\\" in path or "\0" in path:
            raise CheckFailed(f"{path!r} is no path inside a folder; a scaffold or adapter holds relative paths only.")
    folders = {folder for path in paths for folder in PurePosixPath(path).parents}
    if both := [path for path in paths if PurePosixPath(path) in folders]:
        raise CheckFailed(f"{both[0]!r} is a file and the folder of another one; expected one of both.")


def write_sparse(file: BinaryIO, data: bytes, at: int = 0) -> None:
    """Write the bytes at a file's end, which is `at`, with holes for blocks of zeros, which take no room on the disk:
    most of an optimiser's state.
    """
    view = memoryview(data)
    for start in range(0, len(data), HOLE):
        block = view[start : start + HOLE]
        if block != _ZEROS[: len(block)]:
            file.seek(at + start)
            file.write(block)
    file.truncate(at + len(data))


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
