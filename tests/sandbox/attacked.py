"""What is attacked, and from which sandboxes: bubblewrap's as it is here, an ordinary user's, and Landlock's."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from runtime.sandbox import landlock
from runtime.sandbox.launch import Kind
from tests.sandbox import holder

ROOT = Path(__file__).parents[2]
USER = 20_002
SYSTEM_PYTHON = "/usr/bin/python3"


class Ended(NamedTuple):
    """What came of an attack; `left` are the files in its work folder on the host."""

    out: str
    err: str
    code: int | None
    violation: str
    most: int
    left: list[str]


class Host(NamedTuple):
    """What there is to be had: `folder` can be read and written by everybody."""

    folder: Path
    secret: str
    port: int
    listener: socket.socket
    abstract: socket.socket
    abstract_name: str


Started = Callable[[Kind, dict[str, Any]], dict[str, Any]]
"""Runs an order in a profile, and has what the holder says of it."""


class Sandbox(NamedTuple):
    """One profile under one account."""

    kind: Kind
    started: Started
    apart: bool = False
    """Whether another account runs it than the tests'."""

    def attack(self, code: str, *arguments: object, **limits: float) -> Ended:
        """Run code inside."""
        order = {"code": code, "arguments": [str(argument) for argument in arguments], "limits": limits}
        return Ended(**self.started(self.kind, order))

    def unconfined(self, code: str, *arguments: object) -> Ended:
        """The same under the same account without a sandbox: what shows that an attack would work."""
        return self._replace(kind="none").attack(code, *arguments)


def _here(kind: Kind, order: dict[str, Any]) -> dict[str, Any]:
    return dict(holder.run(kind, **order))


def _as_user(copy: Path) -> Started:
    def started(kind: Kind, order: dict[str, Any]) -> dict[str, Any]:
        done = subprocess.run(
            [SYSTEM_PYTHON, "-P", str(copy / "tests/sandbox/holder.py"), kind],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            user=USER,
            group=USER,
            extra_groups=[],
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout)) if order else {"said": done.stdout}

    return started


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """Unlike pytest's, readable by other accounts."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


@pytest.fixture(scope="session", params=["bwrap", "a user's bwrap", "landlock"])
def sandbox(request: pytest.FixtureRequest, open_folder: Path) -> Sandbox:
    """Each in turn.

    As root, the last two run as an ordinary user, with the system's Python and a copy of what they need.
    """
    if request.param == "bwrap":
        return Sandbox("bwrap", _here)
    started: Started
    if os.geteuid():
        if request.param != "landlock":
            pytest.skip("the tests run as an ordinary user already")
        started = _here
    else:
        if not os.path.exists(SYSTEM_PYTHON):
            pytest.skip(f"no {SYSTEM_PYTHON}, which another account could run")
        copy = open_folder / "copy"
        if not copy.exists():
            for part in ("runtime/sandbox", "tests/sandbox"):
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            for part in ("runtime/__init__.py", "events/__init__.py", "events/errors.py"):
                (copy / part).parent.mkdir(exist_ok=True)
                shutil.copy(ROOT / part, copy / part)
            subprocess.run(["chmod", "-R", "a+rX", copy], check=True)
        started = _as_user(copy)
    if request.param == "a user's bwrap":
        return Sandbox("bwrap", started, apart=True)
    abi = int(
        subprocess.run(
            [sys.executable, holder.__file__, "landlock?"], capture_output=True, text=True, check=True
        ).stdout
    )
    if abi < landlock.OLDEST:
        pytest.skip(f"the kernel has Landlock's ABI {abi}")
    return Sandbox("landlock", started, apart=os.geteuid() == 0)


@pytest.fixture
def host(open_folder: Path) -> Iterator[Host]:
    """A secret in a file, in a process's environment's place, and behind three sockets."""
    folder = Path(tempfile.mkdtemp(dir=open_folder))
    folder.chmod(0o777)
    secret = f"SECRET-{os.urandom(8).hex()}"
    (folder / "labels.json").write_text(secret)
    (folder / "labels.json").chmod(0o644)
    with socket.socket() as listener, socket.socket(socket.AF_UNIX) as abstract:
        listener.bind(("0.0.0.0", 0))
        abstract_name = f"evolog-{os.urandom(8).hex()}"
        abstract.bind(f"\0{abstract_name}")
        for one in (listener, abstract):
            one.listen()
            one.settimeout(0.05)
        yield Host(folder, secret, listener.getsockname()[1], listener, abstract, abstract_name)
