"""The folders that `evolog task new` makes: what is in them, and which names are refused."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from events.errors import UsageError
from tasks.loading import load
from tasks.templates import PLACEHOLDER, TaskKind, new_task
from tests.harness.paths import ROOT

pytest.importorskip("scipy")

KINDS = get_args(TaskKind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_task_keeps_the_contract_under_its_name(kind: str, tmp_path: Path) -> None:
    folder = new_task("my-task_2", kind, tmp_path / "new")
    texts = {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert folder == tmp_path / "new/my-task_2" and not any(PLACEHOLDER in text for text in texts.values())
    assert texts["README.md"].startswith("# my-task_2\n") and "evolog run ./my-task_2" in texts["README.md"]
    task = load(str(folder))
    public = task.public(0)
    assert (task.name, public.name, task.generations) == ("my-task_2", "my-task_2", 2)
    assert task.submissions == (kind == "submission")
    assert task.policy == ("tiny-lm" if kind in ("graded", "unlabelled", "program") else "text-scorer")
    assert len(task.gold(1)) == (0 if kind == "unlabelled" else len(task.public(1).test)) and len(task.edits()) == 1
    assert {example.fold for example in public.train} == {0, 1, 2, 3, 4}
    for predict in task.baselines().values():
        assert set(predict(public, public.dev)) == {item.id for item in public.dev}


@pytest.mark.parametrize("name", ["", "Mine", "my task", "1st", "../mine", "a" * 41, "lawbench"])
def test_a_name_that_is_none_or_taken_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no name for a task|take another name"):
        new_task(name, "labelled", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="mine is there already, and nothing is overwritten"):
        new_task("mine", "labelled", tmp_path)
    with pytest.raises(UsageError, match="no kind of task 'odd'; expected one of labelled, csv, graded"):
        new_task("yours", "odd", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"] and list((tmp_path / "mine").iterdir()) == []


def test_a_csv_of_ones_own_takes_the_place_of_that_of_a_new_task(tmp_path: Path) -> None:
    """As other programs write them: with a byte order mark, CRLF, empty rows, texts twice, and no ASCII."""
    folder = new_task("mine", "csv", tmp_path / "with a space")
    rows = [f'"Größe {number // 2}, bitte 👍",{"ja" if number % 3 else "nein"}' for number in range(60)]
    (folder / "items.csv").write_bytes(("\ufefftext,label\r\n" + "\r\n\r\n,\r\n".join(rows)).encode())
    task = load(str(folder))
    public = task.public(0)
    prompts = [{item.prompt for item in split} for split in (public.train, public.dev, public.test)]
    assert public.labels == ("ja", "nein") and "Größe 7, bitte 👍" in set.union(*prompts)
    assert len(public.train) + len(public.dev) + len(public.test) == 60
    assert len(set.union(*prompts)) == 30 == sum(map(len, prompts)), "a text that stands twice is in one split"


def test_new_tasks_follow_the_rules_of_style(tmp_path: Path) -> None:
    for kind in KINDS:
        new_task(kind, kind, tmp_path)
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *config, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
