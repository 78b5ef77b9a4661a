"""Answering questions about held-out tasks so that the answers teach little: the Ladder and Thresholdout.

    Ladder:          R_0 = infinity;  release [loss]_eta if loss < R_{t-1} - eta, otherwise R_{t-1}
    parameter-free:  eta = s / sqrt(n),  s the standard deviation of the paired loss differences to the incumbent;  release [loss]_{1/n}
    Thresholdout:    if |E_h - E_t| > T^ + Lap(4 sigma): release E_h + Lap(sigma), budget - 1, T^ = T + Lap(2 sigma);  otherwise E_t

Blum & Hardt 2015, arXiv 1502.04585, figures 1 and 2 (the error is O((ln(k n) / n)^(1/3))). Dwork et al. 2015, "Generalization in adaptive
data analysis and holdout reuse", arXiv 1506.02629, figure 1. Both slow a search that fits the holdout; neither stops it.
Immutable states: the n-th question's noise is drawn from (seed, n), so the same questions have the same answers.
"""

from collections.abc import Sequence
from math import inf, sqrt
from typing import Self

import msgspec
import numpy as np

TIE = 1e-12
"""One task won and none lost is a step of exactly s / sqrt(n) = 1 / n, which is not below it, whichever way floats round."""


class Ladder(msgspec.Struct, frozen=True, kw_only=True):
    """What has been released. `eta` is the step in loss units; None is the parameter-free Ladder. Raises ValueError for a step <= 0."""

    eta: float | None = None
    released: float = inf
    """The best loss that was told; infinity before the first."""
    incumbent: tuple[float, ...] = ()
    """The losses on each task of the candidate that it was told of."""

    def __post_init__(self) -> None:
        if self.eta is not None and not self.eta > 0:
            raise ValueError(f"the Ladder's step is {self.eta}; it must exceed 0, or be None for the parameter-free one")

    def asked(self, losses: Sequence[float]) -> Self:
        """After a candidate's losses, one for each task in a fixed order; `released` is the answer.

        Raises ValueError without losses, and for another number of tasks than the incumbent's.
        """
        if not losses or (self.incumbent and len(losses) != len(self.incumbent)):
            raise ValueError(
                f"{len(losses)} losses where {len(self.incumbent) or 'some'} were expected; ask about the same tasks each time"
            )
        n, loss = len(losses), float(np.mean(losses))
        if self.eta is not None:
            step = grain = self.eta
        else:
            differences = np.subtract(losses, self.incumbent or losses)
            step, grain = float(differences.std(ddof=1)) / sqrt(n) if n > 1 else 0.0, 1 / n
        if not loss < self.released - step - TIE:
            return self
        return msgspec.structs.replace(self, released=round(loss / grain) * grain, incumbent=tuple(losses))


class Thresholdout(msgspec.Struct, frozen=True, kw_only=True):
    """A holdout that is told from only when training misleads. For n tasks a usual start is T = 4 / sqrt(n), sigma = 1 / sqrt(n)."""

    threshold: float
    sigma: float
    budget: int
    """How many answers may still come from the holdout."""
    seed: int
    asked_so_far: int = 0
    answer: float | None = None
    """The last answer; None before the first and once the budget is spent."""
    noise: float | None = None
    """T^ - T, redrawn after each answer from the holdout."""

    def asked(self, train: float, holdout: float) -> Self:
        """After a question whose mean is `train` on the training tasks and `holdout` on the held-out ones; `answer` is the answer."""
        if self.budget < 1:
            return msgspec.structs.replace(self, answer=None)
        rng = np.random.default_rng([self.seed, self.asked_so_far])
        noise = rng.laplace(0, 2 * self.sigma) if self.noise is None else self.noise
        now = msgspec.structs.replace(self, asked_so_far=self.asked_so_far + 1, noise=float(noise), answer=float(train))
        if not abs(holdout - train) > self.threshold + noise + rng.laplace(0, 4 * self.sigma):
            return now
        answer, redrawn = float(holdout + rng.laplace(0, self.sigma)), float(rng.laplace(0, 2 * self.sigma))
        return msgspec.structs.replace(now, answer=answer, noise=redrawn, budget=self.budget - 1)


def usual(n: int, seed: int, budget: int = 100) -> Thresholdout:
    """The usual start for a holdout of n tasks: T = 4 / sqrt(n), sigma = 1 / sqrt(n). Raises ValueError for n < 1."""
    if n < 1:
        raise ValueError(f"{n} tasks; a holdout has one at least")
    return Thresholdout(threshold=4 / sqrt(n), sigma=1 / sqrt(n), budget=budget, seed=seed)
