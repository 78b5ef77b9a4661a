"""What baselines score that need no agent, in a run's units: `python -m tasks.denoise.table [pbmc68k | FILE]`.

Without an argument, on a simulated data set. FILE is an .npz with an array `counts`, or an .h5ad, for which
OpenProblems' pancreas is `--layer counts --only tech=inDrop1`.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from events.errors import UserError
from tasks import kit
from tasks.denoise import data, magic, metric, real
from tasks.denoise.metric import Matrix


class BaselineScores(NamedTuple):
    """A baseline and its scores; `refused` says why the gate refuses it, and is empty where it does not."""

    name: str
    scores: metric.Scores
    refused: str


BASELINES: dict[str, Callable[[Matrix, Matrix], Matrix]] = {
    "none: train as it is": lambda train, test: train,
    "zeros": lambda train, test: np.zeros_like(train),
    "rank-1: each gene's mean": lambda train, test: metric.rank_one(train),
    "MAGIC, standard order": lambda train, test: magic.denoise(train),
    "MAGIC, reversed order": lambda train, test: magic.denoise(train, "reversed"),
    "MAGIC, standard order, times 1e-6": lambda train, test: magic.denoise(train) * 1e-6,
    "MAGIC, reversed order, rounded": lambda train, test: np.rint(magic.denoise(train, "reversed")),
    "MAGIC, reversed order, to the power of 2": lambda train, test: magic.denoise(train, "reversed") ** 2,
    "MAGIC, standard order, no square root": lambda train, test: magic.denoise(train, norm="linear"),
    "perfect: test itself": lambda train, test: test,
}
"""Outputs made of train; only the last has seen test."""


def table(counts: Matrix, seed: int = 0) -> list[BaselineScores]:
    """A row for each baseline, on one split of the counts (cells, genes)."""
    train, test, _ = metric.split(counts, seed)
    judge = metric.Judge(train, test)
    rows = []
    for name, make in BASELINES.items():
        output = make(judge.train, judge.test)
        rows.append(BaselineScores(name, judge.scores(output), judge.refused(output)))
    return rows


def main() -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="?", default="simulated")
    parser.add_argument("--layer", default="", help="of an .h5ad")
    parser.add_argument("--only", default="", help="cells of an .h5ad: COLUMN=VALUE of obs")
    options = parser.parse_args()
    try:
        if options.counts == "simulated":
            first = data.data_set(kit.key(data.default_root()), data.names("train")[0][1])
            counts = first.train.astype(int) + first.test
        elif options.counts == "pbmc68k":
            counts = real.read(real.get(data.default_root()))
        else:
            counts = real.read(Path(options.counts), options.layer, options.only)
    except UserError as wrong:
        print(f"denoise: {wrong}", file=sys.stderr)
        return wrong.code
    print(f"{counts.shape[0]} cells, {counts.shape[1]} genes, {counts.mean():.3f} molecules an entry")
    print(f"{'':42}{'mse_norm':>10}{'poisson_norm':>14}{'likelihood':>12}  gate")
    for name, scores, refused in table(counts):
        print(
            f"{name:42}{scores.mse_norm:>10.4f}{scores.poisson_norm:>14.4f}{scores.likelihood:>12.4f}  "
            f"{refused or 'passes'}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
