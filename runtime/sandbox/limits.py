"""The limits of a sandbox over all its processes, and what enforces them: a control group that was delegated, or else a
watchdog.

The kernel enforces each process's rlimits and the size of the work directory, at once and exactly. Sums over processes
(memory, processor time, files) are enforced by a control group at once, or by the watchdog within about a tenth of a
second.
"""

import contextlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

POLL_SECONDS = 0.1
"""Seconds between two checks of the watchdog."""
CGROUP = "EVOLOG_CGROUP"
"""An environment variable: the directory of a control group that sandboxes' own are made under.

Without it, one that systemd delegated.
"""
_TICK, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


class ResourceLimits(NamedTuple):
    """Bytes, seconds and counts.

    `memory` holds for all processes and files in memory together, and for each process's address space where
    `address_space` says so: CUDA reserves more of that than any host has memory.
    """

    memory: int = 8 * 1024**3
    cpu_seconds: int = 3600
    wall_seconds: float | None = None
    processes: int = 512
    open_files: int = 1024
    file_size: int = 256 * 1024**2
    work_size: int = 512 * 1024**2
    files: int = 20_000
    address_space: bool = True


def rlimits(limits: ResourceLimits, processes: bool) -> list[str]:
    """The beginning of a command line that sets the rlimits of the command after it.

    `processes` says whether the kernel counts processes for the sandbox alone, so that their number can be limited.
    """
    options = {
        **({"as": limits.memory} if limits.address_space else {}),
        "cpu": limits.cpu_seconds,
        "fsize": limits.file_size,
        "nofile": limits.open_files,
        "core": 0,
        **({"nproc": limits.processes} if processes else {}),
    }
    return ["prlimit", *(f"--{name}={value}:{value}" for name, value in options.items())]


def tree(root: int) -> list[int]:
    """The ids of a process and all its descendants, the process first."""
    processes = [root]
    for process in processes:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{process}/task"):
                processes += map(int, _text(f"/proc/{process}/task/{thread}/children").split())
    return processes


def is_first(process: int) -> bool:
    """Whether a process is the first of a process namespace below this one; raises FileNotFoundError where it has
    ended.
    """
    numbers = _text(f"/proc/{process}/status").partition("NSpid:")[2].partition("\n")[0].split()
    return len(numbers) > 1 and numbers[-1] == "1"


def counts_children() -> bool:
    """Whether the kernel lists the children of processes in /proc."""
    return os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children")


class Watchdog:
    """Checks all processes of a sandbox in a thread of its own until `stop`.

    Calls `kill` with a sentence once a limit is passed, and with none once the launcher has ended: what it started must
    have ended too.
    """

    def __init__(
        self, root: int, limits: ResourceLimits, mounts: Sequence[str], folder: Path | None, kill: Callable[[str], None]
    ) -> None:
        self._root, self._limits, self._mounts, self._folder, self._kill = root, limits, mounts, folder, kill
        self._spent: dict[int, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _watch(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(POLL_SECONDS):
            try:
                passed = self._passed(time.monotonic() - began)
                ended = _stat(f"/proc/{self._root}")[0] == "Z"
            except (FileNotFoundError, ProcessLookupError):
                passed, ended = "", True
            except Exception as wrong:  # what cannot be watched does not run on
                passed, ended = f"its limits could not be watched: {wrong!r}", False
            if passed or ended:
                return self._kill(passed)

    def _passed(self, seconds: float) -> str:
        limits, processes = self._limits, tree(self._root)
        used, files = _used(
            [f"/proc/{first}/root{mount}" for first in processes[1:2] if _apart(first) for mount in self._mounts],
            self._folder,
            processes,
        )
        in_memory = 0 if self._folder else used
        resident: dict[str, int] = {}
        for process in processes:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = _stat(f"/proc/{process}")
                self._spent[process] = (
                    sum(map(int, fields[11:15])) / _TICK
                )  # its own, and its children's that have ended
                process_folder, size = _resident(f"/proc/{process}", fields)
                resident[process_folder] = size
        if (
            sum(resident.values()) + in_memory > limits.memory
            and (took := _proportional(resident, in_memory)) > limits.memory
        ):
            return f"its processes and files in memory took {_mib(took)} MiB together, at most {_mib(limits.memory)}"
        if (spent := sum(self._spent.values())) > limits.cpu_seconds:
            return f"its processes took {spent:.0f} s of processor time together, at most {limits.cpu_seconds}"
        if len(processes) > limits.processes:
            return f"it ran {len(processes)} processes, at most {limits.processes}"
        if files > limits.files:
            return f"it made {files} files, at most {limits.files}"
        if used > limits.work_size + limits.file_size:
            return f"its files took {_mib(used)} MiB, at most {_mib(limits.work_size)}"
        if limits.wall_seconds is not None and seconds > limits.wall_seconds:
            return f"it ran for {seconds:.1f} s, at most {limits.wall_seconds:g}"
        return ""


def _apart(process: int) -> bool:
    """Whether the sandbox's first process has the sandbox's root already, and not the host's."""
    with contextlib.suppress(OSError):
        return not os.path.samestat(os.stat(f"/proc/{process}/root"), os.stat("/"))
    return False


def _stat(process_folder: str) -> list[str]:
    """The fields of proc_pid_stat(5) after the name, which may hold anything."""
    return _text(f"{process_folder}/stat").rpartition(")")[2].split()


def _resident(process: str, fields: Sequence[str]) -> tuple[str, int]:
    """The folder in /proc that shows a process's memory, and its resident bytes.

    It is the process's own, or, where its first thread has ended before the others, that of one of these.
    """
    sizes = {process: int(fields[21]) * _PAGE}
    if fields[0] == "Z":
        for thread in os.listdir(f"{process}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                sizes[f"{process}/task/{thread}"] = int(_stat(f"{process}/task/{thread}")[21]) * _PAGE
    return max(sizes.items(), key=lambda item: item[1])


def _proportional(resident: Mapping[str, int], in_memory: int) -> int:
    """Bytes of memory of all processes, shared pages counted once.

    Where a process's maps cannot be read, its resident bytes count.
    """
    private = shared = 0
    for process_folder, size in resident.items():
        try:
            rows = dict(line.split(":") for line in _text(f"{process_folder}/smaps_rollup").splitlines()[1:])
            own, common = (int(rows[name].split()[0]) * 1024 for name in ("Pss_Anon", "Pss_Shmem"))
        except ProcessLookupError:
            continue  # it has ended
        except (OSError, KeyError):
            own, common = size if os.path.exists(process_folder) else 0, 0
        private, shared = private + own, shared + common
    return private + max(shared, in_memory)


def _used(mounts: Sequence[str], folder: Path | None, processes: Sequence[int]) -> tuple[int, int]:
    """Bytes and files in the sandbox's own mounts, or else in its folder on the host, deleted ones that are still open
    among them.
    """
    used = files = 0
    for mount in mounts:
        with contextlib.suppress(OSError):
            state = os.statvfs(mount)
            used += (state.f_blocks - state.f_bfree) * state.f_frsize
            files += state.f_files - state.f_ffree
    for entry in _entries(folder) if folder else ():
        with contextlib.suppress(OSError):
            used += entry.stat(follow_symlinks=False).st_blocks * 512
            files += 1
    deleted = _deleted(processes) if folder else {}
    return used + sum(deleted.values()), files + len(deleted)


def _deleted(processes: Sequence[int]) -> dict[tuple[int, int], int]:
    """The bytes on the disk of each file that has no name any more and that a process holds open.

    Raises PermissionError where a process hides what it holds.
    """
    sizes = {}
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in os.listdir(f"/proc/{process}/task"):  # each may have descriptors of its own
                sizes.update(_held_deleted(f"/proc/{process}/task/{thread}"))
    return sizes


def _held_deleted(thread: str) -> dict[tuple[int, int], int]:
    """The same of one thread, by its folder in /proc; none of one that ends meanwhile, which has no memory any more."""
    sizes = {}
    try:
        for name in os.listdir(f"{thread}/fd"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                held = os.stat(f"{thread}/fd/{name}")
                if stat.S_ISREG(held.st_mode) and not held.st_nlink:
                    sizes[held.st_dev, held.st_ino] = held.st_blocks * 512
    except PermissionError:
        if int(_stat(thread)[20]):
            raise
    return sizes


def _entries(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path)


def _text(path: str) -> str:
    with open(path, errors="replace") as file:  # a process names itself as it likes
        return file.read()


def _mib(size: int) -> int:
    return round(size / 1024**2)


def delegated(environment: Mapping[str, str] = os.environ) -> tuple[str, Path] | None:
    """The version and directory of a control group under which this process may make others that limit memory and
    processes, if any.
    """
    named = environment.get(CGROUP)
    for folder in [Path(named)] if named else _own_groups():
        if os.access(folder, os.W_OK):
            if (folder / "memory.limit_in_bytes").exists():
                return "cgroup v1", folder
            with contextlib.suppress(OSError):
                if {"memory", "pids"} <= set((folder / "cgroup.subtree_control").read_text().split()):
                    return "cgroup v2", folder
    return None


def _own_groups() -> Iterator[Path]:
    """The groups of version 2 that this process is in and that systemd marked as delegated, the innermost first."""
    with contextlib.suppress(OSError):
        root = Path("/sys/fs/cgroup")
        own = next(
            (line[3:].strip() for line in _text("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/"
        ).strip("/")
        for folder in (root / own, *(root / own).parents):
            if folder == root.parent:
                return
            with contextlib.suppress(OSError):
                if b"1" in (
                    os.getxattr(folder, "user.delegate") if os.geteuid() else os.getxattr(folder, "trusted.delegate")
                ):
                    yield folder


class Group:
    """A control group for one sandbox, with its limits. Raises OSError where it cannot be made."""

    def __init__(self, version: str, parent: Path, name: str, limits: ResourceLimits) -> None:
        self.folder = parent / name
        self.folder.mkdir()
        if version == "cgroup v1":
            settings = {"memory.limit_in_bytes": limits.memory, "memory.memsw.limit_in_bytes": limits.memory}
        else:
            settings = {
                "memory.max": limits.memory,
                "memory.swap.max": 0,
                "memory.oom.group": 1,
                "pids.max": limits.processes,
            }
        for name, value in settings.items():
            with contextlib.suppress(FileNotFoundError):  # a kernel that does not account for swap
                (self.folder / name).write_text(str(value))

    def take(self, processes: Sequence[int]) -> None:
        """Move processes into the group; processes that they start later are in it too."""
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                (self.folder / "cgroup.procs").write_text(str(process))

    def ran_out(self) -> bool:
        """Whether the kernel has killed one of its processes for want of memory."""
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                rows = dict(line.split() for line in (self.folder / name).read_text().splitlines())
                return int(rows.get("oom_kill", "0")) > 0
        return False

    def remove(self) -> None:
        """Remove the group, once its last process is reaped."""
        for _ in range(50):
            try:
                return self.folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.02)
