"""Recorded rollouts, what an algorithm keeps of them, and what an optimiser step reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import torch

Hyper = Mapping[str, float]


class Diverged(Exception):
    """A loss, gradient or ratio is not finite; nothing of the update may be kept."""


class NothingToLearn(Exception):
    """No rollout carries a gradient."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One completion of one token: the request it answered, the token with its log-probability at sampling, and the reward.

    `group` holds the attempts that share a baseline; `item` is the question, which may have several groups.
    """

    group: str
    item: str
    prompt: str
    choices: tuple[str, ...] = ()
    bias: tuple[float, ...] = ()
    token: int
    logprob: float
    reward: float


class Selected(msgspec.Struct, frozen=True):
    """The rollouts that an algorithm trains on, the advantage of each, and the share of groups whose rewards are all the same."""

    rollouts: tuple[Rollout, ...]
    advantages: tuple[float, ...]
    tied_groups: float


class Terms(msgspec.Struct, frozen=True):
    """What a loss is made of; tensors of shape (B, T) but for the advantages (B, 1). `mask` is 1 on tokens that the policy produced."""

    logp: torch.Tensor
    """Log-probability now, with gradient."""
    sampled: torch.Tensor
    """Log-probability when the token was sampled."""
    base: torch.Tensor
    """Log-probability under the base model."""
    advantages: torch.Tensor
    mask: torch.Tensor


class Algorithm(msgspec.Struct, frozen=True):
    """`select` decides what to learn from (raising NothingToLearn); `loss` is the scalar that a minibatch's step descends."""

    name: str
    defaults: Hyper
    select: Callable[[Sequence[Rollout], Hyper], Selected]
    loss: Callable[[Terms, Hyper], torch.Tensor]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One optimiser step. KL and entropy in nats a token; `tied_groups` is the share in the whole batch."""

    loss: float
    kl_to_base: float
    entropy: float
    clip_share: float
    ratio_mean: float
    ratio_max: float
    grad_norm: float
    tied_groups: float
    tokens: int
    seconds: float


def by_group(rollouts: Sequence[Rollout]) -> dict[str, list[int]]:
    """The places of each group's rollouts, in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for place, rollout in enumerate(rollouts):
        groups.setdefault(rollout.group, []).append(place)
    return groups
