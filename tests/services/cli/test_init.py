"""evolog.toml as `evolog init` writes it: it sets nothing, and each of its lines could."""

import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from services.cli.defaults import defaults
from services.cli.init import settings_file
from services.cli.main import main
from services.cli.options import is_settable, named_flags

FLAGS = {name: named_flags(command) for name, command in main.commands.items()}


def written(tmp_path: Path, text: str) -> dict[str, dict[str, Any]]:
    (tmp_path / "evolog.toml").write_text(text)
    return defaults(FLAGS, tmp_path)


def test_as_it_is_written_it_sets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["init"])
    assert ended.value.code == 0
    assert not any(defaults(FLAGS, tmp_path).values())


def test_it_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evolog.toml").write_text("[run]\nseed = 1\n")
    with pytest.raises(SystemExit) as ended:
        main(["init"])
    assert ended.value.code == 2 and "left as it is" in capsys.readouterr().err
    assert (tmp_path / "evolog.toml").read_text() == "[run]\nseed = 1\n"


def test_every_setting_is_in_it_with_its_default(tmp_path: Path) -> None:
    text = re.sub(r"^#(?=[a-z])", "", settings_file(main), flags=re.M)
    made = written(tmp_path, text)
    for name, command in main.commands.items():
        options = [option for option in command.params if isinstance(option, click.Option) and is_settable(option)]
        assert {option.name for option in options} == made[name].keys()
        for option in options:
            default = option.to_info_dict()["default"]
            if default is not None and not option.multiple:
                assert made[name][option.name or ""] in (default, str(default)), (name, option.name)


def test_each_example_is_a_value_that_its_flag_takes() -> None:
    example = re.compile(r"^#([a-z-]+) = (.+?)  # an example$", re.M)
    section = ""
    for line in settings_file(main).splitlines():
        section = line[1 : line.index("]")] if line.startswith("[") else section
        if (found := example.match(line)) and (value := tomllib.loads(f"v = {found[2]}")["v"]) != "":
            name = FLAGS[section][found[1].replace("-", "_")]
            option = next(each for each in main.commands[section].params if each.name == name)
            with main.commands[section].make_context(section, [], resilient_parsing=True) as context:
                option.type_cast_value(context, value)
