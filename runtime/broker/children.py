"""Child processes: a free port, ending with their parent, ending a whole process group, the last line of a log."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from events.errors import TryAgain

_PR_SET_PDEATHSIG = 1


def free_port(usual: int = 0) -> int:
    """The usual port if nothing listens there, else one that the system picks."""
    for port in (usual, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise TryAgain("The system has no free port on 127.0.0.1: close some programs and start again.")


def reserve_port() -> socket.socket:
    """A socket that keeps a free port of 127.0.0.1 from being given to anybody by the system.

    A child that sets SO_REUSEADDR can listen on the port all the same, whenever it likes.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def die_with_parent() -> Callable[[], None] | None:
    """The `preexec_fn` of a child that is to end even if this process is killed by SIGKILL; None where only Linux could
    do it.
    """
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def in_child() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # the parent died before the call

    return in_child


async def end(process: asyncio.subprocess.Process, grace: float = 5.0) -> int:
    """End a process group: SIGTERM, then SIGKILL for what is left when the leader has ended or `grace` seconds are
    over; the exit code.
    """
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        # not `wait_for`, which swallows a cancellation that comes as the process ends (Python 3.11)
        async with asyncio.timeout(grace):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    return await process.wait()


def last_line(log: Path, start: int = 0) -> str:
    """The last line with something on it that a log holds from a byte on."""
    with log.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - 8192))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
