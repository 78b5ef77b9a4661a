"""The default profile: the options that bubblewrap is started with, and what to do where it does not work.

Inside are the interpreter's and the system's programs and libraries, the files that were bound, and nothing else of the
host. There is one writable directory of limited size, /workdir, in memory (and /dev/shm). There is no network but an
empty loopback. Nothing is mounted below a writable path: bubblewrap before 0.12 follows symbolic links that a scaffold
may have left there (CVE-2026-87766). All options come through a descriptor, and bubblewrap's own environment is empty,
since both can be read inside, in /proc/1.

/dev is made here, on the root that becomes read-only: bubblewrap's own is a file system that an ordinary user's
scaffold may fill. It has no terminals, whose buffers are nobody's, and no /dev/zero, which gives memory that no process
shows.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from events.errors import HostUnfit
from runtime.sandbox.limits import ResourceLimits

OLDEST = (0, 8)
WORK = "/workdir"
SHARED = "/dev/shm"
SHARED_SIZE = 64 * 1024**2
DEVICES = ("full", "null", "random", "urandom")
STREAMS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TMPDIR": WORK}
PARTS = ("bin", "lib", "lib32", "lib64", "libexec")
PACKAGES = ("events", "algorithms", "tasks", "runtime", "replay", "services")
"""evolog's packages, which are hidden where they are installed among those that scaffolds may import."""
INSTALL = "Install bubblewrap: `apt-get install bubblewrap` on Debian and Ubuntu, `dnf install bubblewrap` on Fedora"


@functools.cache
def program() -> str:
    """The path of bubblewrap; raises HostUnfit where it is not installed or too old."""
    if (path := shutil.which("bwrap")) is None:
        raise HostUnfit(f"Scaffolds cannot be confined, because bubblewrap (bwrap) is not installed. {INSTALL}.")
    if _numbers(version()) < OLDEST:
        raise HostUnfit(f"Scaffolds cannot be confined by bubblewrap {version()}; 0.8 or newer is needed. {INSTALL}.")
    return path


@functools.cache
def version() -> str:
    """The installed version, such as 0.8.0."""
    output = subprocess.run(
        [shutil.which("bwrap") or "bwrap", "--version"], capture_output=True, text=True, check=False
    ).stdout
    return output.split()[-1] if output.split() else "0"


def _numbers(version_text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version_text)[:2]))


def options(
    binds: Mapping[str, Path], environment: Mapping[str, str], limits: ResourceLimits, devices: Sequence[str] = ()
) -> list[str]:
    """All options but those with file descriptors. `binds` are read-only, by their path inside; `devices` are device
    files that are shown besides `DEVICES`.
    """
    out = [f"--unshare-{namespace}" for namespace in ("ipc", "pid", "net", "uts", "cgroup")]
    out += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "sandbox"]
    if os.geteuid() == 0:
        out += [
            "--cap-add",
            "CAP_SETUID",
            "--cap-add",
            "CAP_SETGID",
            "--cap-add",
            "CAP_SETPCAP",
        ]  # for `dropped`, and gone with it
    else:
        out += ["--unshare-user", "--disable-userns"]
    for name, value in {**ENVIRONMENT, **environment}.items():
        out += ["--setenv", name, value]
    sources, links = visible()
    made: set[str] = set()

    def make_parents(path: str) -> None:
        for parent in reversed(PurePosixPath(path).parents):
            if str(parent) not in ("/", *made):
                made.add(str(parent))
                out.extend(
                    ["--perms", "0755", "--dir", str(parent)]
                )  # bubblewrap's own parents are for the owner alone

    bound = sorted({**{str(source): source for source in sources}, **binds}.items(), key=lambda item: item[0])
    for inside, source in bound:
        make_parents(inside)
        out += ["--ro-bind", str(source), inside]
    for inside, target in links.items():
        make_parents(inside)
        out += ["--symlink", target, inside]
    for folder in _ours(sources):
        out += ["--perms", "0000", "--tmpfs", folder, "--remount-ro", folder]
    out += ["--proc", "/proc", "--perms", "0755", "--dir", "/dev"]
    for device in DEVICES:
        out += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    made.add("/dev")
    for path in devices:
        make_parents(path)
        out += ["--dev-bind", path, path]
    for name, target in STREAMS.items():
        out += ["--symlink", target, f"/dev/{name}"]
    for mount, size in ((SHARED, SHARED_SIZE), (WORK, limits.work_size)):
        out += ["--perms", "1777", "--size", str(size), "--tmpfs", mount]
    if not any(inside.startswith("/tmp/") for inside, _ in bound):
        out += ["--symlink", WORK, "/tmp"]
    return [*out, "--remount-ro", "/", "--chdir", WORK]


def dropped(uid: int) -> list[str]:
    """The beginning of a command line that changes from root to the account `uid`; empty where this process is not
    root's.
    """
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]


def visible() -> tuple[list[Path], dict[str, str]]:
    """The host's paths that are visible inside, and symbolic links there: the system's libraries and the interpreter's
    two prefixes.
    """
    sources: list[Path] = [path for path in (Path("/etc/ld.so.cache"), Path("/etc/alternatives")) if path.exists()]
    links: dict[str, str] = {}
    for path in _programs():
        if path.is_symlink():
            links[str(path)] = os.readlink(path)
        elif path.exists():
            sources.append(path)
    return sources, links


def _programs() -> Iterator[Path]:
    interpreter = Path(os.path.realpath(sys.executable))
    prefixes = {sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix), str(interpreter.parent.parent)}
    for prefix in sorted({"/", "/usr", "/usr/local", *prefixes}):
        yield from (Path(prefix, part) for part in PARTS)
        yield Path(prefix, "pyvenv.cfg")


def _ours(sources: list[Path]) -> list[str]:
    root = Path(__file__).resolve().parents[2]
    if not any(source == root or source in root.parents for source in sources):
        return []
    return [str(root / name) for name in PACKAGES if (root / name).is_dir()]


def why_not(message: str) -> str:
    """The sentences of an error that explains a message of bubblewrap's, and says what to do."""
    last = (message.strip().splitlines() or ["it said nothing"])[-1].removeprefix("bwrap: ")
    if "uid map" in last:
        fix = (
            "Allow it user namespaces: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or an AppArmor "
            "profile for bwrap"
        )
    elif "mount proc" in last:
        fix = "In Docker, add `--security-opt systempaths=unconfined`"
    elif "namespace" in last or "Operation not permitted" in last:
        fix = (
            "In Docker, start the container with `--security-opt seccomp=unconfined --security-opt "
            "systempaths=unconfined "
            "--security-opt apparmor=unconfined` and as an ordinary user; elsewhere, allow user namespaces: "
            "`sysctl -w user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1`"
        )
    elif "Permission denied" in last and os.geteuid() == 0:
        fix = (
            "Root's scaffolds run under an account of their own, which must be able to read Python and evolog: "
            f"`chmod -R a+rX {sys.prefix} {sys.base_prefix} {Path(__file__).parents[1]}`, or run evolog as an "
            "ordinary user"
        )
    else:
        fix = "Try `bwrap --unshare-all --ro-bind / / true`, and put right what it says"
    return f"Scaffolds cannot be confined, because bubblewrap does not work here ({last}). {fix}"
