"""REINFORCE with KL to the base model (Williams 1992; Jaques 2017, arXiv 1611.02796, for the KL in the reward).

    maximise E[r] - kl KL(pi || pi_0):   R_i = r_i - kl sum_t log(pi_old / pi_0)(y_t),
    A_i = R_i - mean R over the group
    L = mean_t [ -rho_t A log pi(y_t) ],  rho_t = min(pi / pi_sampled, truncation), no gradient

The KL is a part of the reward, so it reaches the policy through the score function and needs no estimator of its own.
It is that of the policy that is trained, as it was before the first step, whoever sampled the rollout. rho_t weighs a
stale rollout's reward and drift alike. r is over the batch's root mean square of r less its group's mean, so that `kl`
weighs the same whatever the reward's unit (`scale` above 0: over that; 1: as it is).
A group whose rewards are all the same stays if kl > 0: its attempts still differ by how far they left the base.
"""

from collections.abc import Sequence

import torch

from algorithms.learning import terms
from algorithms.learning.batch import (
    KL_IN_REWARD,
    Algorithm,
    Credit,
    Hyper,
    InitialBatch,
    NothingToLearn,
    Rollout,
    Selection,
    Terms,
    attempt_rewards,
    by_group,
)
from algorithms.statistics import magnitude, tied


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """All rollouts; raises NothingToLearn if every group is tied and kl is 0."""
    groups = by_group(rollouts)
    scale = magnitude(r.reward for r in rollouts)
    ties = {group: tied(list(attempt_rewards(rollouts, indices).values()), scale) for group, indices in groups.items()}
    selected = [r for r in rollouts if hyper["kl"] or not ties[r.group]]
    if not selected:
        raise NothingToLearn(f"In each of {len(groups)} groups all attempts have the same reward, and kl is 0.")
    return Selection(tuple(selected), tuple(r.reward for r in selected), sum(ties.values()) / len(groups))


def penalise_drift(initial: InitialBatch, hyper: Hyper) -> Credit:
    """A_i (N, T) on every token of an attempt's sequences.

    An attempt counts once, with the drift of all its sequences.
    """
    drift_N = terms.masked(initial.old - initial.base, initial.mask).sum(1).tolist()
    rewards_N = initial.rewards.tolist()
    shaped: dict[str, dict[str, float]] = {}
    for index, (group, attempt) in enumerate(initial.attempts):
        group_rewards = shaped.setdefault(group, {})
        group_rewards[attempt] = group_rewards.get(attempt, rewards_N[index]) - hyper["kl"] * drift_N[index]
    means = {group: sum(rewards.values()) / len(rewards) for group, rewards in shaped.items()}
    advantages = torch.tensor(
        [shaped[group][attempt] - means[group] for group, attempt in initial.attempts], dtype=initial.mask.dtype
    )
    return Credit(advantages.unsqueeze(1) * initial.mask, torch.zeros_like(initial.mask))


def loss(minibatch: Terms, hyper: Hyper) -> torch.Tensor:
    """The loss L above, a scalar."""
    rho_BT = terms.truncated(minibatch.logp, minibatch.sampled, hyper["truncation"])
    return terms.masked_mean(-rho_BT * minibatch.advantages * minibatch.logp, minibatch.mask)


ALGORITHM = Algorithm(
    name="reinforce",
    defaults={**KL_IN_REWARD, "scale": 0.0, "kl": 0.02},
    select=select,
    loss=loss,
    form="weighted",
    reference="",
    credit=penalise_drift,
)

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("reinforce", toys.dense())
