"""Gold against optimisation pressure: Gao's curves, fitted for each lever, and where on its curve the lever stands.

    best of n: R(d) = d (alpha - beta d),     peak d* = alpha / (2 beta)
    RL:        R(d) = d (alpha - beta ln d),  peak d* = exp(alpha / beta - 1);   d = sqrt(nats spent)

Gao, Schulman & Hilton 2023, "Scaling laws for reward model overoptimization", arXiv 2210.10760, section 3.1. R is gold
minus gold at the start. Least squares in (alpha, beta), in which both forms are linear. Nats of scaffold choices and of
weights are not comparable (their section 3.5), so there is one curve for each lever and no sum of the two.
"""

from collections.abc import Sequence
from math import exp, sqrt
from typing import Literal, NamedTuple

import numpy as np

from algorithms.statistics import t_quantile

Form = Literal["best_of_n", "rl"]
MIN_POINTS = 4
"""Points at distinct pressures that a fit needs: two for the parameters, two to see whether they mean anything."""
_LARGEST_EXPONENT = 700.0


class Point(NamedTuple):
    """A candidate on its lever's curve: what the lever had spent, in nats, and what gold had gained since the start by
    then.
    """

    nats: float
    gain: float


class Curve(NamedTuple):
    """A fitted curve.

    What the points do not show is None, and `reason` says why; it also warns of a peak that is extrapolated.
    """

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


def fit(points: Sequence[Point], form: Form) -> Curve:
    """Gao's curve through a lever's points in the order of the run, and its peak where the curve certainly bends down.

    It certainly does where beta exceeds 0 by Student's 97.5 % quantile of standard errors. Raises ValueError without
    points, and for nats below 0.
    """
    if not points or any(point.nats < 0 for point in points):
        raise ValueError(
            f"{len(points)} points, and nats spent are never below 0: give what each candidate of the lever had spent"
        )
    now = sqrt(points[-1].nats)
    d = np.array([sqrt(point.nats) for point in points if point.nats > 0])
    gains = np.array([point.gain for point in points if point.nats > 0])
    distinct = len(set(d.tolist()))
    if distinct < MIN_POINTS:
        return Curve(
            form,
            now,
            reason=f"{distinct} distinct pressures above 0; a curve of two parameters needs {MIN_POINTS} to be worth "
            "drawing",
        )
    bend = d if form == "best_of_n" else np.log(d)
    design = np.stack([d, -d * bend], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(design, gains, rcond=None)
    freedom = len(d) - 2
    residual = sqrt(float(((gains - design @ (alpha, beta)) ** 2).sum()) / freedom)
    error = residual * sqrt(float(np.linalg.inv(design.T @ design)[1, 1]))
    curve = Curve(form, now, float(alpha), float(beta), error, residual)
    if beta <= t_quantile(freedom) * error:
        return curve._replace(
            reason=f"beta {beta:.3g} does not exceed 0 for certain (standard error {error:.2g}): no peak is in sight"
        )
    if form == "best_of_n" and alpha <= 0:
        return curve._replace(reason="gold fell from the first: no pressure was better than none")
    peak = float(alpha / (2 * beta)) if form == "best_of_n" else exp(min(alpha / beta - 1, _LARGEST_EXPONENT))
    beyond = (
        f"the peak lies beyond the largest pressure measured, {d.max():.3g}: it is extrapolated"
        if peak > d.max()
        else ""
    )
    return curve._replace(peak=peak, spent=now / peak if peak else None, reason=beyond)
