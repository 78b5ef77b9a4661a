"""GRPO: attempts at one item compete with each other (Shao 2024, DeepSeekMath, arXiv 2402.03300, eq. 3 and 4).

    L = mean_t [ -w_t min(rho_t A, clip(rho_t, 1 - clip_low, 1 + clip_high) A) + kl KL_t ],
    A_i = (r_i - mean r) / std r

w_t = min(pi_old / pi_sampled, truncation) weighs rollouts of older adapters; on policy it is 1 but for rounding.
Departures: the mean is over all tokens of the batch (DAPO; `token_mean` 0 gives eq. 3's, within each answer first); the
clip range may be wider above (DAPO); a group whose rewards are all the same is dropped and counted; KL is to the base
model, not to a renewed reference. KL_t is k3 weighed by its ratio, with the gradient of KL(pi || base); eq. 4's bare k3
has that of KL(base || pi), and is `kl_published` 1 (`terms.kl_penalty`).
"""

from collections.abc import Sequence

import torch

from algorithms.learning import credit, terms
from algorithms.learning.batch import COMMON, Algorithm, Hyper, Rollout, Selection, Terms, select_groups


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """The rollouts of groups with differing rewards, group-normalised advantages; raises NothingToLearn if there is no
    such group.
    """
    return select_groups(rollouts, credit.normalised)


def per_token(minibatch: Terms, hyper: Hyper) -> torch.Tensor:
    """The loss of each token (B, T), before the mean over the mask."""
    weight_BT = terms.truncated(minibatch.old, minibatch.sampled, hyper["truncation"])
    rho_BT = terms.ratio(minibatch.logp, minibatch.old)
    clipped_BT = terms.clipped(rho_BT, minibatch.advantages, hyper["clip_low"], hyper["clip_high"])
    return weight_BT * clipped_BT + terms.kl_penalty(minibatch, hyper)


def loss(minibatch: Terms, hyper: Hyper) -> torch.Tensor:
    """The loss L above, a scalar."""
    mean = terms.masked_mean if hyper["token_mean"] else terms.sequence_mean
    return mean(per_token(minibatch, hyper), minibatch.mask)


ALGORITHM = Algorithm(name="grpo", defaults={**COMMON, "token_mean": 1.0}, select=select, loss=loss, form="clipped")

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("grpo", toys.dense())
