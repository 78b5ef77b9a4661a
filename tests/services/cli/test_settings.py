"""What a run's flags order: alike in run, ablate and fork, by a file, by key=value, and without starting anything."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from events.errors import UsageError
from replay.fork import FIXED, SETTINGS, parse_settings
from services.cli.ablate import points_of
from services.cli.main import main
from services.cli.options import CHANGEABLE, CommandLineOnly, order_of
from tests.harness.paths import TOY

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """A command in an empty folder: its exit code, and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return run


def plan_of(say: Say, *arguments: str) -> dict[str, tuple[Any, str]]:
    code, out, err = say("run", *arguments, "--dry-run", "--json")
    assert (code, err) == (0, "")
    return {setting["name"]: (setting["value"], setting["source"]) for setting in json.loads(out)["settings"]}


def test_a_dry_run_says_where_each_setting_comes_from(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evolog.toml").write_text('seed = 1\n[run]\nalgorithm = "grpo"\n')
    (tmp_path / ".env").write_text("EVOLOG_RUN_RECHECK=2\n")
    (tmp_path / ".env").chmod(0o600)
    monkeypatch.setenv("EVOLOG_RUN_RECHECK", "2")  # what is read of .env stays in this process
    monkeypatch.setenv("EVOLOG_RUN_WIDTH", "3")
    settings = plan_of(say, str(TOY), "--refills", "1", "--set", "group-size=4")
    file = str(tmp_path / "evolog.toml")
    assert settings["seed"] == (1, file) and settings["algorithm"] == ("grpo", file)
    assert settings["recheck"] == (2, "EVOLOG_RUN_RECHECK in .env")
    assert settings["width"] == (3, "EVOLOG_RUN_WIDTH")
    assert settings["refills"] == (1, "the command line") and settings["group_size"] == (4, "--set")
    assert settings["generations"] == (2, "the task") and settings["schedule"] == ("agent", "the default")


def test_a_dry_run_starts_and_writes_nothing(say: Say, tmp_path: Path) -> None:
    code, out, err = say("run", str(TOY), "--dry-run")
    assert (code, err) == (0, "") and list(tmp_path.iterdir()) == []
    assert "168 rollouts for the start" in out and "would be started." in out


def test_a_dry_run_refuses_what_the_run_would(say: Say) -> None:
    code, out, err = say("run", str(TOY), "--budget", "rollouts=5", "--dry-run")
    assert (code, out) == (2, "") and "does not cover the first evaluation" in err


def test_a_file_that_is_named_stands_in_the_place_of_evolog_toml(say: Say, tmp_path: Path) -> None:
    (tmp_path / "evolog.toml").write_text("[run]\nseed = 1\nwidth = 2\n")
    (tmp_path / "other.toml").write_text(f'task = "{TOY}"\n[run]\nseed = 3\n')
    settings = plan_of(say, "--config", "other.toml")
    assert settings["seed"] == (3, "other.toml") and settings["width"] == (1, "the default")
    assert settings["task"] == (str(TOY), "other.toml")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "x", "--config", "nowhere.toml"), 4, "There is no nowhere.toml"),
        (("run", "x", "--set", "depth=2"), 2, "'depth=2' is nothing to --set"),
        (("run", "x", "--set", "detach=true"), 2, "is nothing to --set"),
        (("run", "x", "--set", "width"), 2, "write KEY=VALUE"),
        (("run", "x", "--set", "width=0"), 2, "0 is not in the range"),
        (("run", "x", "--width", "2", "--set", "width=3"), 2, "width is said twice"),
        (("run", "x", "--set", "width=2", "--set", "width=3"), 2, "width is said twice"),
        (("run", "--from", "sia", "x", "--dry-run"), 2, "leave one of them out"),
        (("ablate", "x", "--over", "width=2"), 2, "'width=2' compares nothing"),
        (("ablate", "x", "--over", "width=2,2"), 2, "compares nothing"),
        (("ablate", "x", "--over", "width=2,99"), 2, "cannot be swept: 99 is not in the range"),
        (("ablate", "x", "--over", "seeds=2,3"), 2, "'seeds=2,3' is nothing to sweep"),
        (("ablate", "x", "--over", "width=2,3", "--width", "2"), 2, "width is swept and set as well"),
        (("ablate", "x", "--over", "width=2,3", "--over", "width=4,5"), 2, "--over names width twice"),
        (("ablate", "x", "--strategy", "best_of_k"), 2, "asks the start again by itself"),
        (("fork", "r", "--at", "1", "--set", "seed=2"), 2, "A fork cannot change seed, since its splits"),
        (("fork", "r", "--at", "1", "--levers", "both", "--set", "levers=both"), 2, "levers is said twice"),
    ],
)
def test_what_cannot_be_set_is_refused(say: Say, arguments: tuple[str, ...], code: int, words: str) -> None:
    ended, out, err = say(*arguments)
    assert (ended, out) == (code, "") and words in err


@pytest.mark.parametrize("flag", [flag for flag, _ in CHANGEABLE])
def test_run_ablate_and_fork_have_these_flags_alike(flag: str) -> None:
    name = flag.removeprefix("--").replace("-", "_")
    run, ablate, fork = (
        next(option for option in main.commands[verb].params if option.name == name)
        for verb in ("run", "ablate", "fork")
    )
    assert run.to_info_dict() == ablate.to_info_dict() | {"envvar": run.envvar} and name in SETTINGS
    assert repr(run.type) == repr(fork.type) and isinstance(fork, CommandLineOnly) and fork.default is None


def test_a_key_is_written_with_either_dash_and_none_is_both_fixed_and_changed() -> None:
    assert parse_settings(["group-size=4"]) == {"group_size": "4"}
    assert not FIXED.keys() & set(SETTINGS)
    for key in FIXED:
        with pytest.raises(UsageError, match=f"A fork cannot change {key}, since "):
            parse_settings([f"{key}=1"])


def test_a_sweep_is_each_value_with_each_by_the_flags_type() -> None:
    over = ["width=1,4", "strategy=chain,dgm"]
    with main.commands["ablate"].make_context("ablate", ["x"]) as context:
        points = points_of(context, over)
        order = order_of("x", context.params | dict(points[-1]))
    assert points == [{"width": width, "strategy": strategy} for width in (1, 4) for strategy in ("chain", "dgm")]
    assert (order.search.width, order.search.strategy) == (4, "dgm")


def test_an_order_has_what_the_flags_say() -> None:
    arguments = ["x", "--algorithm", "grpo", "--group-size", "4", "--levers", "weights", "--sandbox", "none"]
    command: click.Command = main.commands["run"]
    with command.make_context("run", arguments) as context:
        order = order_of("x", context.params)
    assert (order.algorithm, order.group_size, order.levers, order.sandbox) == ("grpo", 4, "weights", "none")
