"""The files that the streams stand in: room for them, whether they were closed in good order, and what a start on
damaged ones lost.
"""

import shutil
from pathlib import Path

from events.errors import TryAgain

FREE_AT_START = 200 * 10**6
"""Bytes that must be free to start."""
FREE_TO_GO_ON = 64 * 10**6
"""Bytes below which all is stopped in good order: a server that met a full disk answers no append again until it is
restarted.
"""


def store(directory: Path) -> Path:
    """Where the server keeps the streams, its configuration and its process id."""
    return directory / "nats"


def blobs_file(directory: Path) -> Path:
    """Says where the blobs of a directory stand, if not in the directory itself: `moving` into a stream, or there."""
    return store(directory) / "blobs"


def blobs_in(directory: Path) -> str:
    """Where the blobs of a directory stand: `directory`, `moving` or `stream`."""
    try:
        return blobs_file(directory).read_text()
    except FileNotFoundError:
        return "directory"


def back_end(directory: Path) -> str:
    """Where accounts are told that the blobs of a directory stand: `directory` or `stream`."""
    return "directory" if blobs_in(directory) == "directory" else "stream"


def pid_file(directory: Path) -> Path:
    """The server's process id; the file is there from a server's start until it has ended in good order."""
    return store(directory) / "server.pid"


def ended_well(directory: Path) -> bool:
    """Whether the last server wrote out the indexes of its streams: else the next one makes them anew, and cuts off
    what is damaged.
    """
    streams = {block.parent for block in _blocks(store(directory))}
    return not pid_file(directory).exists() and all((messages / "index.db").exists() for messages in streams)


def blocks(directory: Path, stream: str) -> list[Path]:
    """The files of a stream's messages, in the order in which they were begun."""
    found = store(directory).glob(f"jetstream/*/streams/{stream}/msgs/*.blk")
    return sorted(found, key=lambda block: (len(block.stem), block.stem))


def bytes_lost(before: Path, after: Path) -> dict[str, int]:
    """How many bytes a server's start has cut from the files of each stream: `before` is the store before the start,
    `after` behind it.

    A message whose writing was broken off at the end of a file does not count: it was never acknowledged.
    """
    lost: dict[str, int] = {}
    for block in _blocks(before):
        now = after / block.relative_to(before)
        size = now.stat().st_size if now.exists() else 0
        if size < block.stat().st_size:
            with block.open("rb") as file:
                file.seek(size)
                tail = file.read()
            if not _broken_off(tail):
                stream = block.parent.parent.name
                lost[stream] = lost.get(stream, 0) + len(tail)
    return lost


def _blocks(directory: Path) -> list[Path]:
    return sorted(directory.glob("jetstream/*/streams/*/msgs/*.blk"))


def _broken_off(tail: bytes) -> bool:
    # a record: its length (4 bytes, the highest bit for headers), its sequence (8), time, subject, data; so the next
    # sequence follows no record that was broken off, whatever a damaged length says
    length = int.from_bytes(tail[:4], "little") & 0x7FFFFFFF
    following = (int.from_bytes(tail[4:12], "little") + 1).to_bytes(9, "little")[:8]
    return not any(tail) or (length > len(tail) and following not in tail[12:])


def require_room(directory: Path, needed: int) -> None:
    """Raise `TryAgain`, with the figures, if the disk that holds the directory has less than `needed` bytes free."""
    free = free_bytes(directory)
    if free < needed:
        raise TryAgain(
            f"Only {free / 1e6:.0f} MB are free on the disk that holds {directory}, evolog needs {needed / 1e6:.0f} "
            "MB: "
            "free some space and start again; what is in the log is safe."
        )


def free_bytes(directory: Path) -> int:
    """Bytes that are free on the directory's disk."""
    return shutil.disk_usage(directory).free
