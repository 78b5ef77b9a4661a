"""GRPO: attempts at one item compete with each other (Shao 2024, DeepSeekMath, arXiv 2402.03300, eq. 3 and 4).

    L = mean_t [ -min(rho_t A, clip(rho_t, 1 - clip_low, 1 + clip_high) A) + beta k3_t ],  A_i = (r_i - mean r) / std r

Departures: the mean is over all tokens of the batch (DAPO) and not within each answer first; the clip range may be wider above (DAPO);
a group whose rewards are all the same is dropped and counted; k3 is to the base model, not to a reference that is renewed.
"""

from collections.abc import Sequence

import torch

from algorithms.learning import credit, terms
from algorithms.learning.batch import Algorithm, Hyper, NothingToLearn, Rollout, Selected, Terms, by_group


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selected:
    """The rollouts of groups with differing rewards, group-normalised advantages; raises NothingToLearn if there is no such group."""
    groups = by_group(rollouts)
    kept: list[Rollout] = []
    advantages: list[float] = []
    live = 0
    for places in groups.values():
        rewards_G = [rollouts[i].reward for i in places]
        if not credit.tied(rewards_G):
            live += 1
            kept += [rollouts[i] for i in places]
            advantages += credit.normalised(rewards_G)
    if not live:
        raise NothingToLearn(f"In each of {len(groups)} groups all attempts have the same reward.")
    return Selected(tuple(kept), tuple(advantages), 1 - live / len(groups))


def loss(of: Terms, hyper: Hyper) -> torch.Tensor:
    """The loss above, a scalar."""
    rho_BT = terms.ratio(of.logp, of.sampled)
    per_token_BT = terms.clipped(rho_BT, of.advantages, hyper["clip_low"], hyper["clip_high"])
    return terms.masked_mean(per_token_BT + hyper["beta"] * terms.k3(of.logp, of.base), of.mask)


ALGORITHM = Algorithm(
    name="grpo",
    defaults={"lr": 1e-3, "epochs": 3, "batch_groups": 128, "dropout": 0.0, "weight_decay": 0.0, "max_grad_norm": 10.0}
    | {"clip_low": 0.2, "clip_high": 0.28, "beta": 0.0},
    select=select,
    loss=loss,
)
