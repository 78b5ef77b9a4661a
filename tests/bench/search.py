"""Strategies at equal rollouts: `python -m tests.bench.search TASK --rollouts N [--seeds 5] [--arm dgm:4 ...]`.

Each arm, a strategy, a width and perhaps how far rollouts may lag behind what they train (`chain:1:1`), runs the task
once a seed, with the same budget of rollouts and as many generations as that allows. The table has the mean score on
test of what a run ended with, the difference to the first arm seed by seed, both with 95 % t intervals over the seeds,
and rollouts a second of the loop, without the audit, over the first arm's. Other work on the machine is in that time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

from algorithms.statistics import mean_interval

ARMS = ("chain:1", "chain:4", "dgm:4", "best_of_k:4")


class Outcome(NamedTuple):
    """What a run ended with."""

    dev: float
    test: float
    rollouts: int
    generations: int
    seconds: float


def play(task: str, arm: str, seed: int, rollouts: int, directory: Path, flags: Sequence[str]) -> Outcome:
    """One run, in a process of its own."""
    strategy, width, lag = parts(arm)
    command = [sys.executable, "-m", "services.cli", "run", task, "--json", "--dir", str(directory)]
    command += ["--strategy", strategy, "--width", width, "--max-lag", lag, "--seed", str(seed), *flags]
    command += ["--budget", f"rollouts={rollouts}"]
    command += [] if strategy == "best_of_k" else ["--generations", "100"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode not in (0, 5):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    asked = f"SELECT seconds FROM runs WHERE run = '{report['run']}'"
    command = [sys.executable, "-m", "services.cli", "sql", asked, "--json", "--dir", str(directory)]
    (loop,) = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    final = [cell for cell in report["cells"] if cell["split"] == "test" and cell["scaffold"] == report["scaffold"]]
    own = [cell for cell in final if cell["adapter"] == report["adapter"]]
    generations = len(report["generations"]) - 1
    return Outcome(report["score"], own[0]["score"], report["rollouts"], generations, loop["seconds"])


def parts(arm: str) -> list[str]:
    """An arm's strategy, width and lag."""
    return [*arm.split(":"), "0"][:3]


def interval(values: list[float]) -> str:
    """A mean with its 95 % t interval."""
    mean, half = mean_interval(values)
    return f"{mean:.4f} \u00b1 {half:.4f}" if len(values) > 1 else f"{mean:.4f}"


def rate(outcomes: Sequence[Outcome]) -> float:
    """Rollouts a second."""
    return sum(one.rollouts for one in outcomes) / sum(one.seconds for one in outcomes)


def main() -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--rollouts", type=int, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    told = "STRATEGY:WIDTH[:LAG]; the first is what the others are held against"
    parser.add_argument("--arm", action="append", help=told)
    options, flags = parser.parse_known_args()  # other flags are those of `evolog run`
    arms = tuple(options.arm or ARMS)
    found: dict[str, list[Outcome]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as folder:
        plays = [(seed, arm) for seed in range(options.seeds) for arm in arms]
        for seed, arm in track(plays, f"{options.task}, {options.rollouts:,} rollouts", console=Console(stderr=True)):
            place = Path(folder) / arm.replace(":", "-")
            found[arm].append(play(options.task, arm, seed, options.rollouts, place, flags))
            print(f"{arm} seed {seed}: {found[arm][-1]}", file=sys.stderr)
    columns = (
        "strategy",
        "width",
        "lag",
        "test",
        "less the first",
        "dev",
        "rollouts",
        "generations",
        "seconds",
        "rollouts a second",
        "over the first",
    )
    title = " ".join([f"{options.task}, {options.rollouts:,} rollouts, {options.seeds} seeds", *flags])
    table = Table(*columns, title=title)
    first = found[arms[0]]
    for arm, outcomes in found.items():
        rows = list(zip(outcomes, first, strict=True))
        table.add_row(
            *parts(arm),
            interval([one.test for one in outcomes]),
            "" if outcomes is first else interval([one.test - other.test for one, other in rows]),
            interval([one.dev for one in outcomes]),
            f"{sum(one.rollouts for one in outcomes) / len(outcomes):,.0f}",
            f"{sum(one.generations for one in outcomes) / len(outcomes):.1f}",
            f"{sum(one.seconds for one in outcomes) / len(outcomes):.0f}",
            f"{rate(outcomes):.1f}",
            f"{rate(outcomes) / rate(first):.2f}",
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
