"""From rewards to advantages: pure functions over the rewards of one group, or, where a critic or a KL takes part, over
tokens.

An algorithm's module names the function, and `batch.select_groups` applies it to each group that is not tied.
REINFORCE's advantage, with the KL in the reward, is in `reinforce.py`; PPO's GAE has a second path in
`models/kernels.py`. Names end in their shape: G attempts of a group, B sequences, T tokens.
"""

from collections.abc import Sequence
from math import exp, fsum, log, sqrt

import torch

from algorithms.learning.batch import Rollout, attempt_rewards, by_group
from algorithms.statistics import magnitude
from algorithms.statistics import majority as majority  # both in use as `credit.majority`, `credit.tied`
from algorithms.statistics import tied as tied

LARGEST_BETA, BISECTIONS = 1e6, 60
"""Where the search for beta ends, by the distance from a group's best reward to the next, and how often it halves its
interval.
"""
CENTRED = 1e-4
"""A mean of less than this share of the deviation is rounding: to take it off would give a sign to tokens at 0."""
LARGEST_ADVANTAGE = 50.0
"""The most that an entropic advantage may be."""


def tied_groups(rollouts: Sequence[Rollout]) -> float:
    """The share of groups whose attempts all have the same reward."""
    groups = by_group(rollouts).values()
    scale = magnitude(r.reward for r in rollouts)
    return sum(tied(list(attempt_rewards(rollouts, indices).values()), scale) for indices in groups) / len(groups)


def reward_units(groups_GG: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The mean of all rewards, and the root mean square of their distances from the means of their groups; 1 for the
    latter where every group is tied.

    An algorithm whose advantages are distances between rewards measures them in this unit, so that its KL, its critic
    and the clipping of its gradient weigh the same whatever the unit of the rewards.
    """
    rewards = [r for rewards_G in groups_GG for r in rewards_G]
    scale = magnitude(rewards)
    live = [centred(rewards_G) for rewards_G in groups_GG if not tied(rewards_G, scale)]
    squares = fsum((d / scale) ** 2 for deviations in live for d in deviations)  # which neither vanish nor overflow
    return fsum(rewards) / len(rewards), scale * sqrt(squares / sum(map(len, live))) if live else 1.0


def centred(rewards_G: Sequence[float]) -> list[float]:
    """r_i - mean r (Liu 2025, Dr. GRPO, arXiv 2503.20783, section 3.2)."""
    mean = fsum(rewards_G) / len(rewards_G)
    return [r - mean for r in rewards_G]


def normalised(rewards_G: Sequence[float], eps: float = 0.0) -> list[float]:
    """(r_i - mean r) / (std r + eps), population standard deviation (Shao 2024, section 4.1.2); zeros for tied rewards.

    Implementations have an eps of 1e-4, for groups that tie. It has the rewards' unit, so small ones would vanish.
    """
    if tied(rewards_G):
        return [0.0] * len(rewards_G)
    deviations, scale = centred(rewards_G), magnitude(rewards_G)
    std = scale * sqrt(fsum((d / scale) ** 2 for d in deviations) / len(deviations))
    return [d / (std + eps) for d in deviations]


def leave_one_out(rewards_G: Sequence[float]) -> list[float]:
    """r_i - mean of the others (Ahmadian 2024, RLOO, arXiv 2402.14740); a group has two rewards at least."""
    total, others = sum(rewards_G), len(rewards_G) - 1
    return [r - (total - r) / others for r in rewards_G]


def over_mean(rewards_G: Sequence[float]) -> list[float]:
    """(r_i - mean r) / mean r, for rewards of 0 and more that are not all 0 (Tajwar 2026, MaxRL, arXiv 2602.02710)."""
    mean = sum(rewards_G) / len(rewards_G)
    return [d / mean for d in centred(rewards_G)]


def divergence_from_uniform(beta: float, rewards_G: Sequence[float]) -> float:
    """KL(softmax(beta r) || uniform) in nats."""
    best = max(rewards_G)
    scaled = [beta * (r - best) for r in rewards_G]
    total = sum(map(exp, scaled))
    return sum(exp(s) / total * (s - log(total)) for s in scaled) + log(len(rewards_G))


def adaptive_beta(rewards_G: Sequence[float], target: float = log(2)) -> float:
    """The beta at which KL(softmax(beta r) || uniform) is `target` nats, within 1e-6; LARGEST_BETA over the distance
    from the best reward to the next where none is.

    None is where more than G exp(-target) rewards tie for the best: the divergence then ends at log(G / ties) however
    large beta grows. Raises ValueError for tied rewards.
    """
    best, scale = max(rewards_G), magnitude(rewards_G)
    largest = LARGEST_BETA / min(best - r for r in rewards_G if not tied((best, r), scale))
    low, high = 0.0, 1.0 / (best - min(rewards_G))
    while divergence_from_uniform(high, rewards_G) < target:
        if high >= largest:
            return largest
        low, high = high, min(2 * high, largest)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if divergence_from_uniform(middle, rewards_G) < target:
            low = middle
        else:
            high = middle
    return high


def entropic(rewards_G: Sequence[float], beta: float | None = None) -> list[float]:
    """exp(beta r_i) / mean_{j != i} exp(beta r_j) - 1, at most LARGEST_ADVANTAGE (Yuksekgonul 2026, TTT-Discover, arXiv
    2601.16175).

    `beta` None: the adaptive one. A group has two rewards at least; tied rewards give zeros.
    """
    if tied(rewards_G):
        return [0.0] * len(rewards_G)
    beta = adaptive_beta(rewards_G) if beta is None else beta
    best = max(rewards_G)
    weights = [exp(beta * (r - best)) for r in rewards_G]
    total, others = sum(weights), len(weights) - 1
    return [min(LARGEST_ADVANTAGE, w / ((total - w) / others + 1e-12) - 1) for w in weights]


def overlong_penalty(fill: float, last: float) -> float:
    """What an answer's length adds to its reward, in units of the rewards' spread: 0 up to the last part of the limit,
    down to -1 at the limit (Yu 2025, DAPO, arXiv 2503.14476, eq. 13, for rewards of -1 and 1).

    `fill` is |y| / L_max and `last` is L_cache / L_max, which is above 0: ours, so that it holds for limits of any
    length.
    """
    return -min(1.0, max(0.0, (fill - (1 - last)) / last))


def rewards_at_end(rewards_B: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Rewards by token (B, T), from those of sequences (B,): on the last token that the policy produced, 0
    elsewhere.
    """
    places = torch.arange(1, mask_BT.shape[1] + 1)
    last = ((mask_BT > 0) * places).argmax(1)
    ends = torch.zeros_like(mask_BT)
    ends[torch.arange(len(ends)), last] = rewards_B.to(ends.dtype)
    return ends * mask_BT


def gae(
    rewards_BT: torch.Tensor, values_BT: torch.Tensor, mask_BT: torch.Tensor, gamma: float, lam: float
) -> torch.Tensor:
    """Advantages (B, T), 0 outside the mask: A_t = delta_t + gamma lambda A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t.

    Schulman 2016, arXiv 1506.02438, eq. 16. t + 1 is the next token that the policy produced, so tool output in between
    is no step. V is 0 after the last.
    """
    advantages = torch.zeros_like(values_BT)
    advantage_ahead = torch.zeros_like(values_BT[:, 0])
    value_ahead = torch.zeros_like(advantage_ahead)
    for t in reversed(range(values_BT.shape[1])):
        mine = mask_BT[:, t] > 0
        delta = rewards_BT[:, t] + gamma * value_ahead - values_BT[:, t]
        advantage_ahead = torch.where(mine, delta + gamma * lam * advantage_ahead, advantage_ahead)
        value_ahead = torch.where(mine, values_BT[:, t], value_ahead)
        advantages[:, t] = torch.where(mine, advantage_ahead, 0.0)
    return advantages


def standardised(values_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """The values (B, T) of masked tokens shifted and scaled to mean 0 and standard deviation 1; zeros where they differ
    by rounding alone, and a single one stays as it is.
    """
    count = mask_BT.sum()
    if count < 2:
        return values_BT * mask_BT
    mean = (values_BT * mask_BT).sum() / count
    std = (((values_BT - mean) ** 2 * mask_BT).sum() / count).sqrt()
    mean = torch.where(mean.abs() < CENTRED * std, 0.0, mean)
    rounding = torch.finfo(values_BT.dtype).eps * (values_BT * mask_BT).abs().max()
    return (values_BT - mean) / std * mask_BT if std > rounding else torch.zeros_like(values_BT)
