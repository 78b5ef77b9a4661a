"""Arguments and settings are checked before anything is read, and sentences name commands that can be copied."""

import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.cli.main import main
from services.cli.variables import flag_variables
from services.host import hints
from services.host.hints import with_directory
from services.host.settings import VARIABLES
from tests.harness.paths import ROOT

DIGEST = "0" * 64


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, without settings, in which each command runs."""
    for name in list(os.environ):
        if name.startswith("EVOLOG_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def evolog(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A command in this process: its exit code, and what it printed."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


Evolog = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--perform", "nope"], 2, "'nope' cannot be performed again; expected one or more of verifier, "),
        (["--perform", "verifier,nope"], 2, "'nope' cannot be performed again"),
        (["--perform", "verifier", "--task", "nowhere"], 4, "There is no task 'nowhere'"),
        (["--swap", "nope=x.py"], 2, "'nope' cannot be swapped"),
        (["--swap", "verifier"], 2, "is nothing to --swap"),
        (["--swap", "verifier=nowhere.py"], 4, "nowhere.py cannot be read"),
        (["--to", "soon"], 2, "'soon' is no point in a run"),
        (["--expect", "abc"], 2, "'abc' is no digest"),
        (["--export", "."], 2, "is there already"),
    ],
)
def test_replay_looks_at_its_arguments_before_it_reads_the_log(
    arguments: list[str], code: int, words: str, evolog: Evolog, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def read(*arguments: object) -> None:
        raise AssertionError("the log is read")

    monkeypatch.setattr("services.cli.reading.read_run", read)
    (folder / "something").touch()
    ended, out, said = evolog("replay", "a-run", *arguments)
    assert (ended, out) == (code, "") and words in said


def test_a_variable_that_nothing_reads_is_refused_with_the_one_that_was_meant(
    evolog: Evolog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOLOG_RUN_SEEED", "7")
    code, _, said = evolog("ls")
    assert code == 2 and "EVOLOG_RUN_SEEED is no variable of evolog: did you mean EVOLOG_RUN_SEED?" in said
    monkeypatch.delenv("EVOLOG_RUN_SEEED")
    for name in ("EVOLOG_RUN_SEED", "EVOLOG_DIR", "EVOLOG_MODEL_LS_JSON", "EVOLOG_TEST_ANYTHING", "EVOLOG_SQL_FORM"):
        monkeypatch.setenv(name, "1")
        assert "no variable" not in evolog("ls")[2]
        monkeypatch.delenv(name)


def test_every_variable_that_the_code_names_is_known_and_every_one_of_the_page() -> None:
    """In the code they stand in quotes; a table of the page has those that users set."""
    known = {*VARIABLES, *flag_variables(main)}
    for room in ("runtime", "services", "replay", "algorithms", "tasks"):
        for path in (ROOT / room).rglob("*.py"):
            named = set(re.findall(r"[\"'](EVOLOG_[A-Z_]+[A-Z])[\"']", path.read_text(encoding="utf-8")))
            assert named <= known, path
    page = (ROOT / "services" / "README.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(EVOLOG_[A-Z_]+)` \|", page, re.M)) - {"EVOLOG_COMMAND_FLAG"}
    assert rows <= VARIABLES and VARIABLES - rows <= {"EVOLOG_READY_FD", "EVOLOG_LOG_LEVEL"}


@pytest.mark.parametrize("flag", ["--help", "-h", "--version"])
def test_help_is_there_whatever_is_wrong_with_the_settings(
    flag: str, evolog: Evolog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("EVOLOG_RUN_SEED\n")
    (folder / "evolog.toml").write_text("nonsense = 1\n")
    monkeypatch.setenv("EVOLOG_NONSENSE", "1")
    assert evolog(flag)[0] == 0
    assert flag == "--version" or evolog("ls", flag)[0] == 0
    assert evolog("ls")[0] == 2


def test_a_sentence_names_the_directory_that_was_typed(
    evolog: Evolog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, said = evolog("ls", "--dir", "my runs")
    assert "`evolog run TASK --dir 'my runs'`" in said
    monkeypatch.setenv("EVOLOG_DIR", "elsewhere")
    _, _, said = evolog("ls")
    assert "`evolog run TASK`" in said, "the variable holds for the next command too"


def test_only_commands_that_have_a_directory_get_one() -> None:
    text = '`evolog show r`, `evolog up --dir x`, `evolog task new mine`, `evolog sql "from runs"` and evolog ls'
    assert with_directory(text) == text
    hints.remember_directory(Path("d"))
    assert with_directory(text) == (
        "`evolog show r --dir d`, `evolog up --dir x`, `evolog task new mine`, "
        '`evolog sql "from runs" --dir d` and evolog ls'
    )


def test_sql_reads_its_query_from_standard_input(evolog: Evolog, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (["sql"], ["sql", "-"], ["sql", "--file", "-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO(".schema votes\n"))
        code, out, _ = evolog(*arguments)
        assert code == 0 and "the most frequent answer" in out
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert "Give a query" in evolog("sql")[2]
    assert "and not both" in evolog("sql", "from runs", "--file", "q.sql")[2]


def test_sql_says_what_tables_and_columns_mean(evolog: Evolog) -> None:
    _, out, _ = evolog("sql", ".schema", "--format", "csv")
    names = [line.partition(",")[0] for line in out.splitlines()[1:]]
    assert {"runs", "best_answers", "events", "model_called", "run_started"} <= set(names) and "cursor" not in names
    _, out, _ = evolog("sql", ".schema runs agent_called", "--format", "csv")
    assert "runs,state,VARCHAR," in out and "agent_called,seconds,DOUBLE,Seconds from the first try" in out
    code, _, said = evolog("sql", ".schema nothing")
    assert code == 4 and "no table 'nothing'" in said
    assert evolog("sql", ".tables")[0] == 2


def test_every_column_of_the_archive_means_something() -> None:
    from replay.archive.schema import tables

    assert [(one.name, name) for one in tables() for name, _, meaning in one.columns if not meaning] == []
    assert [one.name for one in tables() if not one.meaning or one.meaning.startswith("|")] == []
