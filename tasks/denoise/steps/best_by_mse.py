"""Puts the program first whose mse_norm on molecules held back from train is the best, as the reward counts it."""

from typing import Any

from .inner import ranked


def keep(item: Any, programs: list[str]) -> list[str]:
    """By mse_norm; what the gate would refuse comes last."""
    return ranked(item, programs, lambda scores, refused: (not refused, scores.mse_norm))
