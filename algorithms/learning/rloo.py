"""RLOO: REINFORCE whose baseline is the mean reward of the other attempts (Ahmadian 2024, arXiv 2402.14740).

    L = mean_t [ -rho_t A log pi(y_t) + kl KL_t ],  A_i = r_i - mean_{j != i} r_j,
    rho_t = min(pi / pi_sampled, truncation), no gradient

Departures: KL is a term of the loss, as in GRPO (`terms.kl_penalty`), and not of the reward; the mean is over all
tokens of the batch; tied groups are dropped; A is over the batch's root mean square of r less its group's mean, so that
KL and the clipping of the gradient weigh the same whatever the reward's unit (`scale` above 0: over that; 1: as it is).
"""

from collections.abc import Sequence

import torch

from algorithms.learning import credit, terms
from algorithms.learning.batch import COMMON, Algorithm, Hyper, Rollout, Selection, Terms, select_groups


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """The rollouts of groups with differing rewards; raises NothingToLearn if there is no such group."""
    return select_groups(rollouts, credit.leave_one_out)


def loss(minibatch: Terms, hyper: Hyper) -> torch.Tensor:
    """The loss L above, a scalar."""
    rho_BT = terms.truncated(minibatch.logp, minibatch.sampled, hyper["truncation"])
    return terms.masked_mean(
        -rho_BT * minibatch.advantages * minibatch.logp + terms.kl_penalty(minibatch, hyper),
        minibatch.mask,
    )


ALGORITHM = Algorithm(name="rloo", defaults={**COMMON, "scale": 0.0}, select=select, loss=loss, form="weighted")

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("rloo", toys.dense())
