"""One weight update: from a batch of recorded rollouts to optimiser steps, whatever the model and the algorithm.

Before the first step, the whole batch is scored once: log-probabilities under the parent adapter and under the base
model, and the critic's values. A batch that the parent did not sample is refused. Then the algorithm's loss is
descended minibatch by minibatch.

No forward reads more than `forward_tokens` tokens. A minibatch is cut into parts, and a step follows the sum of their
gradients: the loss of a minibatch is a mean over n tokens, rows or pairs, so that with n_p of them in part p

    L = sum_p (n_p / n) L_p
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol, assert_never

import msgspec
import numpy as np
import torch
from torch import nn

from algorithms.learning import terms
from algorithms.learning.batch import (
    COMMON,
    RANGES,
    REFERENCE_WIDTH,
    Algorithm,
    Credit,
    Diverged,
    Hyper,
    InitialBatch,
    Mismatch,
    NothingToLearn,
    Rollout,
    Selection,
    Step,
    Terms,
    Vote,
    attempt_rewards,
    by_group,
)
from algorithms.learning.credit import overlong_penalty, reward_units
from algorithms.statistics import magnitude, tied
from events.errors import UsageError

ROUNDING = 1e-6
"""What is left of an advantage of 1 where it cancels, in float32."""
BETAS = (0.9, 0.999)
"""AdamW's decay rates of the first and second moment."""
KL_GAIN, KL_DAMPING, KL_CLIP = 0.1, 4.0, 1.0
"""How fast the weight of KL follows its target, how far it follows a change of KL at once, and at which error (the
logarithm of KL over its target) both stop growing.
"""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter."""
UNIT_CHANGE = 10.0
"""The factor by which the rewards' spread may leave the critic's unit; beyond it, the critic begins anew."""
KL_WEIGHTS = (1e-6, 1e4)
"""The least and largest weight that steering gives."""
WARMUP = 4
"""Optimiser steps of warm-up by default, for a base wider than REFERENCE_WIDTH."""

TrainingState = dict[str, torch.Tensor]
"""What the next update continues from, by name: the optimiser's moments, the critic's weights, and the weight of KL
where it is steered.
"""


class Outputs(msgspec.Struct, frozen=True):
    """Log-probability and entropy (nats) of each token and the critic's values, (B, T), padded on the right; zeros for
    no critic.
    """

    logp: torch.Tensor
    entropy: torch.Tensor
    values: torch.Tensor


class Trainable(Protocol):
    """A base model with a LoRA adapter, and a value head if it was made with one."""

    @property
    def adapter(self) -> Sequence[torch.Tensor]:
        """The adapter's parameters, always in the same order."""

    @property
    def critic(self) -> Sequence[torch.Tensor]:
        """The value head's parameters, a bias last; none where there is no critic.

        All are zero before the first update, so that every value is.
        """

    @property
    def width(self) -> int:
        """The base's hidden size, by which default learning rates are scaled; REFERENCE_WIDTH for a base without."""

    @property
    def at_base(self) -> bool:
        """Whether the adapter changes nothing yet, as a fresh one: outputs are those of the base."""

    def split(self, rollouts: Sequence[Rollout], tokens: int, width: int = 1) -> list[list[int]]:
        """The indices of the rollouts of each forward, so that none has more than `tokens` tokens, if it can be.

        Every rollout is in one forward, and each `width` consecutive ones stay together. The same arguments give the
        same forwards.
        """

    def prompts_read_once(self) -> AbstractContextManager[None]:
        """Within it, forwards one after the other that share a prompt may read it once.

        Gradients are whole on leaving.
        """

    def outputs(self, rollouts: Sequence[Rollout], *, base: bool = False, dropout: float = 0.0) -> Outputs:
        """The model's outputs for the tokens of B rollouts, each at its temperature, T those of the longest.

        With `base`, those of the model without the adapter.
        """


class PreparedBatch(msgspec.Struct, frozen=True):
    """A batch that is ready for the first step.

    `hyper` has every hyper-parameter. The mask of `initial` is the loss's. `left_out` counts the rollouts left out as
    stale, `masked_tokens` those left out of the loss since their recorded log-probabilities are off. `units`: what was
    taken from the rewards, and what they were then divided by. `last_kl` is the KL of the last step of the update
    before, in nats a token; None where KL is not steered, or was not.
    """

    hyper: Hyper
    selected: Selection
    initial: InitialBatch
    credit: Credit
    left_out: int
    masked_tokens: int = 0
    units: tuple[float, float] = (0.0, 1.0)
    last_kl: float | None = None
    state: Mapping[str, torch.Tensor] | None = None
    """What the optimiser continues from."""


class UpdateResult(msgspec.Struct, frozen=True):
    """An update's steps and state.

    `trained_on` counts the sequences with a gradient, `left_out` those of older adapters without one, `masked_tokens`
    the tokens without one since their recorded log-probabilities are off.
    """

    steps: tuple[Step, ...]
    state: TrainingState
    trained_on: int
    left_out: int
    votes: tuple[Vote, ...]
    masked_tokens: int = 0


def fitted_defaults(algorithm: Algorithm, width: int) -> Hyper:
    """The algorithm's defaults for a base of this hidden size.

    Learning rates fall as 1 / width from REFERENCE_WIDTH on, as those of hidden weights and of a linear read-out must
    for Adam (Yang 2021, muP, arXiv 2203.03466, table 3): a step moves each of `width` inputs' weights by the rate, and
    these moves add up. For LoRA: Hayou 2024, LoRA+, arXiv 2402.12354. A narrower base keeps the defaults.
    """
    if width <= REFERENCE_WIDTH:
        return algorithm.defaults
    rates = {name: algorithm.defaults[name] for name in ("lr", "critic_lr") if name in algorithm.defaults}
    fitted = {name: rate * REFERENCE_WIDTH / width for name, rate in rates.items()}
    return {**algorithm.defaults, **fitted, "warmup": WARMUP}


def settings(algorithm: Algorithm, hyper: Hyper, width: int = REFERENCE_WIDTH) -> Hyper:
    """The algorithm's defaults for a base of this width with `hyper` over them; raises UsageError for a name that it
    does not have or a value out of range.

    `stale` is the name of old for a `max_lag` of 0 (where it is 0) or without bound.
    """
    if "stale" in hyper:
        _require_range("stale", hyper["stale"])
        max_lag = COMMON["max_lag"] if hyper["stale"] else 0.0
        hyper = {"max_lag": max_lag, **{name: value for name, value in hyper.items() if name != "stale"}}
    unknown = sorted(set(hyper) - set(algorithm.defaults))
    if unknown:
        raise UsageError(
            f"{algorithm.name} has no hyper-parameter {unknown[0]!r}; it has {', '.join(sorted(algorithm.defaults))}."
        )
    values = {**fitted_defaults(algorithm, width), **hyper}
    for name, value in values.items():
        _require_range(name, value)
    if values.get("kl_target") and not values["kl"]:
        raise UsageError(
            "kl_target is set and kl is 0; kl is the weight that steering starts from, so give one, such as 0.05."
        )
    if values["overlong"] and "rewards" not in algorithm.needs:
        raise UsageError(f"overlong lowers rewards, and {algorithm.name} asks for none; order overlong 0.")
    return values


def _require_range(name: str, value: float) -> None:
    least, most = RANGES.get(name, (0, 1e30))
    if not least <= value <= most:  # so that NaN is refused too
        raise UsageError(f"The hyper-parameter {name} is {value:g}; expected {least:g} to {most:g}.")


def update(
    model: Trainable,
    algorithm: Algorithm,
    rollouts: Sequence[Rollout],
    hyper: Hyper,
    *,
    seed: int,
    parent: str,
    state: Mapping[str, torch.Tensor] | None = None,
) -> UpdateResult:
    """Train `model` in place. `parent` is the digest of the adapter that it starts with, `state` the previous update's
    state.

    The same arguments give the same weights, to the bit (one thread, one kind of machine). Raises NothingToLearn,
    Mismatch, Diverged, or UsageError for a hyper-parameter that there is not.
    """
    ready = prepare(model, algorithm, rollouts, hyper, parent=parent, state=state)
    optimiser = adam(model, ready.hyper, ready.state)
    return finish(model, ready, optimiser, _descend(model, algorithm, ready, optimiser, seed))


def prepare(
    model: Trainable,
    algorithm: Algorithm,
    rollouts: Sequence[Rollout],
    hyper: Hyper,
    *,
    parent: str,
    state: Mapping[str, torch.Tensor] | None = None,
) -> PreparedBatch:
    """Select from the rollouts, score the selection and give credit.

    A critic takes its weights from `state`. A fresh one gets its bias from the batch, before it gives advantages: with
    values of 0, nearly all tokens of a long answer would seem worse than expected, those of the best too. Raises as
    `update` does.
    """
    hyper = settings(algorithm, hyper, model.width)
    lags = version_lags(rollouts, parent)
    fresh = [r for r, lag in zip(rollouts, lags, strict=True) if lag <= hyper["max_lag"]]
    if not fresh:
        raise NothingToLearn(
            f"All {len(rollouts)} rollouts are of older adapters, {min(lags, default=0)} versions or more from the "
            f"parent, and this update was ordered to leave out what is more than {hyper['max_lag']:g} away."
        )
    if last := hyper["overlong"]:
        spread = _spread([list(attempt_rewards(fresh, indices).values()) for indices in by_group(fresh).values()])
        fresh = [msgspec.structs.replace(r, reward=r.reward + spread * overlong_penalty(r.fill, last)) for r in fresh]
    selected = algorithm.select(fresh, hyper)
    _require_known_distribution(algorithm, selected.rollouts, parent)
    units = _units(algorithm, selected, hyper, state)
    selected = _in_units(selected, *units)
    if state and model.critic and units != _critics_units(state):
        state = _with_fresh_critic(model, state)
    last_kl = None
    if state:
        if hyper.get("kl_target") and "kl" in state:
            hyper = {**hyper, "kl": float(state["kl"])}
            last_kl = float(state["last_kl"]) if "last_kl" in state else None
        with torch.no_grad():
            for number, parameter in enumerate(model.critic):
                parameter.copy_(state[f"critic.{number}"])
    initial, credit, off = _score(model, algorithm, selected, hyper, parent)
    selected, initial, credit = _without_masked(selected, initial, credit, off, hyper)
    least = ROUNDING * min(1.0, float(initial.rewards.abs().max()) or 1.0)  # 1 where there are no rewards, too
    if not (credit.advantages.abs() >= least).any():
        raise NothingToLearn(
            f"None of {len(selected.rollouts)} sequences did better or worse than was to be expected.", selected.votes
        )
    left_out, masked = len(rollouts) - len(fresh), int(off.sum())
    return PreparedBatch(hyper, selected, initial, credit, left_out, masked, units, last_kl, state)


def finish(
    model: Trainable, ready: PreparedBatch, optimiser: torch.optim.Optimizer, steps: Sequence[tuple[Step, float]]
) -> UpdateResult:
    """The result of the steps, each given with the weight of KL after it.

    Raises Diverged if the weights are not finite.
    """
    if not all(bool(torch.isfinite(parameter).all()) for parameter in [*model.adapter, *model.critic]):
        raise Diverged("The last step left weights that are not finite; order a smaller learning rate.")
    state = _state(model, optimiser)
    if model.critic:
        state["rewards"] = torch.tensor(ready.units, dtype=torch.float64)
    if ready.hyper.get("kl_target"):
        state["kl"] = torch.tensor(steps[-1][1], dtype=torch.float64)
        state["last_kl"] = torch.tensor(steps[-1][0].kl_to_base, dtype=torch.float64)
    return UpdateResult(
        tuple(step for step, _ in steps),
        state,
        len(ready.selected.rollouts),
        ready.left_out,
        ready.selected.votes,
        ready.masked_tokens,
    )


def _units(
    algorithm: Algorithm, selected: Selection, hyper: Hyper, state: Mapping[str, torch.Tensor] | None
) -> tuple[float, float]:
    """What is taken from the rewards and what they are then divided by, for an algorithm that has `scale`.

    A critic goes on in the units in which it began, which its state holds (before there were such, rewards as they
    are), while the batch's spread is within a factor of UNIT_CHANGE of them.
    """
    if "scale" not in hyper:
        return 0.0, 1.0
    if hyper["scale"]:
        return 0.0, hyper["scale"]
    whole = [range(len(selected.rollouts))] if algorithm.critic else by_group(selected.rollouts).values()
    measured = reward_units([list(attempt_rewards(selected.rollouts, indices).values()) for indices in whole])
    if state and algorithm.critic:
        mean, scale = _critics_units(state)
        if 1 / UNIT_CHANGE <= measured[1] / scale <= UNIT_CHANGE:
            return mean, scale
    return measured


def _spread(groups_GG: Sequence[Sequence[float]]) -> float:
    """The unit of rewards by group; where all groups tie, that of all together, or else the largest of them."""
    rewards = [r for rewards_G in groups_GG for r in rewards_G]
    scale = magnitude(rewards)
    for groups in (groups_GG, [rewards]):
        if not all(tied(rewards_G, scale) for rewards_G in groups):
            return reward_units(groups)[1]
    return scale or 1.0


def _critics_units(state: Mapping[str, torch.Tensor]) -> tuple[float, float]:
    mean, scale = state.get("rewards", torch.tensor([0.0, 1.0])).tolist()
    return mean, scale


def _with_fresh_critic(model: Trainable, state: Mapping[str, torch.Tensor]) -> TrainingState:
    """The state with a critic that knows nothing: its weights and its moments are zero."""
    first = len(model.adapter)
    trained = {f"{name}.{first + place}" for place in range(len(model.critic)) for name in MOMENTS}
    trained |= {f"critic.{place}" for place in range(len(model.critic))}
    return {name: torch.zeros_like(value) if name in trained else value for name, value in state.items()}


def _in_units(selected: Selection, mean: float, scale: float) -> Selection:
    """The selection with its rewards less `mean`, and both they and the advantages over `scale`."""
    if (mean, scale) == (0.0, 1.0):
        return selected
    return msgspec.structs.replace(
        selected,
        rollouts=tuple(msgspec.structs.replace(r, reward=(r.reward - mean) / scale) for r in selected.rollouts),
        advantages=tuple(advantage / scale for advantage in selected.advantages),
    )


def version_lags(rollouts: Sequence[Rollout], parent: str) -> list[int]:
    """How many versions of the adapter lie between each rollout's and the parent, counted in the order in which the
    batch first shows them; 0 for what the policy did not sample.

    A batch runs from old rounds to new ones, and a parent that sampled nothing in it is the newest. Where each round
    starts from the base again, the parent is the oldest, and what counts is how far a rollout is from the last version.
    """
    versions = list(dict.fromkeys(r.adapter for r in rollouts if r.own))
    places = {adapter: place for place, adapter in enumerate(versions)}
    newest = places.setdefault(parent, len(versions)) if parent else len(versions) - 1
    return [abs(newest - places[r.adapter]) if r.own else 0 for r in rollouts]


def _require_known_distribution(algorithm: Algorithm, rollouts: Sequence[Rollout], parent: str) -> None:
    """Raise UsageError where a loss needs a ratio to what an older adapter gave at a temperature other than 1, which is
    not recorded.
    """
    warm = [r for r in rollouts if r.own and r.adapter != parent and r.temperature != 1]
    if warm and algorithm.form not in ("cloning", "preference"):
        raise UsageError(
            f"{len(warm)} rollouts of older adapters were sampled at temperature {warm[0].temperature:g}, and their "
            "log-probabilities are recorded at temperature 1, so no ratio to them can be; order max_lag 0, or an "
            "algorithm that clones or compares."
        )


def minibatches(selected: Selection, hyper: Hyper, seed: int) -> list[list[int]]:
    """The indices of each step's rollouts, in order.

    Each epoch shuffles the units by `seed`, and no unit is divided between steps.
    """
    units = list(selected.units) or [tuple(indices) for indices in by_group(selected.rollouts).values()]
    size = int(hyper["batch_groups"])
    shuffle = np.random.default_rng(seed)
    orders = [shuffle.permutation(len(units)).tolist() for _ in range(int(hyper["epochs"]))]
    return [
        [index for unit in order[at : at + size] for index in units[unit]]
        for order in orders
        for at in range(0, len(order), size)
    ]


def steer_kl(kl: float, step: Step, last_kl: float | None, hyper: Hyper) -> float:
    """The weight of KL after a step, moved so that KL nears its target; unchanged where there is no target.

        e = clip(log(KL / target), -KL_CLIP, KL_CLIP),   log kl += KL_GAIN e + KL_DAMPING (e - e of the step before)

    `last_kl` is the KL of the step before, None at the first. The first part is Ziegler 2019, section 2.2, on the
    logarithm. Ours is the second: the weight decides how fast KL moves and not where it is, so the first part alone
    swings further and further beyond the target (DECISIONS.md).
    """
    if not hyper.get("kl_target"):
        return kl

    def error(nats: float) -> float:
        return min(KL_CLIP, max(-KL_CLIP, math.log(max(nats, 1e-30) / hyper["kl_target"])))

    now = error(step.kl_to_base)
    change = 0.0 if last_kl is None else now - error(last_kl)
    least, most = KL_WEIGHTS
    return min(most, max(least, kl * math.exp(KL_GAIN * now + KL_DAMPING * change)))


def rows(values: Sequence[Sequence[float]], width: int) -> torch.Tensor:
    """Rows of unequal length as a tensor (B, width), padded with zeros on the right."""
    table = torch.zeros(len(values), width)
    for row, value in enumerate(values):
        table[row, : len(value)] = torch.tensor(value)
    return table


def pack(
    units: Sequence[Sequence[int]], lengths: Mapping[int, int], tokens: int, counts: Sequence[int] | None = None
) -> list[list[int]]:
    """The rows of each forward: as many as fit, padded to the longest of `lengths` tokens, into `tokens`; at least one
    unit, undivided.

    Units of like lengths come together, the longest first; within a forward they stand in the order given. A unit is
    as many rows as it has members, or as `counts` says.
    """
    longest = [max(lengths[i] for i in unit) for unit in units]
    counts = counts or [len(unit) for unit in units]
    parts: list[list[int]] = []
    rows = width = 0
    for place in sorted(range(len(units)), key=lambda place: -longest[place]):
        if not parts or (rows + counts[place]) * width > tokens:
            parts.append([])
            rows, width = 0, longest[place]
        parts[-1].append(place)
        rows += counts[place]
    return [[i for place in sorted(part) for i in units[place]] for part in parts]


def mean_over(algorithm: Algorithm, hyper: Hyper) -> Literal["tokens", "answers", "length", "pairs"]:
    """What the loss of a minibatch is the mean of; `length` is each answer's sum over tokens divided by a constant,
    then their mean.
    """
    match algorithm.form:
        case "clipped":
            return "length" if "length" in hyper else "tokens" if hyper.get("token_mean") else "answers"
        case "clipped_sequence":
            return "answers"
        case "preference":
            return "pairs"
        case "weighted" | "cloning" | "actor_critic":
            return "tokens"
        case _:
            assert_never(algorithm.form)


def unit_width(algorithm: Algorithm) -> int:
    """The consecutive rows of a minibatch that its loss takes together: 2 for pairs."""
    return 2 if algorithm.form == "preference" else 1


def share(algorithm: Algorithm, ready: PreparedBatch, part: Sequence[int], whole: Sequence[int]) -> float:
    """The weight of the loss of these rows in that of the minibatch `whole`: their share of what it is the mean of."""
    if mean_over(algorithm, ready.hyper) != "tokens":
        return len(part) / len(whole)
    counts = [float(ready.initial.mask[list(rows)].sum()) for rows in (part, whole)]
    return counts[0] / max(counts[1], 1)


def _joined(outputs: Sequence[Outputs], parts: Sequence[Sequence[int]]) -> Outputs:
    """The outputs of all rows, without gradient, from those of the parts that hold the rows at these indices."""
    order = torch.argsort(torch.tensor([row for part in parts for row in part]))
    width = max(each.logp.shape[1] for each in outputs)

    def whole(tables: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat([nn.functional.pad(each.detach(), (0, width - each.shape[1])) for each in tables])[order]

    return Outputs(*(whole([getattr(each, name) for each in outputs]) for name in Outputs.__struct_fields__))


@torch.no_grad()
def _look(model: Trainable, rollouts: Sequence[Rollout], hyper: Hyper, *, base: bool = False) -> Outputs:
    """The outputs of all rollouts without gradient, from as many forwards as their tokens need."""
    parts = model.split(rollouts, int(hyper["forward_tokens"]))
    with model.prompts_read_once():
        return _joined([model.outputs([rollouts[i] for i in part], base=base) for part in parts], parts)


def _score(
    model: Trainable, algorithm: Algorithm, selected: Selection, hyper: Hyper, parent: str
) -> tuple[InitialBatch, Credit, torch.Tensor]:
    """The selection's tensors before the first step, the credit of each token, and which tokens' recorded
    log-probabilities are off.
    """
    rollouts = selected.rollouts
    width = max(len(r.tokens) for r in rollouts)
    parent_outputs = _look(model, rollouts, hyper)
    old, values = parent_outputs.logp, parent_outputs.values
    base = old if model.at_base else _look(model, rollouts, hyper, base=True).logp
    old_at_1 = old  # where log-probabilities are recorded
    if any(r.temperature != 1 for r in rollouts):
        old_at_1 = _look(model, [msgspec.structs.replace(r, temperature=1.0) for r in rollouts], hyper).logp
    teacher = None
    if "teacher" in algorithm.needs:
        hinted = [msgspec.structs.replace(r, prompt=r.prompt + r.hint) for r in rollouts]
        teacher = _look(model, hinted, hyper, base=True).logp
    mask = rows([r.mask or (1,) * len(r.tokens) for r in rollouts], width)
    if not all(math.isfinite(value) for r in rollouts for value in r.logprobs):
        raise Mismatch(
            "A recorded log-probability is not finite, so no ratio to it can be; look for what the policy server "
            "recorded."
        )
    own = torch.tensor([r.own for r in rollouts]).unsqueeze(1)
    recorded = rows([r.logprobs if r.own else () for r in rollouts], width)
    parents = mask * torch.tensor([r.own and r.adapter == parent for r in rollouts]).unsqueeze(1)
    off = _off_tokens(recorded, old_at_1, parents, hyper)
    known = own & (mask > 0) & ~off & torch.tensor([r.temperature == 1 for r in rollouts]).unsqueeze(1)
    initial = InitialBatch(
        rewards=torch.tensor([r.reward for r in rollouts]),
        advantages=torch.tensor(selected.advantages),
        sampled=torch.where(known, recorded, old),
        old=old,
        base=base,
        values=values,
        mask=mask,
        own=own.expand_as(mask) & (mask > 0),
        attempts=tuple((r.group, r.attempt or str(index)) for index, r in enumerate(rollouts)),
        teacher=teacher,
    )
    if algorithm.first_value and model.critic and not any(bool(parameter.any()) for parameter in model.critic):
        value = algorithm.first_value(initial, hyper)
        with torch.no_grad():
            model.critic[-1].fill_(value)
        initial = msgspec.structs.replace(initial, values=value * mask)
    if algorithm.credit:
        return initial, algorithm.credit(initial, hyper), off
    return initial, Credit(initial.advantages.unsqueeze(1) * mask, torch.zeros_like(mask)), off


def _off_tokens(recorded: torch.Tensor, old: torch.Tensor, mask: torch.Tensor, hyper: Hyper) -> torch.Tensor:
    """Which masked tokens are single ones whose recorded log-probability is off, (N, T); raises Mismatch where all
    others are not the parent's either.

    An engine that rounds otherwise, or a token that it got wrong, is no other policy; k3 is exponential, so one such
    token would be most of a mean over thousands.
    """
    off = ((recorded - old).abs() > hyper["off_token"]) & (mask > 0) & torch.isfinite(old)
    count, tokens = int(off.sum()), int(mask.sum())
    if count > max(1, hyper["off_share"] * tokens):
        off = torch.zeros_like(off)  # too many to be single ones
    rest = mask * ~off
    if not rest.sum():
        return off
    divergence = float(terms.masked_mean(terms.k3(recorded, old), rest))
    if not divergence <= hyper["mismatch"]:  # so that NaN is refused too
        raise Mismatch(
            f"The log-probabilities recorded for {tokens} tokens are not the parent adapter's: their mean "
            f"k3 is {divergence:.4g} "
            f"nats, at most {hyper['mismatch']:g} may be, and {count} are off by more than {hyper['off_token']:g} "
            "nats; look for another base model, temperature or adapter at the policy server."
        )
    return off


def _without_masked(
    selected: Selection, initial: InitialBatch, credit: Credit, off: torch.Tensor, hyper: Hyper
) -> tuple[Selection, InitialBatch, Credit]:
    """The batch with the loss's mask, and without the sequences of which it leaves nothing, once credit is given.

    Where sequences share a unit, such as a pair, they go together.
    """
    cut = torch.tensor([bool(hyper["mask_cut"]) and r.cut for r in selected.rollouts]).unsqueeze(1)
    mask = initial.mask * ~(off | cut)
    empty = {index for index, some in enumerate((mask > 0).any(1).tolist()) if not some}
    if not (off.any() or empty):
        return selected, initial, credit
    empty |= {index for unit in selected.units if not empty.isdisjoint(unit) for index in unit}
    rows = [index for index in range(len(mask)) if index not in empty]
    if not rows:
        raise NothingToLearn(
            f"All {len(mask)} sequences are left out of the loss: {int(cut.sum())} were cut at their limit, and of the "
            "others all recorded log-probabilities are off; allow longer answers, or order mask_cut 0.",
            selected.votes,
        )
    place = {index: new for new, index in enumerate(rows)}

    def kept(fields: InitialBatch | Credit) -> dict[str, torch.Tensor]:
        return {
            name: value[rows]
            for name, value in msgspec.structs.asdict(fields).items()
            if isinstance(value, torch.Tensor)
        }

    selected = msgspec.structs.replace(
        selected,
        rollouts=tuple(selected.rollouts[index] for index in rows),
        advantages=tuple(selected.advantages[index] for index in rows),
        units=tuple(tuple(place[index] for index in unit) for unit in selected.units if empty.isdisjoint(unit)),
    )
    attempts = tuple(initial.attempts[index] for index in rows)
    own = initial.own & (mask > 0)
    initial = msgspec.structs.replace(
        initial, **(kept(initial) | {"mask": mask[rows], "own": own[rows]}), attempts=attempts
    )
    return selected, initial, Credit(**kept(credit))


def _descend(
    model: Trainable, algorithm: Algorithm, ready: PreparedBatch, optimiser: torch.optim.Optimizer, seed: int
) -> list[tuple[Step, float]]:
    hyper, selected = ready.hyper, ready.selected
    torch.manual_seed(seed)  # dropout's
    kl, last_kl = hyper.get("kl", 0.0), ready.last_kl
    steps: list[tuple[Step, float]] = []
    for indices in minibatches(selected, hyper, seed):
        start = time.perf_counter()
        optimiser.zero_grad()
        loss, minibatch = _accumulate(model, algorithm, ready, indices, {**hyper, "kl": kl})
        norm = nn.utils.clip_grad_norm_(model.adapter, hyper["max_grad_norm"])
        nn.utils.clip_grad_norm_(model.critic, hyper["max_grad_norm"])
        step = report(
            minibatch,
            ready.initial.own[indices],
            loss,
            float(norm),
            selected.tied_groups,
            hyper,
            start,
            algorithm.form == "clipped_sequence",
        )
        optimiser.step()
        kl, last_kl = steer_kl(kl, step, last_kl, hyper), step.kl_to_base
        steps.append((step, kl))
    return steps


def _accumulate(
    model: Trainable, algorithm: Algorithm, ready: PreparedBatch, indices: Sequence[int], hyper: Hyper
) -> tuple[float, Terms]:
    """Add the gradient of the loss of the minibatch at these indices, part by part; returns the loss, and the
    minibatch's terms without gradient.
    """
    rollouts = [ready.selected.rollouts[index] for index in indices]
    parts = model.split(rollouts, int(hyper["forward_tokens"]), unit_width(algorithm))
    loss, outputs = 0.0, []
    with model.prompts_read_once():
        for part in parts:
            rows = [indices[i] for i in part]
            weight = share(algorithm, ready, rows, indices)
            part_loss, found = _descend_part(model, algorithm, ready, rows, hyper, weight)
            loss += part_loss
            outputs.append(found)
    return loss, _terms(_joined(outputs, parts), ready.initial, ready.credit, indices)


def _descend_part(
    model: Trainable, algorithm: Algorithm, ready: PreparedBatch, rows: Sequence[int], hyper: Hyper, weight: float
) -> tuple[float, Outputs]:
    """Add `weight` times the gradient of the loss of these rows; returns as much of the loss, and the model's outputs
    without gradient. Nothing of the graph outlives it.
    """
    found = model.outputs([ready.selected.rollouts[row] for row in rows], dropout=hyper["dropout"])
    loss = 0.0
    if weight:
        weighted = weight * algorithm.loss(_terms(found, ready.initial, ready.credit, rows), hyper)
        weighted.backward()
        loss = float(weighted.detach())
    return loss, _joined([found], [range(len(rows))])


def _terms(outputs: Outputs, initial: InitialBatch, credit: Credit, indices: Sequence[int]) -> Terms:
    width = outputs.logp.shape[1]

    def part(table: torch.Tensor) -> torch.Tensor:
        return table[list(indices), :width]

    return Terms(
        logp=outputs.logp,
        sampled=part(initial.sampled),
        old=part(initial.old),
        base=part(initial.base),
        advantages=part(credit.advantages),
        mask=part(initial.mask),
        entropy=outputs.entropy,
        values=outputs.values,
        old_values=part(initial.values),
        returns=part(credit.returns),
    )


def report(
    minibatch: Terms,
    own: torch.Tensor,
    loss: float,
    norm: float,
    tied_groups: float,
    hyper: Hyper,
    start: float,
    sequences: bool = False,
) -> Step:
    """A step's report for the log. Raises Diverged if one of its figures is not finite.

    `own`, (B, T) or wider, says which tokens the policy sampled itself. `loss` and `norm` are the step's, `tied_groups`
    the batch's share of tied groups, and `start` is when the step began, by `time.perf_counter`. Where `sequences` are
    clipped, a token's share in clipping is that of its sequence.
    """
    with torch.no_grad():
        clipped_ratio = terms.ratio(minibatch.logp, minibatch.old)
        if sequences:
            clipped_ratio = terms.sequence_ratio(minibatch.logp, minibatch.old, minibatch.mask).expand_as(clipped_ratio)
        rho = terms.ratio(minibatch.logp, minibatch.sampled)
        sampled = own[:, : rho.shape[1]].to(rho.dtype)
        weight = rho.clamp(max=hyper["truncation"]) if sampled.any() else torch.ones_like(rho)
        step = Step(
            loss=loss,
            kl_to_base=float(
                terms.masked_mean(
                    weight * terms.k3(minibatch.logp, minibatch.base), sampled if sampled.any() else minibatch.mask
                )
            ),
            entropy=float(terms.masked_mean(minibatch.entropy, minibatch.mask)),
            clip_share=float(terms.clip_share(clipped_ratio, minibatch.mask, hyper["clip_low"], hyper["clip_high"])),
            ratio_mean=float(terms.masked_mean(rho, minibatch.mask)),
            ratio_max=float(terms.masked(rho, minibatch.mask).max()),
            grad_norm=norm,
            tied_groups=tied_groups,
            tokens=int(minibatch.mask.sum()),
            seconds=time.perf_counter() - start,
        )
    odd = {name: value for name, value in msgspec.structs.asdict(step).items() if not math.isfinite(value)}
    if odd:
        raise Diverged(
            f"The step's {', '.join(f'{name} is {value}' for name, value in odd.items())}; order a smaller learning "
            "rate."
        )
    return step


def adam(model: Trainable, hyper: Hyper, state: Mapping[str, torch.Tensor] | None) -> torch.optim.AdamW:
    """The optimiser of the adapter and the critic, with the moments of the previous update's state if there is one.

    Its rates rise to those of `hyper` in the first `warmup` steps, counted from the first round's on.
    """
    groups: list[dict[str, object]] = [
        {"params": model.adapter, "lr": hyper["lr"] * hyper["lr_scale"], "weight_decay": hyper["weight_decay"]}
    ]
    if model.critic:
        groups.append({"params": model.critic, "lr": hyper["critic_lr"], "weight_decay": 0.0})
    optimiser = torch.optim.AdamW(groups, betas=BETAS, fused=True)
    if state:
        for number, parameter in enumerate([*model.adapter, *model.critic]):
            optimiser.state[parameter] = {name: state[f"{name}.{number}"].clone() for name in MOMENTS}
    if hyper["warmup"] > 1:
        rates = [group["lr"] for group in optimiser.param_groups]

        def warm_up(*_: object) -> None:
            done = optimiser.state[model.adapter[0]].get("step", 0)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * min(1.0, (float(done) + 1) / hyper["warmup"])

        optimiser.register_step_pre_hook(warm_up)
    return optimiser


def _state(model: Trainable, optimiser: torch.optim.Optimizer) -> TrainingState:
    state: TrainingState = {}
    for number, parameter in enumerate([*model.adapter, *model.critic]):
        for name, value in optimiser.state[parameter].items():
            state[f"{name}.{number}"] = value.detach().clone()
    for number, parameter in enumerate(model.critic):
        state[f"critic.{number}"] = parameter.detach().clone()
    return state
