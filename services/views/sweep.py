"""The runs of a sweep, by the point that they were made at."""

import statistics
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from algorithms.statistics import mean_interval
from replay.report import Report


class SweepPoint(msgspec.Struct, kw_only=True):
    """The runs of one choice of settings, a run for each seed."""

    settings: dict[str, Any]
    runs: list[Report]


class SweepReport(msgspec.Struct, kw_only=True):
    """Runs of one task that differ in some settings."""

    version: int = 1
    task: str
    seeds: list[int]
    points: list[SweepPoint]


def final_scores(runs: Sequence[Report], split: str) -> dict[int, float]:
    """What the final candidates score on a split, by the verifier, for each seed whose run has one."""
    return {run.seed: cell.score for run in runs for cell in run.cells if cell.cell == "final" and cell.split == split}


def sweep_table(console: Console, sweep: SweepReport) -> None:
    """Print a row for each point: its final candidates on dev and test, and against the first point's, seed by seed."""
    seeds = len(sweep.seeds)
    over = "one seed" if seeds == 1 else f"mean and 95 % t interval over {seeds} seeds"
    table = Table(title=f"{sweep.task}: final candidates, {over}", title_justify="left")
    names = list(sweep.points[0].settings)
    for name in names:
        table.add_column(name.replace("_", "-"), overflow="fold")
    for column in ("dev", "test", "test against the first", "rollouts", "seeds"):
        table.add_column(column, justify="right")
    first = final_scores(sweep.points[0].runs, "test")
    for point in sweep.points:
        dev, test = (final_scores(point.runs, split) for split in ("dev", "test"))
        paired = [test[seed] - first[seed] for seed in test if seed in first]
        table.add_row(
            *(str(point.settings[name]) for name in names),
            _interval(list(dev.values())),
            _interval(list(test.values())),
            "-" if point is sweep.points[0] else _interval(paired, sign="+"),
            f"{statistics.fmean(run.rollouts for run in point.runs):,.0f}",
            str(max(len(dev), len(test))),
        )
    console.print(table)


def _interval(values: Sequence[float], sign: str = "") -> str:
    """A mean with its interval; of one value there is none, and of none there is a dash."""
    if not values:
        return "-"
    mean, half = mean_interval(values)
    return f"{mean:{sign}.4f} ± {half:.4f}" if len(values) > 1 else f"{mean:{sign}.4f}"
