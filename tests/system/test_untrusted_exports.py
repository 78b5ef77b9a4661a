"""An export whose task and verifier are an attacker's: no command runs any of it unasked, and the verifier that it
brings runs in the sandbox.
"""

import shutil
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from events import codec
from events.run import RunStarted
from replay.exports import folder
from runtime.log.port import Stored
from runtime.run.decide import DECIDER
from runtime.run.decider import DecisionSession
from tests.harness.cli import CliHarness, CommandResult
from tests.harness.paths import TOY
from tests.harness.tasks.smaller import small_toy

pytestmark = pytest.mark.slow
VERIFIER = """
from pathlib import Path

from tasks.contract import Scored

VERSION = "mine-1"


def score(answer, label):
    return Scored(float(answer == label), "right" if answer == label else "wrong")
"""
EFFECTS = "verifier,meta_agent,feedback_agent,trainer"


class Attack(NamedTuple):
    """An export with code in it that leaves a mark where the user's code can, and the task that it should name."""

    place: CliHarness
    export: Path
    task: Path
    mark: Path

    def run(self, *arguments: object, code: int) -> CommandResult:
        """A command to its end, after which nothing of the attacker's has run."""
        result = self.place.evolog(*map(str, arguments), code=code)
        assert not self.mark.exists(), arguments
        return result


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    """A run by a verifier of the user's own, exported; then its export is written anew by an attacker."""
    here = tmp_path_factory.mktemp("untrusted")
    place, mark, out = CliHarness(here / "place"), here / "mark", here / "out"
    task = small_toy(here / "toy")
    (here / "mine.py").write_text(VERIFIER)
    place.evolog("run", str(task), "--verifier", str(here / "mine.py"), "--levers", "scaffold", "--name", "r")
    place.evolog("replay", "r", "--export", str(here / "honest"))
    assert "1 performed again, all the same" in place.evolog("replay", "r", "--perform", "meta_agent").out
    plant(here / "honest", out, task, f"open({str(mark)!r}, 'a').write('{{}}')\n")
    yield Attack(place, out, task, mark)


def plant(honest: Path, export: Path, task: Path, marking: str) -> None:
    """Write an export anew, with code that leaves a mark in a task's folder in it and in the run's verifier.

    All of it fits: whoever writes an export can decide the run again.
    """
    attempt = f"try:\n    {marking.format('blob')}except OSError as refused:\n    REFUSED = refused\n"
    run = folder.read(honest)
    code = run.blobs.put((attempt + VERIFIER).encode())
    messages = forged(run.messages, task=str(export / "task"), verifier_code=code)
    folder.write(run._replace(messages=messages), export, "1")
    for file in shutil.copytree(task, export / "task").rglob("*.py"):
        file.write_text(marking.format(file.name) + file.read_text())


def forged(messages: Sequence[Stored], **of_start: str) -> list[Stored]:
    """A run's messages as they would be had it begun otherwise and its services said the same."""
    session, decided, written = DecisionSession(DECIDER, "r"), defaultdict[str, deque[bytes]](deque), list[Stored]()
    for stored in messages:
        event = codec.decode_at(stored.subject, stored.data)
        if isinstance(event.data, RunStarted):
            event = msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, **of_start))
            stored = msgspec.structs.replace(stored, data=codec.encode(event))
        elif event.source == "controller":
            stored = msgspec.structs.replace(stored, data=decided[stored.subject].popleft())
        written.append(stored)
        if decision := session.feed(stored, codec.decode_at(stored.subject, stored.data)):
            for made, payload in zip(decision.events, decision.payloads, strict=True):
                decided[made.subject].append(payload)
    return written


def test_no_command_runs_what_an_export_names(attack: Attack) -> None:
    said = attack.run("audit", attack.export, code=6)
    assert "whose code is not run unasked: name the task's folder with --task FOLDER" in said.out
    said = attack.run("replay", attack.export, "--perform", EFFECTS, code=1)
    assert "verifier: none performed again" in said.out and "with --trust-code" in said.out
    said = attack.run("replay", attack.export, "--swap", f"verifier={TOY}", code=77)
    assert said.err.startswith("evolog: The run came as an export and names the task") and said.err.count("\n") == 1
    for command in (("replay",), ("show",), ("diff", attack.export), ("replay", "--to", "9")):
        attack.run(command[0], attack.export, *command[1:], code=0)


def test_nor_does_one_run_it_once_it_is_imported(attack: Attack, tmp_path: Path) -> None:
    attack.run("import", attack.export, "--dir", tmp_path, code=0)
    attack.run("audit", "--all", "--dir", tmp_path, code=6)
    attack.run("audit", "r", "--dir", tmp_path, code=6)
    attack.run("replay", "r", "--perform", EFFECTS, "--dir", tmp_path, code=1)
    attack.run("replay", "r", "--swap", f"verifier={TOY}", "--dir", tmp_path, code=77)
    attack.run("doctor", "--integrity", "--dir", tmp_path, code=0)


def test_with_the_users_own_task_the_recorded_verifier_runs_in_the_sandbox(attack: Attack) -> None:
    named = ("--task", attack.task)
    said = attack.run("replay", attack.export, "--perform", "verifier,meta_agent", *named, code=0)
    assert "all the same" in said.out and "cannot" not in said.out
    said = attack.run("replay", attack.export, "--swap", f"verifier={attack.task}", *named, code=0)
    assert "by toy/toy-1" in said.out
    assert "Whether hidden items" not in attack.run("audit", attack.export, *named, code=6).out


def test_no_file_in_the_export_sets_anything_for_who_goes_there(attack: Attack) -> None:
    settings, variables, inside = attack.export / "evolog.toml", attack.export / ".env", CliHarness(attack.export)
    server = attack.export / "server"
    server.write_text(f"#!/bin/sh\ntouch {attack.mark}\n")
    server.chmod(0o755)
    inside.node.nats_dir.mkdir(parents=True)
    try:
        settings.write_text("[audit]\nall = true\n")
        variables.write_text(f"EVOLOG_NATS_SERVER={server}\n")
        variables.chmod(0o600)
        inside.evolog("ls")
        inside.evolog("audit", str(attack.export), code=6)
    finally:
        settings.unlink()
        variables.unlink()
        shutil.rmtree(inside.node.directory)
    assert not attack.mark.exists()


def test_a_user_who_says_so_runs_it(attack: Attack) -> None:
    """So that the other tests would find it if it ran; the verifier stays in the sandbox."""
    said = attack.place.evolog("replay", str(attack.export), "--perform", "verifier", "--trust-code")
    assert "all the same" in said.out
    assert attack.mark.read_text().startswith("task.py") and "blob" not in attack.mark.read_text()
    attack.mark.unlink()
