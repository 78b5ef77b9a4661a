"""The Darwin Goedel Machine's archive: every candidate that runs is kept, and any of them may be the next parent
(arXiv 2505.22954, appendix A.2).

A candidate `i` of score `a_i` with `n_i` children in the archive is selected with the probability

    s_i = 1 / (1 + exp(-10 (a_i - 0.5))),   h_i = 1 / (1 + n_i),   p_i = s_i h_i / sum_j s_j h_j

so that a high score and few children make it likely. Scores are taken as they are, for tasks whose rewards lie between
0 and 1; with rewards far outside, `s` is 0 or 1 for all. Where every weight is 0, all are as likely.

The paper counts as children those that run; here those that were kept. Both draw with replacement.
"""

from collections.abc import Mapping, Sequence
from math import exp
from random import Random

from algorithms.search.strategy import Member, ParentChoice, Trial, Verdict, draw, judge_by_score

STEEPNESS, MIDDLE = 10.0, 0.5
"""lambda and alpha_0 of the paper."""


def probabilities(population: Sequence[Member]) -> Mapping[str, float]:
    """The probability of each candidate, by id."""
    weights = {
        member.id: _sigmoid(STEEPNESS * (member.score - MIDDLE)) / (1 + member.children) for member in population
    }
    total = sum(weights.values())
    return {id: weight / total if total else 1 / len(weights) for id, weight in weights.items()}


def select(population: Sequence[Member], random: Random) -> ParentChoice | None:
    """A draw among those that the agent has not given up on; nothing where there is none."""
    chances = probabilities([member for member in population if not member.given_up])
    return ParentChoice((draw(chances, random.random()),), chances, "agent") if chances else None


def judge(trial: Trial, population: Sequence[Member]) -> Verdict:
    """Keep every candidate that runs; one that beats the best so far is accepted."""
    return judge_by_score(
        trial,
        population,
        lambda before: Verdict("keep", f"it runs: {trial.score:.4f} on dev, the best has {before.score:.4f}"),
    )


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))
