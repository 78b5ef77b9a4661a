"""PPO with generalised advantage estimation: a critic says, token by token, how much better it went than expected.

    delta_t = r_t + gamma V_{t+1} - V_t,   A_t = sum_l (gamma lam)^l delta_{t+l}
    L = mean_t [ -w_t min(rho_t A_t, clip(rho_t) A_t) + value max((V - R)^2, (clip V - R)^2) / 2 - entropy H + kl KL_t ]

Schulman 2017, arXiv 1707.06347, eq. 7 and 9; Schulman 2016, arXiv 1506.02438, eq. 16.

The reward stands on the last token that the policy produced, and t + 1 is the next one that it produced: tool output is
skipped. R_t = A_t + V_t. The critic is a linear head on the state before the token; its gradient stays in the head. w_t
and KL_t as in GRPO.

A fresh critic starts with one value everywhere, at which the batch's advantages have the mean 0. With 0 it would not
know the return, and (gamma lam)^l of the reward is below the mean nearly everywhere in a long answer, whatever it
earned (Yuan 2025, VC-PPO, arXiv 2503.01491, which pre-trains the critic for that). Departures: advantages are
standardised over the batch, as every implementation does; KL to the base is a term of the loss; rewards are less the
mean and over the standard deviation of the first batch of the update, so that the critic learns numbers about 0 to 1
whatever their unit (`scale` above 0: over that alone; 1: as they are).
"""

from collections.abc import Sequence

import torch

from algorithms.learning import credit, grpo, terms
from algorithms.learning.batch import (
    COMMON,
    Algorithm,
    Credit,
    Hyper,
    InitialBatch,
    NothingToLearn,
    Rollout,
    Selection,
    Terms,
)
from algorithms.models import kernels
from algorithms.statistics import tied


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """All rollouts: a critic needs no group. Raises NothingToLearn if all rewards of the batch are the same."""
    if tied([r.reward for r in rollouts]):
        raise NothingToLearn(f"All {len(rollouts)} attempts have the reward {rollouts[0].reward:g}.")
    return Selection(tuple(rollouts), tuple(r.reward for r in rollouts), credit.tied_groups(rollouts))


def first_value(initial: InitialBatch, hyper: Hyper) -> float:
    """The constant V at which A_t has the mean 0 over the batch's tokens. A_t is linear in V, so two of them tell."""
    rewards_NT = credit.rewards_at_end(initial.rewards, initial.mask).double()
    nothing_NT, one_NT = torch.zeros_like(rewards_NT), initial.mask.double()
    earned = credit.gae(rewards_NT, nothing_NT, initial.mask, hyper["gamma"], hyper["lam"]).sum()
    expected = -credit.gae(nothing_NT, one_NT, initial.mask, hyper["gamma"], hyper["lam"]).sum()
    return float(earned / expected)


def estimate_advantages(initial: InitialBatch, hyper: Hyper) -> Credit:
    """Standardised A_t, and R_t = A_t + V_t of the A_t before they were standardised; (N, T) each."""
    rewards_NT = credit.rewards_at_end(initial.rewards, initial.mask)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch_NT = (rewards_NT.to(device), initial.values.to(device), initial.mask.to(device))
    advantages_NT = kernels.gae(*batch_NT, hyper["gamma"], hyper["lam"]).cpu()
    return Credit(credit.standardised(advantages_NT, initial.mask), advantages_NT + initial.values)


def loss(minibatch: Terms, hyper: Hyper) -> torch.Tensor:
    """The loss L above, a scalar."""
    value_BT = terms.clipped_value(minibatch.values, minibatch.old_values, minibatch.returns, hyper["clip_value"])
    per_token_BT = grpo.per_token(minibatch, hyper) + hyper["value"] * value_BT - hyper["entropy"] * minibatch.entropy
    return terms.masked_mean(per_token_BT, minibatch.mask)


ALGORITHM = Algorithm(
    name="ppo",
    defaults={
        **COMMON,
        "scale": 0.0,
        "gamma": 1.0,
        "lam": 0.95,
        "value": 0.5,
        "entropy": 0.0,
        "clip_value": 0.2,
        "critic_lr": 1e-2,
    },
    select=select,
    loss=loss,
    form="actor_critic",
    credit=estimate_advantages,
    first_value=first_value,
    critic=True,
)

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("ppo", toys.dense())
