"""Scores with their uncertainty, on numbers worked by hand."""

import pytest

from algorithms.statistics import group_statistics, mcnemar, mean_reward, more_failures


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


@pytest.mark.parametrize(("wins", "losses", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (3, 1, 2 * 5 / 16), (2, 2, 1.0)])
def test_mcnemars_exact_p_value(wins: int, losses: int, p: float) -> None:
    assert mcnemar(wins, losses) == mcnemar(losses, wins) == pytest.approx(p)


def test_more_failures_than_before_by_fishers_exact_test() -> None:
    """2 of 3 fail, and 0 of 3 before: of the C(6, 2) = 15 ways to place two failures C(3, 2) = 3 lie among the last
    three.
    """
    assert more_failures(2, 3, 0, 3) == pytest.approx(3 / 15)
    assert more_failures(0, 3, 2, 3) == 1
