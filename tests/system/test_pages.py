"""Every command of every page but page one, run from top to bottom as a reader would, in what looks like the root of a
clone.
"""

from pathlib import Path

import pytest

from tests.harness import pages
from tests.harness.cli import CliHarness
from tests.harness.clone import clone, copy, follow
from tests.harness.paths import ROOT, TOY

pytest.importorskip("torch")

pytestmark = pytest.mark.slow

PAGE_ONE = "README.md"
LONG = ("runtime/policies/README.md", "runtime/rollouts/README.md")
"""Pages whose runs take minutes, and are runs of what other tests have too."""
WITH_COMMANDS = [str(page.relative_to(ROOT)) for page in pages.pages() if pages.shell_blocks(page)]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> CliHarness:
    """A clone in which page one was followed: its run `first` is there."""
    place = clone(tmp_path_factory.mktemp("clone"))
    place.evolog("run", str(TOY), "--name", "first")
    return place


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if name in LONG else name
        for name in WITH_COMMANDS
        if name != PAGE_ONE
    ],
)
def test_a_pages_commands_do_what_it_says(name: str, followed: CliHarness, tmp_path: Path) -> None:
    follow(name, copy(followed, tmp_path / "clone"), tmp_path / "log")
