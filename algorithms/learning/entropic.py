"""Entropic advantages: the utility (1 / beta) log mean exp(beta r) looks for the best attempt rather than for a good
mean.

    A_i = exp(beta r_i) / mean_{j != i} exp(beta r_j) - 1,
    beta such that KL(softmax(beta r) || uniform) = ln 2 over the group
    L = mean_t [ -rho_t A log pi(y_t) + kl KL_t ],  rho_t = min(pi / pi_sampled, truncation), no gradient

Yuksekgonul 2026, TTT-Discover, arXiv 2601.16175, with the adaptive beta of its code; `fixed_beta` above 0 takes that
(its other way: 2), for one unit of the reward. Where more than half of a group tie for the best, ln 2 cannot be
reached: beta stays at its largest, and the tied share the weight. Ours: the largest beta is 10^6 for the distance from
the best to the next, where the code has 10^6 for any rewards; a group of fewer than three, or whose rewards are all the
same, is dropped and counted (two with one win would weigh 10^12); no advantage exceeds 50. Never PPO's clip: it would
cut off the weight of the rare best attempt, which is the point.
"""

from collections.abc import Sequence

import torch

from algorithms.learning import credit, rloo
from algorithms.learning.batch import COMMON, Algorithm, Hyper, Rollout, Selection, Terms, select_groups

SMALLEST_GROUP = 3


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """The rollouts of groups of three and more with differing rewards; raises NothingToLearn if there is no
    such group.
    """

    def advantages(rewards_G: list[float]) -> list[float] | None:
        if len(rewards_G) < SMALLEST_GROUP:
            return None
        return credit.entropic(rewards_G, hyper["fixed_beta"] or None)

    return select_groups(
        rollouts, advantages, f"all attempts have the same reward, or there are fewer than {SMALLEST_GROUP}"
    )


def loss(minibatch: Terms, hyper: Hyper) -> torch.Tensor:
    """The loss above, a scalar: RLOO's, with other advantages."""
    return rloo.loss(minibatch, hyper)


ALGORITHM = Algorithm(
    name="entropic", defaults={**COMMON, "fixed_beta": 0.0}, select=select, loss=loss, form="weighted"
)

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("entropic", toys.deceptive())
