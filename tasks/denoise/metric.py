"""OpenProblems' denoising scores, as published and as they were meant.

    L(A) = log1p(1e4 A / rowsum A);   mse = mean (L(test) - L(output))^2
    poisson (as published) = mean(test - d log(test + 1e-6)),  d = output sum(test) / sum(train)
    likelihood (as meant)  = mean(d' - test log(d' + 1e-6)),
    d' = output, its rows made to add up to train's, sum(test) / sum(train)
    normalised = (none - score) / (none - perfect): 0 for train as it is, 1 for test itself

openproblems-bio/openproblems v1.0.0, tasks/denoising. There poisson_nll_loss(y_pred, y_true) is called with (test, d),
the other way round than molecular_cross_validation calls it (Batson 2019), and so the true counts stand where the
prediction belongs. `likelihood` has them in their places. mse and poisson do not see what each cell's output adds up
to, or next to nothing of it, which the likelihood fixes at the cell's library. TTT-Discover (arXiv 2601.16175) and SIA
(arXiv 2605.27276) reward mse_norm, behind the gate below.

This file is also a part of scaffolds, so it imports nothing of evolog.
"""

from typing import Any, NamedTuple

import numpy as np

Matrix = np.ndarray[Any, np.dtype[Any]]
TRAIN_SHARE, TARGET, SMALL = 0.9, 1e4, 1e-6
GATE = 0.97
"""The least poisson_norm that earns a reward."""


class Constants(NamedTuple):
    """The scores of train as it is (none) and of test itself (perfect), between which a score is normalised."""

    mse_none: float
    poisson_none: float
    mse_perfect: float
    poisson_perfect: float


PUBLISHED = {
    "pancreas": Constants(0.304721, 0.257575, 0.0, 0.031739),
    "pbmc": Constants(0.270945, 0.300447, 0.0, 0.043569),
    "tabula": Constants(0.261763, 0.206542, 0.0, 0.026961),
}
"""Those that TTT-Discover's verifier holds for OpenProblems' data sets."""


class Split(NamedTuple):
    """Molecules to denoise and molecules held out, of the same cells and genes; `genes` are the columns of the counts
    that are left.
    """

    train: Matrix
    test: Matrix
    genes: Matrix


class Scores(NamedTuple):
    """Of one output: the published two, both normalised, and the likelihood in nats an entry (lower is better, as for
    mse and poisson).
    """

    mse: float
    poisson: float
    mse_norm: float
    poisson_norm: float
    likelihood: float


def split(counts: Matrix, seed: int = 0) -> Split:
    """Nine tenths of the molecules to train, the rest to test; genes without a molecule in train are dropped."""
    train = np.random.RandomState(seed).binomial(counts, TRAIN_SHARE)
    genes = np.flatnonzero(train.sum(axis=0))
    return Split(train[:, genes], (counts - train)[:, genes], genes)


def log_normalised(counts: Matrix) -> Matrix:
    """L of the formula above; a cell without counts stays zero."""
    sums = counts.sum(axis=1, keepdims=True)
    return np.log1p(TARGET * counts / np.where(sums == 0, 1, sums))


class Judge:
    """Scores outputs for one split; what all outputs are held against is computed once."""

    def __init__(self, train: Matrix, test: Matrix) -> None:
        self.train, self.test = np.asarray(train, float), np.asarray(test, float)
        self.ratio = float(self.test.sum() / self.train.sum())
        self._logarithms, self._swapped = log_normalised(self.test), np.log(self.test + SMALL)
        self._seen = np.nonzero(self.test)
        self.constants = Constants(self.mse(self.train), self.poisson(self.train), 0.0, self.poisson(self.test))

    def mse(self, output: Matrix) -> float:
        """The mean squared error of logarithms."""
        return float(np.mean((self._logarithms - log_normalised(output)) ** 2))

    def poisson(self, output: Matrix) -> float:
        """As published, arguments swapped."""
        return float(np.mean(self.test) - self.ratio * np.mean(output * self._swapped))

    def likelihood(self, output: Matrix) -> float:
        """The negative Poisson log-likelihood of test, without the term log(test!), in nats an entry; each cell at its
        library's size.
        """
        predicted = at_library_size(self.train, output) * self.ratio
        return float(
            predicted.mean() - (self.test[self._seen] * np.log(predicted[self._seen] + SMALL)).sum() / self.test.size
        )

    def scores(self, output: Matrix) -> Scores:
        """All of them. mse_norm is not clipped, so that one sees by how much an output is worse than none."""
        of, error, loss = self.constants, self.mse(output), self.poisson(output)
        return Scores(
            error,
            loss,
            (of.mse_none - error) / (of.mse_none - of.mse_perfect),
            (of.poisson_none - loss) / (of.poisson_none - of.poisson_perfect),
            self.likelihood(output),
        )

    def refused(self, output: Matrix) -> str:
        """Why TTT-Discover's gate lets an output earn nothing; empty if it lets it pass."""
        if not np.all(np.isfinite(output)):
            return "the output is not finite"
        if output.min() < 0:
            return "the output is negative somewhere"
        if output.max() > self.train.sum():
            return "an entry is larger than all of train"
        of, loss = self.constants, self.poisson(output)
        if loss < of.poisson_perfect:
            return "poisson is better than that of test itself"
        if (norm := (of.poisson_none - loss) / (of.poisson_none - of.poisson_perfect)) < GATE:
            return f"poisson_norm is {norm:.3f}, under {GATE}"
        return ""


def rank_one(train: Matrix) -> Matrix:
    """Each cell's library shared out as all cells' together: what is known of genes when nothing is known of cells."""
    return np.outer(train.sum(axis=1), train.sum(axis=0) / train.sum())


def at_library_size(train: Matrix, output: Matrix) -> Matrix:
    """The output with each cell's sum made that of train; a cell without output stays without."""
    sums = output.sum(axis=1, keepdims=True)
    scaled: Matrix = output * (train.sum(axis=1, keepdims=True) / np.where(sums == 0, 1, sums))
    return scaled
