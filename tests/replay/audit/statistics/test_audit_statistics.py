"""The auditor's statistics of one score: intervals, slopes and luck, on numbers worked by hand."""

from math import inf, pi, sqrt

import numpy as np
import pytest

from replay.audit.statistics import winners
from replay.audit.statistics.interval import Contrast, contrast, count_groups, mean
from replay.audit.statistics.slope import fitted, slope


def one_each(*values: float, prefix: str = "") -> dict[str, list[float]]:
    return {f"{prefix}{item}": [value] for item, value in enumerate(values)}


# Intervals


def test_items_weigh_the_same_however_many_attempts_they_have() -> None:
    """(1 + (0 + 0 + 1) / 3) / 2."""
    assert mean({"a": [1.0], "b": [0.0, 0.0, 1.0]}) == pytest.approx(2 / 3)


def test_a_mean_of_four_items_with_one_made_up_at_either_end() -> None:
    """1, 1, 0, 0 with 0 and 1: mean .5, variance 6 x .25 / 5 = .3, error sqrt(.3 / 6), 3 degrees of freedom, whose
    97.5 % quantile is 3.182: beyond both ends.
    """
    found = contrast([one_each(1, 1, 0, 0)], [1])
    assert found[:4] == pytest.approx((0.5, 0.5, sqrt(0.3 / 6), 3)) and found.ends == (0, 1)
    assert found.interval() == pytest.approx((0.5, 0, 1, sqrt(0.05)))
    narrow = found.interval(0.5)
    assert (narrow.low, narrow.high) == pytest.approx(
        (0.5 - 0.76489 * sqrt(0.05), 0.5 + 0.76489 * sqrt(0.05)), rel=1e-4
    )


def test_items_that_are_all_alike_are_not_certain() -> None:
    """Twelve times 0, with 0 and 1: mean 1 / 14, variance (1 / 14) (13 / 14) (14 / 13) = 1 / 14; error 1 / 14."""
    found = contrast([one_each(*[0.0] * 12)], [1])
    assert (found.value, found.centre, found.error) == pytest.approx((0, 1 / 14, 1 / 14))
    assert found.interval().low == 0 and found.interval().high == pytest.approx((1 + 2.201) / 14, rel=1e-3)


def test_what_is_measured_of_the_same_items_is_paired() -> None:
    """1, 1, 0, 0 less 0, 1, 0, 1: differences 1, 0, 0, -1, with -1 and 1: variance 4 / 5, error sqrt(.8 / 6)."""
    found = contrast([one_each(1, 1, 0, 0), one_each(0, 1, 0, 1)], [1, -1])
    assert found[:4] == pytest.approx((0, 0, sqrt(0.8 / 6), 3), abs=1e-12) and found.ends == (-1, 1)


def test_what_is_measured_of_other_items_is_not() -> None:
    """Strata 1, 1, 1, 0 with 0 and 1, and 0, 0, -1, 0 with -1 and 0: means 2/3 and -1/3, variances .26667 / 6 each.
    Freedom: (2 v)^2 / (v^2 / 3 + v^2 / 3) = 6.
    """
    found = contrast([one_each(1, 1, 1, 0), one_each(0, 0, 1, 0, prefix="test")], [1, -1])
    assert found[:4] == pytest.approx((0.5, 1 / 3, sqrt(2 * 0.8 / 3 / 6), 6)) and found.ends == (-1, 1)


def test_items_of_a_group_count_as_one() -> None:
    """(1, 1), (0, 0), (0, 1): 1, 0 and .5, with 0 and 1: mean .5, variance .25, error sqrt(.25 / 5), freedom 2."""
    groups = {"0": "g", "1": "g", "2": "h", "3": "h", "4": "i", "5": "i"}
    found = contrast([one_each(1, 1, 0, 0, 0, 1)], [1], groups)
    assert found[:4] == pytest.approx((0.5, 0.5, sqrt(0.05), 2)) and found.ends == (0, 1)
    assert count_groups(groups, groups) == 3 and count_groups(dict.fromkeys(["0", "1", "x", "g"]), groups) == 3


def test_a_group_of_more_items_weighs_more() -> None:
    """(1, 1, 1) and 0: the mean is .75. Groups add .75 and 0, where .5625 and .1875 are expected: 2 x .1875 + .75 =
    1.125 and .375, with 0 and 1: mean .625.
    """
    found = contrast([one_each(1, 1, 1, 0)], [1], dict.fromkeys("012", "g"))
    assert (found.value, found.centre, found.freedom) == pytest.approx((0.75, 0.625, 1))


def test_scores_beyond_0_and_1_have_ends_as_far_as_they_span() -> None:
    """0, 10, 20 with 10 - 20 and 10 + 20: variance 250, error sqrt(250 / 5)."""
    found = contrast([one_each(0, 10, 20)], [1])
    assert found[:4] == pytest.approx((10, 10, sqrt(50), 2)) and found.ends == (-inf, inf)


def test_a_group_that_alone_holds_its_measures_is_counted_with_others() -> None:
    alone = contrast([one_each(1, 0, 1), one_each(1, 0)], [1, -1])
    assert alone.value == pytest.approx(1 / 6) and alone.error > 0
    two = contrast([one_each(1), one_each(0, prefix="other")], [1, -1])
    assert (two.value, two.freedom) == pytest.approx((1, 1))


def test_a_p_value_is_that_of_students_t() -> None:
    """(.9 - .2) / .25 = 2.8 with 9 degrees of freedom: .0104. With the bound's own error .25 more: 1.98, .0395."""
    found = Contrast(0.9, 0.9, 0.25, 9, (-1, 1))
    assert found.p_above(0.2) == pytest.approx(0.010356, rel=1e-3)
    assert found.p_above(0.2, error=0.25) == pytest.approx(0.039536, rel=1e-3)
    assert Contrast(0, 0, 0, 9, (-1, 1)).p_above() == 1 and Contrast(1, 1, 0, 9, (-1, 1)).p_above() == 0


def test_the_smallest_difference_that_would_be_found_is_found_4_times_in_5() -> None:
    """Normal items of deviation 1, 60 of them, at .01; 1,000 runs, whose share has an error of 1.3 %."""
    rng = np.random.default_rng(0)
    effect = contrast([one_each(*rng.normal(size=60))], [1]).detectable(0.01)
    found = sum(contrast([one_each(*(effect + rng.normal(size=60)))], [1]).p_above() <= 0.01 for _ in range(300))
    assert 0.7 <= found / 300 <= 0.92


@pytest.mark.parametrize("p", [0.02, 0.2, 0.5])
@pytest.mark.parametrize("items", [12, 30])
def test_an_interval_holds_the_truth_as_often_as_it_says(p: float, items: int) -> None:
    rng, held = np.random.default_rng(items), 0
    for _ in range(400):
        found = contrast([one_each(*(rng.random(items) < p).astype(float))], [1]).interval()
        held += found.low <= p <= found.high
    assert held / 400 >= 0.93


@pytest.mark.parametrize(
    ("measures", "says"),
    [
        ([{}], "no items"),
        ([{"a": [1.0], "b": []}], "item b has the outcomes"),
        ([{"a": [1.0], "b": [float("nan")]}], "item b has the outcomes"),
        ([{"a": [1.0]}], "1 group of items"),
    ],
)
def test_an_interval_needs_outcomes(measures: list[dict[str, list[float]]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        contrast(measures, [1])


def test_an_interval_needs_a_level() -> None:
    with pytest.raises(ValueError, match="level"):
        contrast([one_each(0, 1)], [1]).interval(95)


# Slopes


def test_a_slope_with_its_error() -> None:
    """x = 0, 0, 1, 1 and y = 0, 1, 1, 1: slope .5; residuals -.5, .5, 0, 0 with leverages of .5: scores .5, -.5, 0, 0.
    Of one group they cancel.
    """
    x, y = [0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]
    assert fitted(x, y, list(range(4))) == pytest.approx((0.5, sqrt(0.5), 2))
    assert fitted(x, y, [0, 0, 1, 2]) == pytest.approx((0.5, 0, 1))
    assert fitted([1.0, 1.0, 1.0], [0.0, 1.0, 2.0], [0, 1, 2]) is None
    assert (
        slope(one_each(*x), one_each(*y), {"0": "g", "1": "g"}) == pytest.approx((0.5, 0, 1))
        and slope(one_each(0, 1), one_each(0, 1)) is None
    )


# The winner's optimism

SIMULATED = {
    20: (0.097, 0.169, 0.223, 0.272, 0.311),
    50: (0.061, 0.109, 0.144, 0.175, 0.202),
    100: (0.042, 0.077, 0.101, 0.124, 0.142),
    200: (0.030, 0.054, 0.072, 0.088, 0.101),
    500: (0.019, 0.034, 0.046, 0.056, 0.064),
}
"""Optimism of the best of 3, 10, 30, 100 and 300 candidates of pass probability 1/2 on n tasks, by simulation."""


@pytest.mark.parametrize("n", SIMULATED)
def test_the_winners_optimism_is_the_simulated_one(n: int) -> None:
    for k, simulated in zip((3, 10, 30, 100, 300), SIMULATED[n], strict=True):
        assert winners.optimism_of_passes(k, n, 0.5) == pytest.approx(simulated, abs=0.004)
        assert winners.optimism(k, n, 0.5) == pytest.approx(simulated, abs=0.011)


def test_the_largest_of_normals() -> None:
    """0 of one, 1 / sqrt(pi) of two, 1.5 / sqrt(pi) of three (David & Nagaraja 2003, section 3.2); 3.24144 of a
    thousand.
    """
    found = [winners.largest_of_normals(k) for k in (1, 2, 3, 1000)]
    assert found == pytest.approx([0, 1 / sqrt(pi), 1.5 / sqrt(pi), 3.24144], abs=1e-5)


def test_the_best_of_two_coins_tossed_once_and_twice() -> None:
    """Once: a head with probability 3/4, so 1/4 above 1/2.

    Twice: F(0) = 1/4, F(1) = 3/4; (15/16 + 7/16) / 2 - 1/2 = 3/16.
    """
    assert winners.optimism_of_passes(2, 1, 0.5) == pytest.approx(1 / 4)
    assert winners.optimism_of_passes(2, 2, 0.5) == pytest.approx(3 / 16)


def test_a_winner_needs_candidates_tasks_and_a_chance() -> None:
    with pytest.raises(ValueError, match="0 candidates"):
        winners.largest_of_normals(0)
    with pytest.raises(ValueError, match="0 tasks"):
        winners.optimism(3, 0, 0.5)
    with pytest.raises(ValueError, match="pass probability is 1"):
        winners.optimism_of_passes(3, 10, 1)
