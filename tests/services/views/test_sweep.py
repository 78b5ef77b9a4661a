"""The table of a sweep: a row for each point, and its difference to the first point seed by seed."""

from io import StringIO

from rich.console import Console

from events.gold import GoldScored
from events.kinds import SplitName
from replay.report import Report
from services.views.sweep import SweepPoint, SweepReport, final_scores, sweep_table

CELLS: tuple[tuple[str, SplitName, float], ...] = (
    ("start", "test", 9.0),
    ("final", "dev", 0.125),
    ("final", "test", 0.0),
)


def run_of(seed: int, score: float) -> Report:
    cells = [
        GoldScored(
            cell=cell,
            split=split,
            scaffold="",
            adapter="",
            policy="",
            score=score + more,
            low=0.0,
            high=1.0,
            items=40,
            failed=0,
            rollouts=40,
            blob="",
        )
        for cell, split, more in CELLS
    ]
    return Report(run=f"r{seed}", task="toy", seed=seed, rollouts=100, cells=cells)


def test_points_are_compared_seed_by_seed() -> None:
    failed = Report(run="f", task="toy", seed=2, rollouts=50)
    first = SweepPoint(settings={"group_size": 4}, runs=[run_of(0, 0.25), run_of(1, 0.5), run_of(2, 0.5)])
    second = SweepPoint(settings={"group_size": 8}, runs=[run_of(0, 0.5), run_of(1, 0.75), failed])
    file = StringIO()
    sweep_table(Console(file=file, width=120), SweepReport(task="toy", seeds=[0, 1, 2], points=[first, second]))
    rows = [line for line in file.getvalue().splitlines() if line.startswith("│ ")]
    assert "group-size" in file.getvalue() and len(rows) == 2
    assert "+0.2500 ± 0.0000" in rows[1] and rows[1].split()[-2] == "2" and "83" in rows[1]
    assert final_scores(second.runs, "test") == {0: 0.5, 1: 0.75}


def test_one_seed_has_no_interval() -> None:
    file = StringIO()
    points = [SweepPoint(settings={"width": width}, runs=[run_of(0, 0.25)]) for width in (1, 2)]
    sweep_table(Console(file=file, width=120), SweepReport(task="toy", seeds=[0], points=points))
    assert "±" not in file.getvalue() and "one seed" in file.getvalue()
