"""An export whose task and verifier are an attacker's: no command runs any of it unasked, and the verifier that it
brings runs in the sandbox.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from replay.exports import folder
from runtime.blobs.directory import Blobs
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
    place.evolog("replay", "r", "--export", str(out))
    assert "1 performed again, all the same" in place.evolog("replay", "r", "--perform", "meta_agent").out
    plant(out, task, f"open({str(mark)!r}, 'a').write('{{}}')\n")
    yield Attack(place, out, task, mark)


def plant(export: Path, task: Path, marking: str) -> None:
    """Put code that leaves a mark into a task's folder in the export and into the run's verifier, and have events and
    description name both.
    """
    planted = shutil.copytree(task, export / "task")
    for file in planted.rglob("*.py"):
        file.write_text(marking.format(file.name) + file.read_text())
    attempt = f"try:\n    {marking.format('blob')}except OSError as refused:\n    REFUSED = refused\n"
    code = Blobs(export / folder.BLOBS).put((attempt + VERIFIER).encode())
    manifest = json.loads((export / folder.MANIFEST).read_bytes())
    began, *rest = (export / folder.EVENTS).read_bytes().splitlines(keepends=True)
    old = {"task": manifest["started"]["task"], "verifier_code": manifest["started"]["verifier_code"]}
    new = {"task": str(planted), "verifier_code": code}
    for key in old:
        began = began.replace(json.dumps(old[key]).encode(), json.dumps(new[key]).encode())
    (export / folder.EVENTS).write_bytes(began + b"".join(rest))
    manifest["sha256"][folder.EVENTS] = hashlib.sha256((export / folder.EVENTS).read_bytes()).hexdigest()
    manifest |= {"started": manifest["started"] | new, "blobs": manifest["blobs"] + 1}
    (export / folder.MANIFEST).write_text(json.dumps(manifest))


def test_no_command_runs_what_an_export_names(attack: Attack) -> None:
    said = attack.run("audit", attack.export, code=0)
    assert "whose code is not run unasked: name the task's folder with --task FOLDER" in said.out
    said = attack.run("replay", attack.export, "--perform", EFFECTS, code=1)
    assert "verifier: none performed again" in said.out and "with --trust-code" in said.out
    said = attack.run("replay", attack.export, "--swap", f"verifier={TOY}", code=77)
    assert said.err.startswith("evolog: The run came as an export and names the task") and said.err.count("\n") == 1
    attack.run("replay", attack.export, code=3)  # its first decision was made on another beginning
    for command in (("show",), ("diff", attack.export), ("replay", "--to", "9")):
        attack.run(command[0], attack.export, *command[1:], code=0)


def test_nor_does_one_run_it_once_it_is_imported(attack: Attack, tmp_path: Path) -> None:
    attack.run("import", attack.export, "--dir", tmp_path, code=0)
    attack.run("audit", "--all", "--dir", tmp_path, code=0)
    attack.run("audit", "r", "--dir", tmp_path, code=0)
    attack.run("replay", "r", "--perform", EFFECTS, "--dir", tmp_path, code=1)
    attack.run("replay", "r", "--swap", f"verifier={TOY}", "--dir", tmp_path, code=77)
    attack.run("doctor", "--integrity", "--dir", tmp_path, code=0)


def test_with_the_users_own_task_the_recorded_verifier_runs_in_the_sandbox(attack: Attack) -> None:
    named = ("--task", attack.task)
    said = attack.run("replay", attack.export, "--perform", "verifier,meta_agent", *named, code=0)
    assert "all the same" in said.out and "cannot" not in said.out
    said = attack.run("replay", attack.export, "--swap", f"verifier={attack.task}", *named, code=0)
    assert "by toy/toy-1" in said.out
    assert "Whether hidden items" not in attack.run("audit", attack.export, *named, code=0).out


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
        inside.evolog("audit", str(attack.export), code=0)
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
