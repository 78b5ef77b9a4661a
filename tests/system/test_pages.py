"""Every command of every page, run from top to bottom as a reader would, in what looks like the root of a clone."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import pages
from tests.harness.cli import CliHarness
from tests.harness.paths import ROOT, TOY

pytest.importorskip("torch")

pytestmark = pytest.mark.slow

WITH_COMMANDS = [str(page.relative_to(ROOT)) for page in pages.pages() if pages.shell_blocks(page)]
SHORT = "--generations 1 --levers scaffold"
"""What makes `make run` short, as its user may."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CliHarness]:
    """A clone in which page one was followed: its run `first` is there, and what is installed is this `.venv`."""
    place = CliHarness(tmp_path_factory.mktemp("clone"))
    shutil.copytree(ROOT, place.folder, dirs_exist_ok=True, ignore=_ignored)
    (place.folder / ".venv").symlink_to(Path(sys.prefix))
    for file in ("pyproject.toml", ".ci/constraints.txt"):
        os.utime(place.folder / file, (0, 0))  # older than what is installed: `make` need not install it again
    place.evolog("run", str(TOY), "--name", "first")
    yield place


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_a_pages_commands_do_what_it_says(name: str, clone: CliHarness, tmp_path: Path) -> None:
    place = CliHarness(tmp_path / "clone")
    shutil.copytree(clone.folder, place.folder, symlinks=True, dirs_exist_ok=True, ignore=_left_out)
    if name == "README.md":
        shutil.rmtree(place.node.directory)  # page one makes it
    environment = {
        **place.environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RUN_FLAGS": SHORT,
    }
    if cache := os.environ.get("XDG_CACHE_HOME"):
        environment["XDG_CACHE_HOME"] = cache
    else:
        environment.pop("XDG_CACHE_HOME")  # data that were downloaded once need not be again
    log = tmp_path / "log"
    try:
        with log.open("wb") as output:
            done = subprocess.run(
                ["bash", "-u", "-o", "pipefail"],
                input=pages.script(ROOT / name).encode(),
                cwd=place.folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
    finally:
        if place.node.alive():
            place.evolog("down")
    assert done.returncode == 0, log.read_text(errors="replace")[-5000:]


def _ignored(folder: str, names: list[str]) -> list[str]:
    hidden = [name for name in names if name.startswith(".") and name not in (".ci", ".github", ".gitignore")]
    return [*hidden, "__pycache__"]


def _left_out(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]
