"""The data structures of a weight update: recorded rollouts, an algorithm's selection of them, a loss's terms, a step's
report.

`select_groups` gives each group's rollouts the advantages of an algorithm (`credit.py`). Shapes: N sequences of the
batch, B of a minibatch, T tokens after the prompt. Log-probabilities, KL and entropy are in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    import torch

Hyper = Mapping[str, float]
"""Hyper-parameters by name."""

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

lr, weight_decay: AdamW's. epochs: passes over the batch. batch_groups: groups (or pairs) a minibatch. dropout: the
share of the adapter's inner sums that a step leaves out, where the model does that. max_grad_norm: the gradient is
scaled down to it. kl: the weight of KL to the base model; kl_target: nats a token that it is steered to by changing its
weight (0: the weight is fixed). stale: 0 leaves rollouts of older adapters out; 1 keeps them, weighed by importance
where the algorithm has ratios (cloning and preferences take them as they are). truncation: the largest importance
weight. mismatch: mean k3 in nats a token between the log-probabilities recorded and those of the trainer, above which a
batch is refused. clip_low, clip_high: how far a ratio may leave 1 (also where it is reported only).
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
"""Least and largest of the hyper-parameters that have a range of their own, in every algorithm that has them; of the
others 0 and 1e30.
"""


class Diverged(Exception):
    """A loss, gradient or ratio is not finite, so the whole update is thrown away."""


class NothingToLearn(Exception):
    """No rollout carries a gradient. `votes` are the labels that were elected, where the algorithm elects any."""

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
    """The policy's tokens and, between two of its turns, those that it was shown, such as tool output."""
    logprobs: tuple[float, ...]
    """Natural, when the token was sampled; 0 where the mask is 0."""
    mask: tuple[int, ...] = ()
    """1 on tokens that the policy produced; empty: it produced all."""
    reward: float
    """NaN for an algorithm that does not ask for rewards."""
    answer: str = ""
    """The attempt's final answer."""
    real: tuple[int, ...] = ()
    """The true answer's tokens, for an algorithm that asks for labels."""
    adapter: str = ""
    """Digest of the adapter that was served; empty for the base model."""
    own: bool = True
    """Whether the policy sampled the tokens after this very prompt; not so for demonstrations, and for answers given
    with a hint.
    """


def demonstration(item: str, prompt: str, tokens: tuple[int, ...]) -> Rollout:
    """A rollout of tokens that no policy sampled, such as a demonstration of the task, to be learned as it is."""
    return Rollout(
        group=item,
        item=item,
        prompt=prompt,
        tokens=tokens,
        logprobs=(0.0,) * len(tokens),
        reward=float("nan"),
        own=False,
    )


class Vote(msgspec.Struct, frozen=True):
    """A label that the policy itself elected: `votes` of `answers` were for it."""

    group: str
    item: str
    answer: str
    votes: int
    answers: int


class Selection(msgspec.Struct, frozen=True):
    """The rollouts that an algorithm trains on.

    `advantages`: one for each rollout. `tied_groups`: the share of groups whose rewards are all the same. `units`:
    indices of rollouts that must share a minibatch, such as a pair; empty: those of a group do.
    """

    rollouts: tuple[Rollout, ...]
    advantages: tuple[float, ...]
    tied_groups: float
    units: tuple[tuple[int, ...], ...] = ()
    votes: tuple[Vote, ...] = ()


class InitialBatch(msgspec.Struct, frozen=True):
    """The batch before the first step: tensors (N, T), but rewards and advantages (N,)."""

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
    """The tensors that a loss is computed from, each (B, T). `mask` is 1 on tokens that the policy produced."""

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
    """A learning algorithm as data: all that the trainer asks of one.

    `select` chooses what to learn from, and raises NothingToLearn where there is nothing. `loss` is the scalar that a
    minibatch's step descends.
    """

    name: str
    defaults: Hyper
    select: Callable[[Sequence[Rollout], Hyper], Selection]
    loss: Callable[[Terms, Hyper], torch.Tensor]
    form: Literal["clipped", "weighted", "preference", "cloning", "actor_critic"]
    """The loss's form, by which a back end finds the trainer that has such a loss."""
    reference: Literal["base", "old", ""] = "base"
    """What the loss measures from (for KL or a preference), as named in Terms; empty: from nothing."""
    credit: Callable[[InitialBatch, Hyper], Credit] | None = None
    """Advantages token by token, where they need more than rewards; None: each rollout's advantage holds for all of its
    tokens.
    """
    critic: bool = False
    """Whether a value head is trained beside the adapter."""
    needs: frozenset[str] = frozenset({"rewards"})
    """What rollouts carry for it: `rewards`, `labels` (tokens of the true answer), `hints` (hinted answers too),
    `copies` (no others).
    """


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One optimiser step. KL and entropy in nats a token; `tied_groups` is the share in the whole batch."""

    loss: float
    kl_to_base: float
    """k3 on the step's tokens that the policy sampled, weighted by their ratio."""
    entropy: float
    clip_share: float
    """The share of tokens whose ratio to the parent adapter lies outside the clip range."""
    ratio_mean: float
    """The mean ratio to the policy that sampled the token."""
    ratio_max: float
    grad_norm: float
    tied_groups: float
    tokens: int
    seconds: float


def by_group(rollouts: Sequence[Rollout]) -> dict[str, list[int]]:
    """The indices of each group's rollouts, in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for index, rollout in enumerate(rollouts):
        groups.setdefault(rollout.group, []).append(index)
    return groups


def attempt_rewards(rollouts: Sequence[Rollout], indices: Sequence[int]) -> dict[str, float]:
    """Each attempt's reward by the attempt's id, among the rollouts at these indices."""
    return {rollouts[index].attempt or str(index): rollouts[index].reward for index in indices}


def select_groups(
    rollouts: Sequence[Rollout],
    advantages: Callable[[list[float]], list[float] | None],
    why: str = "all attempts have the same reward",
) -> Selection:
    """The rollouts of the groups that something can be learned from, each with its attempt's advantage.

    `advantages` is called with the rewards of a group's attempts. It returns an advantage for each, or None for a group
    that nothing can be learned from, which is dropped and counted as tied. Raises NothingToLearn, with the reason
    `why`, if no group is left.
    """
    groups = by_group(rollouts)
    selected: list[Rollout] = []
    selected_advantages: list[float] = []
    live = 0
    for indices in groups.values():
        rewards = attempt_rewards(rollouts, indices)
        group_advantages = advantages(list(rewards.values()))
        if group_advantages is not None:
            live += 1
            by_attempt = dict(zip(rewards, group_advantages, strict=True))
            selected += [rollouts[i] for i in indices]
            selected_advantages += [by_attempt[rollouts[i].attempt or str(i)] for i in indices]
    if not live:
        raise NothingToLearn(f"In each of {len(groups)} groups {why}.")
    return Selection(tuple(selected), tuple(selected_advantages), 1 - live / len(groups))


class PolicyTurn(msgspec.Struct, frozen=True):
    """One call of the policy within an attempt, in token ids."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


class MergedTurns(msgspec.Struct, frozen=True):
    """Consecutive turns as one sequence after the prompt of the first. `first` is the index of that turn."""

    first: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    mask: tuple[int, ...]


def merge(turns: Sequence[PolicyTurn]) -> list[MergedTurns]:
    """Join turns into sequences: a turn continues the one before if its prompt begins with all the tokens so far.

    The tokens that the policy was shown in between have mask 0 and log-probability 0.
    """
    merged: list[MergedTurns] = []
    prefix: tuple[int, ...] = ()
    for index, turn in enumerate(turns):
        own = (1,) * len(turn.tokens)
        if merged and turn.prompt[: len(prefix)] == prefix:
            context = turn.prompt[len(prefix) :]
            last = merged.pop()
            zeros = (0,) * len(context)
            merged.append(
                MergedTurns(
                    last.first,
                    last.tokens + context + turn.tokens,
                    last.logprobs + (0.0,) * len(context) + turn.logprobs,
                    last.mask + zeros + own,
                )
            )
        else:
            merged.append(MergedTurns(index, turn.tokens, turn.logprobs, own))
        prefix = turn.prompt + turn.tokens
    return merged
