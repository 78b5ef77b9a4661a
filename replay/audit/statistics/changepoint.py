"""The change-point: when the gap between score and gold began to drift, and which lever moved it.

    g_t = max(0, g_{t-1} + (dG_t - delta) / sigma),   alarm at the first g_t > h;
    the change lies right after the last zero before it

Page 1954, "Continuous inspection schemes", Biometrika 41 (the CUSUM, and its estimate of the time of change). h comes
from simulation under no drift (`threshold`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Cusum(NamedTuple):
    """The path of g, one value for each change, with the generations of the first alarm and of the first change that
    led to it.
    """

    path: tuple[float, ...]
    alarm: int | None
    change: int | None


class LeverMove(NamedTuple):
    """A generation with the lever that made its candidate, and by how much the gap grew with it."""

    generation: int
    lever: str
    growth: float = 0.0


def cusum(changes: Sequence[float], *, slack: float, sigma: float, threshold: float, first: int = 1) -> Cusum:
    """The CUSUM over changes of the gap, dG_t = G_t - G_{t-1} for the generations from `first` on.

    `slack` (delta) is half the drift to be detected, in score units. `sigma` is the standard deviation of dG_t without
    drift, in score units. `threshold` (h) is in sigmas. Raises ValueError for sigma or threshold at or below 0 and for
    changes that are not finite.
    """
    if not sigma > 0 or not threshold > 0 or not np.isfinite(changes).all():
        raise ValueError(
            f"sigma is {sigma} and the threshold {threshold}; both must exceed 0, and all changes be finite"
        )
    path: list[float] = []
    g, zero = 0.0, first - 1
    alarm = change = None
    for generation, change_of_gap in enumerate(changes, first):
        g = max(0.0, g + (change_of_gap - slack) / sigma)
        path.append(g)
        if g == 0:
            zero = generation
        elif g > threshold and alarm is None:
            alarm, change = generation, zero + 1
    return Cusum(tuple(path), alarm, change)


def attributed(moves: Sequence[LeverMove], change: int, alarm: int) -> LeverMove | None:
    """The move that a change of the gap is attributed to: from `change` to `alarm`, the first of the lever that made
    the gap grow most.

    None if there was no move. Page's time of change alone is early by a generation where noise rose just before, and
    would blame that generation's lever.
    """
    stretch = [move for move in moves if change <= move.generation <= alarm]
    grown = {move.lever: sum(other.growth for other in stretch if other.lever == move.lever) for move in stretch}
    return next((move for move in stretch if grown[move.lever] == max(grown.values())), None)


def threshold(
    steps: int, alpha: float, *, slack: float = 0.5, differenced: bool = False, paths: int = 10_000, seed: int = 0
) -> float:
    """The h that a share `alpha` of runs of `steps` changes passes without drift: the 1 - alpha quantile of max g over
    simulated paths.

    `slack` is delta / sigma. Changes are independent normals, as when each candidate's true gap wanders. With
    `differenced` they are differences of independent measurements of a constant gap, which telescope and need a far
    lower h. Raises ValueError for fewer than one step or 100 paths, and for an alpha that fewer than ten paths would
    decide.
    """
    if steps < 1 or paths < 100 or not 10 / paths <= alpha <= 1 - 10 / paths:
        raise ValueError(
            f"{steps} steps, {paths} paths, alpha {alpha}; ten paths at least must pass h, and ten must not"
        )
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
