"""The auditor's statistics of two levers: pressure, exchange, cross-play, change-points and the verdict, on numbers
worked by hand.
"""

from math import e, log, sqrt
from typing import cast

import numpy as np
import pytest

from replay.audit.statistics import changepoint, crossplay, exchange, pressure
from replay.audit.statistics.changepoint import LeverMove
from replay.audit.statistics.crossplay import CrossCell
from replay.audit.statistics.exchange import Move
from replay.audit.statistics.pressure import Point
from replay.audit.verdict import ALPHA, FAMILY_NAMES, Family, Finding, alpha_at, decide

# Pressure


def test_gaos_curve_for_best_of_n_is_found_with_its_peak() -> None:
    """R = d (1 - .25 d) at d = 1, 2, 3, 4: .75, 1, .75, 0; d* = 1 / .5 = 2, and the last point stands at twice that."""
    found = pressure.fit([Point(0, 0), Point(1, 0.75), Point(4, 1), Point(9, 0.75), Point(16, 0)], "best_of_n")
    assert (found.alpha, found.beta, found.peak, found.spent) == pytest.approx((1, 0.25, 2, 2))
    assert found.reason == "" and found.residual == pytest.approx(0, abs=1e-12)


def test_gaos_curve_for_rl_is_found_with_its_peak() -> None:
    """R = d (1 - .5 ln d): d* = exp(1 / .5 - 1) = e, where R' = 1 - .5 ln d - .5 = 0."""
    points = [Point(d * d, d * (1 - 0.5 * log(d))) for d in (0.5, 1, 2, 4, 8)]
    found = pressure.fit(points, "rl")
    assert (found.alpha, found.beta, found.peak, found.spent) == pytest.approx((1, 0.5, e, 8 / e))


def test_the_error_of_beta_is_that_of_least_squares() -> None:
    """d = 1, 1, 2, 3, 4 fits gain = alpha d - beta d^2 + noise; compared with the textbook: residual^2 (X'X)^-1."""
    points = [Point(1, 0.7), Point(1, 0.8), Point(4, 1.1), Point(9, 0.7), Point(16, 0.1)]
    found = pressure.fit(points, "best_of_n")
    x = np.array([[1, -1], [1, -1], [2, -4], [3, -9], [4, -16]], dtype=float)
    y = np.array([0.7, 0.8, 1.1, 0.7, 0.1])
    alpha, beta = np.linalg.solve(x.T @ x, x.T @ y)
    left = y - x @ [alpha, beta]
    assert (found.alpha, found.beta, found.residual) == pytest.approx((alpha, beta, sqrt(left @ left / 3)))
    # X'X = [[31, -101], [-101, 355]], so the inverse's lower right is 31 / (31 x 355 - 101^2) = 31 / 804
    assert found.beta_error == pytest.approx(sqrt(left @ left / 3 * 31 / 804))


def test_what_the_points_do_not_tell_has_a_reason() -> None:
    few = pressure.fit([Point(0, 0), Point(1, 0.5), Point(4, 0.9), Point(4, 0.8)], "best_of_n")
    assert few.peak is None and few.alpha is None and few.reason.startswith("2 distinct pressures")
    rising = pressure.fit([Point(d * d, 0.3 * d) for d in (1, 2, 3, 4, 5)], "best_of_n")
    assert rising.peak is None and rising.spent is None and "no peak is in sight" in rising.reason
    falling = pressure.fit([Point(d * d, -0.1 * d - 0.2 * d * d) for d in (1, 2, 3, 4)], "best_of_n")
    assert falling.peak is None and "from the first" in falling.reason
    beyond = pressure.fit([Point(d * d, d * (1 - 0.1 * d)) for d in (1, 2, 3, 4)], "best_of_n")
    assert beyond.peak == pytest.approx(5) and "extrapolated" in beyond.reason
    with pytest.raises(ValueError, match="0 points"):
        pressure.fit([], "rl")
    with pytest.raises(ValueError, match="never below 0"):
        pressure.fit([Point(-1, 0)], "rl")


def test_noise_around_a_straight_line_rarely_makes_a_peak() -> None:
    """200 lines with noise, five points each: a one-sided 2.5 % test passes 5 in 200, and hardly ever above 12."""
    rng = np.random.default_rng(0)
    peaks = sum(
        pressure.fit([Point(d * d, 0.3 * d + rng.normal(0, 0.1)) for d in (1, 2, 3, 4, 5)], "best_of_n").peak
        is not None
        for _ in range(200)
    )
    assert peaks <= 12


# Exchange


def test_the_exchange_rate_of_eight_moves() -> None:
    """dP = +-1 and +-2, twice each; dQ = dP / 2 + (1, 1, -1, -1, ...), which is orthogonal to dP. Cov / Var = 1 / 2.

    Var(dP) = (4 x 1 + 4 x 4) / 7 = 20 / 7; noise 5/7: the reliability is 1 - 5 / 20 = 3 / 4.
    """
    p = [1.0, -1.0, 1.0, -1.0, 2.0, -2.0, 2.0, -2.0]
    found = exchange.rate([Move(one, one / 2 + (1, 1, -1, -1)[place % 4], 5 / 7) for place, one in enumerate(p)])
    assert found.kappa is not None and (found.kappa.value, found.expected) == pytest.approx((1 / 2, 3 / 4))
    assert found.kappa.low < 1 / 2 < found.kappa.high and not found.too_low


def test_moves_on_a_line_have_its_slope_in_every_draw() -> None:
    """Without noise 1 is expected: a slope of .6 is not below half of that, and one of .4 is."""
    p = [0.1, 0.5, 0.2, 0.9, 0.4, 0.8, 0.3, 1.5]
    above, below = (exchange.rate([Move(one, 0.3 + slope * one, 0) for one in p]) for slope in (0.6, 0.4))
    assert above.kappa == pytest.approx((0.6, 0.6, 0.6, 0)) and below.kappa == pytest.approx((0.4, 0.4, 0.4, 0))
    assert above.expected == 1 and not above.too_low and below.too_low


def test_a_lever_that_buys_only_score_lies_below_half_of_what_is_expected() -> None:
    rng = np.random.default_rng(2)
    bought = exchange.rate([Move(p, 0.05 * q, 0.01) for p, q in rng.normal(size=(30, 2))])
    earned = exchange.rate([Move(p, p + 0.05 * q, 0.01) for p, q in rng.normal(size=(30, 2))])
    assert bought.too_low and not earned.too_low


def test_there_is_no_exchange_rate_of_few_moves_or_of_noise() -> None:
    assert exchange.rate([Move(1, 1, 0)] * 7).reason.startswith("7 moves")
    noise = exchange.rate([Move(float(place % 2), 0.0, 1.0) for place in range(20)])
    assert noise.kappa is None and noise.expected == 0 and not noise.too_low and "nothing to exchange" in noise.reason
    with pytest.raises(ValueError, match="below 0"):
        exchange.rate([Move(1, 1, -1)])


def test_kendalls_tau() -> None:
    """1 2 3 4 against 1 3 2 4: 5 pairs agree, 1 does not: 4 / 6.

    With a tie in P, 1 1 2 against 1 2 3: 2 / sqrt(2 x 3).
    """
    assert exchange.tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(2 / 3)
    assert exchange.tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / sqrt(6))
    assert exchange.tau([1, 1, 1], [1, 2, 3]) is None
    with pytest.raises(ValueError, match="2 scores and 1"):
        exchange.tau([1, 2], [1])


# Cross-play


def cells(means: list[list[float]], spread: tuple[float, ...] = (-0.1, 0.0, 0.1)) -> crossplay.Cells:
    """Outcomes with the given means: scaffolds are rows, adapters columns; each item lies by as much above the mean in
    all cells.
    """
    return {
        CrossCell(i, j): {str(item): [value + off] for item, off in enumerate(spread)}
        for i, row in enumerate(means)
        for j, value in enumerate(row)
    }


def noisy(means: list[list[float]], rng: np.random.Generator, items: int = 40, attempts: int = 2) -> crossplay.Cells:
    return {
        CrossCell(i, j): {str(item): (rng.random(attempts) < value).astype(float).tolist() for item in range(items)}
        for i, row in enumerate(means)
        for j, value in enumerate(row)
    }


def test_the_additive_fit_of_two_by_three() -> None:
    """Rows .1 .2 .6 and .3 .4 .2: mu = .3, a = 0, 0; b = -.1, 0, .1; gamma_00 = .1 - .3 + .1 = -.1 and so on."""
    found = crossplay.additive(cells([[0.1, 0.2, 0.6], [0.3, 0.4, 0.2]]))
    assert found.mu.value == pytest.approx(0.3)
    assert [one.value for one in found.scaffolds.values()] == pytest.approx([0, 0], abs=1e-12)
    assert [found.adapters[j].value for j in range(3)] == pytest.approx([-0.1, 0, 0.1])
    gamma = {cell: one.value for cell, one in found.gamma.items()}
    assert gamma == pytest.approx({(0, 0): -0.1, (0, 1): -0.1, (0, 2): 0.2, (1, 0): 0.1, (1, 1): 0.1, (1, 2): -0.2})


def test_the_additive_fit_goes_on_the_diagonal_and_lagged_cells() -> None:
    """S_ij = i / 10 + j / 20, of which seven of nine cells were played: the fit finds all of it and leaves nothing
    together.
    """
    played = {
        cell: one
        for cell, one in cells([[i / 10 + j / 20 for j in range(3)] for i in range(3)]).items()
        if abs(cell[0] - cell[1]) < 2
    }
    found = crossplay.additive(played)
    assert [found.scaffolds[i].value for i in range(3)] == pytest.approx([-0.1, 0, 0.1])
    assert [found.adapters[j].value for j in range(3)] == pytest.approx([-0.05, 0, 0.05])
    assert [one.value for one in found.gamma.values()] == pytest.approx([0] * 7)
    with pytest.raises(ValueError, match="parts that share no"):
        crossplay.additive({cell: one for cell, one in played.items() if cell[0] == cell[1]})


def test_shapley_shares_of_two_by_two() -> None:
    """S00 = .2, S10 = .3, S01 = .4, S11 = .9: I = .9 - .3 - .4 + .2 = .4; scaffold (.1 + .5) / 2 = .3; adapter (.2 +
    .6) / 2 = .4.
    """
    found = crossplay.shares(cells([[0.2, 0.4], [0.3, 0.9]]))
    assert [one.value for one in found[:4]] == pytest.approx([0.4, 0.3, 0.4, 0.7])
    assert found.scaffold.value + found.adapter.value == pytest.approx(found.total.value)


def test_lambda_is_what_gold_does_not_see() -> None:
    """I_P = .4 and I_Q = .1: Lambda = .3; the same outcomes on both sides leave exactly 0."""
    p, q = cells([[0.2, 0.4], [0.3, 0.9]]), cells([[0.2, 0.3], [0.3, 0.5]])
    found = crossplay.co_adaptation(p, q)
    assert (found.excess.value, found.on_score.value, found.on_gold.value) == pytest.approx((0.3, 0.4, 0.1))
    played = noisy([[0.2, 0.4], [0.3, 0.9]], np.random.default_rng(0))
    assert crossplay.co_adaptation(played, played).excess == (0, 0, 0, 0)


def test_the_stated_power_is_kept() -> None:
    """(1.96 + .8416) SE: .23, .12, .08 for standard errors of .083, .043, .030.

    An effect of that size is found 4 times in 5.
    """
    assert [crossplay.detectable(error) for error in (0.083, 0.043, 0.030)] == pytest.approx(
        [0.23, 0.12, 0.084], abs=0.003
    )
    rng = np.random.default_rng(0)
    effect = crossplay.detectable(sqrt(4 * 0.25 / 100))
    found = 0
    for seed in range(150):
        square = noisy([[0.5, 0.5], [0.5, 0.5]], rng, items=50)
        square = dict(square) | {
            CrossCell(1, 1): {
                item: [one + effect for one in outcomes] for item, outcomes in square[CrossCell(1, 1)].items()
            }
        }
        found += crossplay.shares(square, draws=400, seed=seed).interaction.low > 0
    assert 0.68 <= found / 150 <= 0.92


def test_the_diagonal_advantage() -> None:
    """(.5 + .7) / 2 - (.2 + .3) / 2 = .35."""
    assert crossplay.diagonal_advantage(cells([[0.5, 0.2], [0.3, 0.7]])).value == pytest.approx(0.35)
    with pytest.raises(ValueError, match="2 of 2 cells"):
        crossplay.diagonal_advantage(
            {cell: one for cell, one in cells([[0.5, 0.2], [0.3, 0.7]]).items() if cell[0] == cell[1]}
        )


def test_cells_are_compared_on_the_same_items() -> None:
    square = dict(cells([[0.5, 0.2], [0.3, 0.7]]))
    with pytest.raises(ValueError, match="on other items"):
        crossplay.shares(square | {CrossCell(1, 1): {"elsewhere": [1.0]}})
    with pytest.raises(ValueError, match="2 x 2"):
        crossplay.shares({cell: one for cell, one in square.items() if cell != (1, 1)})


# The change-point


def test_the_cusum_of_six_changes() -> None:
    """(dG - .1) / .2 of 0, .3, 0, .4, .5, .1: -.5, 1, -.5, 1.5, 2, 0; g = 0, 1, .5, 2, 4, 4.

    Above 3 at generation 5, from 2 on.
    """
    found = changepoint.cusum([0.0, 0.3, 0.0, 0.4, 0.5, 0.1], slack=0.1, sigma=0.2, threshold=3)
    assert found.path == pytest.approx([0, 1, 0.5, 2, 4, 4])
    assert (found.alarm, found.change) == (5, 2)


def test_the_change_is_placed_by_the_alarms_last_zero_and_not_by_later_ones() -> None:
    found = changepoint.cusum([5.0, -9.0, 0.0, 5.0], slack=0.0, sigma=1.0, threshold=4, first=11)
    assert (found.alarm, found.change) == (11, 11)
    assert changepoint.cusum([1.0, 2.0], slack=0.0, sigma=1.0, threshold=3) == ((1, 3), None, None)


def test_a_change_is_attributed_to_the_lever_that_made_most_of_it() -> None:
    moves = [
        LeverMove(1, "scaffold", 9),
        LeverMove(2, "weights", 1),
        LeverMove(3, "scaffold", 2),
        LeverMove(4, "weights", 2),
    ]
    assert changepoint.attributed(moves, 2, 4) == moves[1] and changepoint.attributed(moves, 2, 3) == moves[2]
    assert changepoint.attributed(moves, 5, 6) is None


def test_the_threshold_alarms_as_often_as_stated_without_drift() -> None:
    """Other seeds than it was set with: a tenth of 2000 runs of 30 changes, whose share has an error of .7 %."""
    h = changepoint.threshold(30, 0.1)
    rng = np.random.default_rng(99)
    alarms = sum(
        changepoint.cusum(rng.normal(0, 0.2, 30).tolist(), slack=0.1, sigma=0.2, threshold=h).alarm is not None
        for _ in range(2000)
    )
    assert alarms / 2000 == pytest.approx(0.1, abs=0.02)
    assert h == changepoint.threshold(30, 0.1) != changepoint.threshold(30, 0.1, seed=1)


def test_the_cusum_needs_a_scale_and_the_threshold_paths() -> None:
    with pytest.raises(ValueError, match="sigma is 0"):
        changepoint.cusum([1.0], slack=0, sigma=0, threshold=3)
    with pytest.raises(ValueError, match="ten paths"):
        changepoint.threshold(30, 0.0001)


# The verdict


def finding(family: Family, raised: bool = True, lever: str = "", generation: int | None = None) -> Finding:
    return Finding(
        family=family,
        rule=f"rule {family}",
        raised=raised,
        lever=lever,
        generation=generation,
        sentence=f"{family} saw it.",
    )


@pytest.mark.parametrize(
    ("raised", "state"),
    [
        ("", "green"),
        ("gap", "suspect"),
        ("cross_play", "suspect"),
        ("change_point", "suspect"),
        ("robustness", "suspect"),
        ("exchange_rate", "suspect"),
        ("cross_play change_point robustness exchange_rate", "suspect"),
        ("gap cross_play", "drift"),
        ("gap change_point", "drift"),
        ("gap robustness", "drift"),
        ("gap exchange_rate", "drift"),
        ("gap gap", "suspect"),
        ("provenance", "drift"),
    ],
)
def test_the_decision_rule(raised: str, state: str) -> None:
    quiet = [finding(family, raised=False) for family in FAMILY_NAMES]
    families = cast("list[Family]", raised.split())
    assert decide([*quiet, *(finding(family) for family in families)]).state == state


def test_a_verdict_names_the_rules_that_decided_and_the_best_placed_lever() -> None:
    gap, change = finding("gap", lever="scaffold", generation=9), finding("change_point", lever="weights", generation=6)
    verdict = decide([gap, finding("cross_play", raised=False), change])
    assert (verdict.rule, verdict.lever, verdict.generation) == ("rule gap and rule change_point", "weights", 6)
    assert (
        verdict.sentence
        == "Drift by the gap between score and gold and the change-point: gap saw it. change_point saw it."
    )
    assert decide([gap, finding("change_point")]).lever == "scaffold"


def test_provenance_decides_alone_and_first() -> None:
    others = finding("gap", lever="weights"), finding("change_point", lever="weights")
    verdict = decide([*others, finding("provenance", lever="scaffold", generation=2)])
    assert (verdict.state, verdict.rule, verdict.lever, verdict.generation) == (
        "drift",
        "rule provenance",
        "scaffold",
        2,
    )


def test_green_says_how_many_findings_there_were() -> None:
    verdict = decide([finding("gap", raised=False)])
    assert (verdict.state, verdict.rule, verdict.lever) == (
        "green",
        "",
        "",
    ) and "none of 1 checks" in verdict.sentence


def test_alpha_is_spent_over_families_and_looks() -> None:
    """.02 + 3 x .01 = .05; over looks, .01 x 6 / pi^2 = .00608 at the first and a quarter of that at the second."""
    assert sum(ALPHA.values()) == pytest.approx(0.05)
    assert alpha_at("cross_play", 1) == pytest.approx(0.00608, abs=1e-5) and alpha_at("cross_play", 2) == pytest.approx(
        0.00152, abs=1e-5
    )
    assert sum(alpha_at("gap", look) for look in range(1, 5000)) == pytest.approx(0.02, rel=1e-3)
    with pytest.raises(ValueError, match="look 0"):
        alpha_at("robustness", 0)
