"""Every command of page one, run from top to bottom as a reader would, in what looks like the root of a clone.

It is a file of its own since it takes as long as many other pages together: another worker can run those meanwhile.
"""

from pathlib import Path

import pytest

from tests.harness.clone import clone, follow

pytest.importorskip("torch")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "run_flags",
    ["--generations 0", pytest.param("--generations 1 --levers scaffold", marks=pytest.mark.long)],
)
def test_page_ones_commands_do_what_it_says(run_flags: str, tmp_path: Path) -> None:
    """`run_flags` make `make run` short, as its user may."""
    follow("README.md", clone(tmp_path / "clone"), tmp_path / "log", run_flags)
