"""The rules agent: it chooses the next lever from figures of the trajectories, by the table below, without a model.

| what the evidence shows (first row that holds) | choice |
|---|---|
| an edit of the task's catalogue, not tried yet, says that the evidence calls for it | scaffold, that edit |
| too few rollouts left for one round over all train items | stop |
| the last weight update on this scaffold was accepted but gained less than .005 | stop |
| the last was rejected, and another was tried here, or .9 of the groups are tied, or answers are not scored | stop |
| the last was rejected | weights: GRPO, 3 rounds; best-of-N cloning if GRPO was rejected |
| **answers to train items cannot be judged** and their true answers are known | SPIN: tell them from one's own |
| neither judged nor known, and the task has demonstrations for an item | test-time training: one adapter from all |
| neither judged nor known; the most frequent answer holds .2 of its group, not all | TTRL: the majority is the label |
| neither judged nor known, otherwise | stop |
| **answers can only be compared** and some group holds a better and a worse one | DPO on ranked pairs |
| answers can only be compared, otherwise | stop |
| **nothing earns a reward**, and true answers are known | STaR: sample with a hint, train without it, 3 rounds |
| no answer earns anything, and true answers are not known | stop |
| **right or wrong** (under .05 of the rewards lie between): pass@k exceeds pass@1 by less than .05 | stop |
| right or wrong, answers of many tokens | best-of-N cloning, its defaults, 3 rounds |
| right or wrong, many labels on offer: right answers are rare | best-of-N cloning, high learning rate, 5 rounds |
| right or wrong, a shortlist on offer: most found at once | best-of-N cloning, low learning rate, dropout, 3 rounds |
| **graded**: several attempts an item, and nine tenths of the groups are tied | stop |
| graded, one attempt an item: nothing to compare with | PPO, whose critic says what was to be expected |
| graded, a tail: the best of a group stands alone (.75 and more), the mean is under .5 | entropic weighting, 8 rounds |
| graded, a rollout takes 4,000 tokens or more | best-of-N cloning on all of the update's rollouts: each is used again |
| graded, fewer than four attempts an item | RLOO: no standard deviation of so few |
| graded, the mean is .8 or more: little to win, much to lose | REINFORCE with KL to the base |
| graded, dense: nine tenths of the answers earn something | PPO with GAE |
| graded, answers differ in length by half of their mean | Dr. GRPO: no length is preferred |
| graded, otherwise | GRPO |

Edits come first because they cost no training and make right answers easier to find. A rejected edit is not tried
again. A lever that the run does not have is skipped. "On this scaffold" means since the edit that the candidate came
by. An update whose candidate was kept without a gain counts as rejected. The paper (SIA, arXiv 2605.27276) gives three
of the rows: PPO for a dense clean scalar, entropic weighting for rewards that most attempts miss, GRPO for the rest.
That right-or-wrong rewards go to cloning and not to entropic weighting is measured: the two advantages are then affine
in each other (DECISIONS.md).
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from math import sqrt
from statistics import fmean, pstdev
from typing import Literal

import msgspec

from events.kinds import LeverChoice, Memory, Resample
from tasks.contract import Edit, Evidence

GAP, GAIN, LIVE, MANY = 0.05, 0.005, 0.1, 32.0
"""pass@k over pass@1 that is worth sampling for; dev gain that is worth another update; share of untied groups; choices
that are many.
"""
BINARY, TAIL, LOW, HIGH, DENSE, DEAR, FEW, SPREAD, AGREED = 0.05, 0.75, 0.5, 0.8, 0.9, 4000.0, 4, 0.5, 0.2
"""The bounds of the table, in its order: `graded` below, `tail`, `mean_reward` below and above, `rewarded`, `tokens`,
`attempts`, `length_spread`, `agreement`.
"""
EXPLORE: Mapping[str, float] = {"lr": 3e-3, "epochs": 3, "dropout": 0.0, "weight_decay": 0.0}
REFINE: Mapping[str, float] = {"lr": 5e-4, "epochs": 4, "dropout": 0.5, "weight_decay": 0.1}
COMPARE: Mapping[str, float] = {"lr": 5e-4, "epochs": 4, "weight_decay": 0.1}
"""For a policy that picks labels. No dropout where ratios are clipped: it would be taken for a step."""


class PastChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An earlier choice, of a change to the candidate that is to be changed now or to an ancestor of it.

    `before` and `after` are mean rewards on dev, of the parent and of the candidate. They are equal where there was no
    candidate.
    """

    lever: str
    action: str
    accepted: bool
    """Whether its candidate was accepted or kept."""
    before: float
    after: float
    other_branch: bool = False
    """Whether its candidate was accepted or kept, and is no ancestor of the one that is to be changed now."""

    @property
    def gain(self) -> float:
        """The gain on dev."""
        return self.after - self.before


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The next lever.

    `action` is the name of the edit or of the algorithm, empty for stop; the fields after `reason` say how to train.
    """

    lever: LeverChoice
    action: str
    reason: str
    hyper: dict[str, float] = {}
    rounds: int = 0
    resample: Resample = "all"
    memory: Memory = "round"
    restart: bool = False
    hints: bool = False


class ProbeAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a train item of the probe.

    `choices` are the labels on offer to the model (none: all), `label` is the true one. `tokens` counts what the policy
    wrote for the attempt, `read` what it read.
    """

    item: str
    reward: float
    outcome: str
    choices: tuple[str, ...]
    label: str
    answer: str = ""
    tokens: int = 1
    read: int = 0


def choose(evidence: Evidence, history: Sequence[PastChoice], levers: Collection[str], edits: Sequence[Edit]) -> Choice:
    """The choice that the table above makes, from a probe's evidence, the earlier choices by ancestor, the run's levers
    and the task's edits. Pure.
    """
    if "scaffold" in levers:
        past_edits = {tried.action for tried in history if tried.lever == "scaffold"}
        for edit in edits:
            reason = None if edit.name in past_edits else edit.applies(evidence)
            if reason is not None:
                return Choice(lever="scaffold", action=edit.name, reason=reason)
    if "weights" in levers:
        return _train(evidence, _on_this_scaffold(history))
    return _stop("No edit that is left answers what the trajectories show, and the run may not change the weights.")


def evidence(
    attempts: Sequence[ProbeAttempt],
    *,
    dev: float,
    labels: int,
    train_items: int,
    found: float = 0.0,
    rollouts_used: int = 0,
    rollouts_left: int = 0,
    signal: Literal["scores", "comparisons", "none"] = "scores",
    labelled: bool = True,
    copies: bool = False,
    free: bool = False,
) -> Evidence:
    """The figures that the table is read by, from the attempts of a probe; the other arguments are fields of
    `Evidence`.

    Raises ValueError if there are no attempts.
    """
    if not attempts:
        raise ValueError("The probe has no scored attempt; nothing can be said of the candidate.")
    groups: dict[str, list[float]] = {}
    answers: dict[str, Counter[str]] = {}
    for attempt in attempts:
        groups.setdefault(attempt.item, []).append(attempt.reward)
        answers.setdefault(attempt.item, Counter()).update([attempt.answer] if attempt.answer else [])
    least, most = min(0.0, *(a.reward for a in attempts)), max(1.0, *(a.reward for a in attempts))
    rewards = [(attempt.reward - least) / (most - least) for attempt in attempts]
    tokens = [attempt.tokens for attempt in attempts]
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
        mean_reward=fmean(rewards),
        rewarded=fmean(reward > 0 for reward in rewards),
        graded=fmean(reward not in (0.0, 1.0) for reward in rewards),
        tail=_tail(list(groups.values())),
        tokens=fmean(attempt.tokens + attempt.read for attempt in attempts),
        length_spread=pstdev(tokens) / max(fmean(tokens), 1e-9),
        agreement=fmean(max(counts.values(), default=0) / len(groups[item]) for item, counts in answers.items()),
        free=free,
        signal=signal,
        labelled=labelled,
        copies=copies,
    )


def _tail(groups: Sequence[Sequence[float]]) -> float:
    distances = [(max(g) - fmean(g)) / (pstdev(g) * sqrt(len(g) - 1)) for g in groups if max(g) > min(g)]
    return fmean(distances) if distances else 0.0


def _train(e: Evidence, updates: Sequence[PastChoice]) -> Choice:
    round_cost = e.attempts * e.train_items
    if e.rollouts_left < round_cost:
        return _stop(
            f"{e.rollouts_left:,} rollouts are left, a round over {e.train_items:,} train items takes {round_cost:,}."
        )
    rejected = bool(updates) and (not updates[-1].accepted or updates[-1].gain <= 0)
    if updates and not rejected and updates[-1].gain < GAIN:
        return _stop(
            f"The last weight update moved dev from {updates[-1].before:.3f} to {updates[-1].after:.3f}, by less "
            f"than {GAIN}."
        )
    if rejected:
        return _after_rejection(e, updates)
    match e.signal:
        case "none":
            return _unjudged(e)
        case "comparisons":
            return _compared(e)
        case "scores":
            if e.rewarded == 0 and e.graded == 0:
                return _unrewarded(e)
            return _right_or_wrong(e) if e.graded < BINARY else _graded(e)


def _after_rejection(e: Evidence, updates: Sequence[PastChoice]) -> Choice:
    last, live = updates[-1].action, 1 - e.tied_groups
    if len(updates) > 1 or live < LIVE or e.signal != "scores":
        return _stop(f"{last} brought nothing more; {e.tied_groups:.0%} of the groups are tied ({_figures(e)}).")
    if last == "grpo":
        why = f"grpo brought nothing, but the probe holds answers to clone ({_figures(e)})."
        return _update("best_of_n", why, rounds=3, hyper={} if e.free else REFINE, resample="unsolved", memory="update")
    why = f"{last} brought nothing, but {live:.0%} of the groups hold better and worse answers to compare."
    return _update("grpo", why, rounds=3, hyper={} if e.free else COMPARE)


def _unjudged(e: Evidence) -> Choice:
    if e.labelled:
        return _update(
            "spin", "Answers are not judged, but the true ones are known: tell them from one's own.", rounds=3
        )
    if e.copies:
        return _update(
            "test_time",
            "Answers are neither judged nor known, but items show demonstrations: train on those.",
            rounds=1,
        )
    if AGREED <= e.agreement < 1:
        why = (
            f"Answers are neither judged nor known, and {e.agreement:.0%} of a group agree: take the majority for "
            "the label."
        )
        return _update("ttrl", why, rounds=3)
    return _stop(
        f"Answers are neither judged nor known, and {e.agreement:.0%} of a group agree: no majority has anything to "
        "teach."
    )


def _compared(e: Evidence) -> Choice:
    if e.tied_groups < 1:
        why = f"Answers can be compared only, and {1 - e.tied_groups:.0%} of the groups hold a better and a worse one."
        return _update("dpo", why, rounds=3)
    return _stop("Answers can be compared only, and no group holds a better and a worse one.")


def _unrewarded(e: Evidence) -> Choice:
    if e.labelled:
        why = (
            f"None of {e.attempts} attempts an item earns anything: show the true answer, and learn to give it unshown."
        )
        return _update("star", why, rounds=3, restart=True, hints=True, memory="update")
    return _stop(f"None of {e.attempts} attempts an item earns anything, and the true answers are not known.")


def _right_or_wrong(e: Evidence) -> Choice:
    if e.pass_at_k - e.pass_at_1 < GAP:
        return _stop(f"Sampling finds nothing that the policy does not know already ({_figures(e)}).")
    if e.free:
        why = f"Right answers are there to be found ({_figures(e)}): clone those found, look for the rest."
        return _update("best_of_n", why, rounds=3, resample="unsolved", memory="update")
    if e.offered > MANY:
        why = (
            f"Right answers are rare but there ({_figures(e)}, {e.offered:.0f} labels on offer): clone those "
            "found, look for the rest."
        )
        return _update("best_of_n", why, rounds=5, hyper=EXPLORE, resample="unsolved", memory="update")
    why = f"The shortlist of {e.offered:.0f} holds the answers ({_figures(e)}): clone those found, gently."
    return _update("best_of_n", why, rounds=3, hyper=REFINE, resample="unsolved", memory="update")


def _graded(e: Evidence) -> Choice:
    seen = f"mean reward {e.mean_reward:.2f}, {e.rewarded:.0%} of the answers earn something"
    if 1 - e.tied_groups < LIVE and e.attempts > 1:
        return _stop(f"Rewards are graded, but {e.tied_groups:.0%} of the groups are tied ({seen}).")
    if e.attempts == 1:
        return _update(
            "ppo",
            f"One attempt an item has nothing to be compared with ({seen}): let a critic say what was to be expected.",
        )
    if e.tail >= TAIL and e.mean_reward < LOW:
        why = f"The best of a group stands alone (tail {e.tail:.2f}, {seen}): weigh the best and not the mean."
        return _update("entropic", why, rounds=8)
    if e.tokens >= DEAR:
        why = f"A rollout takes {e.tokens:,.0f} tokens ({seen}): clone the best and use every one again."
        return _update("best_of_n", why, rounds=3, hyper={"best": 2.0}, memory="update")
    if e.attempts < FEW:
        why = (
            f"{e.attempts} attempts an item are too few for a standard deviation ({seen}): compare with the "
            "others' mean."
        )
        return _update("rloo", why)
    if e.mean_reward >= HIGH:
        why = f"Little to win and much to lose ({seen}): a small step, held to the base."
        return _update("reinforce", why, hyper={"kl": 0.05})
    if e.rewarded >= DENSE:
        return _update("ppo", f"The reward is a dense scalar ({seen}): a critic gives credit token by token.")
    if e.length_spread >= SPREAD:
        why = (
            f"Answers differ in length by {e.length_spread:.0%} of their mean ({seen}): compare within groups, "
            "prefer no length."
        )
        return _update("dr_grpo", why)
    return _update("grpo", f"Attempts at an item differ ({seen}): let them compete.")


def _update(
    algorithm: str,
    reason: str,
    *,
    rounds: int = 5,
    hyper: Mapping[str, float] = {},
    resample: Resample = "all",
    memory: Memory = "round",
    restart: bool = False,
    hints: bool = False,
) -> Choice:
    return Choice(
        lever="weights",
        action=algorithm,
        reason=reason,
        hyper=dict(hyper),
        rounds=rounds,
        resample=resample,
        memory=memory,
        restart=restart,
        hints=hints,
    )


def _figures(e: Evidence) -> str:
    return f"pass@1 {e.pass_at_1:.2f}, pass@{e.attempts} {e.pass_at_k:.2f}"


def _on_this_scaffold(history: Sequence[PastChoice]) -> list[PastChoice]:
    scaffolds = [
        place
        for place, tried in enumerate(history)
        if tried.lever in ("scaffold", "child") and tried.accepted and not tried.other_branch
    ]
    return [tried for tried in history[max(scaffolds, default=-1) + 1 :] if tried.lever == "weights"]


def _stop(reason: str) -> Choice:
    return Choice(lever="stop", action="", reason=reason)
