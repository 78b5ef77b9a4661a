"""Files in which what was computed is kept: one that is damaged, of another shape or not there holds nothing."""

import hashlib
from pathlib import Path
from typing import TypeVar

import msgspec

from runtime.broker.credentials import write_private

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
PACKAGES = ("events", "algorithms", "tasks", "runtime", "replay", "services")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str
    """Of the bytes of `kept`."""
    kept: msgspec.Raw


def code_files() -> list[Path]:
    """The files of the code that what is kept may depend on; they stand under `ROOT`."""
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def read_block(path: Path, size: int, place: bytes) -> tuple[str, bool]:
    """The SHA-256 of the first so many bytes of a stream's file, and whether `place` stands behind them."""
    data = path.read_bytes()
    return hashlib.sha256(memoryview(data)[:size]).hexdigest(), place in data[size:]


def read_kept(path: Path, kind: type[T]) -> T | None:
    """What is kept in a file; None where that is nothing of this kind."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        if hashlib.sha256(file.kept).hexdigest() != file.sha256:
            return None
        return msgspec.json.decode(file.kept, type=kind)
    except (OSError, ValueError, RecursionError):  # what msgspec and UTF-8 raise are ValueErrors
        return None


def write_kept(path: Path, value: object) -> None:
    """Keep a value; nothing where there is no room, or where it would not be read as it is."""
    try:
        data = msgspec.json.encode(value)
        if msgspec.json.encode(msgspec.json.decode(data, type=type(value))) != data:
            return
        path.parent.mkdir(mode=0o700, exist_ok=True)
        file = _File(hashlib.sha256(data).hexdigest(), msgspec.Raw(data))
        write_private(path, msgspec.json.encode(file).decode())
    except (OSError, ValueError):
        return
