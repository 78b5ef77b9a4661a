"""The command line as a user has it: real processes, in a folder and with an environment of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from events.subjects import GOLD, run_of, tag_of
from runtime.broker.credentials import Credentials
from runtime.log.socket import NatsSocket
from services.host.node import Node
from services.host.supervisor import with_root

PATIENCE = 180.0
CLI = ("-P", "-m", "services.cli")


class Said(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


class Place:
    """A folder with a project directory `.evolog` in it, and a home of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.node = folder, Node(folder / ".evolog")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("EVOLOG_", "XDG_")) and name != "FORCE_COLOR"}
        home = {"XDG_CACHE_HOME": str(folder / "cache"), "XDG_CONFIG_HOME": str(folder / "config")}
        self.environment = with_root(kept | home | environment)
        self._up: subprocess.Popen[str] | None = None

    def start(self, *arguments: str, program: tuple[str, ...] = CLI) -> subprocess.Popen[str]:
        """A command that goes on."""
        return subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def evolog(self, *arguments: str, code: int = 0, **environment: str) -> Said:
        """A command to its end, which must have that exit code and print no traceback."""
        done = subprocess.run(
            [sys.executable, *CLI, *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        said = Said(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode())
        assert "Traceback" not in said.err, said.err
        assert said.code == code, said
        return said

    def up(self, program: tuple[str, ...] = CLI) -> subprocess.Popen[str]:
        """`evolog up`, once everything is up."""
        self._up = up = self.start("up", program=program)
        wait_for(lambda: self.node.alive() or up.poll() is not None, "evolog is up")
        return up

    def down(self) -> None:
        """Stop what `up` started, if it still runs."""
        if self._up and self._up.poll() is None:
            self._up.terminate()
            self._up.communicate(timeout=PATIENCE)

    def wire(self, user: str, stream: str) -> NatsSocket:
        """A connection with one of the accounts."""
        return NatsSocket(msgspec.json.decode(self.node.credentials(user).read_bytes(), type=Credentials), stream)

    def audited(self, *runs: str) -> None:
        """Wait until the auditor is finished with these runs."""
        gold = self.wire("operator", GOLD)

        def done() -> bool:
            return set(runs) <= {run_of(message.subject) for message in gold.read(1, 10_000) if tag_of(message.subject) == "audit_finished"}

        wait_for(done, f"{', '.join(runs)} are audited")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Look again and again until it holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE:.0f} s in vain until {what}"
        time.sleep(0.05)


def one_sentence(said: Said, *words: str) -> None:
    """What a user is told of an error: one line with these words, and nothing on standard output."""
    assert said.out == ""
    assert said.err.startswith("evolog: ") and said.err.rstrip().endswith(".") and said.err.count("\n") == 1, said.err
    for word in words:
        assert word in said.err, (word, said.err)
