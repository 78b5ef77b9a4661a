"""A chain that keeps the best: a candidate replaces the best so far if its score on dev is higher (SIA, arXiv
2605.27276).

Each candidate is made from the best so far. The paper's released package replaces without asking for the score; this
port asks.
"""

from collections.abc import Sequence
from random import Random

from algorithms.search.strategy import Member, ParentChoice, Trial, Verdict, best, judge_by_score


def select(population: Sequence[Member], random: Random) -> ParentChoice | None:
    """The best so far, for certain; nothing once the agent has given up on it."""
    parent = best(population)
    if parent is None or parent.given_up:
        return None
    return ParentChoice((parent.id,), {parent.id: 1.0}, "agent")


def judge(trial: Trial, population: Sequence[Member]) -> Verdict:
    """Accept a candidate if nearly all of its dev attempts ran and its mean reward beats the best so far."""
    return judge_by_score(
        trial,
        population,
        lambda before: Verdict("drop", f"{trial.score:.4f} on dev does not beat {before.score:.4f}"),
    )
