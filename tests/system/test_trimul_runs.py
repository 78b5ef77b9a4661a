"""Whole runs of TriMul: schedules from the tiny language model, and kernels that a language model writes."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.harness import planted_kernels as planted
from tests.harness.cli import CliHarness, audited_runs
from tests.harness.llm_server import LlmServer, Step, call
from tests.harness.needs import needs

pytest.importorskip("peft")

from tasks.trimul.scaffold import schedule

pytestmark = [pytest.mark.long, needs("anthropic")]

SENT = {
    "slow": planted.SLOW,
    "wrong": planted.COARSE,
    "cheats": planted.BY_POINTER,
    "shapes": planted.FOR_THESE_SHAPES,
    "good": schedule.source("joined bmm f32 masked") or "",
}


def proposal(name: str) -> Step:
    """A scaffold that answers with one kernel."""
    agent = f"KERNEL = {SENT[name]!r}\n\n\ndef solve(item, model, data):\n    return KERNEL\n"
    return call(
        "propose_scaffold", files=[{"path": "agent.py", "text": agent}], summary=f"The {name} kernel.", report="Try it."
    )


def run(place: CliHarness, name: str, *arguments: str) -> None:
    """A run of TriMul to the end of its audit."""
    place.patience = 1200.0  # it pre-trains tiny-lm
    place.up()
    place.evolog("run", "trimul", "--name", name, "--detach", *arguments)
    deadline = time.monotonic() + 1200
    while name not in audited_runs(place.gold.read()):
        assert time.monotonic() < deadline, "the run is not at its end"
        time.sleep(1)


def test_a_language_model_sends_kernels_good_wrong_slow_and_cheating(tmp_path: Path) -> None:
    first = call("propose_scaffold", files=[], summary="As it is.", report="To compare with.")
    with LlmServer([first, *map(proposal, SENT), call("stop", reason="Enough is known.")]) as server:
        place = CliHarness(tmp_path, **server.environment("anthropic"))
        arguments = ("--agent", "anthropic:scripted", "--levers", "scaffold", "--generations", "6")
        try:
            run(place, "llm", *arguments)
            sql = (
                "SELECT t.generation, s.outcome, max(s.reward) AS reward FROM trajectory_scored s JOIN "
                "trajectory_recorded t ON s.trajectory = t.trajectory WHERE t.purpose = 'dev' GROUP BY ALL ORDER BY 1"
            )
            rows: list[dict[str, Any]] = json.loads(place.evolog("sql", sql, "--json").out)
        finally:
            place.down()
    outcomes = {row["generation"]: row["outcome"] for row in rows}
    assert [outcomes[number] for number in (1, 2, 3)] == ["slow", "wrong", "wrong"], rows
    assert outcomes[5] in ("fast", "slow"), rows
    best = {row["generation"]: row["reward"] for row in rows}
    assert best[5] > best[1] > 0, rows


def test_the_default_run_ends_well(tmp_path: Path) -> None:
    place = CliHarness(tmp_path)
    try:
        run(place, "schedules")
        report = json.loads(place.evolog("show", "schedules", "--json").out)
    finally:
        place.down()
    assert len(report["generations"]) >= 2
