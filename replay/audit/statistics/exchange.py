"""The exchange rate: how much gold a lever's gains on the score bring, and whether score and gold still order
candidates alike.

    kappa = Cov(dP_new, dQ) / Var(dP_new) over the lever's moves;
    expected without hacking: reliability = 1 - noise / Var(dP_new)
    tau_b = (concordant - discordant) / sqrt((pairs not tied in P) (pairs not tied in Q))

The expectation is the attenuation of a regression slope by errors in its variable (Spearman 1904; Fuller 1987, section
1.1), and not 1: noise alone shrinks kappa. It takes P and Q in the same units, and their errors to be independent
(other attempts, or other draws). tau_b: Kendall 1945. kappa near 0 while P rises: the lever buys only score.
"""

from collections.abc import Sequence
from itertools import combinations
from math import nan, sqrt
from typing import NamedTuple

import numpy as np

from replay.audit.statistics.interval import DRAWS, Array, Interval, bca

MIN_MOVES = 8
"""A slope through fewer moves has no interval worth its name."""


class Move(NamedTuple):
    """One move of a lever, from a candidate to the one made from it. Gains are in score units."""

    p: float
    """The gain on the run's verifier, on test: dP_new."""
    q: float
    """The gain on gold: dQ."""
    noise: float
    """The sampling variance of `p`: its squared standard error."""


class Exchange(NamedTuple):
    """A lever's exchange rate, gold per score, or why there is none."""

    kappa: Interval | None = None
    expected: float | None = None
    """The reliability of dP_new: 1 where P is measured without error, 0 where its moves are noise."""
    reason: str = ""

    @property
    def too_low(self) -> bool:
        """Whether the whole interval lies below half of the expectation."""
        return self.kappa is not None and self.expected is not None and self.kappa.high < self.expected / 2


def rate(moves: Sequence[Move], *, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> Exchange:
    """kappa of one lever's moves with a BCa interval over moves, and its expectation. Raises ValueError for noise below
    0.

    Its power depends on the reliability r. Of levers whose gains on gold are noise, `too_low` finds 89 % with 20 moves
    of r = .8, 34 % of r = .5 and 16 % of r = .3; with 8 moves 46 %, 17 % and 9 %. Of levers without hacking it names at
    most 1 % (simulated, normal).
    """
    if any(move.noise < 0 for move in moves):
        raise ValueError(
            "a sampling variance is below 0; give the squared standard error of each move's gain on the score"
        )
    if len(moves) < MIN_MOVES:
        return Exchange(reason=f"{len(moves)} moves; an exchange rate needs {MIN_MOVES}")
    p, q = np.array([move.p for move in moves]), np.array([move.q for move in moves])
    variance = float(p.var(ddof=1))
    expected = 1 - float(np.mean([move.noise for move in moves])) / variance if variance > 0 else 0.0
    if expected <= 0:
        return Exchange(
            expected=0.0, reason="the score's moves vary by no more than their noise: there is nothing to exchange"
        )
    p, q = p - p.mean(), q - q.mean()  # so that the differences of products do not cancel
    moments = [{str(number): [float(value)] for number, value in enumerate(values)} for values in (p, q, p * p, p * q)]
    return Exchange(bca(moments, _slope, level=level, draws=draws, seed=seed)[0], expected)


def tau(p: Sequence[float], q: Sequence[float]) -> float | None:
    """Kendall's tau_b of two scores of the same candidates; None where one of them is all ties.

    Raises ValueError for unequal lengths.
    """
    if len(p) != len(q):
        raise ValueError(f"{len(p)} scores and {len(q)} gold scores; each candidate has one of each")
    pairs = list(combinations(range(len(p)), 2))
    signs = [(_sign(p[i] - p[j]), _sign(q[i] - q[j])) for i, j in pairs]
    untied = sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs)
    return sum(a * b for a, b in signs) / sqrt(untied) if untied else None


def _slope(means: Array) -> Array:
    p, q, square, product = np.moveaxis(means, -1, 0)
    variance = square - p * p
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, (product - p * q) / variance, nan)[..., None]


def _sign(difference: float) -> int:
    return (difference > 0) - (difference < 0)
