"""What a shell is offered: commands, flags, their values, tasks, and the runs of the project directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from events import codec
from events.errors import UsageError
from events.subjects import LOG
from replay.archive.projection import Archive
from runtime.log.port import Stored
from services.cli.completion import PROGRAM, VARIABLE, Assignments
from services.cli.main import main
from tests.harness.facts import started
from tests.harness.paths import ROOT


def offered(line: str) -> list[str]:
    """What the last word of a command line may become; a type of path in angle brackets."""
    *words, last = line.split(" ")
    found = ShellComplete(main, {}, PROGRAM, VARIABLE).get_completions(words, last)
    return [f"<{item.type}>" if item.type != "plain" else item.value for item in found]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sh", ["show"]),
        ("task n", ["new"]),
        ("run law", ["lawbench"]),
        ("data get fe", ["feeling"]),
        ("run ./my", ["<dir>"]),
        ("ablate x --algorithm gr", ["grpo"]),
        ("fork r --levers sc", ["scaffold"]),
        ("run x --policy te", ["text-scorer"]),
        ("run x --gro", ["--group-size"]),
        ("run x --set sch", ["schedule="]),
        ("ablate x --over wi", ["width="]),
        ("service exe", ["executor"]),
        ("get r ad", ["adapter"]),
        ("completion z", ["zsh"]),
    ],
)
def test_words_are_completed(line: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert offered(line) == expected


def test_runs_are_those_of_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    archive = Archive(tmp_path / "there" / "archive.duckdb", LOG)
    archive.apply([stored(number, run) for number, run in enumerate(("first", "fifth", "second"), 1)])
    archive.close()
    assert offered("show --dir there fi") == ["fifth", "first"]
    assert offered("diff --dir there first se") == ["second"]
    (tmp_path / "evolog.toml").write_text('dir = "there"\n')
    assert offered("audit s") == ["second"]


def stored(number: int, run: str) -> Stored:
    event = codec.event(started(), run=run, source="operator", cause="", time="2026-01-01T00:00:00Z")
    return Stored(number, number, event.subject, codec.encode(event))


@pytest.mark.parametrize("files", [{}, {"evolog.toml": "dir ="}, {"evolog.toml": "[nope]\n"}, {".env": "EVOLOG_X\n"}])
def test_what_cannot_be_read_is_passed_over(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert offered("show f") == ["<dir>"] and offered("ls --j") == ["--json"]
    if files:
        with pytest.raises(UsageError):
            main.make_context("evolog", ["ls"])


def test_every_key_that_is_offered_can_be_set() -> None:
    with main.commands["run"].make_context("run", ["x"]) as context:
        keys = [key.removesuffix("=") for key in Assignments().names(context)]
        assert set(keys) <= context.params.keys()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_evolog(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", shell])
    script = capsys.readouterr().out
    assert f"{VARIABLE}={shell}_complete" in script
    assert script.count('string split -m 1 ","') == script.count("string split") == (shell == "fish")


@pytest.mark.slow
def test_bash_completes_by_it(tmp_path: Path) -> None:
    program = "import sys; sys.argv[0] = 'evolog'; from services.cli.main import main; main()"
    evolog = tmp_path / "evolog"
    evolog.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -c "{program}" "$@"\n')
    evolog.chmod(0o755)
    script = """
eval "$(evolog completion bash)"
complete -p evolog
COMP_WORDS=(evolog run tri) COMP_CWORD=2 COMPREPLY=()
_evolog_completion evolog
echo "${COMPREPLY[*]}"
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines() == ["complete -o nosort -F _evolog_completion evolog", "trimul"] and not said.stderr
