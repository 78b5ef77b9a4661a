"""Means over items, sums of them with weights, and their intervals and tests: Student's t over groups of items.

    theta = sum_m w_m mean_m = sum over groups of what each adds,
    error^2 = sum_s G_s / (G_s - 1) sum_{g in s} (what g adds, less its share of theta_s)^2

A group holds items that are not independent: near-duplicates, parts of one document, answers to one call of the
verifier. Items of no group stand for themselves. Groups that hold the same measures make a stratum s, so that what was
measured of the same items is paired, and what was measured of others is not. Degrees of freedom are Welch and
Satterthwaite's (Welch 1947, Biometrika 34).

Two made-up groups are added to each stratum, one at either end of what a group can add. Without them a mean of twelve
items that are all alike would be certain. With outcomes of 0 and 1 it is the adjusted interval of Agresti and Coull
1998 (The American Statistician 52), and of a paired difference that of Bonett and Price 2012 (J. Educ. Behav. Stat.
37). Scores outside [0, 1] have no ends: there the made-up groups stand as far from the mean as all groups span.
`replay/audit/RESULTS.md` has the coverage.
"""

from collections.abc import Mapping, Sequence
from math import fsum, inf, isfinite, nan, sqrt
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.audit.statistics import student

Outcomes = Mapping[str, Sequence[float]]
"""The outcomes of a measure: the scores of each item's attempts, by the item's id."""
Groups = Mapping[str, str]
"""The group of each item that shares one with others, by the item's id."""
NO_GROUPS: Groups = MappingProxyType({})
Array = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with the ends of a two-sided interval, and its standard error."""

    value: float
    low: float
    high: float
    error: float


class Contrast(NamedTuple):
    """A weighted sum of means, in score units, with what its interval and its tests are made of."""

    value: float
    """The sum itself."""
    centre: float
    """The sum with the made-up groups, about which the interval lies."""
    error: float
    """The standard error of `centre`."""
    freedom: float
    """Degrees of freedom."""
    ends: tuple[float, float]
    """The lowest and the highest value that there is; infinite for scores outside [0, 1]."""

    def interval(self, level: float = 0.95) -> Interval:
        """The two-sided interval of this level. Raises ValueError for a level outside (0, 1)."""
        if not 0 < level < 1:
            raise ValueError(f"an interval needs a level inside (0, 1), not {level}")
        reach = student.quantile(self.freedom, (1 + level) / 2) * self.error
        low, high = (min(max(end, self.ends[0]), self.ends[1]) for end in (self.centre - reach, self.centre + reach))
        return Interval(self.value, min(low, self.value), max(high, self.value), self.error)

    def in_words(self) -> str:
        """The value with its 95 % interval."""
        interval = self.interval()
        return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"

    def p_above(self, bound: float = 0.0, error: float = 0.0) -> float:
        """How likely a value as high is by luck where the true one is `bound`: one-sided p-value.

        `error` is the standard error of the bound itself.
        """
        spread = sqrt(self.error**2 + error**2)
        above = self.centre - bound
        return student.below(self.freedom, -above / spread) if spread > 0 else float(above <= 0)

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """The smallest true value that a one-sided test at `alpha` finds with this probability."""
        return (student.quantile(self.freedom, 1 - alpha) + student.quantile(self.freedom, power)) * self.error


def mean(outcomes: Outcomes) -> float:
    """The mean over items of each item's mean over its attempts.

    Raises ValueError without items, or for an item without finite outcomes.
    """
    means = _item_means(outcomes)
    return fsum(means.values()) / len(means)


def count_groups(items: Mapping[str, object], groups: Groups) -> int:
    """How many independent groups these items make."""
    return len({_group(item, groups) for item in items})


def contrast(measures: Sequence[Outcomes], weights: Sequence[float], groups: Groups = NO_GROUPS) -> Contrast:
    """The sum of the measures' means with these weights; raises as `contrasts`."""
    return contrasts(measures, [weights], groups)[0]


def contrasts(
    measures: Sequence[Outcomes], rows: Sequence[Sequence[float]], groups: Groups = NO_GROUPS
) -> list[Contrast]:
    """The sums of the measures' means with each row of weights.

    Raises ValueError for an item without finite outcomes, for a measure without items, and for fewer than two groups.
    """
    means = [_item_means(outcomes) for outcomes in measures]
    scores = [score for one in means for score in one.values()]
    bounded = min(scores) >= 0 and max(scores) <= 1
    places: dict[tuple[str, str], int] = {}
    held = [[places.setdefault(_group(item, groups), len(places)) for item in one] for one in means]
    if len(places) < 2:
        raise ValueError(f"{len(places)} group of items; an interval needs two")
    sums, counts = np.zeros((len(places), len(means))), np.zeros((len(places), len(means)))
    for number, one in enumerate(means):
        np.add.at(sums[:, number], held[number], list(one.values()))
        np.add.at(counts[:, number], held[number], 1.0)
    sizes, weights = counts.sum(axis=0), np.array(rows, dtype=float)
    each, whole = weights / sizes, sums.sum(axis=0) / sizes
    centres, variances, smallest = np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows))
    freedoms = 0
    for members in _strata(counts):
        number = len(members)
        expected = counts[members] * whole @ each.T
        all_expected = expected.sum(axis=0)
        alike = number * (sums[members] @ each.T - expected) + all_expected  # what all would be, were they like each
        middle, reach = alike.mean(axis=0), np.ptp(alike, axis=0)
        if bounded:
            share = counts[members].sum(axis=0) / sizes
            low, high = np.minimum(weights, 0) @ share, np.maximum(weights, 0) @ share
            middle, reach = (low + high) / 2, np.minimum((high - low) / 2, 1.0)
        alike = np.vstack([alike, middle - reach, middle + reach])
        variance = alike.var(axis=0, ddof=1) / len(alike)
        centres += alike.mean(axis=0)
        variances += variance
        smallest += variance**2 / (number - 1)
        freedoms += number - 1
    values = weights @ whole
    ends = np.minimum(weights, 0).sum(axis=1), np.maximum(weights, 0).sum(axis=1)
    return [
        Contrast(
            float(values[row]),
            float(centres[row]),
            float(np.sqrt(variances[row])),
            float(variances[row] ** 2 / smallest[row]) if smallest[row] > 0 else float(freedoms),
            (float(ends[0][row]), float(ends[1][row])) if bounded else (-inf, inf),
        )
        for row in range(len(rows))
    ]


def _strata(counts: Array) -> list[NDArray[np.int_]]:
    """The places of groups that hold the same measures. Those that alone hold theirs are taken together, and one that
    is alone even so belongs to the first of the others.
    """
    _, kinds = np.unique(counts > 0, axis=0, return_inverse=True)
    parts = [np.flatnonzero(kinds.reshape(-1) == kind) for kind in range(kinds.max() + 1)]
    alone = [part for part in parts if len(part) < 2]
    strata = [part for part in parts if len(part) > 1]
    if len(alone) == 1:
        strata[0] = np.append(strata[0], alone[0])
    elif alone:
        strata.append(np.concatenate(alone))
    return strata


def _item_means(outcomes: Outcomes) -> dict[str, float]:
    if not outcomes:
        raise ValueError("no items to take a mean over")
    means = {}
    for item, attempts in outcomes.items():
        try:
            value = attempts[0] if len(attempts) == 1 else fsum(attempts) / len(attempts)
        except (ArithmeticError, ValueError):  # none, or both infinities
            value = nan
        if not isfinite(value):
            raise ValueError(
                f"item {item} has the outcomes {list(attempts)}; leave out items without a finite outcome and count "
                "them"
            )
        means[item] = value
    return means


def _group(item: str, groups: Groups) -> tuple[str, str]:
    """The group of an item, which is not mistaken for an item of that name."""
    group = groups.get(item, "")
    return ("group", group) if group else ("item", item)
