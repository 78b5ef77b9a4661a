"""The data structures of a weight update: recorded rollouts, an algorithm's selection of them, a loss's terms, a step's
report.

`select_groups` gives each group's rollouts the advantages of an algorithm (`credit.py`). Shapes: N sequences of the
batch, B of a minibatch, T tokens after the prompt. Log-probabilities, KL and entropy are in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from algorithms.statistics import magnitude, tied

if TYPE_CHECKING:
    import torch

Hyper = Mapping[str, float]
"""Hyper-parameters by name."""

REFERENCE_WIDTH = 128
"""The hidden size that the default learning rates are for, tiny-lm's; `update.settings` fits them to a wider base."""

COMMON: Hyper = {
    "lr": 1e-3,
    "lr_scale": 1.0,
    "warmup": 0.0,
    "epochs": 2,
    "batch_groups": 128,
    "forward_tokens": 1024,
    "dropout": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 10.0,
    "kl": 0.0,
    "kl_target": 0.0,
    "kl_published": 0.0,
    "max_lag": 1e6,
    "truncation": 2.0,
    "mismatch": 0.05,
    "off_token": 1.0,
    "off_share": 0.01,
    "mask_cut": 0.0,
    "overlong": 0.0,
    "clip_low": 0.2,
    "clip_high": 0.28,
}
"""Hyper-parameters that every algorithm has, with their defaults.

lr, weight_decay: AdamW's. lr is taken as ordered; where an order leaves it out, the default falls with the base's
width. lr_scale is multiplied onto lr, so an order can say "three times the default" without knowing the base. warmup:
the optimiser steps, counted over all rounds of an update, in which the rate rises in a straight line. epochs: passes
over the batch. batch_groups: groups (or pairs) a minibatch. forward_tokens: tokens of one forward, padding included, by
which a minibatch is cut; a single longer sequence is a forward of its own. It changes memory and time, and the result
by rounding only. dropout: the share of the adapter's inner sums that a step leaves out, where the model does that.
max_grad_norm: the gradient is scaled down to it. kl: the weight of KL to the base model; kl_target: nats a token that
it is steered to by changing its weight (0: the weight is fixed); kl_published: 1 takes the KL term as GRPO published it
(`terms.kl_penalty`). max_lag: the most versions between a rollout's adapter and the parent; 0 leaves all rollouts of
other adapters out. Those that stay are weighed by importance where the algorithm has ratios (cloning and preferences
take them as they are). truncation: the largest importance weight. mismatch: mean k3 in nats a token between the
log-probabilities recorded and those of the trainer, above which a batch is refused. off_token: the nats by which a
single token may be off; beyond, it is left out of the loss. off_share: the largest share of tokens that may be left out
so, and one token always; where more are off, none is, and `mismatch` decides over all. mask_cut: 1 leaves sequences
that end cut at their limit out of the loss; their rewards count in baselines all the same. overlong: the last part of
the limit, 0 to 1, in which an answer's reward falls by up to the spread of the batch's rewards (`overlong_penalty`); 0:
it does not. clip_low, clip_high: how far a ratio may leave 1 (also where it is reported only).
"""


KL_IN_REWARD: Hyper = {name: value for name, value in COMMON.items() if name != "kl_published"}
"""The same for an algorithm whose KL is a part of the reward, and no term of the loss."""
WITHOUT_KL: Hyper = {name: value for name, value in COMMON.items() if not name.startswith("kl")}
"""The same for an algorithm that measures from a reference as it is."""

RANGES: Mapping[str, tuple[float, float]] = {
    **{name: (1, 1e6) for name in ("epochs", "batch_groups", "best", "pairs")},
    "forward_tokens": (1, 1e9),
    **{name: (1e-30, 1e30) for name in ("max_grad_norm", "truncation", "length", "beta", "bound")},
    **{name: (0, 1) for name in ("gamma", "lam", "clip_low", "stale", "token_mean", "kl_published")},
    **{name: (0, 1) for name in ("off_share", "mask_cut", "overlong")},
    "lr": (1e-30, 1e38),
    "lr_scale": (1e-6, 1e6),
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
    hint: str = ""
    """The text that shows the true answer after the prompt, for an algorithm whose teacher sees it; empty where no true
    answer is known.
    """
    adapter: str = ""
    """Digest of the adapter that was served; empty for the base model."""
    own: bool = True
    """Whether the policy sampled the tokens after this very prompt; not so for demonstrations, and for answers given
    with a hint.
    """
    temperature: float = 1.0
    """What the logits are divided by: the temperature that the tokens were sampled at.

    The recorded log-probabilities are those at temperature 1 all the same.
    """
    cut: bool = False
    """Whether the tokens end because they reached the most that were asked for."""
    fill: float = 0.0
    """The share of the most tokens that was taken, by the longest answer of the attempt; 1 where one was cut."""
    plain: bool = False
    """Whether the prompt is read as it stands, outside a chat template."""


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
    teacher: torch.Tensor | None = None
    """Log-probability under the base model after prompt and hint; None for an algorithm that has no teacher."""


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
    form: Literal["clipped", "clipped_sequence", "weighted", "preference", "cloning", "actor_critic"]
    """The loss's form, by which a back end finds the trainer that has such a loss."""
    reference: Literal["base", "old", ""] = "base"
    """What the loss measures from (for KL or a preference), as named in Terms; empty: from nothing."""
    credit: Callable[[InitialBatch, Hyper], Credit] | None = None
    """Advantages token by token, where they need more than rewards; None: each rollout's advantage holds for all of its
    tokens.
    """
    critic: bool = False
    """Whether a value head is trained beside the adapter."""
    first_value: Callable[[InitialBatch, Hyper], float] | None = None
    """The value that a fresh critic starts with everywhere, from the batch; None: 0."""
    needs: frozenset[str] = frozenset({"rewards"})
    """What rollouts carry for it: `rewards`, `labels` (tokens of the true answer), `hints` (hinted answers too),
    `teacher` (the hint, for log-probabilities of the base that sees it), `copies` (no others).
    """


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One optimiser step. KL and entropy in nats a token; `tied_groups` is the share in the whole batch."""

    loss: float
    kl_to_base: float
    """k3 on the step's tokens that the policy sampled, weighted by their ratio."""
    entropy: float
    clip_share: float
    """The share of tokens whose ratio to the parent adapter lies outside the clip range; the ratio is that of the
    token's sequence where sequences are clipped.
    """
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

    A group whose rewards are tied is dropped and counted. `advantages` is called with the rewards of the attempts of
    each other group. It returns an advantage for each, or None for a group that nothing can be learned from, which is
    dropped and counted as tied. Raises NothingToLearn, with the reason `why`, if no group is left.
    """
    groups = by_group(rollouts)
    scale = magnitude(r.reward for r in rollouts)
    selected: list[Rollout] = []
    selected_advantages: list[float] = []
    live = 0
    for indices in groups.values():
        rewards = attempt_rewards(rollouts, indices)
        tie = tied(list(rewards.values()), scale)
        group_advantages = None if tie else advantages(list(rewards.values()))
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
    temperature: float = 1.0
    """At 0 the most probable tokens were taken, which are no sample of the policy."""
    cut: bool = False


class MergedTurns(msgspec.Struct, frozen=True):
    """Consecutive turns as one sequence after the prompt of the first. `first` is the index of that turn.

    All that was sampled in it was sampled at one temperature, which is 0 where nothing was. `cut` says whether the last
    turn was.
    """

    first: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    mask: tuple[int, ...]
    temperature: float = 1.0
    cut: bool = False


def merge(turns: Sequence[PolicyTurn]) -> list[MergedTurns]:
    """Join turns into sequences: a turn continues the one before if its prompt begins with all the tokens so far, and
    if both were sampled at one temperature.

    The tokens that the policy was shown in between have mask 0 and log-probability 0, and so have those that it gave at
    temperature 0: they are no samples, and a turn at any temperature goes on from them.
    """
    merged: list[MergedTurns] = []
    prefix: tuple[int, ...] = ()
    for index, turn in enumerate(turns):
        sampled = turn.temperature > 0
        own = (int(sampled),) * len(turn.tokens)
        logprobs = turn.logprobs if sampled else (0.0,) * len(turn.tokens)
        last = merged[-1] if merged and turn.prompt[: len(prefix)] == prefix else None
        if last and (not sampled or last.temperature in (0, turn.temperature)):
            context = turn.prompt[len(prefix) :]
            merged[-1] = MergedTurns(
                last.first,
                last.tokens + context + turn.tokens,
                last.logprobs + (0.0,) * len(context) + logprobs,
                last.mask + (0,) * len(context) + own,
                turn.temperature or last.temperature,
                turn.cut,
            )
        else:
            merged.append(MergedTurns(index, turn.tokens, logprobs, own, turn.temperature, turn.cut))
        prefix = turn.prompt + turn.tokens
    return merged
