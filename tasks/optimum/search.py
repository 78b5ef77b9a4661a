"""Search programs: five words that say how 150 evaluations are spent, and a sixth that is locked at first.

    walk s3 n8 c1 r1            method, step size, population, cooling, restarts
    walk s3 n8 c1 r1 p2         and the share of the budget for a last walk from the best point

rand      points anywhere in the box
walk      from the best of n points, one mutation at a time; the better one stays ((1 + 1)-ES)
cloud     n mutations of a mean, which becomes the mean of the better half ((n / 2, n)-ES)
mix       differential evolution of n points, rand/1/bin with F = .5 and CR = .9, each trial moved by a tenth of a step

A step has the standard deviation 4 / 2^s in each coordinate. Cooling c0 keeps it. c1 makes it larger by half after a
step that was better, and smaller by a tenth after one that was not, so that a fifth of them are better. c2 lets it fall
to a hundredth by the end, evenly in the logarithm. Restarts share the budget evenly. The last walk, p1 to p4, has 1 to
4 sixths of it, a step of .25 and cooling c1.

This file is also a part of scaffolds, so it imports nothing of evolog.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .functions import BOX, Array

BUDGET = 150
METHODS = ("rand", "walk", "cloud", "mix")
SLOTS: tuple[tuple[str, ...], ...] = (
    METHODS,
    ("s0", "s1", "s2", "s3", "s4", "s5"),
    ("n4", "n8", "n16", "n32"),
    ("c0", "c1", "c2"),
    ("r1", "r2", "r4"),
    ("p0", "p1", "p2", "p3", "p4"),
)
"""The words that each place of a program can hold."""
BASE = 5
"""Words of a program without the last walk."""
LARGER, SMALLER = 1.5, 0.9036
"""What a step is multiplied by after a better and a worse one: 1.5 .9036^4 = 1."""
COOLED = 0.01
LAST_STEP = 0.25
"""Of the last walk."""

Values = Callable[[Array], Array]
"""From points (n, D) to their values (n,)."""


class Program(NamedTuple):
    """A program that can be run."""

    method: str
    step: float
    population: int
    cooling: int
    restarts: int
    last: int = 0


def parse(text: str) -> Program:
    """The program of a text; raises ValueError with the first word that is none."""
    words = text.split()
    if not BASE <= len(words) <= len(SLOTS):
        raise ValueError(f"{len(words)} words; expected {BASE} or {len(SLOTS)}, such as walk s3 n8 c1 r1")
    for word, allowed in zip(words, SLOTS, strict=False):
        if word not in allowed:
            raise ValueError(f"the word {word!r:.40}; expected one of {', '.join(allowed)}")
    size, population, cooling, restarts, *last = (int(word[1:]) for word in words[1:])
    return Program(words[0], 4 / 2**size, population, cooling, restarts, *last)


def best_value(values: Values, dimension: int, program: Program, draw: np.random.Generator) -> float:
    """The lowest value that a program finds with BUDGET evaluations at most."""
    last = BUDGET * program.last // 6
    share = (BUDGET - last) // program.restarts
    best = min((_search(values, dimension, program, share, draw) for _ in range(program.restarts)), key=_value)
    if last:
        best = min(best, _walk(values, best, LAST_STEP, 1, last, draw), key=_value)
    return best.value


def drawn(draw: random.Random, words: int) -> str:
    """A program of so many words, each as probable as the next."""
    return " ".join(draw.choice(slot) for slot in SLOTS[:words])


class _Evaluated(NamedTuple):
    """A point (D,) with its value."""

    point: Array
    value: float


def _value(one: _Evaluated) -> float:
    return one.value


def _search(values: Values, dimension: int, program: Program, budget: int, draw: np.random.Generator) -> _Evaluated:
    count = budget if program.method == "rand" else min(program.population, budget)
    points = draw.uniform(-BOX, BOX, (count, dimension))
    found = values(points)
    start = _Evaluated(points[found.argmin()], float(found.min()))
    match program.method:
        case "walk":
            return _walk(values, start, program.step, program.cooling, budget - count, draw)
        case "cloud":
            return _cloud(values, start, program, budget - count, draw)
        case "mix":
            return _mix(values, points, found, program, budget - count, draw)
    return start


def _walk(
    values: Values, best: _Evaluated, step: float, cooling: int, budget: int, draw: np.random.Generator
) -> _Evaluated:
    steps = draw.normal(size=(budget, len(best.point)))
    for number in range(budget):
        point = np.clip(best.point + _cooled(step, cooling, number / budget) * steps[number], -BOX, BOX)
        value = float(values(point[None])[0])
        better = value < best.value
        if better:
            best = _Evaluated(point, value)
        if cooling == 1:
            step *= LARGER if better else SMALLER
    return best


def _cloud(values: Values, best: _Evaluated, program: Program, budget: int, draw: np.random.Generator) -> _Evaluated:
    mean, step, spent = best.point, program.step, 0
    while spent < budget:
        count = min(program.population, budget - spent)
        spread = _cooled(step, program.cooling, spent / budget)
        points = np.clip(mean + spread * draw.normal(size=(count, len(mean))), -BOX, BOX)
        found = values(points)
        spent += count
        order = found.argsort(kind="stable")
        better = bool(found[order[0]] < best.value)
        if better:
            best = _Evaluated(points[order[0]], float(found[order[0]]))
        if program.cooling == 1:
            step *= LARGER if better else SMALLER
        mean = points[order[: max(1, count // 2)]].mean(0)
    return best


def _mix(
    values: Values, points: Array, found: Array, program: Program, budget: int, draw: np.random.Generator
) -> _Evaluated:
    points, found, step, spent = points.copy(), found.copy(), program.step, 0
    while spent < budget:
        count = min(len(points), budget - spent)
        # A generation's trial points come from the points as they were before it.
        parents = draw.integers(0, len(points), (count, 3))
        spread = _cooled(step, program.cooling, spent / budget) / 10
        trials = points[parents[:, 0]] + 0.5 * (points[parents[:, 1]] - points[parents[:, 2]])
        crossed = draw.random(trials.shape) < 0.9
        trials = np.where(crossed, trials, points[:count]) + spread * draw.normal(size=trials.shape)
        trials = np.clip(trials, -BOX, BOX)
        tried = values(trials)
        spent += count
        improved = tried < found[:count]
        better = bool(tried.min() < found.min())
        points[:count][improved], found[:count][improved] = trials[improved], tried[improved]
        if program.cooling == 1:
            step *= LARGER if better else SMALLER
    return _Evaluated(points[found.argmin()], float(found.min()))


def _cooled(step: float, cooling: int, progress: float) -> float:
    """The step at a part of the budget, from 0 to 1."""
    return float(step * COOLED**progress) if cooling == 2 else step
