"""The sceptic's baseline: nothing is changed, and all rollouts of a run go into asking the start again.

Each generation is the start once more, with other seeds: one attempt at each item of dev and of the probe, at
temperature 1. A run then has two answers to each dev item, and neither has seen a verifier's verdict on dev.

- The train-selected best: the generation whose attempts at train items scored highest. It is the accepted one.
- The vote: the most frequent answer of all generations (`votes` in the archive's views).

What a run with levers adds is what it reaches above these two with as many rollouts. On test, the auditor asks the
start again at the end of every run (`services/auditor/final_table.py`).
"""

from collections.abc import Sequence
from random import Random

from algorithms.search.strategy import Member, ParentChoice, Trial, Verdict, best, failure


def select(population: Sequence[Member], random: Random) -> ParentChoice | None:
    """The start, to be asked again."""
    start = population[0]
    return ParentChoice((start.id,), {start.id: 1.0}, "repeat")


def judge(trial: Trial, population: Sequence[Member]) -> Verdict:
    """Accept the attempts that scored highest on train so far."""
    if failed := failure(trial):
        return failed
    before, train = best(population), trial.train
    if before is None:
        return Verdict("accept", f"the start, {trial.score:.4f} on dev")
    if train is None:
        return Verdict("drop", "no attempt at a train item was scored")
    if before.train is None or train > before.train:
        than = "none was scored" if before.train is None else f"the best so far had {before.train:.4f}"
        return Verdict("accept", f"{train:.4f} on train, {than}")
    return Verdict("drop", f"{train:.4f} on train does not beat {before.train:.4f}")
