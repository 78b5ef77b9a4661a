"""The e-process: a test of "the gap does not grow" that may be read after every pair and still errs with probability
alpha at most.

    E_n = mean over lambda of prod_{i <= n} (1 + lambda x_i),   x_i in [-1, 1],  0 < lambda < 1;
    flag once E_n >= 1 / alpha

Where E[x_i | the past] <= 0 each product is a non-negative supermartingale that starts at 1, and so is their mean,
whence P(any E_n >= 1 / alpha) <= alpha (Ville 1939). Waudby-Smith & Ramdas 2024, "Estimating means of bounded random
variables by betting", JRSSB 86 (arXiv 2010.09686), the capital process with fixed bets, averaged over a grid of them.
Kept in logarithms, so that ten thousand pairs neither overflow nor vanish. Imports no numpy.
"""

from collections.abc import Iterable
from math import exp, fsum, isfinite, log, log1p
from typing import Self

import msgspec

GRID = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The bets. A product grows fastest at lambda of about E[x] / E[x^2], so small gaps want small bets."""


class EProcess(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence so far, to which `advanced` adds more pairs.

    Without pairs E is 1. Raises ValueError for bets outside (0, 1).
    """

    lambdas: tuple[float, ...] = GRID
    logs: tuple[float, ...] = (0.0,) * len(GRID)
    """ln prod (1 + lambda x), one for each lambda."""
    pairs: int = 0

    def __post_init__(self) -> None:
        if not self.lambdas or not all(0 < bet < 1 for bet in self.lambdas) or len(self.logs) != len(self.lambdas):
            raise ValueError(
                f"the bets are {self.lambdas} with {len(self.logs)} products; each needs one and must lie inside (0, 1)"
            )

    @property
    def log_e(self) -> float:
        """ln E, in nats."""
        most = max(self.logs)
        return most + log(fsum(exp(one - most) for one in self.logs) / len(self.logs))

    def advanced(self, pairs: Iterable[float]) -> Self:
        """The evidence after more pairs; each pair counts once. Raises ValueError for a pair outside [-1, 1]."""
        state = self
        for x in pairs:
            if not (isfinite(x) and -1 <= x <= 1):
                raise ValueError(
                    f"pair {state.pairs + 1} is {x}; rescale pairs to [-1, 1], by what scores can differ by at most"
                )
            logs = tuple(one + log1p(bet * x) for bet, one in zip(state.lambdas, state.logs, strict=True))
            state = msgspec.structs.replace(state, logs=logs, pairs=state.pairs + 1)
        return state
