"""An `evolog up` as a user has it, with all its processes: watched, stopped, killed and started again by a test."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from events.codec import Event
from events.errors import UserError
from events.subjects import GOLD, LOG, tag_of
from runtime.broker.credentials import Credentials
from runtime.log.port import Stored, readable
from runtime.log.socket import NatsSocket
from services.host.node import Node
from tests.harness.places import TASKS

TOY = TASKS / "toy"
ROOT = Path(__file__).parents[2]
PATIENCE = 180.0
RUN = "r"
PROGRAM = """
from runtime.broker import server
server.USUAL_PORT = 0  # another nats-server could take the usual one between a death and a new start
from services.cli.main import main
main()
"""


class System:
    """An `evolog up` in a directory, with an environment of its own, and one run."""

    def __init__(self, directory: Path, program: str = PROGRAM, **environment: str) -> None:
        self.node, self.program = Node(directory), program
        self.environment = os.environ | {"EVOLOG_EXECUTOR_JITTER": "0.05"} | environment
        self.log, self.gold = Client(self.node, LOG), Client(self.node, GOLD)
        self.errors: int = subprocess.DEVNULL
        """Where processes that this one starts say what is wrong; a caller may want it piped."""
        self.process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        """Start everything, and wait until it is up."""
        self.process = self.start("-c", self.program, "up")
        wait_for(self.node.alive, "evolog is up")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A Python process of this directory."""
        flags = ["--dir", str(self.node.directory)]
        return subprocess.Popen([sys.executable, *arguments, *flags], cwd=ROOT, env=self.environment, stderr=self.errors)

    def down(self) -> None:
        """Stop everything."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)

    def pids(self, victim: str) -> list[int]:
        """The processes of a service, or of the broker."""
        return [
            pid
            for pid, command in processes(self.node.directory).items()
            if ("nats-server" in command[0] if victim == "nats-server" else command[2:3] == ["-m"] and command[4:5] == [victim])
        ]

    def kill(self, victim: str) -> None:
        """kill -9, without a warning, on every process of that service, on the broker, or on the supervisor, which is started again."""
        if victim == "supervisor":
            assert self.process
            self.process.kill()
            self.process.wait()
            self.up()
            return
        for pid in self.pids(victim):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def order(self, *flags: str, task: Path = TOY) -> None:
        """Start the run."""
        command = [
            sys.executable,
            "-m",
            "services.cli",
            "run",
            str(task),
            "--name",
            RUN,
            "--detach",
            "--dir",
            str(self.node.directory),
        ]
        subprocess.run([*command, *flags], cwd=ROOT, env=self.environment, check=True, capture_output=True)

    def count(self, tag: str) -> int:
        """How many events of a type there are."""
        return sum(tag_of(stored.subject) == tag for stored in self.log.read())

    def finished(self) -> list[Event]:
        """The events of the run, once it is audited."""
        wait_for(lambda: audited(self.gold.read()), "the audit is finished")
        return readable(self.log.read())


class Client:
    """The operator's connection to one stream, made anew whenever it fails: passwords change with each `up`."""

    def __init__(self, node: Node, stream: str) -> None:
        self.node, self.stream = node, stream
        self._wire: NatsSocket | None = None

    def ask(self, call: Callable[[NatsSocket], list[Stored] | int]) -> list[Stored] | int | None:
        """What the call gives; None where there is nobody to ask."""
        try:
            self._wire = self._wire or NatsSocket(
                msgspec.json.decode(self.node.credentials("operator").read_bytes(), type=Credentials), self.stream
            )
            return call(self._wire)
        except (UserError, FileNotFoundError):
            if self._wire:
                self._wire.close()
            self._wire = None
            return None

    def read(self, start: int = 1) -> list[Stored]:
        """All messages from a sequence on, as soon as there is a broker."""
        end = time.monotonic() + PATIENCE
        while not isinstance(found := self.ask(lambda wire: wire.read(start, 1_000_000)), list):
            assert time.monotonic() < end, "the broker is away"
            time.sleep(0.02)
        return found


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Look again and again until it holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE:.0f} s in vain until {what}"
        time.sleep(0.02)


def processes(directory: Path) -> dict[int, list[str]]:
    """The command lines of all processes of a directory, but those of commands that were given it as it is."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if any(part.startswith(str(directory)) for part in command):
                found[int(folder.name)] = command
    return found


@contextlib.contextmanager
def running(directory: Path, program: str = PROGRAM, **environment: str) -> Iterator[System]:
    """Everything up, and down again at the end."""
    system = System(directory, program, **environment)
    system.up()
    try:
        yield system
    finally:
        system.down()


def audited(gold: Sequence[Stored]) -> bool:
    """Whether the auditor is finished."""
    return any(tag_of(stored.subject) == "audit_finished" for stored in gold)
