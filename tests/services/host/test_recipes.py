"""Recipes for other supervisors: what can be looked at without them is."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from services.cli.main import main
from services.host.settings import ACCELERATE_VARIABLE, accelerate_config
from tests.harness.paths import ROOT

RECIPES = ROOT / "services" / "host" / "recipes"
FILES = sorted(path for path in RECIPES.rglob("*") if path.is_file() and path.name != "README.md")
UNITS = sorted(RECIPES.glob("systemd/*.service"))
SCRIPTS = sorted(RECIPES.glob("slurm/*.sbatch"))
MANIFEST = RECIPES / "kubernetes" / "evolog.yaml"
KUBERNETES = "1.34.0"


def texts_of(value: object) -> Iterator[list[str]]:
    """Each list of strings below the name `args`, of whatever YAML holds."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "args":
                yield [str(each) for each in inner]
            yield from texts_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)


def commands_of(path: Path) -> list[list[str]]:
    """The arguments of each `evolog` in a recipe."""
    if path == MANIFEST:
        documents = import_module("yaml").safe_load_all(path.read_text())
        return [arguments for arguments in texts_of(list(documents)) if arguments[0] in main.commands]
    text = path.read_text().replace("\\\n", " ")
    lines = re.findall(r"^(?!#).*?(?:/bin/| )evolog (.*?)(?: &)?$", text, re.M)
    return [shlex.split(line.replace("$SLURM_CPUS_PER_TASK", "16")) for line in lines]


def test_each_says_in_its_first_line_what_was_not_run() -> None:
    assert len(FILES) > 6 and UNITS and SCRIPTS
    for path in FILES:
        first = path.read_text().removeprefix("#!/usr/bin/env bash\n").splitlines()[0]
        assert re.search(r"\bnot (run|built)\b|\bnever run\b|Not (run|built)", first), path


@pytest.mark.parametrize("path", [*UNITS, *SCRIPTS, MANIFEST], ids=lambda path: path.name)
def test_each_command_is_one_that_evolog_takes(path: Path) -> None:
    commands = commands_of(path)
    assert commands or "vllm" in path.name
    for verb, *arguments in commands:
        context = main.commands[verb].make_context(f"evolog {verb}", arguments)
        assert context.params["directory"] and (context.params["credentials"] or context.params["listen"])


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_finds_nothing_wrong(path: Path, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze")
    for program in ("evolog", "vllm"):
        made = tmp_path / "bin" / program
        made.parent.mkdir(exist_ok=True)
        made.touch(0o755)
    unit = tmp_path / path.name.replace("@", "@x")
    unit.write_text(path.read_text().replace("/opt/evolog/bin", str(tmp_path / "bin")))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_the_scripts(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False).stderr == ""
    assert path.read_text().count("#SBATCH --") >= 8


def test_the_manifest_keeps_to_the_schema() -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    documents = list(import_module("yaml").safe_load_all(MANIFEST.read_text()))
    assert [document["kind"] for document in documents].count("Deployment") == 2
    for document in documents:
        validate(document, KUBERNETES, strict=True)


def test_accelerates_configuration_is_one_that_the_trainer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.setenv(ACCELERATE_VARIABLE, str(RECIPES / "slurm" / "fsdp.yaml"))
    assert accelerate_config() == RECIPES / "slurm" / "fsdp.yaml"
