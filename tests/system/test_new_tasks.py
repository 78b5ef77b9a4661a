"""What `evolog task new` makes runs as it is, and pulls both levers."""

import json
from pathlib import Path
from typing import get_args

import pytest

from tasks.templates import TaskKind
from tests.harness.cli import CliHarness

pytest.importorskip("peft")

pytestmark = pytest.mark.long


@pytest.mark.parametrize("kind", get_args(TaskKind))
def test_a_new_task_runs_with_both_levers_and_ends_better_than_it_began(kind: str, tmp_path: Path) -> None:
    place = CliHarness(tmp_path / "place")
    place.patience = 1200.0
    place.evolog("task", "new", "mine", "--kind", kind)
    place.evolog("run", "./mine", "--name", "mine", "--budget", "rollouts=20k")
    asked = "SELECT lever, score FROM generations ORDER BY generation"
    rows = json.loads(place.evolog("sql", asked, "--format", "json").out)
    assert [row["lever"] for row in rows] == ["start", "scaffold", "weights"]
    assert max(row["score"] for row in rows) > rows[0]["score"]
