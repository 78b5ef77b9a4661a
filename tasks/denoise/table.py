"""What baselines score that need no agent, in a run's units, and how that changes with the molecules of a cell:
`python -m tasks.denoise.table [--data deep | --data pbmc68k | --data FILE]`.

Without --data, on a simulated data set of the task. `deep` is simulated too, with 30,000 molecules a cell, so that
thinning goes through all depths. FILE has cells in rows: an .h5ad, for which OpenProblems' pancreas is
`--layer counts --only tech=inDrop1`; an .npz with an array `counts`; or an .mtx, .csv or .tsv.

The second table thins the counts: each molecule is kept with the probability in its first column. `MAGIC` is the one in
reversed order, as OpenProblems runs it, and `^1.25` its output to that power. tau is Kendall's, of the order of the
first table's outputs by mse_norm and that by likelihood: 1 where they are the same, -1 where one is the other turned
round.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import kendalltau

from events.errors import UserError
from tasks import kit
from tasks.denoise import data, magic, metric, real
from tasks.denoise.metric import Matrix
from tasks.denoise.simulate import simulate

SHARES = (1.0, 0.5, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02)
"""Parts of the molecules that the thinned counts keep."""
SEEDS = (0, 1)
"""Of the thinnings and their splits, over which means are taken."""
NONE, ZEROS, RANK_ONE, PERFECT = "none: train as it is", "zeros", "rank-1: each gene's mean", "perfect: test itself"
STANDARD, REVERSED, LINEAR = "MAGIC, standard order", "MAGIC, reversed order", "MAGIC, standard order, no square root"
MILD, STRONG = f"{REVERSED}, to the power of 1.25", f"{REVERSED}, to the power of 2"
SCALED, ROUNDED = f"{STANDARD}, times 1e-6", f"{REVERSED}, rounded"
ORDERED = (NONE, ZEROS, RANK_ONE, STANDARD, REVERSED, LINEAR, MILD, STRONG)
"""The outputs whose order tau is about: what has not seen test, and is not another one in other units or rounded."""


class BaselineScores(NamedTuple):
    """A baseline and its scores; `refused` says why the gate refuses it, and is empty where it does not."""

    name: str
    scores: metric.Scores
    refused: str


class ThinnedScores(NamedTuple):
    """Means over `SEEDS` of counts that keep the part `share` of their molecules; `molecules` is the median cell's.

    `scores` are those of each output by its name, `passes` whether the gate lets it pass each time.
    """

    share: float
    molecules: float
    scores: Mapping[str, metric.Scores]
    passes: Mapping[str, bool]
    tau: float


def outputs(train: Matrix, test: Matrix) -> Iterator[tuple[str, Matrix]]:
    """The baselines' names and outputs (cells, genes), one after the other, for the room that they take.

    They are made of train; only the last has seen test.
    """
    yield NONE, train
    yield ZEROS, np.zeros_like(train)
    yield RANK_ONE, metric.rank_one(train)
    standard, back = magic.denoise(train), magic.denoise(train, "reversed")
    yield STANDARD, standard
    yield REVERSED, back
    yield SCALED, standard * 1e-6
    yield ROUNDED, np.rint(back)
    yield MILD, back**1.25
    yield STRONG, back**2
    yield LINEAR, magic.denoise(train, norm="linear")
    yield PERFECT, test


def table(counts: Matrix, seed: int = 0) -> list[BaselineScores]:
    """A row for each baseline, on one split of the counts (cells, genes)."""
    train, test, _ = metric.split(counts, seed)
    judge = metric.Judge(train, test)
    return [
        BaselineScores(name, judge.scores(output), judge.refused(output))
        for name, output in outputs(judge.train, judge.test)
    ]


def thinned(counts: Matrix, share: float, seed: int) -> Matrix:
    """Counts (cells, genes) of which each molecule is kept with probability `share`; cells of under two molecules and
    genes of none are left out.
    """
    left = np.random.RandomState(seed).binomial(counts, share)
    left = left[left.sum(axis=1) >= 2]
    seen: Matrix = left[:, left.any(axis=0)]
    return seen


def tau(scores: Mapping[str, metric.Scores]) -> float:
    """Kendall's tau-b of the orders of `ORDERED` by mse_norm and by likelihood; both are better first."""
    compared = [scores[name] for name in ORDERED]
    return float(kendalltau([one.mse_norm for one in compared], [-one.likelihood for one in compared]).statistic)


def at_depth(counts: Matrix, share: float) -> ThinnedScores | None:
    """The means over `SEEDS` at one depth; None where too few molecules are left for scores."""
    parts = [thinned(counts, share, seed) for seed in SEEDS]
    if any(min(part.shape) < real.LEAST or part.sum() < real.LEAST_MOLECULES for part in parts):
        return None
    tables = [table(part, seed) for part, seed in zip(parts, SEEDS, strict=True)]
    scores = {
        rows[0].name: metric.Scores(*np.mean([row.scores for row in rows], axis=0).tolist())
        for rows in zip(*tables, strict=True)
    }
    passes = {rows[0].name: not any(row.refused for row in rows) for rows in zip(*tables, strict=True)}
    molecules = float(np.mean([np.median(part.sum(axis=1)) for part in parts]))
    return ThinnedScores(share, molecules, scores, passes, tau(scores))


def _counts(options: argparse.Namespace) -> Matrix:
    match options.data:
        case "simulated":
            first = data.data_set(kit.key(data.default_root()), data.names("train")[0][1])
            return first.train.astype(int) + first.test
        case "deep":
            return simulate(
                0, 200, 15_000, types=9, depth=30_000, depth_sigma=0.5, gene_sigma=2.3, de_prob=0.2, de_scale=0.8
            ).counts
        case "pbmc68k":
            return real.read(real.get(data.default_root()))
    return real.read(
        Path(options.data), options.layer, options.only, genes_in_rows=options.genes_in_rows, cells=options.cells
    )


def _print_table(counts: Matrix) -> None:
    print(f"{'':42}{'mse_norm':>10}{'poisson_norm':>14}{'likelihood':>12}  gate")
    for name, scores, refused in table(counts):
        print(
            f"{name:42}{scores.mse_norm:>10.4f}{scores.poisson_norm:>14.4f}{scores.likelihood:>12.4f}  "
            f"{refused or 'passes'}"
        )


def _print_curve(counts: Matrix) -> None:
    """Who wins at which depth, of zeros, MAGIC in reversed order and its mild power."""
    print(f"{'':18}{'mse_norm':>27}{'likelihood':>27}{'poisson_norm':>18}{'':7}  zeros or MAGIC")
    columns = ("kept", "molecules", *("zeros", "MAGIC", "^1.25") * 2, "zeros", "MAGIC", "tau")
    widths = (6, 12, *(9,) * 8, 7)
    heading = "".join(f"{word:>{width}}" for word, width in zip(columns, widths, strict=True))
    print(f"{heading}  by mse_norm, by likelihood, past the gate")
    for share in SHARES:
        if (row := at_depth(counts, share)) is None:
            print(f"{share:>6g}  too few molecules are left")
            return
        zeros, stock, mild = (row.scores[name] for name in (ZEROS, REVERSED, MILD))
        figures = [f"{share:>6g}{row.molecules:>12,.0f}"]
        figures += [f"{one.mse_norm:>9.3f}" for one in (zeros, stock, mild)]
        figures += [f"{one.likelihood:>9.3f}" for one in (zeros, stock, mild)]
        figures += [f"{one.poisson_norm:>9.4f}" for one in (zeros, stock)]
        by_mse = "zeros" if zeros.mse_norm > stock.mse_norm else "MAGIC"
        by_likelihood = "zeros" if zeros.likelihood < stock.likelihood else "MAGIC"
        passing = [word for word, name in (("zeros", ZEROS), ("MAGIC", REVERSED)) if row.passes[name]]
        gate = "both" if len(passing) == 2 else (*passing, "neither")[0]
        print(f"{''.join(figures)}{row.tau:>+7.2f}  {by_mse}, {by_likelihood}, {gate}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; the exit code. Without `arguments`, those of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.denoise.table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="simulated", help="simulated, deep, pbmc68k, or a file with cells in rows")
    parser.add_argument("--layer", default="", help="of an .h5ad")
    parser.add_argument("--only", default="", help="cells of an .h5ad: COLUMN=VALUE of obs")
    parser.add_argument("--genes-in-rows", action="store_true", help="the file has cells in columns, as 10x's .mtx has")
    parser.add_argument("--cells", type=int, help="take so many cells of the file at random, by seed 0")
    try:
        counts = _counts(parser.parse_args(arguments))
    except UserError as wrong:
        print(f"denoise: {wrong}", file=sys.stderr)
        return wrong.code
    print(f"{counts.shape[0]:,} cells (rows), {counts.shape[1]:,} genes (columns), ", end="")
    print(f"{np.median(counts.sum(axis=1)):,.0f} molecules in the median cell, {counts.mean():.3f} an entry; seed 0")
    _print_table(counts)
    print(f"\nThe same counts thinned: means over seeds {' and '.join(map(str, SEEDS))}.")
    _print_curve(counts)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
