"""Where on the way from the start a gap between two scores began, and which lever made it.

The gaps on the line from the start, y_t, are fitted by least squares as a level and a step or a ramp,

    y_t = a + b x_t,  x_t = 1 from a move on, or the number of moves of one lever from one of its moves on

The shape that explains most of y gives the move at which it began, and the lever of that move. A second shape, of
another lever, makes it both: where it explains `CERTAIN` times more than noise does, and made `LEAST` of the gap.
"""

from collections.abc import Mapping, Sequence
from math import fsum
from typing import NamedTuple

import numpy as np

from replay.audit.ancestry import Moved
from replay.audit.candidates import AuditedCandidate, AuditedRun, line_to
from replay.audit.statistics.interval import Array, Contrast, Groups, Outcomes, contrast

CERTAIN = 9.0
"""How often the variance of a gap's error a second lever's shape must explain, to be named: three standard errors."""
LEAST = 1 / 4
"""The share of the gap that it must have made."""


class Placed(NamedTuple):
    """The generation from which on, and the lever; empty where no lever moved."""

    generation: int
    lever: Moved


class Compared(NamedTuple):
    """Two scores of one candidate that are to stay as far apart as they were: score and gold of its answers, or the
    score on dev and on test.
    """

    candidate: AuditedCandidate
    score: Outcomes
    gold: Outcomes


def placed(run: AuditedRun, last: AuditedCandidate, measured: Mapping[str, Compared]) -> Placed:
    """Where the gap of a candidate began; `measured` are the two scores by candidate id.

    It is looked for on the longest line through the candidate, up to where half of the gap is gone again.
    """
    line = [measured[one.id] for one in _longest_line(run, last, measured)]
    growths = [growth(line[0], one, run.groups) for one in line[1:]]
    gaps = [0.0, *(one.value for one in growths)]
    end = max((place for place, gap in enumerate(gaps) if gap > max(gaps) / 2), default=0) + 1
    if end < 2:
        return Placed(last.generation, last.lever)
    variance = fsum(one.error**2 for one in growths) / len(growths) / 2  # of either end of a growth
    levers = [one.candidate.lever for one in line[:end]]
    began, lever = _beginning(np.array(gaps[:end]), levers, variance)
    return Placed(line[began].candidate.generation, lever)


def growth(start: Compared, one: Compared, groups: Groups) -> Contrast:
    """How much further the two scores are apart than at the start, item by item."""
    return contrast([one.score, start.score, one.gold, start.gold], [1, -1, -1, 1], groups)


def _longest_line(
    run: AuditedRun, candidate: AuditedCandidate, measured: Mapping[str, Compared]
) -> list[AuditedCandidate]:
    """The measured candidates from the start to the last one made from this candidate, or to itself."""
    lines = [line_to(run, one) for one in run.candidates if one.id in measured]
    longest = max((line for line in lines if candidate in line), key=len, default=[candidate])
    line = [one for one in longest if one.id in measured]
    start = next(one for one in run.candidates if one.id in measured)
    return line if start in line else [start, *line]


class _Shape(NamedTuple):
    place: int
    """Of the move with which it begins."""
    lever: Moved
    x: Array


def _beginning(gaps: Array, levers: Sequence[Moved], variance: float) -> tuple[int, Moved]:
    """The place of the first move that raised the gaps, and the lever, or both."""
    shapes = []
    for place in range(1, len(gaps)):
        later = np.arange(len(gaps)) >= place
        own = np.array([one == levers[place] for one in levers]) & later
        shapes += [_Shape(place, levers[place], x.astype(float)) for x in (later, np.cumsum(own))]
    first = _best(shapes, gaps, [])
    others = [one for one in shapes if {one.lever, first.lever} == {"scaffold", "weights"}]
    if not others:
        return first.place, first.lever
    second = _best(others, gaps, [first])
    first_beside = _best([one for one in shapes if one.lever == first.lever], gaps, [second])
    heights, explained = _fit(gaps, [first_beside, second])
    made = [height * shape.x[-1] for height, shape in zip(heights, (first_beside, second), strict=True)]
    more = explained - _fit(gaps, [first])[1]
    if min(made) >= LEAST * sum(made) > 0 and more >= CERTAIN * variance:
        return min(first_beside.place, second.place), "both"
    return first.place, first.lever


def _best(shapes: Sequence[_Shape], gaps: Array, beside: Sequence[_Shape]) -> _Shape:
    """The shape that explains most, beside others; of those that raise the gaps, if any does."""

    def explains(shape: _Shape) -> tuple[bool, float]:
        heights, explained = _fit(gaps, [*beside, shape])
        return heights[-1] > 0, explained

    return max(shapes, key=explains)


def _fit(gaps: Array, shapes: Sequence[_Shape]) -> tuple[list[float], float]:
    """The heights of these shapes about a level, and the sum of squares that they explain."""
    x = np.stack([one.x - one.x.mean() for one in shapes], axis=1)
    y = gaps - gaps.mean()
    heights = np.linalg.lstsq(x, y, rcond=None)[0]
    return heights.tolist(), float(y @ y - ((y - x @ heights) ** 2).sum())
