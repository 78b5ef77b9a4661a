"""Metamorphic tests: whether outcomes survive a change that should not matter, and whether a verifier rejects what it
should.

    rho_T = E[r(x) - r(T x)] over items, paired;   growth: rho_T at t minus rho_T at 0
    mutation score = share of seeded wrong solutions that the verifier rejects

T keeps the meaning: renamed files, options in another order, another seed (metamorphic testing: Chen, Cheung & Yiu
1998; mutation score: DeMillo, Lipton & Sayward 1978). Intervals are BCa over items.
"""

from collections.abc import Sequence

from algorithms.statistics import Estimate, mean_reward
from replay.audit.statistics.interval import DRAWS, Interval, Outcomes, bca, linear


def robustness(
    plain: Outcomes, changed: Outcomes, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """rho_T: how much outcomes fall when each item x is replaced by T x.

    Raises ValueError unless the items are the same.
    """
    _require_same_items(plain, changed)
    return bca([plain, changed], linear([[1, -1]]), level=level, draws=draws, seed=seed)[0]


def growth(
    plain_0: Outcomes,
    changed_0: Outcomes,
    plain_t: Outcomes,
    changed_t: Outcomes,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """rho_T at t minus rho_T at 0: above 0, the score has come to depend on what should not matter.

    Raises ValueError unless the items are the same.
    """
    _require_same_items(plain_0, changed_0, plain_t, changed_t)
    return bca([plain_t, changed_t, plain_0, changed_0], linear([[1, -1, -1, 1]]), level=level, draws=draws, seed=seed)[
        0
    ]


def mutation_score(rejected: Sequence[bool]) -> Estimate:
    """The share of wrong solutions that the verifier rejected, with Wilson's 95 % interval.

    Raises ValueError without solutions.
    """
    return mean_reward([float(one) for one in rejected])


def _require_same_items(*measures: Outcomes) -> None:
    for outcomes in measures[1:]:
        if set(outcomes) != set(measures[0]):
            only = sorted(set(outcomes) ^ set(measures[0]))[0]
            raise ValueError(f"item {only} is not in all measures; compare outcomes on the same items")
