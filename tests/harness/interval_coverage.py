"""How often an interval of the audit holds the true value, over distributions, numbers of items, and figures."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.audit.statistics import exchange
from replay.audit.statistics.interval import NO_GROUPS, Contrast, Groups, Outcomes, contrast

SIZES = (12, 30, 100)
"""Numbers of items, of groups of items, or of moves."""
PER_GROUP = 5
ONE_SIDED = 0.01
"""The level at which the one-sided test of the true value is counted."""

Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[Any]]


class Distribution(NamedTuple):
    """A distribution, and its mean."""

    draw: Draw
    mean: float


DISTRIBUTIONS: Mapping[str, Distribution] = {
    "0 or 1, half": Distribution(lambda rng, size: (rng.random(size) < 0.5).astype(float), 0.5),
    "0 or 1, a tenth": Distribution(lambda rng, size: (rng.random(size) < 0.1).astype(float), 0.1),
    "beta(.3, .3)": Distribution(lambda rng, size: rng.beta(0.3, 0.3, size), 0.5),
    "normal": Distribution(lambda rng, size: rng.standard_normal(size), 0.0),
    "lognormal": Distribution(lambda rng, size: rng.lognormal(0.0, 1.0, size), math.exp(0.5)),
    "Pareto(2.5)": Distribution(lambda rng, size: 1 + rng.pareto(2.5, size), 2.5 / 1.5),
    "t, 2 degrees": Distribution(lambda rng, size: rng.standard_t(2, size), 0.0),
}
FIGURES = ("mean", "paired difference", "growth", "two samples", "clusters of 5")
"""What an interval is of: a mean; a difference over the same items; the growth of a difference; a difference between
two splits; a paired difference whose items go by fives.
"""
KAPPA: Mapping[str, Draw] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "t, 3 degrees": lambda rng, size: rng.standard_t(3, size) / math.sqrt(3),
    "lognormal": lambda rng, size: (rng.lognormal(0.0, 1.0, size) - math.exp(0.5)) / 2.16,
}
"""What the moves of gold err by, with a standard deviation of 1."""


class Coverage(NamedTuple):
    """How often the interval held the true value, and how often a one-sided test at `ONE_SIDED` rejected it."""

    held: float
    rejected: float


def coverage(figure: str, distribution: str, items: int, trials: int, seed: int = 0) -> Coverage:
    """The coverage of the 95 % interval of a figure over so many items of each measure, or so many groups of them."""
    rng = np.random.default_rng([seed, FIGURES.index(figure), items])
    held = rejected = 0
    for _ in range(trials):
        found, truth = _drawn(figure, DISTRIBUTIONS[distribution], items, rng)
        interval = found.interval()
        held += interval.low <= truth <= interval.high
        rejected += found.p_above(truth) <= ONE_SIDED
    return Coverage(held / trials, rejected / trials)


def coverage_of_kappa(errors: str, moves: int, trials: int, seed: int = 0) -> float:
    """The coverage of the 95 % interval of an exchange rate of .8, whose moves err more the larger they are."""
    rng = np.random.default_rng([seed, 99, moves])
    held = counted = 0
    for _ in range(trials):
        p = 0.1 * rng.standard_normal(moves)
        q = 0.8 * p + (0.02 + 0.3 * np.abs(p)) * KAPPA[errors](rng, (moves,))
        kappa = exchange.rate([exchange.Move(*pair, 1e-4) for pair in zip(p.tolist(), q.tolist(), strict=True)]).kappa
        if kappa is not None:
            counted += 1
            held += kappa.low <= 0.8 <= kappa.high
    return held / counted


def _drawn(figure: str, distribution: Distribution, items: int, rng: np.random.Generator) -> tuple[Contrast, float]:
    """A contrast of one sample, and its true value."""
    if figure == "mean":
        return _contrast([distribution.draw(rng, (items,))], [1]), distribution.mean
    if figure == "two samples":
        dev, test = distribution.draw(rng, (items,)), distribution.draw(rng, (2 * items,))
        return _contrast([dev, test], [1, -1], apart=True), 0.0
    if figure == "paired difference":
        return _contrast(list(_pair(distribution, items, rng)), [1, -1]), 0.0
    if figure == "growth":
        (score, gold), (score_then, gold_then) = (_pair(distribution, items, rng) for _ in range(2))
        return _contrast([score, score_then, gold, gold_then], [1, -1, -1, 1]), 0.0
    groups = {str(item): f"g{item // PER_GROUP}" for item in range(items * PER_GROUP)}
    pair = [np.repeat(one, PER_GROUP) for one in _pair(distribution, items, rng)]
    return _contrast(pair, [1, -1], groups), 0.0


def _pair(distribution: Distribution, items: int, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two measures of the same items, which agree on two of three."""
    one, other = (distribution.draw(rng, (items,)) for _ in range(2))
    return one, np.where(rng.random(items) < 2 / 3, one, other)


def _contrast(
    measures: list[NDArray[Any]], weights: list[float], groups: Groups = NO_GROUPS, *, apart: bool = False
) -> Contrast:
    outcomes: list[Outcomes] = [
        {f"{number * apart} {item}" if apart else str(item): (value,) for item, value in enumerate(one.tolist())}
        for number, one in enumerate(measures)
    ]
    return contrast(outcomes, weights, groups)
