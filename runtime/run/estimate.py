"""How many rollouts a run may ask for, by the event that would begin it."""

import msgspec

from events.run import RunStarted
from runtime.run.state import evaluation_cost, repeat_cost

USUAL_ROUNDS = 3
"""Rounds of a weight update, as the agent `rules` orders them most often."""


class RolloutEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of rollouts; the auditor's own are not among them."""

    start: int
    """To evaluate the start."""
    scaffold: int | None
    """Of a generation that changes the scaffold; None where none may."""
    weights: int | None
    """Of a generation that updates the weights by `rounds` rounds which play all train items; None where none may."""
    rounds: int
    generations: int
    """Generations after the start, at most."""
    least: int
    """Of the run, if each generation is the cheapest that it may be, and a candidate comes of each."""
    most: int
    """Of the run, if each is the dearest of these, within the budget."""
    limit: int | None
    """What the budget allows."""


def estimate(started: RunStarted) -> RolloutEstimate:
    """An estimate for a run that would begin so. A change that fails takes less; longer updates, second looks, refills
    and runs of a candidate's own take more.
    """
    evaluation, again = evaluation_cost(started), started.strategy == "best_of_k"
    scaffold = weights = None
    if again:
        costs = [repeat_cost(started)]
    else:
        if "scaffold" in started.levers:
            scaffold = evaluation
        if "weights" in started.levers:
            weights = evaluation + USUAL_ROUNDS * started.group_size * sum(map(len, started.items.folds))
        costs = [cost for cost in (scaffold, weights) if cost is not None]
    limit = started.budget.rollouts
    least, most = (evaluation + started.generations * cost for cost in (min(costs), max(costs)))
    return RolloutEstimate(
        start=evaluation,
        scaffold=scaffold,
        weights=weights,
        rounds=USUAL_ROUNDS,
        generations=started.generations,
        least=least if limit is None else min(least, limit),
        most=most if limit is None else min(most, limit),
        limit=limit,
    )
