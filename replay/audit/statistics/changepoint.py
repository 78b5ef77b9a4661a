"""When the gap began to drift, and which lever moved it.

    g_t = max(0, g_{t-1} + (dG_t - delta) / sigma),   alarm at the first g_t > h;   the change lies right after the last zero before it

Page 1954, "Continuous inspection schemes", Biometrika 41 (the CUSUM, and its estimate of the time of change). h comes from simulation
under no drift (`threshold`): the run length until a false alarm is nearly geometric, so it is ARL steps on average where a share 1 / e of
paths passes ARL steps without one.
"""

from collections.abc import Sequence
from math import e
from typing import NamedTuple

import numpy as np


class Cusum(NamedTuple):
    """The path of g, one for each change, with the generations of the first alarm and of the first change that led to it."""

    path: tuple[float, ...]
    alarm: int | None
    change: int | None


class LeverMove(NamedTuple):
    """That a lever made the candidate of a generation, and the gap greater by so much."""

    generation: int
    lever: str
    growth: float = 0.0


def cusum(changes: Sequence[float], *, slack: float, sigma: float, threshold: float, first: int = 1) -> Cusum:
    """The CUSUM over changes of the gap, dG_t = G_t - G_{t-1} for the generations from `first` on.

    In score units: `slack` (delta), half the drift that is to be found, and `sigma`, the standard deviation of dG_t without drift.
    In sigmas: `threshold` (h). Raises ValueError for sigma or threshold at or below 0 and for changes that are not finite.
    """
    if not sigma > 0 or not threshold > 0 or not np.isfinite(changes).all():
        raise ValueError(f"sigma is {sigma} and the threshold {threshold}; both must exceed 0, and all changes be finite")
    path: list[float] = []
    g, zero = 0.0, first - 1
    alarm = change = None
    for generation, found in enumerate(changes, first):
        g = max(0.0, g + (found - slack) / sigma)
        path.append(g)
        if g == 0:
            zero = generation
        elif g > threshold and alarm is None:
            alarm, change = generation, zero + 1
    return Cusum(tuple(path), alarm, change)


def attributed(moves: Sequence[LeverMove], change: int, alarm: int) -> LeverMove | None:
    """The first move, from one generation to the other, of the lever whose moves there made the gap grow most; None if there was no move.

    Page's time of change alone is early by a generation where noise rose just before, and would blame that generation's lever.
    """
    stretch = [move for move in moves if change <= move.generation <= alarm]
    grown = {move.lever: sum(other.growth for other in stretch if other.lever == move.lever) for move in stretch}
    return next((move for move in stretch if grown[move.lever] == max(grown.values())), None)


def threshold(steps: int, alpha: float, *, slack: float = 0.5, differenced: bool = False, paths: int = 10_000, seed: int = 0) -> float:
    """The h that a share `alpha` of runs of `steps` changes without drift passes: the 1 - alpha quantile of max g over simulated paths.

    `slack` is delta / sigma. Changes are independent normals, as when each candidate's true gap wanders; `differenced`: they are
    differences of independent measurements of a gap that stays, which telescope and need a far lower h. Raises ValueError for fewer than
    one step or 100 paths, and for an alpha that fewer than ten paths would decide.
    """
    if steps < 1 or paths < 100 or not 10 / paths <= alpha <= 1 - 10 / paths:
        raise ValueError(f"{steps} steps, {paths} paths, alpha {alpha}; ten paths at least must pass h, and ten must not")
    rng = np.random.default_rng(seed)
    g, highest = np.zeros(paths), np.zeros(paths)
    last = rng.standard_normal(paths)
    for _ in range(steps):
        drawn = rng.standard_normal(paths)
        change = (drawn - last) / np.sqrt(2) if differenced else drawn
        last = drawn
        g = np.maximum(0.0, g + change - slack)
        highest = np.maximum(highest, g)
    return float(np.quantile(highest, 1 - alpha))


def threshold_for_arl(arl: int, *, slack: float = 0.5, differenced: bool = False, paths: int = 10_000, seed: int = 0) -> float:
    """The h whose average run length until a false alarm is `arl` changes: `threshold` of `arl` steps, which a share 1 / e outlasts."""
    return threshold(arl, 1 - 1 / e, slack=slack, differenced=differenced, paths=paths, seed=seed)
