"""From rewards to advantages: pure functions over the rewards of one group."""

from collections.abc import Sequence
from math import sqrt

SAME = 1e-6
"""Rewards that differ by less are the same."""


def tied(rewards_G: Sequence[float]) -> bool:
    """Whether a group's rewards are all the same, so that no attempt is better than another."""
    return max(rewards_G) - min(rewards_G) < SAME


def normalised(rewards_G: Sequence[float], eps: float = 1e-4) -> list[float]:
    """(r_i - mean r) / (std r + eps), population standard deviation (Shao 2024, section 4.1.2; eps is ours, for the division)."""
    mean = sum(rewards_G) / len(rewards_G)
    std = sqrt(sum((r - mean) ** 2 for r in rewards_G) / len(rewards_G))
    return [(r - mean) / (std + eps) for r in rewards_G]
