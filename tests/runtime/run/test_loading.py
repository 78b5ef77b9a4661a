"""Whose code is run for a recorded run: a task by its name or as the user says, and an export's verifier in the
sandbox.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.errors import Misconfigured, UserError
from runtime.run.confined_verifier import ConfinedVerifier
from runtime.run.loading import OWN, TaskAccess
from tasks.loading import Task, load
from tests.harness.facts import ANY_ITEM
from tests.harness.paths import ROOT, TOY

SOURCE = """
import os

from . import data
from tasks.contract import Scored

VERSION = "odd-1"


def score(answer, label):
    if answer == "raise":
        raise KeyError(label)
    if answer == "nothing":
        return None
    if answer == "infinite":
        return Scored(float("inf"), "right")
    if answer == "look":
        return Scored(float(os.path.exists(label)), "right")
    if answer == "end":
        os._exit(3)
    return Scored(0.1 + 0.2, "right" if label in data.LABELS else "sideways")
"""
NAME = "the verifier of run r"


def test_an_exported_run_names_a_task_by_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lawbench").mkdir()
    monkeypatch.chdir(tmp_path)
    assert TaskAccess().load_task("lawbench").folder == ROOT / "tasks" / "lawbench"
    for named in ("./lawbench", str(TOY), str(ROOT / "tasks" / "lawbench")):
        with pytest.raises(UserError, match="--task FOLDER, or run what the export names with --trust-code") as refused:
            TaskAccess().load_task(named)
        assert refused.value.code == 77


@pytest.mark.parametrize("access", [OWN, TaskAccess(trusted=True), TaskAccess(folder=str(TOY))])
def test_otherwise_the_user_says_what_is_run(access: TaskAccess) -> None:
    assert access.load_task("lawbench" if access.folder else str(TOY)).folder == TOY


@pytest.fixture(scope="module")
def own() -> Task:
    return load(str(TOY)).with_verifier(SOURCE, NAME)


@pytest.fixture(scope="module")
def confined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Task]:
    verifier = ConfinedVerifier(SOURCE, NAME, load(str(TOY)), tmp_path_factory.mktemp("verifier"))
    yield load(str(TOY)).with_judge(verifier, NAME)
    verifier.close()


def said(task: Task, answer: str | None, label: str) -> str:
    try:
        return repr(task.score(ANY_ITEM, answer, label))
    except Misconfigured as wrong:
        return str(wrong)


def test_a_verifier_in_the_sandbox_says_what_it_says_outside(own: Task, confined: Task) -> None:
    assert confined.verifier == own.verifier == "toy/odd-1"
    for answer in ("baker", None, "raise", "nothing", "infinite"):
        for label in ("baker", "é\n\0"):
            assert said(confined, answer, label) == said(own, answer, label), answer


def test_it_sees_no_file_of_the_host_and_not_its_tasks_gold(own: Task, confined: Task) -> None:
    gold = os.path.join("evolog", "scaffold", "evolog_task", "gold.py")
    for path in (str(TOY / "gold.py"), "/etc/passwd", f"/{gold}"):
        assert confined.score(ANY_ITEM, "look", path).reward == 0
    assert own.score(ANY_ITEM, "look", str(TOY / "gold.py")).reward == 1
    assert confined.score(ANY_ITEM, "look", f"/{gold.replace('gold', 'data')}").reward == 1


def test_one_that_ends_its_process_scores_nothing_more(tmp_path: Path) -> None:
    verifier = ConfinedVerifier(SOURCE, NAME, load(str(TOY)), tmp_path)
    for answer in ("end", "baker"):
        with pytest.raises(Misconfigured, match=r"does not run in the sandbox \(the scaffold's process exited with 3"):
            load(str(TOY)).with_judge(verifier, NAME).score(ANY_ITEM, answer, "baker")
    verifier.close()


@pytest.mark.parametrize("text", ["def score(:", "import nowhere", "VERSION = 1\ndef score(answer, label): ..."])
def test_text_that_is_no_verifier_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(Misconfigured, match=f"^{NAME} (cannot be imported|does not run in the sandbox)"):
        ConfinedVerifier(text, NAME, load(str(TOY)), tmp_path)
