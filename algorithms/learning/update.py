"""One weight update: from a batch of recorded rollouts to optimiser steps, whatever the model and the algorithm.

Before the first step, the whole batch is scored once: log-probabilities under the parent adapter and under the base
model, and the critic's values. A batch that the parent did not sample is refused. Then the algorithm's loss is
descended minibatch by minibatch.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
import torch
from torch import nn

from algorithms.learning import terms
from algorithms.learning.batch import (
    RANGES,
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
    by_group,
)
from algorithms.learning.credit import SAME
from events.errors import UsageError

CHUNK = 512
"""Sequences of one forward pass without gradient."""
BETAS = (0.9, 0.999)
"""AdamW's decay rates of the first and second moment."""
KL_GAIN, KL_CLIP = 0.1, 0.2
"""How fast the weight of KL follows its target, and at which relative error that stops growing (Ziegler 2019, section
2.2).
"""

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
        """The value head's parameters; none where there is no critic."""

    def outputs(self, rollouts: Sequence[Rollout], *, base: bool = False, dropout: float = 0.0) -> Outputs:
        """The model's outputs for the tokens of B rollouts, T those of the longest.

        With `base`, those of the model without the adapter.
        """


class PreparedBatch(msgspec.Struct, frozen=True):
    """A batch that is ready for the first step.

    `hyper` has every hyper-parameter, `left_out` counts the rollouts left out as stale.
    """

    hyper: Hyper
    selected: Selection
    initial: InitialBatch
    credit: Credit
    left_out: int


class UpdateResult(msgspec.Struct, frozen=True):
    """An update's steps and state.

    `trained_on` counts the sequences with a gradient, `left_out` those of older adapters without one.
    """

    steps: tuple[Step, ...]
    state: TrainingState
    trained_on: int
    left_out: int
    votes: tuple[Vote, ...]


def settings(algorithm: Algorithm, hyper: Hyper) -> Hyper:
    """The algorithm's defaults with `hyper` over them; raises UsageError for a name that it does not have or a value
    out of range.
    """
    unknown = sorted(set(hyper) - set(algorithm.defaults))
    if unknown:
        raise UsageError(
            f"{algorithm.name} has no hyper-parameter {unknown[0]!r}; it has {', '.join(sorted(algorithm.defaults))}."
        )
    values = {**algorithm.defaults, **hyper}
    for name, value in values.items():
        least, most = RANGES.get(name, (0, 1e30))
        if not least <= value <= most:  # so that NaN is refused too
            raise UsageError(f"The hyper-parameter {name} is {value:g}; expected {least:g} to {most:g}.")
    if values.get("kl_target") and not values["kl"]:
        raise UsageError(
            "kl_target is set and kl is 0; kl is the weight that steering starts from, so give one, such as 0.05."
        )
    return values


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
    optimiser = adam(model, ready.hyper, state)
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

    A critic takes its weights from `state`. Raises as `update` does.
    """
    hyper = settings(algorithm, hyper)
    fresh = [r for r in rollouts if hyper["stale"] or not r.own or r.adapter == parent]
    if not fresh:
        raise NothingToLearn(
            f"All {len(rollouts)} rollouts are of older adapters, and this update was ordered to leave such out."
        )
    selected = algorithm.select(fresh, hyper)
    if state:
        if hyper.get("kl_target") and "kl" in state:
            hyper = {**hyper, "kl": float(state["kl"])}
        with torch.no_grad():
            for number, parameter in enumerate(model.critic):
                parameter.copy_(state[f"critic.{number}"])
    initial, credit = _score(model, algorithm, selected, hyper, parent)
    if not (credit.advantages.abs() >= SAME).any():
        raise NothingToLearn(
            f"None of {len(selected.rollouts)} sequences did better or worse than was to be expected.", selected.votes
        )
    return PreparedBatch(hyper, selected, initial, credit, len(rollouts) - len(fresh))


def finish(
    model: Trainable, ready: PreparedBatch, optimiser: torch.optim.Optimizer, steps: Sequence[tuple[Step, float]]
) -> UpdateResult:
    """The result of the steps, each given with the weight of KL after it.

    Raises Diverged if the weights are not finite.
    """
    if not all(bool(torch.isfinite(parameter).all()) for parameter in [*model.adapter, *model.critic]):
        raise Diverged("The last step left weights that are not finite; order a smaller learning rate.")
    state = _state(model, optimiser)
    if ready.hyper.get("kl_target"):
        state["kl"] = torch.tensor(steps[-1][1], dtype=torch.float64)
    return UpdateResult(
        tuple(step for step, _ in steps), state, len(ready.selected.rollouts), ready.left_out, ready.selected.votes
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


def steer_kl(kl: float, step: Step, hyper: Hyper) -> float:
    """The weight of KL after a step, moved so that KL nears its target; unchanged where there is no target (Ziegler
    2019, section 2.2).
    """
    if not hyper.get("kl_target"):
        return kl
    return kl * (1 + KL_GAIN * min(KL_CLIP, max(-KL_CLIP, step.kl_to_base / hyper["kl_target"] - 1)))


def rows(values: Sequence[Sequence[float]], width: int) -> torch.Tensor:
    """Rows of unequal length as a tensor (B, width), padded with zeros on the right."""
    table = torch.zeros(len(values), width)
    for row, value in enumerate(values):
        table[row, : len(value)] = torch.tensor(value)
    return table


def _score(
    model: Trainable, algorithm: Algorithm, selected: Selection, hyper: Hyper, parent: str
) -> tuple[InitialBatch, Credit]:
    """The selection's tensors before the first step, and the credit of each token."""
    rollouts = selected.rollouts
    width = max(len(r.tokens) for r in rollouts)
    with torch.no_grad():
        parts = [rollouts[at : at + CHUNK] for at in range(0, len(rollouts), CHUNK)]
        outputs = [model.outputs(part) for part in parts]
        old = _stack([part.logp for part in outputs], width)
        values = _stack([part.values for part in outputs], width)
        base = _stack([model.outputs(part, base=True).logp for part in parts], width)
    mask = rows([r.mask or (1,) * len(r.tokens) for r in rollouts], width)
    if not all(math.isfinite(value) for r in rollouts for value in r.logprobs):
        raise Mismatch(
            "A recorded log-probability is not finite, so no ratio to it can be; look for what the policy server "
            "recorded."
        )
    own = torch.tensor([r.own for r in rollouts]).unsqueeze(1)
    recorded = rows([r.logprobs if r.own else () for r in rollouts], width)
    _same_policy(
        recorded, old, mask * torch.tensor([r.own and r.adapter == parent for r in rollouts]).unsqueeze(1), hyper
    )
    initial = InitialBatch(
        rewards=torch.tensor([r.reward for r in rollouts]),
        advantages=torch.tensor(selected.advantages),
        sampled=torch.where(own & (mask > 0), recorded, old),
        old=old,
        base=base,
        values=values,
        mask=mask,
        own=own.expand_as(mask) & (mask > 0),
        attempts=tuple((r.group, r.attempt or str(index)) for index, r in enumerate(rollouts)),
    )
    if algorithm.credit:
        return initial, algorithm.credit(initial, hyper)
    return initial, Credit(initial.advantages.unsqueeze(1) * mask, torch.zeros_like(mask))


def _same_policy(recorded: torch.Tensor, old: torch.Tensor, mask: torch.Tensor, hyper: Hyper) -> None:
    if not mask.sum():
        return
    divergence = float(terms.masked_mean(terms.k3(recorded, old), mask))
    if not divergence <= hyper["mismatch"]:  # so that NaN is refused too
        raise Mismatch(
            f"The log-probabilities recorded for {int(mask.sum())} tokens are not the parent adapter's: their mean "
            f"k3 is {divergence:.4g} "
            f"nats, at most {hyper['mismatch']:g} may be; look for another base model, temperature or adapter at the "
            "policy server."
        )


def _descend(
    model: Trainable, algorithm: Algorithm, ready: PreparedBatch, optimiser: torch.optim.Optimizer, seed: int
) -> list[tuple[Step, float]]:
    hyper, selected = ready.hyper, ready.selected
    torch.manual_seed(seed)  # dropout's
    parameters = [*model.adapter, *model.critic]
    kl = hyper.get("kl", 0.0)
    steps: list[tuple[Step, float]] = []
    for indices in minibatches(selected, hyper, seed):
        start = time.perf_counter()
        outputs = model.outputs([selected.rollouts[index] for index in indices], dropout=hyper["dropout"])
        minibatch = _terms(outputs, ready.initial, ready.credit, indices)
        loss = algorithm.loss(minibatch, {**hyper, "kl": kl})
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, hyper["max_grad_norm"])
        step = report(
            minibatch, ready.initial.own[indices], float(loss.detach()), float(norm), selected.tied_groups, hyper, start
        )
        optimiser.step()
        kl = steer_kl(kl, step, hyper)
        steps.append((step, kl))
    return steps


def _terms(outputs: Outputs, initial: InitialBatch, credit: Credit, indices: list[int]) -> Terms:
    width = outputs.logp.shape[1]

    def part(table: torch.Tensor) -> torch.Tensor:
        return table[indices, :width]

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
    minibatch: Terms, own: torch.Tensor, loss: float, norm: float, tied_groups: float, hyper: Hyper, start: float
) -> Step:
    """A step's report for the log. Raises Diverged if one of its figures is not finite.

    `own`, (B, T) or wider, says which tokens the policy sampled itself. `loss` and `norm` are the step's, `tied_groups`
    the batch's share of tied groups, and `start` is when the step began, by `time.perf_counter`.
    """
    with torch.no_grad():
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
            clip_share=float(
                terms.clip_share(
                    terms.ratio(minibatch.logp, minibatch.old), minibatch.mask, hyper["clip_low"], hyper["clip_high"]
                )
            ),
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


def _stack(parts: Sequence[torch.Tensor], width: int) -> torch.Tensor:
    return torch.cat([nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])


def adam(model: Trainable, hyper: Hyper, state: Mapping[str, torch.Tensor] | None) -> torch.optim.AdamW:
    """The optimiser of the adapter and the critic, with the moments of the previous update's state if there is one."""
    groups: list[dict[str, object]] = [
        {"params": model.adapter, "lr": hyper["lr"], "weight_decay": hyper["weight_decay"]}
    ]
    if model.critic:
        groups.append({"params": model.critic, "lr": hyper["critic_lr"], "weight_decay": 0.0})
    optimiser = torch.optim.AdamW(groups, betas=BETAS, fused=True)
    if state:
        for number, parameter in enumerate([*model.adapter, *model.critic]):
            names = ("step", "exp_avg", "exp_avg_sq")
            optimiser.state[parameter] = {name: state[f"{name}.{number}"].clone() for name in names}
    return optimiser


def _state(model: Trainable, optimiser: torch.optim.Optimizer) -> TrainingState:
    state: TrainingState = {}
    for number, parameter in enumerate([*model.adapter, *model.critic]):
        for name, value in optimiser.state[parameter].items():
            state[f"{name}.{number}"] = value.detach().clone()
    for number, parameter in enumerate(model.critic):
        state[f"critic.{number}"] = parameter.detach().clone()
    return state
