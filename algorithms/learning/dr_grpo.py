"""Dr. GRPO: GRPO without its two biases, the division by the standard deviation and by the answer's length (Liu 2025,
arXiv 2503.20783).

    L = mean_i sum_t [ -w_t min(rho_t A, clip(rho_t, 1 - clip_low, 1 + clip_high) A) + kl KL_t ] / length,
    A_i = r_i - mean r

`length` is a constant, such as the longest answer allowed: it scales the step and prefers no length. KL_t as in GRPO.
Departure: A is over one number for the whole batch, the root mean square of r less its group's mean, so that KL and the
clipping of the gradient weigh the same whatever the reward's unit (`scale` above 0: over that; 1: as it is). No group
weighs more for agreeing, which is the bias that the division by each group's own standard deviation has.
"""

from collections.abc import Sequence

import torch

from algorithms.learning import credit, grpo, terms
from algorithms.learning.batch import COMMON, Algorithm, Hyper, Rollout, Selection, Terms, select_groups


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """The rollouts of groups with differing rewards, centred advantages; raises NothingToLearn if there is no such
    group.
    """
    return select_groups(rollouts, credit.centred)


def loss(minibatch: Terms, hyper: Hyper) -> torch.Tensor:
    """The loss L above, a scalar."""
    return terms.constant_mean(grpo.per_token(minibatch, hyper), minibatch.mask, hyper["length"])


ALGORITHM = Algorithm(
    name="dr_grpo", defaults={**COMMON, "scale": 0.0, "length": 16.0}, select=select, loss=loss, form="clipped"
)

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("dr_grpo", toys.dense())
