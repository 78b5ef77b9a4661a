"""What looks like the root of a clone, in which a page's commands are run from top to bottom as a reader would."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.harness import pages
from tests.harness.cli import CliHarness
from tests.harness.paths import ROOT


def clone(folder: Path) -> CliHarness:
    """A clone in a folder; what is installed there is this `.venv`."""
    place = CliHarness(folder)
    shutil.copytree(ROOT, folder, dirs_exist_ok=True, ignore=_ignored)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    for file in ("pyproject.toml", ".ci/constraints.txt"):
        os.utime(folder / file, (0, 0))  # older than what is installed: `make` need not install it again
    return place


def copy(place: CliHarness, folder: Path) -> CliHarness:
    """A copy of a clone with its runs, where nothing is up."""
    other = CliHarness(folder)
    shutil.copytree(place.folder, folder, symlinks=True, dirs_exist_ok=True, ignore=_sockets)
    return other


def follow(name: str, place: CliHarness, log: Path, run_flags: str = "") -> None:
    """Run the commands of a page in a clone; each must end as the page says. `run_flags` are those of `make run`."""
    environment = {
        **place.environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RUN_FLAGS": run_flags,
    }
    if cache := os.environ.get("XDG_CACHE_HOME"):
        environment["XDG_CACHE_HOME"] = cache
    else:
        environment.pop("XDG_CACHE_HOME")  # data that were downloaded once need not be again
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


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]
