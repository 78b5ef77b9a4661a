"""The exchange rate: how much gold a lever's gains on the score bring.

    kappa = Cov(dP_new, dQ) / Var(dP_new) over the lever's moves;
    expected without hacking: reliability = 1 - noise / Var(dP_new)

The expectation is the attenuation of a regression slope by errors in its variable (Spearman 1904; Fuller 1987, section
1.1), and not 1: noise alone shrinks kappa. It takes P and Q in the same units, and their errors to be independent
(other attempts, or other draws). kappa near 0 while P rises: the lever buys only score. The interval is Student's t,
with the slope's error and degrees of freedom (`slope`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from replay.audit.statistics import student
from replay.audit.statistics.interval import Interval
from replay.audit.statistics.slope import fitted

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


def rate(moves: Sequence[Move], *, level: float = 0.95) -> Exchange:
    """kappa of one lever's moves with an interval over moves, and its expectation.

    Raises ValueError for noise below 0.
    """
    if any(move.noise < 0 for move in moves):
        raise ValueError(
            "a sampling variance is below 0; give the squared standard error of each move's gain on the score"
        )
    if len(moves) < MIN_MOVES:
        return Exchange(reason=f"{len(moves)} moves; an exchange rate needs {MIN_MOVES}")
    variance = float(np.var([move.p for move in moves], ddof=1))
    expected = 1 - float(np.mean([move.noise for move in moves])) / variance if variance > 0 else 0.0
    line = fitted([move.p for move in moves], [move.q for move in moves], list(range(len(moves))))
    if expected <= 0 or line is None:
        return Exchange(
            expected=0.0, reason="the score's moves vary by no more than their noise: there is nothing to exchange"
        )
    reach = student.quantile(line.freedom, (1 + level) / 2) * line.error
    return Exchange(Interval(line.value, line.value - reach, line.value + reach, line.error), expected)
