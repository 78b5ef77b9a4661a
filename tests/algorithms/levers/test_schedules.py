"""Schedules of levers, on numbers worked by hand."""

from random import Random

import pytest

from algorithms.levers.schedules import Turn, propensities, scheduled
from events.kinds import Lever, Schedule

BOTH: tuple[Lever, ...] = ("scaffold", "weights")


def turns(schedule: Schedule, generations: int, levers: tuple[Lever, ...] = BOTH) -> str:
    """The first letters of the levers on offer, a word for each generation."""
    numbers = range(1, generations + 1)
    offered = [scheduled(schedule, levers, number, generations, Random(number)).levers for number in numbers]
    return " ".join("".join(lever[0] for lever in each) for each in offered)


@pytest.mark.parametrize(
    ("schedule", "generations", "expected"),
    [
        ("agent", 3, "sw sw sw"),
        ("scaffold-then-weights", 4, "s s w w"),
        ("scaffold-then-weights", 5, "s s s w w"),  # the lever that is first has the generation in the middle
        ("scaffold-then-weights", 1, "s"),
        ("weights-then-scaffold", 4, "w w s s"),
        ("weights-then-scaffold", 5, "w w w s s"),
        ("weights-then-scaffold", 1, "w"),
        ("alternate", 4, "s w s w"),
        ("alternate", 5, "s w s w s"),
    ],
)
def test_whose_turn_it_is(schedule: Schedule, generations: int, expected: str) -> None:
    assert turns(schedule, generations) == expected


@pytest.mark.parametrize("schedule", ["scaffold-then-weights", "weights-then-scaffold", "alternate", "random"])
def test_a_lever_that_is_not_there_is_nobodys_turn(schedule: Schedule) -> None:
    """As in a run of one lever, or once the other was frozen."""
    assert turns(schedule, 3, ("weights",)) == "w w w" and turns(schedule, 3, ("scaffold",)) == "s s s"
    assert scheduled(schedule, ("weights",), 1, 3, Random(0)).propensities == {"weights": 1.0}
    assert scheduled(schedule, (), 1, 3, Random(0)) == Turn((), {})


def test_the_agents_own_choice_has_no_probability_here() -> None:
    assert propensities("agent", BOTH, 1, 4) == {} == propensities("agent", ("weights",), 1, 4)


@pytest.mark.parametrize("schedule", ["scaffold-then-weights", "weights-then-scaffold", "alternate"])
def test_a_fixed_order_offers_its_lever_for_certain(schedule: Schedule) -> None:
    for number in range(1, 6):
        turn = scheduled(schedule, BOTH, number, 5, Random(0))
        assert turn.propensities == {lever: float(lever in turn.levers) for lever in BOTH}
        assert sum(turn.propensities.values()) == 1


def test_a_random_schedule_offers_each_lever_as_often_as_it_says() -> None:
    turns = [scheduled("random", BOTH, 1, 4, Random(seed)) for seed in range(4_000)]
    assert {len(turn.levers) for turn in turns} == {1}
    share = sum(turn.levers == ("scaffold",) for turn in turns) / len(turns)
    assert turns[0].propensities == {"scaffold": 0.5, "weights": 0.5} and abs(share - 0.5) < 0.03  # 4 standard errors
