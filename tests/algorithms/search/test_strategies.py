"""The strategies' pages: what they select and how they judge, on numbers worked by hand."""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from algorithms.search import best_of_k, chain, dgm
from algorithms.search.catalogue import STRATEGIES
from algorithms.search.strategy import Member, ParentChoice, Standing, Trial, best, draw

CHI_SQUARE = 13.82
"""The 99.9 % quantile of the chi-square distribution with 2 degrees of freedom."""
DRAWS = 10_000


def member(id: str, score: float = 0.5, train: float | None = None, **changes: Any) -> Member:
    """A candidate whose id is a letter, and whose generation is that letter's place."""
    plain = Member(
        id=id,
        generation=ord(id) - ord("a"),
        parents=(),
        scaffold=id,
        adapter="",
        score=score,
        rewards={},
        train=train,
        accepted=False,
        visits=0,
        children=0,
        given_up=False,
        artefacts=(),
    )
    return plain._replace(**changes)


def trial(score: float = 0.5, train: float | None = None, failed: int = 0, items: int = 100) -> Trial:
    return Trial(score, {}, train, failed, items)


START = member("a", 0.5, accepted=True)
TREE = (member("a", 0.5, accepted=True, children=1), member("b", 0.7), member("c", 0.3, children=2))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_accepts_a_start_that_runs_and_drops_what_does_not(strategy: str) -> None:
    judge = STRATEGIES[strategy].judge
    assert judge(trial(0.25, 0.5), ()).standing == "accept"
    for population in ((), (START,)):
        verdict = judge(trial(1.0, 1.0, failed=6), population)
        assert verdict == ("drop", "6 of 100 attempts failed to run, at most 5% may")
        assert judge(trial(items=0), population).standing == "drop"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_gives_probabilities_that_add_up_to_1_and_selects_by_them(strategy: str) -> None:
    for seed in range(20):
        selection = STRATEGIES[strategy].select(TREE, Random(seed))
        assert selection and sum(selection.probabilities.values()) == pytest.approx(1.0)
        assert selection.probabilities[selection.parents[0]] > 0
        assert selection == STRATEGIES[strategy].select(TREE, Random(seed))


def test_the_chain_goes_on_from_what_was_accepted_last() -> None:
    population = (START, member("b", 0.6, accepted=True), member("c", 0.9))
    assert chain.select(population, Random(0)) == ParentChoice(("b",), {"b": 1.0}, "agent")
    given_up = (START, member("b", 0.6, accepted=True, given_up=True))
    assert chain.select(given_up, Random(0)) is None
    assert chain.select((member("a"),), Random(0)) is None


@pytest.mark.parametrize(("score", "standing"), [(0.51, "accept"), (0.5, "drop"), (0.4, "drop")])
def test_the_chain_accepts_what_beats_the_best_so_far(score: float, standing: Standing) -> None:
    assert chain.judge(trial(score), (START,)).standing == standing


def test_dgm_weighs_scores_and_children_as_the_paper_does() -> None:
    # s: 1/(1 + e^0) = .5, 1/(1 + e^-2) = .8807970780, 1/(1 + e^2) = .1192029220; h: 1/2, 1, 1/3
    # weights: .25, .8807970780, .0397343073; their sum: 1.1705313853
    chances = dgm.probabilities(TREE)
    assert chances == pytest.approx({"a": 0.2135782, "b": 0.7524762, "c": 0.0339455}, abs=1e-7)


def test_dgm_draws_each_candidate_as_often_as_its_probability_says() -> None:
    chances = dgm.probabilities(TREE)
    drawn = Counter(selected(TREE, Random(seed)) for seed in range(DRAWS))
    statistic = sum((drawn[id] - DRAWS * chance) ** 2 / (DRAWS * chance) for id, chance in chances.items())
    assert statistic < CHI_SQUARE
    even = sum((drawn[id] - DRAWS / 3) ** 2 / (DRAWS / 3) for id in chances)
    assert even > 100 * CHI_SQUARE


def selected(population: Sequence[Member], random: Random) -> str:
    selection = dgm.select(population, random)
    assert selection and selection.change == "agent"
    return selection.parents[0]


def test_dgm_takes_rewards_of_any_size_and_none_that_was_given_up() -> None:
    assert dgm.probabilities((member("a", 1e6), member("b", -1e6))) == {"a": 1.0, "b": 0.0}
    assert dgm.probabilities((member("a", -1e6), member("b", -1e6))) == {"a": 0.5, "b": 0.5}
    only = dgm.select((member("a", 0.9, given_up=True), member("b", 0.1)), Random(0))
    assert only == ParentChoice(("b",), {"b": 1.0}, "agent")
    assert dgm.select((member("a", given_up=True),), Random(0)) is None


@pytest.mark.parametrize(("score", "standing"), [(0.6, "accept"), (0.5, "keep"), (0.0, "keep")])
def test_dgm_keeps_all_that_runs_and_accepts_what_beats_the_best_so_far(score: float, standing: Standing) -> None:
    assert dgm.judge(trial(score), (START, member("b", 0.9))).standing == standing  # what was kept is not the best


def test_best_of_k_asks_the_start_again_whatever_was_accepted() -> None:
    population = (START, member("b", 0.9, accepted=True))
    assert best_of_k.select(population, Random(0)) == ParentChoice(("a",), {"a": 1.0}, "repeat")


@pytest.mark.parametrize(
    ("before", "train", "standing"),
    [(0.5, 0.6, "accept"), (0.5, 0.5, "drop"), (0.5, None, "drop"), (None, 0.0, "accept"), (None, None, "drop")],
)
def test_best_of_k_goes_by_train_and_not_by_dev(before: float | None, train: float | None, standing: Standing) -> None:
    population = (member("a", 0.9, accepted=True, train=before),)
    for score in (0.0, 1.0):
        assert best_of_k.judge(trial(score, train), population).standing == standing


def test_the_best_is_what_was_accepted_last() -> None:
    assert best(()) is None and best((member("a"),)) is None
    assert best((START, member("b", 0.4, accepted=True), member("c", 0.9))) == member("b", 0.4, accepted=True)


@pytest.mark.parametrize(("uniform", "key"), [(0.0, "b"), (0.249, "b"), (0.25, "c"), (0.999, "c"), (1.0, "c")])
def test_a_draw_takes_the_key_at_which_the_running_sum_passes_the_number(uniform: float, key: str) -> None:
    assert draw({"a": 0.0, "b": 0.25, "c": 0.75, "d": 0.0}, uniform) == key
