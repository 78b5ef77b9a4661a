"""`evolog task` as a user types it: what stands on stdout, and the exit code."""

import json
from pathlib import Path

import pytest

from services.cli.main import main
from services.host import task_sources
from tests.harness.cli import CommandResult, one_sentence

pytest.importorskip("scipy")


def evolog(capsys: pytest.CaptureFixture[str], *arguments: str) -> CommandResult:
    """The exit code of a command in this process, and what it printed."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return CommandResult(ended.value.code, shown.out, shown.err)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_new_prints_the_folder_and_then_refuses_to_overwrite_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = evolog(capsys, "task", "new", "mine", "--kind", "graded")
    assert (code, out) == (0, "./mine\n") and "evolog run ./mine" in err
    again = evolog(capsys, "task", "new", "mine")
    one_sentence(again, "mine is there already")
    assert again.code == 2
    assert evolog(capsys, "task", "new", "other", "--into", "deep/er").out == "./deep/er/other\n"


@pytest.mark.slow
def test_check_says_what_is_wrong_and_ends_with_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evolog(capsys, "task", "new", "mine")
    verifier = Path("mine/verifier.py")
    verifier.write_text(verifier.read_text().replace('Scored(0.0, "unparsed")', 'Scored(0.5, "unparsed")'))
    monkeypatch.setattr(task_sources, "visible", lambda: ([], {}))
    code, out, _ = evolog(capsys, "task", "check", "./mine", "--items", "2")
    assert code == 3 and "The verifier rewards an empty answer to 2 items (case-" in out
    assert out.endswith("./mine: 2 findings\n")  # for an empty answer, and for none
    code, out, _ = evolog(capsys, "task", "check", "./mine", "--items", "2", "--json")
    told = json.loads(out)
    assert code == 3 and (told["version"], told["sound"]) == (1, False)
    assert {one["check"] for one in told["checks"] if one["status"] == "finding"} == {"empty"}


def test_a_folder_that_is_no_task_ends_as_a_run_of_it_would(capsys: pytest.CaptureFixture[str]) -> None:
    assert evolog(capsys, "task", "check", "nowhere").code == 4
    Path("mine").mkdir()
    empty = evolog(capsys, "task", "check", "./mine")
    one_sentence(empty, "has no task.py")
    assert empty.code == 78


@pytest.mark.slow
def test_a_new_program_task_is_sound_with_real_processes_and_sandboxes(capsys: pytest.CaptureFixture[str]) -> None:
    evolog(capsys, "task", "new", "mine", "--kind", "program")
    code, out, _ = evolog(capsys, "task", "check", "./mine", "--items", "3")
    assert code == 0 and out.endswith("./mine is sound\n"), out


@pytest.mark.slow
def test_a_verifier_that_differs_from_process_to_process_is_noisy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_sources, "visible", lambda: ([], {}))
    evolog(capsys, "task", "new", "mine")
    verifier = Path("mine/verifier.py")
    text = verifier.read_text().replace('Scored(1.0, "right")', 'Scored(1.0 + hash(answer) % 1000, "right")')
    verifier.write_text(text)
    code, out, _ = evolog(capsys, "task", "check", "./mine", "--items", "5")
    assert code == 3 and "The verifier gives the same answer different scores" in out
