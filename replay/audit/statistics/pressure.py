"""Gold against optimisation pressure: Gao's curves, fitted for each lever, and where on its curve the lever stands.

    best of n: R(d) = d (alpha - beta d),     peak d* = alpha / (2 beta)
    RL:        R(d) = d (alpha - beta ln d),  peak d* = exp(alpha / beta - 1);   d = sqrt(nats spent)

Gao, Schulman & Hilton 2023, "Scaling laws for reward model overoptimization", arXiv 2210.10760, section 3.1. R is gold minus gold at the
start. Least squares in (alpha, beta), in which both forms are linear. Nats of scaffold choices and of weights are not comparable (their
section 3.5), so there is one curve for each lever and no sum of the two.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import exp, sqrt
from typing import Literal, NamedTuple

import numpy as np

from replay.audit.statistics.winners import nats_of_choice

Form = Literal["best_of_n", "rl"]
FEWEST = 4
"""Points at distinct pressures: two for the parameters, two to see whether they mean anything."""
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""The 97.5 % quantiles of Student's t for 1 to 10 degrees of freedom."""
_LARGEST_EXPONENT = 700.0


class Point(NamedTuple):
    """What a lever had spent, in nats, and what gold had gained since the start by then."""

    nats: float
    gain: float


class Curve(NamedTuple):
    """A fitted curve. What the points do not tell is None, and `reason` says why; it also warns of a peak that is extrapolated."""

    form: Form
    now: float
    """The last point's d."""
    alpha: float | None = None
    beta: float | None = None
    beta_error: float | None = None
    residual: float | None = None
    """Root mean square, in gold's units, over the degrees of freedom."""
    peak: float | None = None
    spent: float | None = None
    """d / d*: above 1, more pressure is past the predicted peak."""
    reason: str = ""


def nats_of_choices(tried: Sequence[int]) -> list[float]:
    """What the scaffold lever had spent after each selection of the best of `tried`: running sums of ln k - (k - 1) / k, in nats."""
    return list(accumulate(nats_of_choice(k) for k in tried))


def nats_of_weights(kl_per_token: float, tokens: float) -> float:
    """KL(pi_t || pi_0) of a response in nats: per token, on policy, times the mean length in tokens."""
    return kl_per_token * tokens


def fit(points: Sequence[Point], form: Form) -> Curve:
    """Gao's curve through a lever's points in the order of the run, and its peak where the curve bends down for certain.

    For certain: beta exceeds 0 by Student's 97.5 % quantile of standard errors. Raises ValueError without points, and for nats below 0.
    """
    if not points or any(point.nats < 0 for point in points):
        raise ValueError(f"{len(points)} points, and nats spent are never below 0: give what each candidate of the lever had spent")
    now = sqrt(points[-1].nats)
    d = np.array([sqrt(point.nats) for point in points if point.nats > 0])
    gains = np.array([point.gain for point in points if point.nats > 0])
    distinct = len(set(d.tolist()))
    if distinct < FEWEST:
        return Curve(
            form, now, reason=f"{distinct} distinct pressures above 0; a curve of two parameters needs {FEWEST} to be worth drawing"
        )
    bend = d if form == "best_of_n" else np.log(d)
    design = np.stack([d, -d * bend], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(design, gains, rcond=None)
    freedom = len(d) - 2
    residual = sqrt(float(((gains - design @ (alpha, beta)) ** 2).sum()) / freedom)
    error = residual * sqrt(float(np.linalg.inv(design.T @ design)[1, 1]))
    curve = Curve(form, now, float(alpha), float(beta), error, residual)
    quantile = _T975[freedom - 1] if freedom <= len(_T975) else 1.96 + 2.372 / freedom + 3.0 / freedom**2
    if beta <= quantile * error:
        return curve._replace(reason=f"beta {beta:.3g} does not exceed 0 for certain (standard error {error:.2g}): no peak is in sight")
    if form == "best_of_n" and alpha <= 0:
        return curve._replace(reason="gold fell from the first: no pressure was better than none")
    peak = float(alpha / (2 * beta)) if form == "best_of_n" else exp(min(alpha / beta - 1, _LARGEST_EXPONENT))
    beyond = f"the peak lies beyond the largest pressure measured, {d.max():.3g}: it is extrapolated" if peak > d.max() else ""
    return curve._replace(peak=peak, spent=now / peak if peak else None, reason=beyond)
