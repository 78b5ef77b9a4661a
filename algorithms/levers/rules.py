"""The rules agent: it chooses the next lever from figures of the trajectories, by the table below, without a model.

| what the evidence shows (first row that holds) | choice |
|---|---|
| an edit of the task's catalogue, not tried yet, says that the evidence calls for it | scaffold, that edit |
| too few rollouts left for one round over all train items | stop |
| the last weight update on this scaffold was accepted but gained less than .005 | stop |
| the last was rejected, and another was tried here, or .9 of the groups are tied, or answers are not scored | stop |
| the last was rejected | GRPO, 3 rounds; if that was it, best-of-N cloning, or stop where no answer can be cloned |
| **answers to train items cannot be judged**, true answers are known, and not all are them | SPIN: tell them apart |
| answers cannot be judged, and all are the true ones | stop |
| neither judged nor known, and the task has demonstrations for an item | test-time training: one adapter from all |
| neither judged nor known; groups agree above chance, a tenth elect against others | TTRL: the majority is the label |
| neither judged nor known, otherwise | stop |
| **answers can only be compared** and some group holds a better and a worse one | DPO on ranked pairs |
| answers can only be compared, otherwise | stop |
| **nothing earns a reward**, and true answers are known | STaR: sample with a hint, train without it, 3 rounds |
| no answer earns anything, and true answers are not known | stop |
| **right or wrong** (two levels, under .05 of the rewards elsewhere): pass@k exceeds pass@1 by less than .05 | stop |
| right or wrong, and right is no positive reward | GRPO: cloning takes positive ones alone |
| right or wrong, a language model chooses among few, finds most at once, and true answers are known | STaR, 1 round |
| the same, and true answers are not known | best-of-N cloning, 1 round |
| right or wrong, a policy that writes, otherwise | best-of-N cloning, its defaults, 3 rounds |
| right or wrong, many labels on offer: right answers are rare | best-of-N cloning, high learning rate, 5 rounds |
| right or wrong, a shortlist on offer: most found at once | best-of-N cloning, low learning rate, dropout, 3 rounds |
| **graded**: several attempts an item, and nine tenths of the groups are tied | stop |
| graded, one attempt an item: nothing to compare with | PPO, whose critic says what was to be expected |
| graded, a tail: in groups of three or more the best stands alone, mean under .5 | entropic weighting, 8 rounds |
| graded, a rollout takes 4,000 tokens or more, some rewards are positive | best-of-N cloning, on all of the update's |
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

What counts as right, as a tail, as a mean and as elected is said at `Evidence` (tasks/contract.py). Groups agree above
chance where guesses would agree as much in one probe of forty at most. One group of guesses often looks as if it
agreed, so all groups are asked together. No bound has the reward's unit. A tail is .3 of the way from what groups of
that size give by chance to 1: a best reward that stands quite alone.
"""

from collections.abc import Collection, Mapping, Sequence
from math import sqrt
from statistics import fmean, median, pstdev
from typing import Literal, NamedTuple

import msgspec

from algorithms.statistics import effective_answers, elected, guesses_agree, magnitude, majority, tied
from events.kinds import LeverChoice, Memory, Resample
from tasks.contract import Edit, Evidence

GAP, GAIN, LIVE, MANY = 0.05, 0.005, 0.1, 32.0
"""pass@k over pass@1 that is worth sampling for; dev gain that is worth another update; share of untied groups; choices
that are many.
"""
SETTLED = 0.85
"""pass@k from which on further rounds of a language model that chooses would repeat the first: they train on all that
was found. Eight guesses among four find as much: what is found is right, whoever found it.
"""
GUESSED = 0.025
"""Groups agree above chance where guesses agree as much with this probability at most."""
BINARY, TAIL, LOW, HIGH, DENSE, DEAR, FEW, SPREAD = 0.05, 0.3, 0.5, 0.8, 0.9, 4000.0, 4, 0.5
"""The bounds of the table: `graded` below, the way of `tail` from chance to 1, `mean_reward` below and above,
`rewarded`, `tokens`, `attempts`, `length_spread`.
"""
SMALLEST_TAILED = 3
"""Attempts of the smallest group that can have a tail: of two, the better always stands alone."""
ANY_REWARD = 1e-30
"""The level from which STaR takes answers as right where no reward of the task solves: what is positive."""
EXPLORE: Mapping[str, float] = {"lr_scale": 6, "epochs": 3, "dropout": 0.0, "weight_decay": 0.0}
REFINE: Mapping[str, float] = {"epochs": 4, "dropout": 0.5, "weight_decay": 0.1}
COMPARE: Mapping[str, float] = {"lr_scale": 0.5, "epochs": 4, "weight_decay": 0.1}
"""For a policy that picks labels. No dropout where ratios are clipped: it would be taken for a step.

The rules know no base, so they order no learning rate: each is the algorithm's default for that base, or a multiple.
"""

CHOOSE: Mapping[str, float] = {"lr_scale": 1.5, "epochs": 2, "batch_groups": 32}
"""For a language model that chooses: an answer is one token, so small minibatches are enough (tasks/feeling)."""


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
    solved: float | None = 1.0,
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
    answers: dict[str, list[str]] = {}
    for attempt in attempts:
        groups.setdefault(attempt.item, []).append(attempt.reward)
        answers.setdefault(attempt.item, []).append(attempt.answer)
    shape = _shape([attempt.reward for attempt in attempts], list(groups.values()), solved)
    live = [rewards for rewards in groups.values() if not tied(rewards, shape.scale)]
    tails = [rewards for rewards in live if len(rewards) >= SMALLEST_TAILED]
    tokens = [attempt.tokens for attempt in attempts]
    offered = [not a.choices or a.label in a.choices for a in attempts]
    all_answers = effective_answers(answers.values()) if free or not labels else labels
    options = {attempt.item: len(attempt.choices) or all_answers for attempt in attempts}
    labels_by_item = {item: elected(given, options[item]) for item, given in answers.items()}
    return Evidence(
        dev=dev,
        unparsed=fmean(a.outcome == "unparsed" for a in attempts),
        pass_at_1=fmean(fmean(map(shape.is_right, rewards)) for rewards in groups.values()),
        pass_at_k=fmean(any(map(shape.is_right, rewards)) for rewards in groups.values()),
        attempts=max(map(len, groups.values())),
        tied_groups=1 - len(live) / len(groups),
        labels=labels,
        offered=fmean(len(a.choices) or labels for a in attempts),
        recall=fmean(offered),
        wrong_though_offered=fmean(there and a.outcome == "wrong" for there, a in zip(offered, attempts, strict=True)),
        train_items=train_items,
        found=found,
        rollouts_used=rollouts_used,
        rollouts_left=rollouts_left,
        mean_reward=fmean(shape.share(attempt.reward) for attempt in attempts),
        rewarded=fmean(attempt.reward > shape.nothing for attempt in attempts),
        graded=shape.graded,
        clonable=sum(max(rewards) > 0 for rewards in live) / len(groups),
        tail=fmean(map(_tail, tails)) if tails else 0.0,
        tail_by_chance=fmean(tail_by_chance(len(rewards)) for rewards in tails) if tails else 0.0,
        tokens=fmean(attempt.tokens + attempt.read for attempt in attempts),
        length_spread=pstdev(tokens) / max(fmean(tokens), 1e-9),
        agreement=fmean(_largest_share(given) for given in answers.values()),
        elected=fmean(bool(labels_by_item[item]) and len(set(given)) > 1 for item, given in answers.items()),
        guesses_agree=guesses_agree((given, options[item]) for item, given in answers.items()),
        true_answers=fmean(bool(a.label) and a.answer == a.label for a in attempts),
        free=free,
        chosen=fmean(bool(attempt.choices) for attempt in attempts),
        signal=signal,
        solved=solved,
        labelled=labelled,
        copies=copies,
    )


class _Shape(NamedTuple):
    """What the rewards of a probe have for wrong and right, for nothing and for much."""

    scale: float
    graded: float
    right: float
    """The least reward that is right."""
    nothing: float
    """The largest reward that is none."""
    floor: float
    top: float
    """The rewards that count as 0 and as 1."""

    def is_right(self, reward: float) -> bool:
        return reward >= self.right or tied((reward, self.right), self.scale)

    def share(self, reward: float) -> float:
        if self.top <= self.floor:
            return float(reward > 0)
        return min(1.0, max(0.0, (reward - self.floor) / (self.top - self.floor)))


def _shape(rewards: Sequence[float], groups: Sequence[Sequence[float]], solved: float | None) -> _Shape:
    scale = magnitude(rewards)
    levels: list[list[float]] = []  # rewards that are the same, from the least up
    for reward in sorted(rewards):
        if levels and tied((levels[-1][0], reward), scale):
            levels[-1].append(reward)
        else:
            levels.append([reward])
    least, (first, *others) = levels[0], sorted(levels, key=len, reverse=True)
    second, between = len(others[0]) if others else 0, sum(map(len, others[1:]))
    graded = between / (len(rewards) if between < second else len(rewards) - len(first)) if between else 0.0
    if second and graded < BINARY:
        low, high = sorted((first, others[0]))
        return _Shape(scale, graded, right=high[0], nothing=low[-1], floor=low[-1], top=high[0])
    zeros = [level[-1] for level in levels if tied((level[0], 0.0), scale)]
    nothing = max(zeros, default=0.0 if least[0] >= 0 else least[-1])
    if max(map(len, groups)) == 1:
        groups = [rewards]
    best = sorted(max(group) for group in groups if max(group) > nothing) or [max(rewards)]
    return _Shape(
        scale,
        graded,
        right=levels[-1][0] if solved is None else solved,
        nothing=nothing,
        floor=min(0.0, median(sorted(group)[len(group) // 10] for group in groups)),
        top=best[len(best) * 3 // 4],
    )


def _tail(rewards: Sequence[float]) -> float:
    return (max(rewards) - fmean(rewards)) / (pstdev(rewards) * sqrt(len(rewards) - 1))


def tail_by_chance(attempts: int) -> float:
    """The mean of `Evidence.tail` over groups of so many uniform rewards, three at least, within .01: .82, .73, .56 and
    .22 in groups of 3, 4, 8 and 64.

    The best of k lies (k - 1) / (2 k + 2) above the mean on average, and the standard deviation is about
    sqrt((k - 1) / 12 k): that gives sqrt(3 k) / (k + 1). The rest is ours, fitted to simulated groups.
    """
    return sqrt(3 * attempts) / (attempts + 1) + 0.7 / attempts**2


def _largest_share(answers: Sequence[str]) -> float:
    return majority(answers)[1] / len(answers)


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
    if last == "grpo" and e.clonable < LIVE:
        return _stop(f"grpo brought nothing, and {e.clonable:.0%} of the groups hold an answer to clone.")
    if last == "grpo":
        why = f"grpo brought nothing, but the probe holds answers to clone ({_figures(e)})."
        return _update("best_of_n", why, rounds=3, hyper={} if e.free else REFINE, resample="unsolved", memory="update")
    why = f"{last} brought nothing, but {live:.0%} of the groups hold better and worse answers to compare."
    return _update("grpo", why, rounds=3, hyper={} if e.free else COMPARE)


def _unjudged(e: Evidence) -> Choice:
    if e.labelled and e.true_answers == 1:
        return _stop("Answers are not judged, and each of them is the true one: there is nothing to tell apart.")
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
    seen = (
        f"{e.agreement:.0%} of a group agree, {e.elected:.0%} of the groups elect an answer against others, and "
        f"guesses agree as much with probability {e.guesses_agree:.3f}"
    )
    if e.elected >= LIVE and e.guesses_agree <= GUESSED:
        why = f"Answers are neither judged nor known, and {seen}: take the majority for the label."
        return _update("ttrl", why, rounds=3)
    return _stop(f"Answers are neither judged nor known, and {seen}: no majority has anything to teach.")


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
        return _update("star", why, rounds=3, hyper=_right(e), restart=True, hints=True, memory="update")
    return _stop(f"None of {e.attempts} attempts an item earns anything, and the true answers are not known.")


def _right(e: Evidence) -> dict[str, float]:
    """What STaR has to be told of the reward from which an answer is right, which is 1 by default."""
    right = ANY_REWARD if e.solved is None or e.solved <= 0 else e.solved
    return {} if right == 1 else {"right": right}


def _right_or_wrong(e: Evidence) -> Choice:
    if e.pass_at_k - e.pass_at_1 < GAP:
        return _stop(f"Sampling finds nothing that the policy does not know already ({_figures(e)}).")
    if not e.clonable:
        why = f"Right answers are there to be found ({_figures(e)}), and none has a positive reward: let them compete."
        return _update("grpo", why, hyper={} if e.free else COMPARE)
    if e.free and e.chosen == 1 and e.offered <= MANY and e.pass_at_k >= SETTLED:
        found = f"One round finds nearly all right answers ({_figures(e)}, {e.offered:.0f} on offer)"
        if e.labelled:
            why = f"{found}: show the true ones of the rest, and learn to give all unshown."
            return _update("star", why, rounds=1, hyper={**_right(e), **CHOOSE}, hints=True)
        return _update("best_of_n", f"{found}: clone them.", rounds=1, hyper=CHOOSE)
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
    seen = _graded_figures(e)
    if 1 - e.tied_groups < LIVE and e.attempts > 1:
        return _stop(f"Rewards are graded, but {e.tied_groups:.0%} of the groups are tied ({seen}).")
    if e.attempts == 1:
        return _update(
            "ppo",
            f"One attempt an item has nothing to be compared with ({seen}): let a critic say what was to be expected.",
        )
    stands_alone = e.tail - e.tail_by_chance >= TAIL * (1 - e.tail_by_chance)
    if e.attempts >= SMALLEST_TAILED and stands_alone and e.mean_reward < LOW:
        why = (
            f"The best of a group stands alone (tail {e.tail:.2f}, by chance {e.tail_by_chance:.2f}, {seen}): weigh "
            "the best and not the mean."
        )
        return _update("entropic", why, rounds=8)
    if e.tokens >= DEAR and e.clonable >= LIVE:
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


def _graded_figures(e: Evidence) -> str:
    return f"mean reward {e.mean_reward:.2f}, {e.rewarded:.0%} of the answers earn something"


def _figures(e: Evidence) -> str:
    if e.graded >= BINARY:
        return _graded_figures(e)
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
