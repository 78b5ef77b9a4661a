"""Settings of files and variables: how each is named, which goes first, and an .env only if nobody else can read it."""

from pathlib import Path

import pytest

from events.errors import Misconfigured, UsageError
from replay.exports import folder
from services.cli.defaults import EXPORT, read_dotenv
from services.cli.main import main


def dotenv(folder: Path, text: str, mode: int = 0o600) -> Path:
    (folder / ".env").write_text(text)
    (folder / ".env").chmod(mode)
    return folder


def test_its_evolog_variables_are_read_and_no_others(tmp_path: Path) -> None:
    text = "# settings\nOTHER=1\nEVOLOG_RUN_SEED=7\nexport EVOLOG_DIR='my runs'\n"
    assert read_dotenv(dotenv(tmp_path, text)) == {"EVOLOG_RUN_SEED": "7", "EVOLOG_DIR": "my runs"}


def test_there_need_be_none(tmp_path: Path) -> None:
    assert read_dotenv(tmp_path) == {}


def test_one_that_others_can_read_is_refused_if_it_sets_something(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="chmod 600"):
        read_dotenv(dotenv(tmp_path, "EVOLOG_RUN_SEED=7", 0o644))
    assert read_dotenv(dotenv(tmp_path, "OTHER=1", 0o644)) == {}


def test_a_line_without_a_value_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.env:2"):
        read_dotenv(dotenv(tmp_path, "\nEVOLOG_RUN_SEED"))


def test_a_file_in_an_export_sets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EXPORT == folder.MANIFEST
    (tmp_path / EXPORT).touch()
    (tmp_path / "evolog.toml").write_text('dir = "elsewhere"\n')
    (tmp_path / "pyproject.toml").write_text('[tool.evolog]\ndir = "elsewhere"\n')
    assert read_dotenv(dotenv(tmp_path, "EVOLOG_NATS_SERVER=./theirs", 0o644)) == {}
    (tmp_path / "blobs").mkdir()
    for start in (tmp_path, tmp_path / "blobs"):
        monkeypatch.chdir(start)
        with main.make_context("evolog", ["ls"]) as context:
            assert (context.default_map or {})["ls"] == {}


@pytest.mark.parametrize("command", ["audit", "replay"])
@pytest.mark.parametrize("flag", ["trust_code", "task"])
def test_what_trusts_code_is_said_on_the_command_line_alone(
    command: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evolog.toml").write_text(f"[{command}]\n{flag} = true\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="has no such flag"):
        main.make_context("evolog", [command, "r"])
    monkeypatch.setenv(f"EVOLOG_{command}_{flag}".upper(), "1")
    with main.commands[command].make_context(command, ["r"], auto_envvar_prefix=f"EVOLOG_{command.upper()}") as context:
        assert not context.params[flag]


@pytest.mark.parametrize("name", ["format", "form"])
def test_a_file_sets_a_flag_by_the_name_that_it_is_written_with(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evolog.toml").write_text(f'dir = "elsewhere"\n[sql]\n{name} = "csv"\n')
    monkeypatch.chdir(tmp_path)
    with main.make_context("evolog", ["sql", "FROM runs"]) as context:
        set_there = context.default_map or {}
    assert set_there["sql"] == {"directory": "elsewhere", "form": "csv"} and set_there["ls"] == {
        "directory": "elsewhere"
    }


def test_a_variable_sets_a_flag_by_the_name_that_it_is_written_with(monkeypatch: pytest.MonkeyPatch) -> None:
    main.make_context("evolog", ["sql", "FROM runs"]).close()
    with main.commands["sql"].make_context("sql", ["FROM runs"], auto_envvar_prefix="EVOLOG_SQL") as context:
        assert context.params["form"] == "table"
    for name in ("EVOLOG_SQL_FORMAT", "EVOLOG_SQL_FORM"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "csv")
            with main.commands["sql"].make_context("sql", ["FROM runs"], auto_envvar_prefix="EVOLOG_SQL") as context:
                assert context.params["form"] == "csv", name
