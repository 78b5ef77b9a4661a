"""The whole system, killed: kill -9 on every service, on the broker and on the supervisor, and the same decisions at the end."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from events import codec
from events.codec import Event
from events.errors import UserError
from events.subjects import GOLD, LOG, tag_of
from runtime.log import Stored
from runtime.wire import Credentials, Wire
from services.node import Node

TOY = Path(__file__).parent / "toy"
ROOT = Path(__file__).parent.parent
PATIENCE = 120.0
AT_WORK = {
    "scaffold_requested": "meta_agent",
    "model_called": "executor",
    "trajectory_recorded": "verifier",
    "trajectory_scored": "controller",
    "candidate_evaluated": "archivist",
    "feedback_requested": "feedback_agent",
    "training_batch_sealed": "trainer",
    "adapter_published": "policy",
    "run_finished": "auditor",
}
"""The first event of a type, and the service that is in the midst of its work then or soon after."""


class System:
    """An `evolog up` in a directory, as a user would have it."""

    def __init__(self, directory: Path) -> None:
        self.node = Node(directory)
        self.process: subprocess.Popen[bytes] | None = None
        self._wires: dict[str, Wire] = {}

    def up(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "up", "--dir", str(self.node.directory)],
            cwd=ROOT,
            env=os.environ | {"EVOLOG_EXECUTOR_JITTER": "0.05"},
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: self.node.alive(), "evolog is up")
        login = msgspec.json.decode(self.node.credentials("operator").read_bytes(), type=Credentials)
        self._wires = {stream: Wire(login, stream) for stream in (LOG, GOLD)}

    def down(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)

    def kill(self, name: str) -> None:
        """kill -9, without a warning, on every process of that service, on the broker, or on the supervisor."""
        if name == "supervisor":
            assert self.process
            self.process.kill()
            self.process.wait()
            return
        pattern = "nats-server.*" if name == "nats-server" else f"services.main {name} "
        subprocess.run(["pkill", "-9", "-f", f"{pattern}.*{self.node.directory}"], check=False)

    def order(self, name: str) -> None:
        flags = ["--name", name, "--dir", str(self.node.directory), "--detach"]
        subprocess.run([sys.executable, "-m", "services.cli", "run", str(TOY), *flags], cwd=ROOT, check=True, capture_output=True)

    def read(self, stream: str = LOG, start: int = 1) -> list[Stored]:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self._wires[stream].read(start, 1_000_000)
            except UserError:  # the broker is down, or has just come back on this connection's account
                assert time.monotonic() < end
                time.sleep(0.05)

    def audited(self) -> bool:
        return any(tag_of(stored.subject) == "audit_finished" for stored in self.read(GOLD))


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE:.0f} s in vain until {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """The events of a run that nothing happened to."""
    with running(tmp_path_factory.mktemp("calm")) as system:
        system.order("r")
        wait_for(system.audited, "the audit is finished")
        return events(system.read())


@contextlib.contextmanager
def running(directory: Path) -> Iterator[System]:
    system = System(directory)
    system.up()
    try:
        yield system
    finally:
        system.down()


def events(stored: list[Stored]) -> list[Event]:
    return [codec.decode_at(message.subject, message.data) for message in stored]


def decisions(of: list[Event]) -> list[tuple[str, object]]:
    """What was decided, in order; without the heads, which hold digests of times."""
    return [
        (event.id, event.data) for event in of if event.source == "controller" and event.tag not in ("decision_made", "event_set_aside")
    ]


def told(of: list[Event], tag: str) -> dict[str, tuple[object, ...]]:
    """The facts of one type by id, without what took how long."""
    return {
        event.id: tuple(value for name, value in msgspec.structs.asdict(event.data).items() if name not in ("seconds", "body", "index"))
        for event in of
        if event.tag == tag
    }


def same(disturbed: list[Event], calm: list[Event]) -> None:
    assert decisions(disturbed) == decisions(calm)
    assert Counter(event.tag for event in disturbed) == Counter(event.tag for event in calm)
    assert max(Counter(event.id for event in disturbed).values()) == 1
    for tag in ("model_called", "trajectory_recorded", "trajectory_scored", "optimizer_step_applied", "adapter_published", "lever_chosen"):
        assert told(disturbed, tag) == told(calm, tag), tag


def test_an_undisturbed_run_uses_both_levers(undisturbed: list[Event]) -> None:
    tags = Counter(event.tag for event in undisturbed)
    assert tags["adapter_published"] >= 1 and tags["scaffold_proposed"] >= 2 and tags["run_finished"] == 1


def test_every_service_killed_at_its_work_leaves_the_same_run(undisturbed: list[Event], tmp_path: Path) -> None:
    with running(tmp_path / "node") as system:
        system.order("r")
        waiting, position = dict(AT_WORK), 0
        end = time.monotonic() + PATIENCE
        while waiting or not system.audited():
            assert time.monotonic() < end, f"the run stands still; not yet killed: {waiting}"
            for stored in system.read(start=position + 1):
                position = stored.sequence
                if service := waiting.pop(tag_of(stored.subject), None):
                    system.kill(service)
            time.sleep(0.01)
        same(events(system.read()), undisturbed)


def test_the_broker_and_the_supervisor_killed_by_turns_leave_the_same_run(undisturbed: list[Event], tmp_path: Path) -> None:
    blows = ("model_called", "nats-server"), ("trajectory_scored", "supervisor"), ("training_batch_sealed", "nats-server")
    with running(tmp_path / "node") as system:
        system.order("r")
        for tag, victim in (*blows, ("adapter_published", "supervisor")):
            wait_for(lambda tag=tag: any(tag_of(stored.subject) == tag for stored in system.read()), f"there is a {tag}")
            system.kill(victim)
            if victim == "supervisor":
                system.up()
        wait_for(system.audited, "the audit is finished")
        same(events(system.read()), undisturbed)


def test_a_killed_supervisor_leaves_no_process(tmp_path: Path) -> None:
    with running(tmp_path / "node") as system:
        assert system.process
        os.kill(system.process.pid, signal.SIGKILL)
        gone = ["pgrep", "-f", str(system.node.directory)]
        wait_for(lambda: subprocess.run(gone, capture_output=True, check=False).returncode == 1, "every process is gone")
