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

WITH_COMMANDS = {str(page.relative_to(ROOT)): page for page in pages.pages() if pages.script(page)}
SHORT = "--generations 1 --levers scaffold"
"""What makes `make run` short, as its user may."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CliHarness]:
    """The root of a clone in which page one was followed: its run `first` is there."""
    place = CliHarness(tmp_path_factory.mktemp("clone"))
    for entry in ROOT.iterdir():
        if entry.name not in (".evolog", ".git"):
            (place.folder / entry.name).symlink_to(entry)
    place.evolog("run", str(TOY), "--name", "first")
    yield place


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_a_pages_commands_do_what_it_says(
    name: str, clone: CliHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    (ROOT / ".venv" / "run").touch()  # what is installed runs this
    log = tmp_path / "log"
    try:
        with log.open("wb") as output:
            done = subprocess.run(
                ["bash", "-u"],
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


def _left_out(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]
