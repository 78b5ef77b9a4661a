"""One query in a process of its own: forked for it, held to its memory, and killed when its time is over.

DuckDB's own limits leave out what a function allocates for its values, and a function that works on one value cannot be
interrupted. So the kernel holds the process. It sees an open database as it was when it was forked.
"""

import contextlib
import os
import resource
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from events.errors import UserError
from runtime.broker.children import die_with_parent

_AT_ONCE = 1 << 20
"""Bytes that are read from a process at once."""


class QueryLimits(NamedTuple):
    """What one query may use."""

    seconds: float
    """From its beginning to the sending of its last row."""
    memory: int = 1 << 30
    """Bytes beyond what the process held that is forked."""
    disk: int = 4 << 30
    """Bytes of temporary files, beside a database that is a file."""
    answer: int = 256 << 20
    """Bytes of the answer."""

    def too_much_memory(self) -> UserError:
        """What a query is told that needs more than `memory`."""
        return UserError(
            f"The query needs more than {self.memory >> 20} MiB of memory: narrow it, or ask for fewer rows."
        )


class QueryProcess:
    """The process of one query over the database at `path`; it writes the lines that `answer` gives.

    It is forked at once: nothing else may work on an open database meanwhile. End it with `close`.
    """

    def __init__(self, answer: Callable[[], Iterable[bytes]], path: Path, limits: QueryLimits) -> None:
        self._path, self._limits, self._end = path, limits, time.monotonic() + limits.seconds
        end_with_parent = die_with_parent()
        self._output, output = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            code = 1
            try:
                if end_with_parent:
                    end_with_parent()
                _confine(path, output, limits)
                for line in answer():
                    _write(output, line)
                code = 0
            finally:
                os._exit(code)
        os.close(output)

    def lines(self) -> Iterator[bytes]:
        """The lines as they come.

        Raises `UserError` where the time is over, with code 124, and where the process came to an end of its own.
        """
        text = bytearray()
        while data := self._read():
            start = len(text)
            text += data
            while (end := text.find(b"\n", start) + 1) > 0:
                yield bytes(text[:end])
                del text[:end]
                start = 0
        if code := os.waitstatus_to_exitcode(self._wait()):
            raise UserError(
                f"The query ended its process ({signal.Signals(-code).name if code < 0 else f'exit code {code}'}), by "
                f"more than {self._limits.memory >> 20} MiB of memory or by a fault of DuckDB: narrow it, or ask "
                "otherwise."
            )

    def close(self) -> None:
        """Kill the process where it still works, and remove its temporary files."""
        os.close(self._output)
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self._wait()

    def _read(self) -> bytes:
        ready = select.poll()
        ready.register(self._output)
        if not ready.poll(max(0.0, self._end - time.monotonic()) * 1000) or time.monotonic() > self._end:
            raise UserError(
                f"The query was stopped after {self._limits.seconds:g} s: narrow it, or ask for fewer rows.", code=124
            )
        return os.read(self._output, _AT_ONCE)

    def _wait(self) -> int:
        pid, self._pid = self._pid, 0
        _, status = os.waitpid(pid, 0)
        shutil.rmtree(spill_folder(self._path, pid), ignore_errors=True)
        return status


def spill_folder(path: Path, pid: int) -> Path:
    """The folder of the temporary files of one query's process."""
    return path.with_name(f"{path.name}.tmp.{pid}")


def _confine(path: Path, output: int, limits: QueryLimits) -> None:
    """Give up what a query needs not: signal handlers, open files, memory. The database's files are read-only then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and kills
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    database = {os.path.realpath(path) + end for end in ("", ".wal")}
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{number}")
            if target in database:
                os.dup2(os.open(target, os.O_RDONLY), number)
            elif number not in (output, nothing):
                os.dup2(nothing, number)
    for limit, value in (
        (resource.RLIMIT_DATA, _data_bytes() + limits.memory),
        (resource.RLIMIT_FSIZE, limits.disk),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def _data_bytes() -> int:
    """The private writable memory of this process, as RLIMIT_DATA counts it."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


def _write(output: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(output, rest) :]
