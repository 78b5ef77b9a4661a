"""Means with their intervals, ties and votes in groups of attempts, figures of groups, and McNemar's test.

What only an audit needs is in `replay/audit/statistics`.
"""

import functools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""The 97.5 % quantiles of Student's t distribution with 1, 2, ..., 10 degrees of freedom."""
SAME, CANCELLED = 1e-9, 1e-12
"""What rounding leaves between equal rewards: a share of the larger of them; and, where numbers have cancelled, a share
of the largest reward at hand.
"""


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


def is_share(estimate: Estimate, n: int) -> bool:
    """Whether `mean_reward` gave this of n rewards that were all 0 or 1, so that the mean is a share of right answers.

    Graded rewards have another interval.
    """
    right = round(estimate.mean * n)
    if not (n and 0 <= right <= n):
        return not n
    share = mean_reward([1.0] * right + [0.0] * (n - right))
    return all(abs(one - other) <= SAME for one, other in zip(share, estimate, strict=True))


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


def magnitude(rewards: Iterable[float]) -> float:
    """The largest distance of a reward from 0; 0 without rewards."""
    return max(map(abs, rewards), default=0.0)


def tied(rewards: Sequence[float], scale: float = 0.0) -> bool:
    """Whether rewards are all the same but for rounding, so that no attempt is better than another.

    This is the one rule of ties, for the trainer, the rules agent and the decider. It has no unit: rewards a million
    times as large, or as small, tie as before. `scale` is the magnitude of all the rewards that these are a part of: a
    verifier that takes .3 from .1 + .2 gives 5e-17, which is no reward beside rewards of 1. Raises ValueError without
    rewards.
    """
    most, least = max(rewards), min(rewards)
    return most - least <= max(SAME * max(abs(most), abs(least)), CANCELLED * scale)


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """How far two raters agree beyond chance: 1 always, 0 as often as by chance (Cohen 1960); None for fewer than two
    items, or where both give all the same label.
    """
    counts = [Counter(one[rater] for one in pairs) for rater in (0, 1)]
    chance = sum(counts[0][label] * counts[1][label] for label in counts[0]) / max(1, len(pairs)) ** 2
    if len(pairs) < 2 or chance == 1:
        return None
    return (sum(one == other for one, other in pairs) / len(pairs) - chance) / (1 - chance)


def majority(answers: Sequence[str]) -> tuple[str, int]:
    """The most frequent answer and its votes, the earliest of equals; an empty answer has no vote. ("", 0) if nobody
    votes.
    """
    votes = Counter(answer for answer in answers if answer)
    return votes.most_common(1)[0] if votes else ("", 0)


def votes_by_chance(voters: int, options: float) -> float:
    """How many votes the most frequent of `options` answers has on average if each of the voters draws one, all equally
    likely: the mean of `largest_by_chance`.
    """
    return math.fsum(votes * share for votes, share in largest_by_chance(voters, options).items())


@functools.cache
def largest_by_chance(voters: int, options: float) -> Mapping[int, float]:
    """How likely the most frequent of `options` answers has so many votes if each of the voters draws one, all equally
    likely: the distribution of the largest count of a multinomial.

    P(largest <= m) is the share of sequences of answers in which none occurs more than m times: voters! /
    options^voters times the coefficient of x^voters in (sum_{j <= m} x^j / j!)^options. Between two whole numbers of
    options it is a mixture of theirs, in which two voters agree once in `options` times. Raises ValueError without a
    voter or an option.
    """
    if voters < 1 or options < 1:
        raise ValueError(f"{voters} voters and {options} options; a vote needs one of each at least")
    few = math.floor(options)
    if few < options:
        share = (1 / options - 1 / (few + 1)) / (1 / few - 1 / (few + 1))
        less, more = largest_by_chance(voters, few), largest_by_chance(voters, few + 1)
        return {
            votes: share * less.get(votes, 0.0) + (1 - share) * more.get(votes, 0.0) for votes in sorted({*less, *more})
        }
    rate = voters / few / 2  # x is counted in it, so that no coefficient overflows
    whole = math.exp(voters * math.log(voters / 2) - math.lgamma(voters + 1))  # where none is left out
    found: dict[int, float] = {}
    above = 1.0
    for most in range(1, voters + 1):
        before, above = above, 1 - _coefficient(voters, few, rate, most) / whole if most < voters else 0.0
        if before > above:
            found[most] = before - above
        if above < 1e-9:
            break
    return found


def _coefficient(degree: int, power: int, rate: float, most: int) -> float:
    """The coefficient of x^degree in (sum_{j <= most} (rate x)^j / j!)^power."""
    factor = [1.0]
    for j in range(1, most + 1):
        factor.append(factor[-1] * rate / j)
    result = [1.0]
    while power:
        if power % 2:
            result = _product(result, factor, degree)
        power //= 2
        factor = _product(factor, factor, degree) if power else factor
    return result[degree] if degree < len(result) else 0.0


def _product(a: Sequence[float], b: Sequence[float], degree: int) -> list[float]:
    """The product of two polynomials, up to a degree."""
    return [
        sum(a[j] * b[k - j] for j in range(max(0, k - len(b) + 1), min(k, len(a) - 1) + 1))
        for k in range(min(degree, len(a) + len(b) - 2) + 1)
    ]


MANY_ANSWERS = 1_000_000
"""So many answers that two voters do not agree by chance."""


def effective_answers(groups: Iterable[Sequence[str]]) -> float:
    """How many equally likely answers would agree by chance as often as answers to different items do; `groups` are the
    answers to each item.

    It is one over that agreement (as in Fleiss 1971, whose kappa takes chance from the answers of all items).
    MANY_ANSWERS where no two agree. Where one item alone has answers, chance cannot be told from others: they are as
    many as were given, which are no more than there are.
    """
    totals: Counter[str] = Counter()
    within = voters_within = items = 0
    for answers in groups:
        votes = Counter(answer for answer in answers if answer)
        totals += votes
        within += sum(count**2 for count in votes.values())
        voters_within += votes.total() ** 2
        items += bool(votes)
    if items == 1:
        return len(totals)
    agreeing = sum(count**2 for count in totals.values()) - within
    return (totals.total() ** 2 - voters_within) / agreeing if agreeing else MANY_ANSWERS


def elected(answers: Sequence[str], options: float = MANY_ANSWERS) -> str:
    """The answer that a group elects by majority; empty where it elects none.

    An answer needs two votes, more than any other has, and more than the most frequent of `options` answers has on
    average where as many voters guess (`votes_by_chance`). Of many answers none would have two. A group of guesses has
    more than the average every second to fifth time: whether many groups guess is asked of all (`guesses_agree`).
    """
    counts = Counter(answer for answer in answers if answer).most_common(2)
    if not counts or counts[0][1] < 2 or counts[0][1] == counts[-1][1] * (len(counts) - 1):
        return ""
    label, votes = counts[0]
    return label if votes > votes_by_chance(sum(map(bool, answers)), options) else ""


def guesses_agree(groups: Iterable[tuple[Sequence[str], float]]) -> float:
    """How likely guesses agree as much as groups of answers do; each group comes with its number of options.

    It is the probability that the most frequent answers of all groups have together as many votes or more, where each
    voter draws one of the options, all equally likely: exact, by the sum of independent `largest_by_chance`. An empty
    answer has no vote, and a group without a vote says nothing. 1 where no group says anything.
    """
    observed = 0
    chance = {0: 1.0}
    for answers, options in groups:
        votes = majority(answers)[1]
        if not votes:
            continue
        observed += votes
        sums: dict[int, float] = {}
        for so_far, likely in chance.items():
            for more, share in largest_by_chance(sum(map(bool, answers)), options).items():
                sums[so_far + more] = sums.get(so_far + more, 0.0) + likely * share
        chance = {total: likely for total, likely in sums.items() if likely > 1e-12}
    return min(1.0, math.fsum(likely for total, likely in chance.items() if total >= observed)) if observed else 1.0


class GroupStatistics(NamedTuple):
    """Figures of groups of attempts, each at one item: the mean of groups' means and of their best, and the share of
    tied groups.
    """

    pass_at_1: float
    pass_at_k: float
    tied: float


def group_statistics(groups: Sequence[Sequence[float]], exact: bool = False) -> GroupStatistics:
    """The statistics over those groups of rewards that are not empty; all zeros where there are none.

    A group is tied by the rule of `tied`; with `exact`, where its rewards are equal to the bit.
    """
    groups = [group for group in groups if group]
    if not groups:
        return GroupStatistics(0.0, 0.0, 0.0)
    n = len(groups)
    scale = magnitude(reward for group in groups for reward in group)
    return GroupStatistics(
        math.fsum(math.fsum(group) / len(group) for group in groups) / n,
        math.fsum(max(group) for group in groups) / n,
        sum(max(group) == min(group) if exact else tied(group, scale) for group in groups) / n,
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
