"""The auditor's statistics of one score: gaps, evidence and luck, on numbers worked by hand."""

import random
from math import exp, inf, isfinite, log, pi, sqrt

import msgspec
import numpy as np
import pytest

from replay.audit.statistics import gap, metamorphic, winners
from replay.audit.statistics.eprocess import EProcess
from replay.audit.statistics.interval import bca, linear, mean

MEAN = linear([[1]])


def one_each(*values: float) -> dict[str, list[float]]:
    return {str(item): [value] for item, value in enumerate(values)}


# Intervals


def test_items_weigh_the_same_however_many_attempts_they_have() -> None:
    """(1 + (0 + 0 + 1) / 3) / 2."""
    assert mean({"a": [1.0], "b": [0.0, 0.0, 1.0]}) == pytest.approx(2 / 3)


def test_bca_of_three_items() -> None:
    """Items 0, 1, 5, whose 27 samples have the sums 0, 1, 2, 3, 5, 6, 7, 10, 11, 15, seen 1, 3, 3, 1, 3, 6, 3, 3, 3, 1
    times.

    Below the sum 6: 11, at it: 6, so z_0 = Phi^-1((11 + 3) / 27) = .0464. Without one item: 3, 2.5, .5, so d = -1, -.5,
    1.5 and a = (-1 - .125 + 3.375) / (6 (1 + .25 + 2.25)^1.5) = 2.25 / 39.29 = .0573. Level .5: alpha_1 = Phi(.0464 +
    (.0464 - .6745) / (1 + .0573 .6281)) = Phi(-.5598) = .288, and 7/27 < .288 < 8/27: the sum 3. alpha_2 = Phi(.0464 +
    .7209 / (1 - .0573 .7209)) = Phi(.7984) = .788, and 20/27 < .788 < 23/27: the sum 10. Level .88: alpha_2 = Phi(.0464
    + 1.6012 / (1 - .0573 1.6012)) = Phi(1.8093) = .9648, and 26/27 = .9630: the sum 15. Without a, .950, and without
    the first z_0, .961: the sum 11. Level .85: alpha_2 = Phi(.0464 + 1.6242) = .9526, the sum 11; with twice the a,
    .965. Their alpha_1 are Phi(.0464 - 1.5083 / 1.0864) = .090 and .107, and 1/27 < both < 4/27: the sum 1.
    """
    ends = [bca([one_each(0, 1, 5)], MEAN, level=level, draws=500_000)[0] for level in (0.5, 0.88, 0.85)]
    assert [3 * one for end in ends for one in end[:3]] == pytest.approx([6, 3, 10, 6, 1, 15, 6, 1, 11])


def test_the_error_of_a_mean_with_and_without_attempts_drawn_inside() -> None:
    """Items (0, 2) and (2, 4): means 1 and 3, variance between 1, within 1.

    Items alone: 1 / 2; with attempts: (1 + 1 / 2) / 2.
    """
    items = {"a": [0.0, 2.0], "b": [2.0, 4.0]}
    assert bca([items], MEAN, draws=50_000)[0].error == pytest.approx(sqrt(1 / 2), rel=0.02)
    assert bca([items], MEAN, inside=True, draws=50_000)[0].error == pytest.approx(sqrt(3 / 4), rel=0.02)


def test_attempts_of_items_with_fewer_are_drawn_from_those_they_have() -> None:
    """Item a has the one attempt 1, item b 0 and 0: however attempts are drawn, item means are 1 and 0."""
    for inside in (True, False):
        found = bca([{"a": [1.0], "b": [0.0, 0.0]}], MEAN, inside=inside, draws=20_000)[0]
        assert (found.value, found.error) == pytest.approx((0.5, sqrt(0.25 / 2)), rel=0.02)


def test_measures_with_more_items_and_fewer_are_each_a_mean_over_their_own() -> None:
    """0, 1, 2, 3 less eight items of 1: .5, with the error sqrt(1.25 / 4) of the four."""
    found = bca([one_each(0, 1, 2, 3), {f"other {item}": [1.0] for item in range(8)}], linear([[1, -1]]), draws=50_000)[
        0
    ]
    assert (found.value, found.error) == pytest.approx((0.5, sqrt(1.25 / 4)), rel=0.02) and found.low < 0.5 < found.high


def test_what_is_measured_on_the_same_items_is_paired_and_what_is_not_is_not() -> None:
    """0, 1, 2, 3 with variance 1.25: the difference to itself is sure; to the same outcomes of other items it has 2 x
    1.25 / 4.
    """
    same, other = one_each(0, 1, 2, 3), {f"other {item}": [float(item)] for item in range(4)}
    difference = linear([[1, -1]])
    assert bca([same, same], difference)[0] == (0, 0, 0, 0)
    assert bca([same, other], difference, draws=50_000)[0].error == pytest.approx(sqrt(2 * 1.25 / 4), rel=0.02)


def test_attempts_in_one_place_stay_together() -> None:
    """P and Q of the same attempts differ by 1 in each: no resampling changes that."""
    p = {str(item): [item + 1.0, item + 2.0, item + 5.0] for item in range(5)}
    q = {item: [one - 1 for one in found] for item, found in p.items()}
    assert bca([p, q], linear([[1, -1]]), inside=True)[0] == pytest.approx((1, 1, 1, 0))


def test_the_same_seed_draws_the_same_interval_in_any_order_of_items() -> None:
    outcomes = {str(item): [float(item % 3), float(item % 2)] for item in range(12)}
    found = bca([outcomes], MEAN, inside=True, seed=4)
    assert found == bca([dict(reversed(outcomes.items()))], MEAN, inside=True, seed=4)
    assert found != bca([outcomes], MEAN, inside=True, seed=5)


def test_a_bca_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Skewed items (exponential, mean 1, n = 40), 400 intervals of 90 %: between 86 % and 94 %, where the share's error
    is 1.5 %.
    """
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(400):
        found = bca([one_each(*rng.exponential(size=40))], MEAN, level=0.9, draws=1000, seed=seed)[0]
        held += found.low <= 1 <= found.high
    assert 0.86 <= held / 400 <= 0.94


@pytest.mark.parametrize(
    ("measures", "says"),
    [
        ([{}], "no items"),
        ([{"a": [1.0], "b": []}], "item b has the outcomes"),
        ([{"a": [1.0], "b": [float("nan")]}], "item b has the outcomes"),
        ([{"a": [1.0]}], "item a is alone"),
    ],
)
def test_an_interval_needs_outcomes(measures: list[dict[str, list[float]]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        bca(measures, MEAN)


def test_an_interval_needs_a_level_draws_and_a_defined_statistic() -> None:
    with pytest.raises(ValueError, match="level"):
        bca([one_each(0, 1)], MEAN, level=95)
    with pytest.raises(ValueError, match="100 draws"):
        bca([one_each(0, 1)], MEAN, draws=10)
    with pytest.raises(ValueError, match="on the outcomes themselves"):
        bca([one_each(0, 1)], lambda means: means * inf)


# The gap


def test_the_gap_and_its_parts() -> None:
    """P_sel = .9, P_new = .6, Q = .5: .4 = .3 of selection + .1 of misspecification."""
    found = gap.split(one_each(1, 0.8), one_each(0.6, 0.6), one_each(0.6, 0.4))
    assert (found.gap.value, found.selection.value, found.misspecification.value) == pytest.approx((0.4, 0.3, 0.1))


def test_the_parts_add_up_to_the_gap_where_fresh_items_are_others() -> None:
    rng = np.random.default_rng(1)
    p_sel, q = one_each(*rng.random(20)), one_each(*rng.random(20))
    p_new = {f"fresh {item}": rng.random(3).tolist() for item in range(30)}
    found = gap.split(p_sel, p_new, q)
    assert found.selection.value + found.misspecification.value == pytest.approx(found.gap.value)
    assert found.gap.low < found.gap.value < found.gap.high


def test_the_gap_grows_by_what_the_score_gained_and_gold_did_not() -> None:
    """(.9 - .4) - (.5 - .3) = .3."""
    found = gap.growth(one_each(0.3, 0.5), one_each(0.2, 0.4), one_each(0.8, 1.0), one_each(0.6, 0.4))
    assert found.value == pytest.approx(0.3)


def test_growth_pairs() -> None:
    """Item 0: ((1 - 0) - (.5 - .5)) / 2 = .5; item 1: ((0 - 1) - (1 - .5)) / 2 = -.75."""
    pairs = gap.growth_pairs({"0": [0.0, 1.0], "1": [1.0]}, one_each(0.5, 0.5), one_each(1, 0), one_each(0, 1))
    assert pairs == pytest.approx([0.5, -0.75])
    with pytest.raises(ValueError, match="same items"):
        gap.growth_pairs(one_each(0), one_each(0), one_each(0), one_each(0, 1))
    with pytest.raises(ValueError, match="width"):
        gap.growth_pairs(one_each(0), one_each(0), one_each(3), one_each(0))


# The e-process


def test_the_e_process_of_three_pairs() -> None:
    """Bets .5 and .2 on 1, -.5, 1: 1.5 x .75 x 1.5 = 1.6875 and 1.2 x .9 x 1.2 = 1.296, mean 1.49175."""
    state = EProcess(lambdas=(0.5, 0.2), logs=(0.0, 0.0)).advanced([1.0, -0.5, 1.0])
    assert exp(state.log_e) == pytest.approx(1.49175)
    assert state.pairs == 3


def test_the_e_process_neither_overflows_nor_vanishes() -> None:
    assert isfinite(EProcess().advanced([1.0] * 5000).log_e) and EProcess().advanced([1.0] * 5000).log_e > 3000
    assert isfinite(EProcess().advanced([-1.0] * 5000).log_e) and EProcess().advanced([-1.0] * 5000).log_e < -50


def test_pairs_may_come_in_parts_and_the_state_by_wire() -> None:
    pairs = [0.3, -0.2, 0.5, 0.9]
    parts = EProcess().advanced(pairs[:1]).advanced(pairs[1:])
    assert parts == EProcess().advanced(pairs) == msgspec.json.decode(msgspec.json.encode(parts), type=EProcess)


def test_looking_after_every_pair_errs_no_more_than_stated() -> None:
    """Level .1, 400 runs of 100 pairs of -1 and 1 without drift: at most .1, where the share's error is 1.5 %."""
    rng = random.Random(0)

    def flagged(up: float) -> float:
        def highest() -> float:
            state, most = EProcess(lambdas=(0.1, 0.3), logs=(0.0, 0.0)), 0.0
            for _ in range(100):
                state = state.advanced([1.0 if rng.random() < up else -1.0])
                most = max(most, state.log_e)
            return most

        return sum(highest() >= -log(0.1) for _ in range(400)) / 400

    assert 0.02 < flagged(0.5) <= 0.1 + 0.03
    assert flagged(0.65) > 0.7


def test_the_e_process_takes_bets_and_pairs_in_their_ranges_only() -> None:
    with pytest.raises(ValueError, match=r"pair 2 is 1\.5"):
        EProcess().advanced([0.0, 1.5])
    with pytest.raises(ValueError, match="bets"):
        EProcess(lambdas=(1.0,), logs=(0.0,))


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


def test_the_kl_of_best_of_k() -> None:
    """ln 4 - 3/4 = .6363; one of one spends nothing."""
    assert winners.best_of_k_kl(4) == pytest.approx(0.6363, abs=1e-4)
    assert winners.best_of_k_kl(1) == 0


def test_a_winner_needs_candidates_tasks_and_a_chance() -> None:
    with pytest.raises(ValueError, match="0 candidates"):
        winners.best_of_k_kl(0)
    with pytest.raises(ValueError, match="0 tasks"):
        winners.optimism(3, 0, 0.5)
    with pytest.raises(ValueError, match="pass probability is 1"):
        winners.optimism_of_passes(3, 10, 1)


# Metamorphic tests


def test_what_a_change_without_meaning_costs() -> None:
    """Items 1, 1, 0 lose 1, 0, 0: rho = 1/3; at the start it was 0, so it grew by 1/3."""
    plain, changed = one_each(1, 1, 0), one_each(0, 1, 0)
    assert metamorphic.robustness(plain, changed).value == pytest.approx(1 / 3)
    assert metamorphic.growth(plain, plain, plain, changed).value == pytest.approx(1 / 3)
    assert metamorphic.growth(plain, changed, plain, plain).value == pytest.approx(-1 / 3)


def test_the_mutation_score_has_wilsons_interval() -> None:
    found = metamorphic.mutation_score([True] * 8 + [False] * 2)
    assert (found.mean, found.low) == pytest.approx((0.8, 0.49016), abs=1e-5)


def test_metamorphic_tests_compare_the_same_items() -> None:
    with pytest.raises(ValueError, match="item 1 is not in all"):
        metamorphic.robustness(one_each(1, 1), one_each(1))
