"""The fallback profile, for containers that forbid namespaces: Landlock and seccomp. Run as a script; imports nothing
of evolog.

The script stays as the parent of all that the command starts: orphans become its children. When the command ends, the
launcher ends, or SIGTERM comes, it kills what is left. What this profile lacks that bubblewrap has: processes see the
host's process ids and clock, though they cannot signal or trace processes outside; `stat` shows that unreadable paths
exist; sockets in files are protected by their permissions alone; the work folder lies on the host's disk, and its size
is checked by the watchdog and not enforced.
"""

import ctypes
import json
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

OLDEST = 6
"""The first ABI (Linux 6.12) that keeps signals and abstract sockets inside."""
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_FILES, _NET, _SCOPES = 0xFFFF, 0x3, 0x3
"""All rights of ABI 5 to 7: of files and folders; to bind and connect TCP; abstract sockets and signals."""
_READ, _FILE_ONLY = 0b1101, 0xC007
_WRITE = 0xFFFF & ~(1 << 6 | 1 << 11 | 1 << 15)
"""Everything but making device nodes, and ioctl on devices."""
_DEVICES = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/full")
"""Not /dev/zero, which gives memory that no process shows."""
_NO_NEW_PRIVS, _SECCOMP, _SUBREAPER, _DEATH_SIGNAL = 38, 22, 36, 1

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Landlock's ABI, or 0 where the kernel has none."""
    return max(0, int(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1)))


def order(
    readable: "Sequence[os.PathLike[str]]", work: "os.PathLike[str]", filter_fd: int, report: int, uid: int
) -> str:
    """The script's first argument, after which the command follows. With `uid` 0 the account is not changed.

    `report` is the descriptor that "made" is written to where the command could be confined.
    """
    return json.dumps(
        {
            "readable": [os.fspath(path) for path in readable],
            "work": os.fspath(work),
            "filter_fd": filter_fd,
            "report": report,
            "uid": uid,
        }
    )


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _checked(result: int, call: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")
    return result


def confine(readable: "list[str]", work: str, code: bytes) -> None:
    """Take away from this process, for ever, all but reading these paths, writing its work folder, and the filter's
    system calls.
    """
    rights = (ctypes.c_uint64 * 3)(_FILES, _NET, _SCOPES)
    ruleset = _checked(
        _libc.syscall(_CREATE, rights, ctypes.c_size_t(ctypes.sizeof(rights)), 0), "landlock_create_ruleset"
    )
    grants = [(path, _READ) for path in readable] + [(work, _WRITE)] + [(path, 0b110) for path in _DEVICES]
    for path, granted in grants:
        path_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        granted &= 0xFFFF if os.path.isdir(path) else _FILE_ONLY
        rule = granted.to_bytes(8, sys.byteorder) + path_fd.to_bytes(4, sys.byteorder)
        _checked(_libc.syscall(_ADD, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
        os.close(path_fd)
    _checked(_libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _checked(_libc.syscall(_RESTRICT, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)
    filtered = _Filter(len(code) // 8, code)
    _checked(_libc.prctl(_SECCOMP, 2, ctypes.byref(filtered), 0, 0), "seccomp")


def _run(argv: "list[str]", readable: "list[str]", work: str, filter_fd: int, report: int, uid: int) -> None:
    code = os.read(filter_fd, 1 << 16)
    os.close(filter_fd)
    if uid:
        os.chown(work, uid, uid)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _libc.prctl(_DEATH_SIGNAL, signal.SIGKILL)  # after the change of account, which takes it back
    confine(readable, work, code)
    os.write(report, b"made")
    os.close(report)
    os.execvp(argv[0], argv)


def _end_all() -> None:
    # whatever loses its parent is this process's child, so that killing children until there are none reaches all
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children") as children:
            for child in children.read().split():
                os.kill(int(child), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _keep(command: int) -> int:
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)  # whoever listens to the command must hear it hang up
    while True:
        child, status = os.waitpid(-1, 0)
        if child == command:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def main() -> None:
    """Start the command confined, and exit with its code once it and all that it started have ended."""
    wanted, argv = json.loads(sys.argv[1]), sys.argv[2:]

    def on_terminate(*_: object) -> None:
        _end_all()
        os._exit(128 + signal.SIGKILL)

    _libc.prctl(_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    command = os.fork()
    if command == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _run(argv, **wanted)
        except BaseException as wrong:
            print(f"landlock: {wrong}", file=sys.stderr, flush=True)
        os._exit(126)
    signal.signal(signal.SIGTERM, on_terminate)
    _libc.prctl(_DEATH_SIGNAL, signal.SIGTERM)
    code = _keep(command)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_all()
    os._exit(code)


if __name__ == "__main__":
    main()
