"""Starts a scaffold's process, or another command, in a sandbox of one of the profiles, and enforces its limits until
it has ended.
"""

import contextlib
import itertools
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import IO, Literal, NamedTuple

from events.errors import HostUnfit, TryAgain
from runtime.sandbox import bwrap, descriptors, landlock, seccomp
from runtime.sandbox.limits import CGROUP, Group, ResourceLimits, Watchdog, delegated, is_first, rlimits, tree

Kind = Literal["bwrap", "landlock", "none"]
UIDS = 1_900_000_000
"""The first of the accounts that root's sandboxes run under, each one of its own.

By systemd's list of uids they belong to nobody.
"""
_MADE = {"bwrap": b'"exit-code"', "landlock": b"made"}
"""What a profile's launcher writes to its status pipe where the sandbox could be made, whatever then came of the
command.
"""
_KILL_PATIENCE = 5.0
CHUNK = 65536
_numbers = itertools.count(secrets.randbelow(4096))
"""From anywhere on: an account must not tell how many sandboxes its service has made."""


class Command(NamedTuple):
    """A command to start. `binds` are read-only files and folders by their path inside; `work` is a folder of the host
    to write in.

    bubblewrap does not use `work`: its work directory is in memory.
    """

    argv: Sequence[str]
    binds: Mapping[str, Path]
    environment: Mapping[str, str]
    work: Path
    limits: ResourceLimits = ResourceLimits()
    pass_fds: tuple[int, ...] = ()
    devices: Sequence[str] = ()
    """Device files that bubblewrap shows besides its usual ones: `cuda.py`."""


def seen_at(kind: Kind, inside: str, source: Path) -> str:
    """The path at which a bound file is seen inside the sandbox: only bubblewrap can give it another than
    the host's.
    """
    return inside if kind == "bwrap" else str(source)


class Confined:
    """A command that runs in a sandbox; it dies with the thread that started it.

    `violation` is the sentence of the limit that it was stopped at, and empty otherwise. Raises HostUnfit where the
    launcher is not there, or no control group can be made though one is delegated, and TryAgain where no process can be
    started now.
    """

    def __init__(self, kind: Kind, command: Command) -> None:
        self.violation = ""
        self._group: Group | None = None
        self._lock = threading.Lock()
        self._kind = kind
        self._killed = self._over = False
        self._reported = b""
        group = delegated() if kind == "bwrap" else None
        with contextlib.ExitStack() as resources:
            gate = resources.enter_context(_pipe()) if group else None
            status, report = resources.enter_context(_pipe())
            argv, environment, fds = _prepare(kind, command, resources, report, gate[0] if gate else None)
            folder = command.work if kind != "bwrap" else Path("/")
            self._process = _started(argv, environment, folder, (*fds, *command.pass_fds))
            self._status = os.fdopen(os.dup(status), "rb", buffering=0)
            os.set_blocking(self._status.fileno(), False)
            if group and gate:
                try:
                    self._group = Group(*group, f"evolog-{self._process.pid}", command.limits)
                    self._group.take([self._process.pid])  # first, so that whatever it starts from here on is in it
                    self._group.take(tree(self._process.pid)[1:])
                    os.write(gate[1], b"1")
                except OSError as wrong:
                    self.kill()
                    self._status.close()
                    raise HostUnfit(
                        f"No control group can be made in {group[1]} ({wrong}): correct {CGROUP}, or unset it."
                    ) from wrong
        stdout, stderr = self._process.stdout, self._process.stderr
        assert self._process.stdin and isinstance(stdout, BufferedReader) and isinstance(stderr, BufferedReader)
        self.stdin: IO[bytes] = self._process.stdin
        self.stdout, self.stderr = stdout, stderr
        self.pid = self._process.pid
        self._watchdog: Watchdog | None = None
        if kind != "none":
            mounts = (bwrap.WORK, bwrap.SHARED) if kind == "bwrap" else ()
            work = command.work if kind == "landlock" else None
            self._watchdog = Watchdog(self.pid, command.limits, mounts, work, self._stop_for)

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        return self._translated(self._process.poll())

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code; raises subprocess.TimeoutExpired after `timeout` seconds."""
        code = self._translated(self._process.wait(timeout))
        assert code is not None
        if self._group and not self.violation and self._group.ran_out():
            self.violation = "its processes took more memory together than their control group allows"
        return code

    def failure(self) -> str:
        """Once it has ended: what became of the sandbox itself, by no doing of the command's or ours; empty where that
        stood to the end.
        """
        code = self._process.poll()
        if code is None or self._killed or self._kind == "none" or (self._group and self._group.ran_out()):
            return ""
        if code < 0:
            return f"a sandbox was killed from outside, by {signal.Signals(-code).name}"
        with self._lock:
            made = _MADE[self._kind] in self._report()
        return "" if made else "a sandbox could not be made"

    def kill(self) -> None:
        """Kill it and all that it started, and return when they have ended."""
        with self._lock:
            if self._process.poll() is None:
                self._killed = True
                self._kill()
            if self._kind == "bwrap" and not self._over:
                self._end_first()
                self._over = True  # later its number may be another's
        if self._kind == "none":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # what it left in its group

    def communicate(self, timeout: float) -> tuple[bytes, bytes]:
        """Wait for the end, and return standard output and error; raises subprocess.TimeoutExpired after `timeout`
        seconds.
        """
        return self._process.communicate(timeout=timeout)

    def close(self) -> None:
        """Kill it, and remove its control group."""
        self.kill()
        self._process.wait()
        if self._watchdog:
            self._watchdog.stop()
        if self._group:
            self._group.remove()
        self._status.close()

    def _kill(self) -> None:
        root = self._process.pid
        if self._kind == "bwrap":
            self._process.send_signal(signal.SIGSTOP)  # so that it starts nothing while its children are listed
            if first := tree(root)[1:2]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(first[0], signal.SIGKILL)  # with it the kernel ends its whole process namespace
                self._process.send_signal(signal.SIGCONT)
                self._ends()
        elif self._kind == "landlock":
            self._process.send_signal(signal.SIGTERM)  # landlock.py's script kills all its descendants
            self._ends()
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(root, signal.SIGKILL)
        self._process.wait()

    def _end_first(self) -> None:
        """Kill the sandbox's first process where it outlives its launcher.

        It is of the account of an ordinary user's scaffold, which can write its memory, and have it end the launcher.
        """
        if first := re.search(rb'"child-pid": (\d+)', self._report()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if is_first(int(first[1])):
                    os.kill(int(first[1]), signal.SIGKILL)

    def _report(self) -> bytes:
        if not self._status.closed:
            self._reported += self._status.read(CHUNK) or b""
        return self._reported

    def _ends(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_PATIENCE)

    def _stop_for(self, violation: str) -> None:
        self.violation = violation or self.violation
        self.kill()

    def _translated(self, code: int | None) -> int | None:
        return 128 - code if code is not None and 128 < code <= 192 and self._kind != "none" else code


def _started(
    argv: Sequence[str], environment: Mapping[str, str], folder: Path, fds: Sequence[int]
) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            argv,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd=folder,
            env=environment,
            pass_fds=fds,
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError) as wrong:
        raise HostUnfit(
            f"Scaffolds cannot be started: {wrong.filename} is not there any more ({wrong.strerror}); put it back."
        ) from wrong
    except OSError as wrong:
        raise TryAgain(f"No sandbox can be started now ({wrong.strerror}); it is tried again.") from wrong


def _prepare(
    kind: Kind, command: Command, resources: contextlib.ExitStack, report: int, gate: int | None
) -> tuple[list[str], dict[str, str], list[int]]:
    """The whole command line, its environment, and the file descriptors that it needs, which `resources` closes."""
    limits, uid = command.limits, UIDS + next(_numbers) % 4096 * 4096 + secrets.randbelow(4096)
    if kind == "none":
        return [*rlimits(limits, processes=False), *command.argv], {**command.environment}, []
    code = seccomp.program() if kind == "bwrap" else seccomp.landlock_program()
    filter_fd = resources.enter_context(_file(code))
    if kind == "landlock":
        readable = [*command.binds.values(), *bwrap.visible()[0]]
        order = landlock.order(readable, command.work, filter_fd, report, uid if os.geteuid() == 0 else 0)
        argv = [sys.executable, "-IS", landlock.__file__, order, *rlimits(limits, os.geteuid() == 0), *command.argv]
        return argv, {**bwrap.ENVIRONMENT, "TMPDIR": str(command.work), **command.environment}, [filter_fd, report]
    options = [*bwrap.options(command.binds, command.environment, limits, command.devices), "--seccomp", str(filter_fd)]
    options += ["--json-status-fd", str(report)]
    if gate is not None:
        options += ["--block-fd", str(gate)]
    words = resources.enter_context(_file(b"".join(os.fsencode(word) + b"\0" for word in options)))
    argv = [
        bwrap.program(),
        "--args",
        str(words),
        "--",
        *rlimits(limits, _counted_apart()),
        *bwrap.dropped(uid),
        *command.argv,
    ]
    return argv, {}, [filter_fd, words, report, *([] if gate is None else [gate])]


def _counted_apart() -> bool:
    """Whether the kernel counts an account's processes for each user namespace (5.14), or the account is the sandbox's
    own.
    """
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    return os.geteuid() == 0 or release >= (5, 14)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = descriptors.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@contextlib.contextmanager
def _file(content: bytes) -> Iterator[int]:
    fd = descriptors.renumbered(os.memfd_create("evolog"))
    try:
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)
