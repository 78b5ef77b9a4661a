"""Best-of-N behavioural cloning: raise the probability of the best answer found for each item, and of nothing else.

    L = mean_t [ -log pi(y_t) + beta k3_t ]  over the distinct best answers y of each item, those with a positive reward

Nakano 2021 (WebGPT, arXiv 2112.09332) answers with the best of N; Dong 2023 (RAFT, arXiv 2304.06767) trains on it, as here.
Departure: an item's answers are pooled over all the batch's groups, and equal answers count once.
"""

from collections.abc import Sequence

import torch

from algorithms.learning import credit, terms
from algorithms.learning.batch import Algorithm, Hyper, NothingToLearn, Rollout, Selected, Terms, by_group


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selected:
    """The first rollout of each distinct best answer of each item; raises NothingToLearn if no reward is positive."""
    best: dict[str, float] = {}
    for rollout in rollouts:
        best[rollout.item] = max(best.get(rollout.item, 0.0), rollout.reward)
    kept: dict[tuple[str, int], Rollout] = {}
    for rollout in rollouts:
        if rollout.reward > 0 and rollout.reward == best[rollout.item]:
            kept.setdefault((rollout.item, rollout.token), rollout)
    if not kept:
        raise NothingToLearn(f"None of {len(rollouts)} attempts at {len(best)} items has a positive reward.")
    groups = by_group(rollouts).values()
    tied = sum(credit.tied([rollouts[i].reward for i in places]) for places in groups)
    return Selected(tuple(kept.values()), (1.0,) * len(kept), tied / len(groups))


def loss(of: Terms, hyper: Hyper) -> torch.Tensor:
    """The loss above, a scalar."""
    return terms.masked_mean(-of.logp + hyper["beta"] * terms.k3(of.logp, of.base), of.mask)


ALGORITHM = Algorithm(
    name="best_of_n",
    defaults={"lr": 5e-4, "epochs": 4, "batch_groups": 128, "dropout": 0.5, "weight_decay": 0.1, "max_grad_norm": 10.0}
    | {"clip_low": 0.2, "clip_high": 0.28, "beta": 0.0},
    select=select,
    loss=loss,
)
