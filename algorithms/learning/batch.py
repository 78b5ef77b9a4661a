"""Recorded rollouts, what an algorithm keeps of them, and what an optimiser step reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    import torch

Hyper = Mapping[str, float]

COMMON: Hyper = {
    "lr": 1e-3,
    "epochs": 2,
    "batch_groups": 128,
    "dropout": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 10.0,
    "kl": 0.0,
    "kl_target": 0.0,
    "stale": 1.0,
    "truncation": 2.0,
    "mismatch": 0.05,
    "clip_low": 0.2,
    "clip_high": 0.28,
}
"""Hyper-parameters that every algorithm has, with their defaults.

lr, weight_decay: AdamW's. epochs: passes over the batch. batch_groups: groups (or pairs) a minibatch. dropout: the share of the adapter's
inner sums that a step leaves out, where the model does that. max_grad_norm: the gradient is scaled down to it.
kl: the weight of KL to the base model; kl_target: nats a token that it is steered to by changing its weight (0: the weight is fixed).
stale: 0 leaves rollouts of older adapters out; 1 keeps them, weighed by importance where the algorithm has ratios (cloning and preferences
take them as they are). truncation: the largest importance weight.
mismatch: mean k3 in nats a token between the log-probabilities recorded and those of the trainer, above which a batch is refused.
clip_low, clip_high: how far a ratio may leave 1 (also where it is reported only).
"""


WITHOUT_KL: Hyper = {name: value for name, value in COMMON.items() if not name.startswith("kl")}
"""The same for an algorithm that measures from a reference as it is."""

RANGES: Mapping[str, tuple[float, float]] = {
    **{name: (1, 1e6) for name in ("epochs", "batch_groups", "best", "pairs")},
    **{name: (1e-30, 1e30) for name in ("max_grad_norm", "truncation", "length", "beta")},
    **{name: (0, 1) for name in ("gamma", "lam", "clip_low", "stale", "token_mean")},
    "lr": (1e-30, 1e38),
    "dropout": (0, 0.99),
    "train": (2, 1e6),
}
"""Least and largest of the hyper-parameters that have a range of their own, in every algorithm that has them; of the others 0 and 1e30."""


class Diverged(Exception):
    """A loss, gradient or ratio is not finite; nothing of the update may be kept."""


class NothingToLearn(Exception):
    """No rollout carries a gradient. `votes` are what an election came to all the same."""

    def __init__(self, reason: str, votes: tuple[Vote, ...] = ()) -> None:
        super().__init__(reason)
        self.votes = votes


class Mismatch(Exception):
    """The log-probabilities that were recorded are not those of the policy that is trained."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence of tokens after a prompt, with the reward of the attempt that it is a part of.

    `group` holds the attempts that share a baseline; `item` is the question, which may have several groups.
    """

    group: str
    item: str
    attempt: str = ""
    """Sequences of one attempt share its reward, which counts once; empty: this sequence is an attempt."""
    prompt: str
    choices: tuple[str, ...] = ()
    bias: tuple[float, ...] = ()
    tokens: tuple[int, ...]
    """What the policy produced and, between two turns of its own, what it was told."""
    logprobs: tuple[float, ...]
    """Natural, when the token was sampled; 0 where the mask is 0."""
    mask: tuple[int, ...] = ()
    """1 on tokens that the policy produced; empty: it produced all."""
    reward: float
    """NaN for an algorithm that does not ask for rewards."""
    answer: str = ""
    """What the attempt answered in the end."""
    real: tuple[int, ...] = ()
    """The true answer's tokens, for an algorithm that asks for labels."""
    adapter: str = ""
    """Digest of the adapter that was served; empty for the base model."""
    own: bool = True
    """Whether the policy sampled the tokens after this very prompt; not so for demonstrations, and for answers given with a hint."""


def demonstration(item: str, prompt: str, tokens: tuple[int, ...]) -> Rollout:
    """A sequence that nobody sampled, to be learned as it is."""
    return Rollout(group=item, item=item, prompt=prompt, tokens=tokens, logprobs=(0.0,) * len(tokens), reward=float("nan"), own=False)


class Vote(msgspec.Struct, frozen=True):
    """A label that the policy itself elected: `votes` of `answers` were for it."""

    group: str
    item: str
    answer: str
    votes: int
    answers: int


class Selection(msgspec.Struct, frozen=True):
    """What an algorithm trains on.

    `advantages`: one for each rollout. `tied_groups`: the share of groups whose rewards are all the same. `units`: places of rollouts that
    must share a minibatch, such as a pair; empty: those of a group do.
    """

    rollouts: tuple[Rollout, ...]
    advantages: tuple[float, ...]
    tied_groups: float
    units: tuple[tuple[int, ...], ...] = ()
    votes: tuple[Vote, ...] = ()


class InitialBatch(msgspec.Struct, frozen=True):
    """The batch as it stands before the first step; tensors (N, T) but for the rewards and the advantages (N,)."""

    rewards: torch.Tensor
    advantages: torch.Tensor
    """As selected."""
    sampled: torch.Tensor
    """Log-probability when the token was sampled; `old` where the policy did not sample it after this prompt."""
    old: torch.Tensor
    """Log-probability under the parent adapter."""
    base: torch.Tensor
    """Log-probability under the base model."""
    values: torch.Tensor
    """The critic's; zeros where there is none."""
    mask: torch.Tensor
    """1 on tokens that the policy produced."""
    own: torch.Tensor
    """Whether the policy sampled the token after this prompt."""
    attempts: tuple[tuple[str, str], ...]
    """Group and attempt of each sequence."""


class Credit(msgspec.Struct, frozen=True):
    """Advantages and the returns that a critic learns, (N, T)."""

    advantages: torch.Tensor
    returns: torch.Tensor


class Terms(msgspec.Struct, frozen=True):
    """What a loss is made of; tensors of shape (B, T). `mask` is 1 on tokens that the policy produced."""

    logp: torch.Tensor
    """Log-probability now, with gradient."""
    sampled: torch.Tensor
    """Log-probability when the token was sampled; `old` where it was not."""
    old: torch.Tensor
    """Log-probability before the first step, under the parent adapter."""
    base: torch.Tensor
    """Log-probability under the base model."""
    advantages: torch.Tensor
    mask: torch.Tensor
    entropy: torch.Tensor
    """Nats of each token's distribution, with gradient."""
    values: torch.Tensor
    """The critic's values now, with gradient; zeros where there is none."""
    old_values: torch.Tensor
    returns: torch.Tensor


class Algorithm(msgspec.Struct, frozen=True, kw_only=True):
    """`select` decides what to learn from (raising NothingToLearn); `loss` is the scalar that a minibatch's step descends."""

    name: str
    defaults: Hyper
    select: Callable[[Sequence[Rollout], Hyper], Selection]
    loss: Callable[[Terms, Hyper], torch.Tensor]
    form: Literal["clipped", "weighted", "preference", "cloning", "actor_critic"]
    """What the loss is like, for a back end that computes it by means of its own."""
    reference: Literal["base", "old", ""] = "base"
    """What the loss measures from (for KL or a preference), as named in Terms; empty: from nothing."""
    credit: Callable[[InitialBatch, Hyper], Credit] | None = None
    """Advantages token by token, where they need more than rewards; None: each rollout's advantage holds for all of its tokens."""
    critic: bool = False
    """Whether a value head is trained beside the adapter."""
    needs: frozenset[str] = frozenset({"rewards"})
    """What it is given: `rewards`, `labels` (tokens of the true answer), `hints` (hinted answers too), `copies` (in place of rollouts)."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One optimiser step. KL and entropy in nats a token; `tied_groups` is the share in the whole batch."""

    loss: float
    kl_to_base: float
    """k3 on the step's tokens that the policy sampled, weighted by their ratio."""
    entropy: float
    clip_share: float
    """The share of tokens whose ratio to the parent adapter lies outside the clip range."""
    ratio_mean: float
    """Of the ratio to whoever sampled the token."""
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


def attempt_rewards(rollouts: Sequence[Rollout], places: Sequence[int]) -> dict[str, float]:
    """The reward of each attempt among these places, once."""
    return {rollouts[place].attempt or str(place): rollouts[place].reward for place in places}


def select_groups(
    rollouts: Sequence[Rollout], advantages: Callable[[list[float]], list[float] | None], why: str = "all attempts have the same reward"
) -> Selection:
    """The rollouts of the groups to which `advantages` gives some, each with its attempt's.

    `advantages` gives None for a group that it cannot learn from: it is dropped and counted. Raises NothingToLearn if no group is left.
    """
    groups = by_group(rollouts)
    kept: list[Rollout] = []
    given: list[float] = []
    live = 0
    for places in groups.values():
        rewards = attempt_rewards(rollouts, places)
        found = advantages(list(rewards.values()))
        if found is not None:
            live += 1
            of = dict(zip(rewards, found, strict=True))
            kept += [rollouts[i] for i in places]
            given += [of[rollouts[i].attempt or str(i)] for i in places]
    if not live:
        raise NothingToLearn(f"In each of {len(groups)} groups {why}.")
    return Selection(tuple(kept), tuple(given), 1 - live / len(groups))


class PolicyTurn(msgspec.Struct, frozen=True):
    """One call of the policy within an attempt, in token ids."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


class MergedTurns(msgspec.Struct, frozen=True):
    """Turns as one sequence after the prompt of the first; `first` is that turn's place."""

    first: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    mask: tuple[int, ...]


def merge(turns: Sequence[PolicyTurn]) -> list[MergedTurns]:
    """Join each turn to the one before if its prompt goes on from there, token by token; what the policy was told in between has mask 0."""
    merged: list[MergedTurns] = []
    so_far: tuple[int, ...] = ()
    for place, turn in enumerate(turns):
        own = (1,) * len(turn.tokens)
        if merged and turn.prompt[: len(so_far)] == so_far:
            told = turn.prompt[len(so_far) :]
            last = merged.pop()
            zeros = (0,) * len(told)
            merged.append(
                MergedTurns(
                    last.first,
                    last.tokens + told + turn.tokens,
                    last.logprobs + (0.0,) * len(told) + turn.logprobs,
                    last.mask + zeros + own,
                )
            )
        else:
            merged.append(MergedTurns(place, turn.tokens, turn.logprobs, own))
        so_far = turn.prompt + turn.tokens
    return merged
