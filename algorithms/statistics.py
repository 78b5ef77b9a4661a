"""Means with their intervals, figures of groups of attempts, and McNemar's test.

What only an audit needs is in `replay/audit/statistics`.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""The 97.5 % quantiles of Student's t distribution with 1, 2, ..., 10 degrees of freedom."""


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t distribution; beyond the table's degrees of freedom by its expansion in them.

    Raises ValueError below 1.
    """
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom; a t interval needs at least 1")
    return T975[degrees - 1] if degrees <= len(T975) else 1.96 + 2.372 / degrees + 3.0 / degrees**2


class Estimate(NamedTuple):
    """A mean reward with the ends of its two-sided 95 % interval, in units of reward."""

    mean: float
    low: float
    high: float


def mean_reward(rewards: Sequence[float]) -> Estimate:
    """The mean of n rewards with a 95 % interval.

    Wilson's score interval (Wilson 1927) where all rewards are 0 or 1, otherwise mean +- z s / sqrt(n).
    Raises ValueError without rewards: no attempt that ran is not a score of 0.
    """
    n = len(rewards)
    if not n:
        raise ValueError("no rewards to estimate a mean from")
    mean = math.fsum(rewards) / n
    if all(reward in (0.0, 1.0) for reward in rewards):
        shrink = 1 + Z95**2 / n
        centre = (mean + Z95**2 / (2 * n)) / shrink
        half = Z95 / shrink * math.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n * n))
        return Estimate(mean, max(0.0, centre - half), min(1.0, centre + half))
    variance = math.fsum((reward - mean) ** 2 for reward in rewards) / max(1, n - 1)
    half = Z95 * math.sqrt(variance / n)
    return Estimate(mean, mean - half, mean + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of values, and the half-width of its 95 % t interval; 0 for a single value. Raises ValueError without
    values.

    More than eleven values take the quantile of ten degrees of freedom, which is a little too wide for them.
    """
    if not values:
        raise ValueError("no values to take a mean of")
    if len(values) == 1:
        return values[0], 0.0
    quantile = t_quantile(min(len(values) - 1, len(T975)))
    return statistics.fmean(values), quantile * statistics.stdev(values) / len(values) ** 0.5


class GroupStatistics(NamedTuple):
    """Figures of groups of attempts, each at one item: the mean of groups' means and of their best, and the share of
    tied groups.
    """

    pass_at_1: float
    pass_at_k: float
    tied: float


def group_statistics(groups: Sequence[Sequence[float]]) -> GroupStatistics:
    """The statistics over those groups of rewards that are not empty; all zeros where there are none.

    A group is tied where its rewards are all equal.
    """
    groups = [group for group in groups if group]
    if not groups:
        return GroupStatistics(0.0, 0.0, 0.0)
    n = len(groups)
    return GroupStatistics(
        math.fsum(math.fsum(group) / len(group) for group in groups) / n,
        math.fsum(max(group) for group in groups) / n,
        sum(max(group) == min(group) for group in groups) / n,
    )


def mcnemar(wins: int, losses: int) -> float:
    """The exact two-sided p-value for two classifiers being right equally often, from the items on which only one of
    them is right.

    McNemar 1947, in its exact binomial form: 2 P(X <= min(wins, losses)) with X ~ Binomial(wins + losses, 1/2), at most
    1.
    """
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / (1 << n))


def more_failures(failed: int, attempts: int, failed_before: int, attempts_before: int) -> float:
    """The one-sided exact p-value that attempts fail no more often than earlier ones: P(as many or more of all failures
    among them).

    Fisher 1922, "On the interpretation of chi-squared from contingency tables", in its exact hypergeometric form.
    """
    both = failed + failed_before
    ways = (
        math.comb(attempts, here) * math.comb(attempts_before, both - here)
        for here in range(failed, min(attempts, both) + 1)
    )
    return sum(ways) / math.comb(attempts + attempts_before, both)
