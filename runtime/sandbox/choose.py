"""The choice of the profile that scaffolds run in on this host: bubblewrap, or Landlock where that is allowed. Else no
scaffold is started.

A profile is tested before it is used: a probe inside it must fail to read a file of the host and to reach its sockets.
"""

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from events.errors import HostUnfit, TryAgain, UserError
from runtime.sandbox import bwrap, landlock, seccomp
from runtime.sandbox.launch import Command, Confined, Kind, seen_at
from runtime.sandbox.limits import counts_children, delegated

ALLOW = "EVOLOG_SANDBOX_ALLOW"
"""An environment variable: the profiles that may be used, separated by commas; bwrap alone where it is not set."""
UNSANDBOXED = "EVOLOG_ALLOW_UNSANDBOXED"
"""An environment variable: must be 1 for `--sandbox none`, on every host where a scaffold of such a run is started."""
PATIENCE = 20.0
"""Seconds that a probe may take."""
PROBE = Path(__file__).with_name("probe.py")


class Profile(NamedTuple):
    """A way to run scaffolds, and its description in the log."""

    kind: Kind
    text: str


def provide(recorded: str = "") -> Profile:
    """The profile of a run that recorded this description, or where it is empty, the strongest allowed one that this
    host has.

    Raises HostUnfit, with the cause and the fix, where this host does not have it; a weaker one is never given
    instead.
    """
    match recorded.split(" ")[0].rstrip(","):
        case "none":
            return _unconfined()
        case "landlock":
            return _landlock()
        case "bwrap":
            return _bwrap()
    try:
        return _bwrap()
    except HostUnfit as wrong:
        if "landlock" not in _allowed(os.environ):
            raise HostUnfit(
                f"{wrong} Or allow the weaker Landlock with {ALLOW}=bwrap,landlock, if the kernel has it."
            ) from wrong
        return _landlock()


def provide_anew(kind: Kind) -> Profile:
    """As `provide`, whatever was found before: the host may have changed."""
    for known in (bwrap.program, bwrap.version, _bwrap, _landlock):
        known.cache_clear()
    return provide(kind)


def broken(kind: Kind, failure: str) -> UserError:
    """The error of a sandbox that failed by itself, as `Confined.failure` says: HostUnfit where another cannot be made
    either, and else TryAgain.
    """
    try:
        provide_anew(kind)
    except HostUnfit as wrong:
        return wrong
    return TryAgain(f"Here {failure}, though another can be made: what it was for is done again.")


def _allowed(environment: Mapping[str, str]) -> set[str]:
    names = {name.strip() for name in environment.get(ALLOW, "bwrap").split(",")} - {""}
    if unknown := names - {"bwrap", "landlock"}:
        raise HostUnfit(f"{ALLOW} names {', '.join(sorted(unknown))}; expected bwrap, or bwrap,landlock.")
    return names


def _unconfined() -> Profile:
    if os.environ.get(UNSANDBOXED) != "1":
        raise HostUnfit(
            f"Without a sandbox, what a model wrote runs with all your rights: set {UNSANDBOXED}=1 too, for the "
            "command and for the "
            "services, if that is meant; else leave --sandbox none out."
        )
    _equipped()
    return Profile("none", "none")


@functools.cache
def _bwrap() -> Profile:
    if sys.platform != "linux":
        raise HostUnfit(f"Scaffolds cannot be confined on {sys.platform}: run evolog on Linux, or in a container.")
    bwrap.program()
    _equipped()
    group = delegated()
    text = (
        f"bwrap {bwrap.version()}, seccomp {seccomp.digest(seccomp.program())}, memory by "
        f"{group[0] if group else 'watchdog'}"
    )
    try:
        _try("bwrap")
    except _Failed as failed:
        raise HostUnfit(f"{bwrap.why_not(str(failed))}; `evolog doctor` says whether it helped.") from failed
    return Profile("bwrap", text)


@functools.cache
def _landlock() -> Profile:
    if "landlock" not in _allowed(os.environ):
        raise HostUnfit(
            f"This run was started under Landlock, which this host does not allow: set {ALLOW}=bwrap,landlock."
        )
    if (abi := landlock.version()) < landlock.OLDEST:
        raise HostUnfit(
            f"Scaffolds cannot be confined by Landlock: the kernel has ABI {abi}, and {landlock.OLDEST} (Linux 6.12) "
            "is needed. "
            f"{bwrap.INSTALL}."
        )
    _equipped()
    try:
        _try("landlock")
    except _Failed as failed:
        raise HostUnfit(
            f"Scaffolds cannot be confined by Landlock here ({failed}): if that is a path, this program's account "
            "cannot pass it on to "
            "another; run evolog as an ordinary user with a Python that everybody can read."
        ) from failed
    digest = seccomp.digest(seccomp.landlock_program())
    return Profile("landlock", f"landlock ABI {abi}, seccomp {digest}, memory by watchdog")


def _equipped() -> None:
    if missing := [name for name in ("prlimit", "setpriv") if shutil.which(name) is None]:
        raise HostUnfit(f"Scaffolds cannot be held to limits without {' and '.join(missing)}: install util-linux.")
    if not counts_children():
        raise HostUnfit(
            "Scaffolds cannot be held to limits: /proc does not say who a process's children are "
            "(CONFIG_PROC_CHILDREN)."
        )


class _Failed(Exception):
    """The probe failed, or could not be started; the text is what it printed."""


def _try(kind: Kind) -> None:
    """Run the probe; raises `_Failed`."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        secret, work = Path(folder, "secret"), Path(folder, "work")
        secret.write_text("the host's")
        work.mkdir()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        name = f"evolog-{os.getpid()}-{tcp.getsockname()[1]}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        probe = seen_at(kind, "/evolog/probe.py", PROBE)
        argv = [sys.executable, "-IS", probe, str(secret), str(tcp.getsockname()[1]), name]
        command = Command(argv, {"/evolog/probe.py": PROBE}, {}, work)
        os.chmod(folder, 0o755)  # so that it is the sandbox that keeps the probe out
        running = Confined(kind, command)
        try:
            out, err = running.communicate(PATIENCE)
        except subprocess.TimeoutExpired:
            raise _Failed(f"a probe did not end in {PATIENCE:.0f} s") from None
        finally:
            running.close()
        try:
            reached = json.loads(out)
        except ValueError:
            raise _Failed(
                err.decode(errors="replace").strip() or running.violation or "the probe said nothing"
            ) from None
        if reached:
            raise _Failed(f"a probe inside reached {', '.join(reached)}")
