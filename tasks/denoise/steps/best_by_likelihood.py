"""Puts the program first that makes the molecules held back from train the likeliest."""

from typing import Any

from .inner import ranked


def keep(item: Any, programs: list[str]) -> list[str]:
    """By the Poisson likelihood at each cell's library size."""
    return ranked(item, programs, lambda scores, refused: -scores.likelihood)
