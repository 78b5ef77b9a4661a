"""Dr. GRPO: GRPO without its two biases, the division by the standard deviation and by the answer's length (Liu 2025,
arXiv 2503.20783).

    L = mean_i sum_t [ -w_t min(rho_t A, clip(rho_t, 1 - clip_low, 1 + clip_high) A) + kl k3_t ] / length,
    A_i = r_i - mean r

`length` is a constant, such as the longest answer allowed: it scales the step and prefers no length.
"""

from collections.abc import Sequence

import torch

from algorithms.learning import credit, grpo, terms
from algorithms.learning.batch import COMMON, Algorithm, Hyper, Rollout, Selection, Terms, select_groups


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """The rollouts of groups with differing rewards, centred advantages; raises NothingToLearn if there is no such
    group.
    """
    return select_groups(rollouts, lambda rewards_G: None if credit.tied(rewards_G) else credit.centred(rewards_G))


def loss(minibatch: Terms, hyper: Hyper) -> torch.Tensor:
    """The loss L above, a scalar."""
    return terms.constant_mean(grpo.per_token(minibatch, hyper), minibatch.mask, hyper["length"])


ALGORITHM = Algorithm(name="dr_grpo", defaults={**COMMON, "length": 16.0}, select=select, loss=loss, form="clipped")

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("dr_grpo", toys.dense())
