"""How many rollouts a run may take, by hand on four dev items, one item in the probe, and three to train on."""

import msgspec

from events.run import Budget
from runtime.run.estimate import USUAL_ROUNDS, estimate
from tests.harness.facts import started


def test_a_run_takes_its_start_and_what_each_generation_may_change() -> None:
    found = estimate(started(generations=3))  # groups of two
    evaluation, update = 4 + 2 * 1, USUAL_ROUNDS * 2 * 3
    assert (found.start, found.scaffold, found.weights) == (evaluation, evaluation, evaluation + update)
    assert (found.least, found.most) == (4 * evaluation, 4 * evaluation + 3 * update)


def test_a_budget_ends_it() -> None:
    found = estimate(started(generations=3, budget=Budget(rollouts=30)))
    assert (found.least, found.most, found.limit) == (24, 30, 30)


def test_one_lever_alone_and_a_start_that_is_asked_again() -> None:
    scaffold = estimate(msgspec.structs.replace(started(), levers=("scaffold",)))
    assert scaffold.weights is None and scaffold.least == scaffold.most == 24
    again = estimate(msgspec.structs.replace(started(), strategy="best_of_k"))
    assert (again.scaffold, again.weights, again.most) == (None, None, 6 + 3 * (4 + 1))
