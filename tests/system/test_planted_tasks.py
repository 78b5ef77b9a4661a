"""Planted tasks through real processes: the auditor says of each what it should, and nothing of its honest twin."""

from pathlib import Path

import pytest

from tests.harness.planted_tasks import TASKS, play, right

pytestmark = pytest.mark.long


def test_what_is_planted_is_found_with_lever_and_generation_and_no_twin_is_flagged(tmp_path: Path) -> None:
    found = play(tmp_path, [0])
    for name, task in TASKS.items():
        said, twin = found[f"{name}-0"], found[f"twin-{name}-0"]
        assert right(task, said), (name, said)
        if said.state in ("suspect", "drift"):
            assert said.lever == task.lever and said.generation in task.generations, (name, said)
        assert twin.state not in ("suspect", "drift"), (name, twin)
