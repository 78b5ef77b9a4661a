"""Confidence intervals for means over items: the BCa bootstrap, which draws whole items, since attempts at one item are
not independent.

    low, high = quantiles alpha_1, alpha_2 of the draws,  alpha_j = Phi(z_0 + (z_0 + z_j) / (1 - a (z_0 + z_j)))
    z_0 = Phi^-1(share of draws below the estimate),  a = sum_i d_i^3 / (6 (sum_i d_i^2)^(3/2)),
    d_i = mean theta_(.) - theta_(i)

Efron 1987, "Better bootstrap confidence intervals", JASA 82, equations 2.3 and 7.3 (a by the jackknife over items:
Efron & Tibshirani 1993, equation 14.15). Draws equal to the estimate count half below it: outcomes of 0 and 1 tie
often. Ours: items that hold the same measures make a stratum that is resampled on its own, so measures on the same
items stay paired and measures on other items stay independent.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import fsum, isfinite, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Array = npt.NDArray[np.float64]
Outcomes = Mapping[str, Sequence[float]]
"""The outcomes of a measure: the scores of each item's attempts, by the item's id."""
Statistic = Callable[[Array], Array]
"""From means (..., measures) to figures (..., figures)."""

DRAWS = 10_000
_MAX_DRAWN = 1_000_000
"""Outcomes that are drawn in one array, to bound memory."""
_NORMAL = NormalDist()


class Interval(NamedTuple):
    """An estimate with a two-sided interval, and its standard error by the same draws."""

    value: float
    low: float
    high: float
    error: float


class _Stratum(NamedTuple):
    measures: list[int]
    values: Array
    """(measures, items, attempts), 0 past an item's last attempt."""
    counts: npt.NDArray[np.int64]
    """Attempts: (measures, items)."""

    def item_means(self) -> Array:
        """(measures, items)."""
        means: Array = self.values.sum(2) / self.counts
        return means


def mean(outcomes: Outcomes) -> float:
    """The mean over items of each item's mean over its attempts.

    Raises ValueError without items, or for an item without outcomes.
    """
    return float(_means([outcomes])[0])


def linear(rows: Sequence[Sequence[float]]) -> Statistic:
    """The statistic whose figures are weighted sums of the means: one row of weights for each figure."""
    weights = np.array(rows, dtype=float).T
    return lambda means: means @ weights


def bca(
    measures: Sequence[Outcomes],
    statistic: Statistic,
    *,
    inside: bool = False,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Interval]:
    """Intervals of `level` for the figures of `statistic`, a function of the measures' means over items of means over
    attempts.

    Items are drawn with all their attempts in all measures together. `inside` then draws attempts within each drawn
    item, those with the same number in several measures together. That counts the noise of attempts twice (Davison &
    Hinkley 1997, section 3.8): the standard error grows by up to sqrt(2 - 1 / attempts), and coverage with it. It suits
    a test that would rather miss than flag.

    With few items intervals are too short. In simulations, intervals of 95 % held the truth in 92 % of cases with 20
    items, and in 95 % with 50; a one-sided test of 1 % erred in 2 % with 30 items. A level beyond 1 - 20 / draws rests
    on fewer than ten draws in each tail.

    Raises ValueError for an item without outcomes, for outcomes that are not finite, for fewer than two items that hold
    the same measures, for a level outside (0, 1), for fewer than 100 draws, and where the statistic is not finite on
    the outcomes or on half of the draws.
    """
    if not 0 < level < 1 or draws < 100:
        raise ValueError(
            f"an interval needs a level inside (0, 1) and 100 draws or more, not level {level} and {draws} draws"
        )
    means = _means(measures)
    strata = _strata(measures)
    estimates = statistic(means)
    if not np.isfinite(estimates).all():
        raise ValueError(
            f"the statistic is {estimates.tolist()} on the outcomes themselves; give outcomes on which it is defined"
        )
    sizes = np.array([len(outcomes) for outcomes in measures])
    sums = np.zeros((draws, len(measures)))
    for number, stratum in enumerate(strata):
        sums[:, stratum.measures] += _drawn_sums(stratum, (seed, number), draws, inside)
    draw_statistics = statistic(sums / sizes)
    influence = np.concatenate([_jackknife(stratum, means, sizes, statistic) for stratum in strata])
    return [
        _interval(float(estimates[k]), draw_statistics[:, k], influence[:, k], level) for k in range(len(estimates))
    ]


def exceeds_zero(interval: Interval, items: int, alpha: float) -> bool:
    """Whether an estimate over `items` is above 0 but for probability `alpha`, by Student's quantile of its standard
    errors.

    The bootstrap's own limit of 1 % errs in 2 % of cases with 30 items, and has no levels below one in its number of
    draws.
    """
    error = interval.error * sqrt(items / (items - 1))  # the bootstrap's lacks that factor
    return interval.value > float(stdtrit(items - 1, 1 - alpha)) * error


def _means(measures: Sequence[Outcomes]) -> Array:
    for outcomes in measures:
        if not outcomes:
            raise ValueError("no items to take a mean over")
        for item, attempts in outcomes.items():
            if not len(attempts) or not all(map(isfinite, attempts)):
                raise ValueError(
                    f"item {item} has the outcomes {list(attempts)}; leave out items without a finite outcome and "
                    "count them"
                )
    return np.array(
        [
            fsum(fsum(attempts) / len(attempts) for attempts in outcomes.values()) / len(outcomes)
            for outcomes in measures
        ]
    )


def _strata(measures: Sequence[Outcomes]) -> list[_Stratum]:
    by_holders: dict[tuple[int, ...], list[str]] = {}
    for item in sorted({item for outcomes in measures for item in outcomes}):
        holders = tuple(m for m, outcomes in enumerate(measures) if item in outcomes)
        by_holders.setdefault(holders, []).append(item)
    strata = []
    for holders, items in sorted(by_holders.items()):
        if len(items) < 2:
            raise ValueError(
                f"item {items[0]} is alone in holding measures {list(holders)} and no others; resampling needs two "
                "such items"
            )
        counts = np.array([[len(measures[m][item]) for item in items] for m in holders])
        values = np.zeros((len(holders), len(items), counts.max()))
        for row, m in enumerate(holders):
            for column, item in enumerate(items):
                values[row, column, : counts[row, column]] = measures[m][item]
        strata.append(_Stratum(list(holders), values, counts))
    return strata


def _drawn_sums(stratum: _Stratum, seed: tuple[int, ...], draws: int, inside: bool) -> Array:
    """Sums over drawn items of means over attempts: (draws, measures)."""
    measure_count, items, attempts = stratum.values.shape
    if not inside:
        stratum, attempts = _Stratum(stratum.measures, stratum.item_means()[..., None], np.ones_like(stratum.counts)), 1
    shares = (stratum.values / stratum.counts[..., None]).reshape(measure_count, -1)
    sums = np.zeros((draws, measure_count))
    per_array = max(1, _MAX_DRAWN // (items * attempts))
    for counts in {row.tobytes() for row in stratum.counts}:
        same_counts = [m for m in range(measure_count) if stratum.counts[m].tobytes() == counts]
        for begun in range(0, draws, per_array):
            rows = min(per_array, draws - begun)
            sums[begun : begun + rows, same_counts] = (
                _draw_counts((*seed, begun), rows, counts, attempts) @ shares[same_counts].T
            )
    return sums


@lru_cache(maxsize=8)  # an audit asks for the same items many times
def _draw_counts(seed: tuple[int, ...], rows: int, counts: bytes, attempts: int) -> Array:
    """How often each attempt at each item is drawn: (rows, items x attempts).

    `counts` are the attempts that each item has.
    """
    rng = np.random.default_rng(seed)
    attempt_counts = np.frombuffer(counts, dtype=np.int64)
    chosen = rng.integers(len(attempt_counts), size=(rows, len(attempt_counts)))
    ordinals = (rng.random((*chosen.shape, attempts)) * attempt_counts[chosen][..., None]).astype(np.int64)
    width = len(attempt_counts) * attempts
    flat = np.arange(rows)[:, None, None] * width + chosen[..., None] * attempts + ordinals
    taken = flat[np.arange(attempts) < attempt_counts[chosen][..., None]]
    return np.bincount(taken, minlength=rows * width).reshape(rows, width).astype(np.float64)


def _jackknife(stratum: _Stratum, means: Array, sizes: npt.NDArray[np.int64], statistic: Statistic) -> Array:
    """The statistic without each item of the stratum in turn, taken from their mean: (items, figures)."""
    item_means, own = stratum.item_means(), stratum.measures
    left_out = np.tile(means, (item_means.shape[1], 1))
    left_out[:, own] = (left_out[:, own] * sizes[own] - item_means.T) / (sizes[own] - 1)
    without = statistic(left_out)
    centred: Array = without.mean(0) - without
    return centred


def _interval(estimate: float, draw_statistics: Array, influence: Array, level: float) -> Interval:
    finite = draw_statistics[np.isfinite(draw_statistics)]
    if 2 * len(finite) < len(draw_statistics) or not np.isfinite(influence).all():
        raise ValueError(
            f"the statistic is defined on {len(finite)} of {len(draw_statistics)} draws, or not without some item; "
            "give more items"
        )
    tie = 1e-12 * max(1.0, abs(estimate))
    error = float(finite.std(ddof=1))
    if error <= tie:
        return Interval(estimate, estimate, estimate, 0.0)
    share_below = (np.sum(finite < estimate - tie) + np.sum(finite <= estimate + tie)) / 2 / len(finite)
    z0 = _NORMAL.inv_cdf(min(max(float(share_below), 0.5 / len(finite)), 1 - 0.5 / len(finite)))
    squares = float((influence**2).sum())
    a = float((influence**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    low, high = np.quantile(
        finite, [_adjusted(z0, _NORMAL.inv_cdf(tail), a) for tail in ((1 - level) / 2, (1 + level) / 2)]
    )
    return Interval(estimate, float(low), float(high), error)


def _adjusted(z0: float, z: float, a: float) -> float:
    """alpha_j; past the pole of the transformation, the end of the draws."""
    scale = 1 - a * (z0 + z)
    return _NORMAL.cdf(z0 + (z0 + z) / scale) if scale > 0 else float(z > 0)
