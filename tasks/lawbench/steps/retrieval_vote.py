"""Offers only the labels that the nearest train texts carry, each with the log of its share of their votes."""

from typing import Any

import numpy as np

from .kernel import kernel

NEIGHBOURS = 12
FLOOR = 0.02


def fit(data: Any) -> None:
    """The kernel that every attempt then finds fitted."""
    kernel(data)


def before(item: Any, data: Any, offers: dict[str, float]) -> dict[str, float]:
    """A neighbour votes with its cosine; the best label comes first."""
    fitted = kernel(data)
    cosines = fitted.scores(item.prompt)[1]
    nearest = np.argsort(-cosines, kind="stable")[:NEIGHBOURS]
    votes = np.bincount(fitted.answers[nearest], weights=cosines[nearest], minlength=len(fitted.names))
    best = [int(i) for i in np.argsort(-votes, kind="stable")[:NEIGHBOURS] if votes[i] > 0]
    return {fitted.names[i]: float(np.log(votes[i] + FLOOR)) for i in best}
