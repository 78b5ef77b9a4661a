"""The whole system as a user has it: the command line in real processes, in a folder and with an environment of their
own.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar
from unittest import mock

import msgspec
from click.testing import CliRunner

from events.codec import Event
from events.errors import UserError
from events.subjects import GOLD, LOG, run_of, tag_of
from runtime.broker.credentials import Credentials
from runtime.log.port import Stored, readable
from runtime.log.socket import NatsSocket
from services.cli.main import main
from services.host.hints import remember_directory
from services.host.node import Node
from services.host.supervisor import with_root
from tests.harness.paths import TOY
from tests.harness.polling import INTERVAL, PATIENCE, wait_until

T = TypeVar("T")
CLI = ("-P", "-m", "services.cli")
"""The command line, as arguments of Python."""
FREE_PORT = """
from runtime.broker import server
server.USUAL_PORT = 0  # another nats-server could take the usual one between a death and a new start
from services.cli.main import main
main()
"""
"""A program in the place of `evolog`, whose nats-server takes any port that is free."""
RUN = "r"
"""The name of the run that `CliHarness.order` starts."""
_EVERYTHING = 1_000_000


class CommandResult(NamedTuple):
    """The exit code of a command, and what it printed."""

    code: int
    out: str
    err: str


class CliHarness:
    """A folder with a project directory `.evolog` in it, a home of its own, and the processes that are started there.

    `program` is what runs as `evolog up`, as arguments of Python; `environment` is added to this process's own, without
    its settings. `at` stands before every command, such as one that enters a host's network.
    """

    def __init__(
        self, folder: Path, program: Sequence[str] = CLI, *, at: Sequence[str] = (), **environment: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.at = tuple(at)
        self.folder, self.node, self.program = folder, Node(folder / ".evolog"), tuple(program)
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("EVOLOG_", "XDG_")) and name not in ("FORCE_COLOR", "COLUMNS")
        }
        home = {"XDG_CACHE_HOME": str(folder / "cache"), "XDG_CONFIG_HOME": str(folder / "config")}
        few = {"EVOLOG_START_ATTEMPTS": "2"}  # 16, the default, take longer than the small runs of tests themselves
        self.environment = with_root(inherited | home | few | environment)
        self.log, self.gold = OperatorClient(self.node, LOG), OperatorClient(self.node, GOLD)
        self.supervisor: subprocess.Popen[str] | None = None
        self.patience = PATIENCE  # seconds that a command may take

    def start(self, *arguments: str, program: Sequence[str] = CLI) -> subprocess.Popen[str]:
        """A command that goes on."""
        return subprocess.Popen(
            [*self.at, sys.executable, *program, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def evolog(self, *arguments: str, code: int = 0, **environment: str) -> CommandResult:
        """A command to its end, which must have that exit code and print no traceback."""
        done = subprocess.run(
            [*self.at, sys.executable, *CLI, *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=self.patience,
            check=False,
        )
        result = CommandResult(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode())
        assert "Traceback" not in result.err, result.err
        assert result.code == code, result
        return result

    def here(self, *arguments: str, code: int = 0, **environment: str) -> CommandResult:
        """The same in this process, which has imported what a command needs: for one that starts no other."""
        with contextlib.chdir(self.folder), mock.patch.dict(os.environ, self.environment | environment, clear=True):
            remember_directory(None)
            done = CliRunner().invoke(main, arguments)
        if not isinstance(done.exception, SystemExit | None):
            raise done.exception
        result = CommandResult(done.exit_code, done.stdout, done.stderr)
        assert result.code == code, result
        return result

    def up(self, program: Sequence[str] = ()) -> subprocess.Popen[str]:
        """`evolog up`, once everything is up or it has ended."""
        self.supervisor = started = self.start("up", program=program or self.program)
        wait_until(lambda: self.node.alive() or started.poll() is not None, "evolog is up")
        return started

    def down(self) -> None:
        """Stop what `up` started, if it still runs."""
        if self.supervisor and self.supervisor.poll() is None:
            self.supervisor.terminate()
            self.supervisor.communicate(timeout=PATIENCE)

    def pids(self, victim: str) -> list[int]:
        """The processes of a service, or of the broker (`nats-server`)."""
        return [
            pid
            for pid, command in processes(self.node.directory).items()
            if (
                "nats-server" in command[0]
                if victim == "nats-server"
                else command[2:3] == ["-m"] and command[4:5] == [victim]
            )
        ]

    def kill(self, victim: str) -> None:
        """kill -9, without a warning, on every process of that service, on the broker, or on the supervisor, which is
        started again.
        """
        if victim == "supervisor":
            self.kill_supervisor()
            self.up()
            return
        for pid in self.pids(victim):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_supervisor(self) -> None:
        """kill -9 on what `up` started."""
        assert self.supervisor
        self.supervisor.kill()
        self.supervisor.wait()
        for pipe in (self.supervisor.stdout, self.supervisor.stderr):
            assert pipe
            pipe.close()

    def order(self, *flags: str, task: Path = TOY) -> None:
        """Start the run `RUN`, and do not wait for it."""
        self.evolog("run", str(task), "--name", RUN, "--detach", *flags)

    def connect(self, user: str, stream: str) -> NatsSocket:
        """A connection with one of the accounts, for as long as the broker lives."""
        return NatsSocket(_credentials(self.node, user), stream)

    def count(self, tag: str) -> int:
        """How many events of a type there are."""
        return sum(tag_of(stored.subject) == tag for stored in self.log.read())

    def wait_until_audited(self, *runs: str) -> None:
        """Wait until the auditor is finished with these runs."""
        wait_until(lambda: set(runs) <= audited_runs(self.gold.read()), f"{', '.join(runs)} are audited")

    def finished_events(self) -> list[Event]:
        """The events of the log, once the run `RUN` is audited."""
        self.wait_until_audited(RUN)
        return readable(self.log.read())


class OperatorClient:
    """The operator's connection to one stream, made anew whenever it fails: passwords change with each `up`."""

    def __init__(self, node: Node, stream: str) -> None:
        self.node, self.stream = node, stream
        self._socket: NatsSocket | None = None

    def ask(self, call: Callable[[NatsSocket], T]) -> T | None:
        """What the call gives; None while no broker answers."""
        try:
            self._socket = self._socket or NatsSocket(_credentials(self.node, "operator"), self.stream)
            return call(self._socket)
        except (UserError, FileNotFoundError):
            if self._socket:
                self._socket.close()
            self._socket = None
            return None

    def read(self, start: int = 1) -> list[Stored]:
        """All messages from a sequence on, as soon as there is a broker."""
        end = time.monotonic() + PATIENCE
        while (found := self.ask(lambda socket: socket.read(start, _EVERYTHING))) is None:
            assert time.monotonic() < end, "the broker is away"
            time.sleep(INTERVAL)
        return found


def _credentials(node: Node, user: str) -> Credentials:
    return msgspec.json.decode(node.credentials(user).read_bytes(), type=Credentials)


def processes(directory: Path) -> dict[int, list[str]]:
    """The command lines of all processes that were given a path in the directory, by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if any(part.startswith(str(directory)) for part in command):
                found[int(folder.name)] = command
    return found


@contextlib.contextmanager
def running(folder: Path, program: str = FREE_PORT, **environment: str) -> Iterator[CliHarness]:
    """Everything up, with executors that pause at random, and down again at the end.

    `program` is the text of what runs as `evolog`.
    """
    harness = CliHarness(folder, ("-P", "-c", program), **{"EVOLOG_EXECUTOR_JITTER": "0.05"} | environment)
    harness.up()
    try:
        yield harness
    finally:
        harness.down()


def audited_runs(gold: Sequence[Stored]) -> set[str]:
    """The runs that the auditor is finished with."""
    return {run_of(stored.subject) for stored in gold if tag_of(stored.subject) == "audit_finished"}


def one_sentence(result: CommandResult, *words: str) -> None:
    """Check what a user reads of an error: one line with these words, and nothing on standard output."""
    assert result.out == ""
    assert result.err.startswith("evolog: ") and result.err.rstrip().endswith(".") and result.err.count("\n") == 1, (
        result.err
    )
    for word in words:
        assert word in result.err, (word, result.err)
