"""Scores with their uncertainty, on numbers worked by hand."""

import itertools
from collections import Counter
from math import comb

import pytest

from algorithms.statistics import (
    MANY_ANSWERS,
    effective_answers,
    elected,
    group_statistics,
    guesses_agree,
    is_share,
    largest_by_chance,
    magnitude,
    mcnemar,
    mean_reward,
    more_failures,
    tied,
    votes_by_chance,
)


def test_wilsons_interval_of_eight_in_ten() -> None:
    """Wilson 1927: centre (0.8 + 1.9208 / 10) / 1.38416, half-width 1.96 / 1.38416 sqrt(0.016 + 0.0096037)."""
    estimate = mean_reward([1.0] * 8 + [0.0] * 2)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.8, 0.49016, 0.94332), abs=1e-5)


def test_an_interval_never_leaves_zero_to_one() -> None:
    assert mean_reward([0.0] * 5).low == 0.0 and mean_reward([1.0] * 5).high == 1.0


def test_other_rewards_have_a_normal_interval() -> None:
    """1, 2, 3: mean 2, standard deviation 1, half-width 1.96 / sqrt 3."""
    estimate = mean_reward([1.0, 2.0, 3.0])
    assert (estimate.low, estimate.high) == pytest.approx((2 - 1.13159, 2 + 1.13159), abs=1e-4)


def test_no_reward_is_no_score() -> None:
    with pytest.raises(ValueError, match="no rewards"):
        mean_reward([])


def test_groups_of_two() -> None:
    """Means 1/2, 0, 1; bests 1, 0, 1; two of three tied."""
    assert group_statistics([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], []]) == pytest.approx((0.5, 2 / 3, 2 / 3))
    assert group_statistics([]) == (0.0, 0.0, 0.0)


def test_a_group_that_differs_by_rounding_ties_unless_it_is_compared_to_the_bit() -> None:
    groups = [[0.1 + 0.2, 0.3], [1.0, 0.0]]
    assert group_statistics(groups).tied == 0.5
    assert group_statistics(groups, exact=True).tied == 0.0


TIES = [
    ((1.0, 1.0), 1.0, True),
    ((0.0, 0.0), 0.0, True),
    ((0.1 + 0.2, 0.3), 1.0, True),
    ((1.0, 1 - 1e-10), 1.0, True),
    ((1.0, 1 - 1e-8), 1.0, False),
    ((0.5, 0.50001), 1.0, False),
    ((0.0, 1e-6), 1.0, False),
    ((-1.0, -1.0, -0.999), 1.0, False),
    ((0.1 + 0.2 - 0.3, 0.0), 1.0, True),  # what cancelling leaves, beside rewards of 1
    ((1e-9, 2e-9), 1.0, False),
    ((1e-20, 2e-20), 2e-20, False),
]


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize(("rewards", "scale", "ties"), TIES)
def test_rewards_tie_where_rounding_alone_sets_them_apart_whatever_their_unit(
    rewards: tuple[float, ...], scale: float, ties: bool, unit: float
) -> None:
    assert tied([unit * reward for reward in rewards], unit * scale) is ties
    assert tied([-unit * reward for reward in rewards], unit * scale) is ties


def test_the_magnitude_is_the_largest_distance_from_zero() -> None:
    assert (magnitude([1.0, -3.0, 2.0]), magnitude([])) == (3.0, 0.0)


@pytest.mark.parametrize(("voters", "options"), [(1, 1), (1, 3), (2, 2), (3, 2), (4, 3), (5, 4), (7, 3), (3, 9)])
def test_votes_by_chance_are_those_of_all_ways_to_vote(voters: int, options: int) -> None:
    ways = list(itertools.product(range(options), repeat=voters))
    largest = sum(max(Counter(way).values()) for way in ways) / len(ways)
    assert votes_by_chance(voters, options) == pytest.approx(largest)


def test_votes_by_chance_by_hand_and_for_many_voters() -> None:
    # three voters, two options: all agree in 2 of 8 ways, two of them in the other 6
    assert votes_by_chance(3, 2) == pytest.approx((3 * 2 + 2 * 6) / 8)
    assert votes_by_chance(64, 1) == 64
    assert votes_by_chance(64, 2) == pytest.approx(32 + 32 * comb(64, 32) / 2**64)  # the mean deviation of heads
    with pytest.raises(ValueError, match="one of each"):
        votes_by_chance(0, 3)


@pytest.mark.parametrize(
    ("voters", "options", "shares"),
    [
        (3, 2, {2: 6 / 8, 3: 2 / 8}),
        (3, 3, {1: 6 / 27, 2: 18 / 27, 3: 3 / 27}),
        (2, 4, {1: 3 / 4, 2: 1 / 4}),
        (2, 2.5, {1: 3 / 5, 2: 2 / 5}),
        (4, 1, {4: 1.0}),
        (1, 9, {1: 1.0}),
    ],
)
def test_the_largest_count_by_chance_by_hand(voters: int, options: float, shares: dict[int, float]) -> None:
    assert largest_by_chance(voters, options) == pytest.approx(shares)


@pytest.mark.parametrize(
    ("groups", "options", "probability"),
    [
        (["aaa"], 2, 2 / 8),
        (["aab"], 2, 1),
        (["aaa", "bbb"], 2, 1 / 16),
        (["aaa", "aab"], 2, 1 - 9 / 16),  # five of six votes or more: not two of three in both
        (["aa", "bb", "cd"], 4, 9 / 64 + 1 / 64),
        (["aabc"], 191, 1 - 190 * 189 * 188 / 191**3),
        (["aaa", "b", "..."], 2, 2 / 8),  # one voter agrees, and none says nothing
        (["aaaa", "bbbb"], 1, 1),
        (["..", ""], 3, 1),
        ([], 3, 1),
    ],
)
def test_how_likely_guesses_agree_as_much_over_all_groups(
    groups: list[str], options: float, probability: float
) -> None:
    answers = [[answer.strip(".") for answer in group] for group in groups]
    assert guesses_agree((given, options) for given in answers) == pytest.approx(probability)


@pytest.mark.parametrize(
    ("answers", "options", "label"),
    [
        ("aaab", 2, "a"),  # chance gives 2.75 of 4
        ("aabb", 191, ""),  # neither has more than the other
        ("aabbb", 191, "b"),
        ("aabc", 3, ""),  # chance gives 2.37 of 4
        ("aabc", 191, "a"),  # and 1.03
        ("ab", 191, ""),  # one vote each
        ("aa", 191, "a"),
        ("aa", 1, ""),  # nothing else could have been said
        ("a", 191, ""),
        ("", 191, ""),
    ],
)
def test_a_label_is_elected_by_two_votes_and_more_than_chance_gives(answers: str, options: int, label: str) -> None:
    assert elected(list(answers), options) == label


def test_effective_answers_are_as_many_as_make_different_items_agree_as_often() -> None:
    # of 2 * 2 pairs over the items ab and ac, one agrees
    assert effective_answers([["a", "b"], ["a", "c"]]) == 4
    # of 3 * 3 pairs 4 agree
    assert effective_answers([["a", "a", "b", ""], ["a", "a", "c"]]) == 2.25
    assert effective_answers([["a", "a"], ["a"], ["a"]]) == 1
    assert effective_answers([["a", "a"], ["b", "b"]]) == effective_answers([["", ""]]) == MANY_ANSWERS
    assert effective_answers([["a", "a", "b"], [""]]) == 2  # of one item nothing else is known
    assert votes_by_chance(64, MANY_ANSWERS) == pytest.approx(1 + 64 * 63 / 2 / MANY_ANSWERS, abs=1e-5)


def test_who_says_nothing_does_not_vote() -> None:
    assert elected(["a", "a", "", "b", ""], 9) == "a"
    assert elected(["", "", ""], 9) == ""


@pytest.mark.parametrize(("wins", "losses", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (3, 1, 2 * 5 / 16), (2, 2, 1.0)])
def test_mcnemars_exact_p_value(wins: int, losses: int, p: float) -> None:
    assert mcnemar(wins, losses) == mcnemar(losses, wins) == pytest.approx(p)


def test_more_failures_than_before_by_fishers_exact_test() -> None:
    """2 of 3 fail, and 0 of 3 before: of the C(6, 2) = 15 ways to place two failures C(3, 2) = 3 lie among the last
    three.
    """
    assert more_failures(2, 3, 0, 3) == pytest.approx(3 / 15)
    assert more_failures(0, 3, 2, 3) == 1


def test_a_share_of_right_answers_is_told_from_a_mean_of_graded_rewards() -> None:
    """By the interval: three of four right, and .75 four times, have the same mean."""
    assert is_share(mean_reward([1.0, 1.0, 1.0, 0.0]), 4) and is_share(mean_reward([0.0] * 7), 7)
    assert not is_share(mean_reward([0.75] * 4), 4) and not is_share(mean_reward([0.5, 1.0, 1.0, 0.5]), 4)
    assert not is_share(mean_reward([2.0, 0.0]), 2) and not is_share(mean_reward([-1.0, 0.0]), 2)
