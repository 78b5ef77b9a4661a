"""Opens files that somebody else may have made: regular files alone, so that reading one neither waits, nor never ends,
nor leads elsewhere.
"""

import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from events.errors import CheckFailed

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read it as bytes. Raises `CheckFailed` for anything else, before it is opened."""
    _require_regular(path, os.lstat(path))
    file = os.fdopen(os.open(path, _FLAGS), "rb")
    try:
        _require_regular(path, os.fstat(file.fileno()))  # another may have taken its place
    except CheckFailed:
        file.close()
        raise
    return file


def regular_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Each file under a folder, with its status; of hidden folders too, in no order, and none is opened.

    Raises `CheckFailed` at the first thing that is neither a regular file nor a folder, such as a link.
    """
    folders = [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                else:
                    status = entry.stat(follow_symlinks=False)
                    _require_regular(path, status)
                    yield path, status


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise CheckFailed(
            f"{path} is {kind.get(stat.S_IFMT(status.st_mode), 'a device')}; expected a regular file: put it there as "
            "it was written."
        )
