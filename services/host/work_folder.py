"""The folders that service processes work in: each has its own, locked while it lives, and gone when it ends.

What a killed process left is removed at the next start of anything that asks for a folder.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A new folder under `parent` that is this process's own, until the end of the context.

    Its name does not say whose: a sandbox lists where the files that it shows come from.
    """
    with _locked(parent):
        _remove_left_over(parent)
        folder = Path(tempfile.mkdtemp(dir=parent))
        folder.chmod(0o755)  # what lies in it is for sandboxes of another user too
        handle = _lock(folder)
        assert handle is not None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a thread that still writes may leave something to the next start
        os.close(handle)


def remove_left_over(parent: Path) -> None:
    """Remove what no living process works in."""
    with _locked(parent):
        _remove_left_over(parent)


@contextlib.contextmanager
def _locked(parent: Path) -> Iterator[None]:
    # else a folder could be taken for left over before its process has locked it
    parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_left_over(parent: Path) -> None:
    for path in parent.iterdir():
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif (handle := _lock(path)) is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)


def _lock(folder: Path) -> int | None:
    """The descriptor that holds the folder's lock; None where another process holds it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
