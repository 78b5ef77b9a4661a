"""The rules agent: from what the trajectories show to the next lever. Deterministic, needs no key, and is a baseline in its own right.

| what the evidence shows (first row that holds) | choice |
|---|---|
| an edit of the task's catalogue, not tried yet, says that the evidence calls for it | scaffold, that edit |
| too few rollouts left for one round over all train items | stop |
| the last weight update on this scaffold was accepted but gained less than .005 | stop |
| the last weight update was turned down, and another was tried on this scaffold or nine tenths of the groups are tied | stop |
| the first weight update on this scaffold, best-of-N cloning, was turned down | weights, GRPO, 3 rounds |
| pass@k exceeds pass@1 by less than .05: sampling finds nothing that is not known | stop |
| many labels on offer: right answers are rare, explore | weights, best-of-N cloning, high learning rate, 5 rounds |
| a shortlist on offer: most right answers are found at once, refine | weights, best-of-N cloning, low learning rate, dropout, 3 rounds |

Edits come first because they cost no training and make right answers easier to find. A turned-down edit is not tried again. A lever that
the run does not have is skipped. "On this scaffold" means since the last accepted edit.
"""

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Literal

import msgspec

from tasks.contract import Edit, Evidence

Lever = Literal["scaffold", "weights", "stop"]
GAP, GAIN, LIVE, MANY = 0.05, 0.005, 0.1, 32.0
"""pass@k over pass@1 that is worth sampling for; dev gain that is worth another update; share of untied groups; choices that are many."""
EXPLORE: Mapping[str, float] = {"lr": 3e-3, "epochs": 3, "dropout": 0.0, "weight_decay": 0.0}
REFINE: Mapping[str, float] = {"lr": 5e-4, "epochs": 4, "dropout": 0.5, "weight_decay": 0.1}


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """An earlier choice of the run and what came of it; `before` and `after` are dev scores (`after` is `before` where it failed)."""

    lever: str
    action: str
    accepted: bool
    before: float
    after: float


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The next lever. `action` is the edit's or the algorithm's name, empty for stop; the rest says how to train."""

    lever: Lever
    action: str
    reason: str
    hyper: dict[str, float] = {}
    rounds: int = 0
    resample: Literal["all", "unsolved"] = "all"
    memory: Literal["round", "update"] = "round"


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a train item of the probe: its reward and outcome, the choices it was offered (none: all labels), and the truth."""

    item: str
    reward: float
    outcome: str
    choices: tuple[str, ...]
    label: str


def choose(evidence: Evidence, history: Sequence[Tried], levers: Collection[str], edits: Sequence[Edit]) -> Choice:
    """The choice that the table above makes. Pure."""
    if "scaffold" in levers:
        done = {tried.action for tried in history if tried.lever == "scaffold"}
        for edit in edits:
            reason = None if edit.name in done else edit.applies(evidence)
            if reason is not None:
                return Choice(lever="scaffold", action=edit.name, reason=reason)
    if "weights" in levers:
        return _train(evidence, _on_this_scaffold(history))
    return _stop("No edit that is left answers what the trajectories show, and the run may not change the weights.")


def evidence(
    attempts: Sequence[Attempt],
    *,
    dev: float,
    labels: int,
    train_items: int,
    found: float = 0.0,
    rollouts_used: int = 0,
    rollouts_left: int = 0,
) -> Evidence:
    """The evidence of a probe's attempts. Raises ValueError if there are none."""
    if not attempts:
        raise ValueError("The probe has no scored attempt; nothing can be said of the candidate.")
    groups: dict[str, list[float]] = {}
    for attempt in attempts:
        groups.setdefault(attempt.item, []).append(attempt.reward)
    offered = [not a.choices or a.label in a.choices for a in attempts]
    return Evidence(
        dev=dev,
        unparsed=fmean(a.outcome == "unparsed" for a in attempts),
        pass_at_1=fmean(fmean(r >= 1 for r in rewards) for rewards in groups.values()),
        pass_at_k=fmean(max(rewards) >= 1 for rewards in groups.values()),
        attempts=max(map(len, groups.values())),
        tied_groups=fmean(max(rewards) == min(rewards) for rewards in groups.values()),
        labels=labels,
        offered=fmean(len(a.choices) or labels for a in attempts),
        recall=fmean(offered),
        wrong_though_offered=fmean(there and a.outcome == "wrong" for there, a in zip(offered, attempts, strict=True)),
        train_items=train_items,
        found=found,
        rollouts_used=rollouts_used,
        rollouts_left=rollouts_left,
    )


def _train(e: Evidence, tried: Sequence[Tried]) -> Choice:
    k, gap, round_cost = e.attempts, e.pass_at_k - e.pass_at_1, e.attempts * e.train_items
    figures = f"pass@1 {e.pass_at_1:.2f}, pass@{k} {e.pass_at_k:.2f}"
    if e.rollouts_left < round_cost:
        return _stop(f"{e.rollouts_left:,} rollouts are left, a round over {e.train_items:,} train items takes {round_cost:,}.")
    if tried and tried[-1].accepted and tried[-1].after - tried[-1].before < GAIN:
        return _stop(f"The last weight update moved dev from {tried[-1].before:.3f} to {tried[-1].after:.3f}, by less than {GAIN}.")
    if tried and not tried[-1].accepted:
        if len(tried) > 1 or 1 - e.tied_groups < LIVE:
            return _stop(f"{tried[-1].action} brought nothing more; {e.tied_groups:.0%} of the groups are tied ({figures}).")
        why = f"best-of-{k} cloning brought nothing, but {1 - e.tied_groups:.0%} of the groups hold right and wrong answers to compare."
        return Choice(lever="weights", action="grpo", reason=why, hyper=dict(REFINE), rounds=3)
    if gap < GAP:
        return _stop(f"Sampling finds nothing that the policy does not know already ({figures}).")
    if e.offered > MANY:
        why = f"Right answers are rare but there ({figures}, {e.offered:.0f} labels on offer): clone those found, look for the rest."
        return Choice(lever="weights", action="best_of_n", reason=why, hyper=dict(EXPLORE), rounds=5, resample="unsolved", memory="update")
    why = f"The shortlist of {e.offered:.0f} holds the answers ({figures}): clone those found, gently."
    return Choice(lever="weights", action="best_of_n", reason=why, hyper=dict(REFINE), rounds=3, resample="unsolved", memory="update")


def _on_this_scaffold(history: Sequence[Tried]) -> list[Tried]:
    last = max((i for i, tried in enumerate(history) if tried.lever == "scaffold" and tried.accepted), default=-1)
    return [tried for tried in history[last + 1 :] if tried.lever == "weights"]


def _stop(reason: str) -> Choice:
    return Choice(lever="stop", action="", reason=reason)
