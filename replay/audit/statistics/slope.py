"""The slope of one score on another, with its standard error.

    slope = Cov(x, y) / Var(x)
    error^2 = sum_g (sum_{i in g} (x_i - mean x) e_i / (1 - h_i))^2 / (sum (x - mean x)^2)^2

e are the residuals and h the leverages of ordinary least squares: MacKinnon & White 1985 (HC3, J. Econometrics 29), by
groups of items that are not independent. Few points at the ends carry most of that error, so its degrees of freedom are
Bell and McCaffrey's (2002, Survey Methodology 28):

    nu = tr(B)^2 / tr(B^2),  B_gh = w_g' M w_h,  w_i = (x_i - mean x) / (1 - h_i)

M makes residuals of y. They are those of errors that are all as large.
"""

from collections.abc import Sequence
from math import fsum, inf, sqrt
from typing import NamedTuple

from replay.audit.statistics.interval import NO_GROUPS, Groups, Outcomes


class Slope(NamedTuple):
    """A slope with its standard error."""

    value: float
    error: float
    freedom: float = inf
    """Degrees of freedom of the error."""


def slope(x: Outcomes, y: Outcomes, groups: Groups = NO_GROUPS) -> Slope | None:
    """The slope of y on x over the items of both; None for fewer than three, or where all x are alike."""
    items = sorted(x.keys() & y.keys())
    if len(items) < 3:
        return None
    return fitted(
        [fsum(x[item]) / len(x[item]) for item in items],
        [fsum(y[item]) / len(y[item]) for item in items],
        [groups.get(item) or (item,) for item in items],
    )


def fitted(x: Sequence[float], y: Sequence[float], groups: Sequence[object]) -> Slope | None:
    """The slope through these points, of which some belong to one group; None where all x are alike."""
    count = len(x)
    centre, level = fsum(x) / count, fsum(y) / count
    square = fsum((one - centre) ** 2 for one in x)
    if square <= 1e-12:
        return None
    value = fsum((one - centre) * (other - level) for one, other in zip(x, y, strict=True)) / square
    scores: dict[object, float] = {}
    lengths: dict[object, float] = {}
    level_parts: dict[object, float] = {}
    slope_parts: dict[object, float] = {}
    for one, other, group in zip(x, y, groups, strict=True):
        leverage = min(1 / count + (one - centre) ** 2 / square, 1 - 1e-6)
        residual = (other - level) - value * (one - centre)
        weight = (one - centre) / (1 - leverage)
        for parts, part in (
            (scores, weight * residual),
            (lengths, weight**2),
            (level_parts, weight / sqrt(count)),
            (slope_parts, weight * (one - centre) / sqrt(square)),
        ):
            parts[group] = parts.get(group, 0.0) + part
    error = sqrt(fsum(score**2 for score in scores.values())) / square
    return Slope(value, error, _freedom(*(list(parts.values()) for parts in (lengths, level_parts, slope_parts))))


def _freedom(lengths: Sequence[float], level: Sequence[float], slope: Sequence[float]) -> float:
    """tr(B)^2 / tr(B^2) of B = diag(lengths) - level level' - slope slope', by group."""
    a, b, both = (
        fsum(one * other for one, other in zip(*pair, strict=True))
        for pair in ((level, level), (slope, slope), (level, slope))
    )
    crossed = fsum(length * (one**2 + other**2) for length, one, other in zip(lengths, level, slope, strict=True))
    trace = fsum(lengths) - a - b
    squares = fsum(length**2 for length in lengths) - 2 * crossed + a**2 + b**2 + 2 * both**2
    return max(1.0, trace**2 / squares) if squares > 0 else 1.0
