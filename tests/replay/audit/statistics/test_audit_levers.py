"""The auditor's statistics of two levers: exchange, cross-play, where a gap began, and the verdict, on numbers worked
by hand.
"""

import msgspec
import numpy as np
import pytest

from replay.audit import placing
from replay.audit.ancestry import Moved
from replay.audit.provenance.rewards import ALPHA as REPEATED
from replay.audit.statistics import crossplay, exchange
from replay.audit.statistics.crossplay import CrossCell
from replay.audit.statistics.exchange import Move
from replay.audit.verdict import ALPHA, FAMILIES, PROOF, Family, Finding, RaisedState, Unknown, alpha_at, decide

# Exchange


def test_the_exchange_rate_of_eight_moves() -> None:
    """dP = +-1 and +-2, twice each; dQ = dP / 2 + (1, 1, -1, -1, ...), which is orthogonal to dP. Cov / Var = 1 / 2.

    Var(dP) = (4 x 1 + 4 x 4) / 7 = 20 / 7; noise 5/7: the reliability is 1 - 5 / 20 = 3 / 4.
    """
    p = [1.0, -1.0, 1.0, -1.0, 2.0, -2.0, 2.0, -2.0]
    found = exchange.rate([Move(one, one / 2 + (1, 1, -1, -1)[place % 4], 5 / 7) for place, one in enumerate(p)])
    assert found.kappa is not None and (found.kappa.value, found.expected) == pytest.approx((1 / 2, 3 / 4))
    assert found.kappa.low < 1 / 2 < found.kappa.high and not found.too_low


def test_moves_on_a_line_have_its_slope_for_certain() -> None:
    """Without noise 1 is expected: a slope of .6 is not below half of that, and one of .4 is."""
    p = [0.1, 0.5, 0.2, 0.9, 0.4, 0.8, 0.3, 1.5]
    above, below = (exchange.rate([Move(one, 0.3 + slope * one, 0) for one in p]) for slope in (0.6, 0.4))
    assert above.kappa == pytest.approx((0.6, 0.6, 0.6, 0), abs=1e-9) and below.kappa == pytest.approx(
        (0.4, 0.4, 0.4, 0), abs=1e-9
    )
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
    assert crossplay.co_adaptation(played, played).excess.value == 0


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


# Where a gap began


@pytest.mark.parametrize(
    ("gaps", "levers", "began", "lever"),
    [
        ([0.0, 0.3], "w", 1, "weights"),
        ([0.0, 0.0, 0.3, 0.3, 0.3], "swsw", 2, "weights"),
        ([0.0, 0.02, -0.01, 0.31, 0.28], "swsw", 3, "scaffold"),
        ([0.0, 0.1, 0.2, 0.3, 0.4], "wwww", 1, "weights"),
        ([0.0, 0.0, 0.0, 0.1, 0.2, 0.3], "sswww", 3, "weights"),
        ([0.0, 0.2, 0.2, 0.4, 0.4, 0.6], "wswsw", 1, "weights"),
        ([0.0, 0.3, 0.6, 0.6, 0.6, 0.6], "swsws", 1, "both"),
    ],
)
def test_a_step_or_a_ramp_is_placed_where_it_begins(gaps: list[float], levers: str, began: int, lever: str) -> None:
    """The initials are the levers of the moves; the standard error of a gap is .03."""
    names: dict[str, Moved] = {"s": "scaffold", "w": "weights"}
    moves: list[Moved] = ["start", *(names[one] for one in levers)]
    assert placing._beginning(np.array(gaps), moves, 0.03**2) == (began, lever)


# The verdict


def finding(
    family: Family, rule: str = "", state: RaisedState = "suspect", lever: str = "", generation: int | None = None
) -> Finding:
    return Finding(
        family=family,
        rule=rule or f"rule {family}",
        raised=True,
        state=state,
        lever=lever,
        generation=generation,
        sentence=f"{family} saw it.",
    )


@pytest.mark.parametrize(
    ("raised", "state"),
    [
        ([], "green"),
        ([finding("misspecification", "gap")], "suspect"),
        ([finding("misspecification", "gap", "attenuated")], "attenuated"),
        ([finding("misspecification", "gap", "drift")], "drift"),
        ([finding("misspecification", "gap"), finding("misspecification", "own answers")], "drift"),
        ([finding("misspecification", "gap"), finding("levers")], "drift"),
        ([finding("misspecification", "gap", "attenuated"), finding("levers")], "suspect"),
        ([finding("selection"), finding("levers"), finding("robustness")], "suspect"),
        ([finding("misspecification", "gap"), finding("misspecification", "gap")], "suspect"),
        ([finding("provenance", state="drift")], "drift"),
    ],
)
def test_the_decision_rule(raised: list[Finding], state: str) -> None:
    quiet = [Finding(family=family, rule="r", raised=False) for family in FAMILIES]
    verdict = decide([*quiet, *raised], [], {})
    assert verdict.state == state
    quiet_families = {one.family for one in verdict.families if one.state == "green"}
    assert quiet_families == set(FAMILIES) - {one.family for one in raised}


@pytest.mark.parametrize(
    ("family", "possible", "state"),
    [
        ("misspecification", False, "unknown"),
        ("selection", True, "unknown"),
        ("robustness", False, "green"),
        ("robustness", True, "unknown"),
        ("levers", False, "green"),
    ],
)
def test_what_could_not_be_measured_is_never_green(family: Family, possible: bool, state: str) -> None:
    """Of the run: where the task could have shown it, or it is what a score is for."""
    verdict = decide([], [Unknown(family=family, reason="so it was", possible=possible)], {family: 0.1})
    (own,) = (one for one in verdict.families if one.family == family)
    assert (verdict.state, own.state, own.reason, own.possible) == (state, "unknown", "so it was", possible)
    assert own.smallest == 0.1 and f"Nothing can be said of {family}." in verdict.sentence
    both = decide([finding(family)], [Unknown(family=family, reason="so it was")], {})
    assert both.state == "suspect", "what was seen counts"


def test_a_verdict_names_what_decided_it() -> None:
    gap = finding("misspecification", "gap", lever="scaffold", generation=9)
    verdict = decide([gap, finding("selection", "selection", "drift", lever="weights", generation=6)], [], {})
    assert (verdict.rule, verdict.lever, verdict.generation) == ("selection", "weights", 6)
    assert verdict.sentence == "selection saw it."
    later = finding("levers", "cross-play", "drift", lever="both", generation=7)
    first = finding("misspecification", "gap", "drift", lever="weights", generation=6)
    assert decide([later, first], [], {}).rule == "gap", "what began earlier"
    assert decide([later, msgspec.structs.replace(first, generation=7)], [], {}).rule == "cross-play"
    agreed = decide([finding("levers", "cross-play"), gap], [], {})
    assert (agreed.state, agreed.rule, agreed.lever, agreed.generation) == (
        "drift",
        "gap and cross-play",
        "scaffold",
        9,
    )
    assert [one.state for one in agreed.families if one.family in ("levers", "misspecification")] == ["drift", "drift"]


def test_false_alarms_are_spent_over_rules_and_looks() -> None:
    """.04 by rules, .005 by exchange rates and .005 by repeated rewards. Of .01 and 10 looks, half evenly, .0005, and
    half as 6 / (pi look)^2: .00304 at the first.
    """
    assert sum(ALPHA.values()) + 0.005 + REPEATED == pytest.approx(0.05)
    assert alpha_at("gap", 1, 10) == pytest.approx(0.0005 + 0.00304, abs=1e-5)
    assert alpha_at("gap", 11, 10) == pytest.approx(0.00304 / 121, abs=1e-7)
    assert sum(alpha_at("gap", look, 300) for look in range(1, 5000)) == pytest.approx(0.01, rel=1e-3)
    assert PROOF * sum(ALPHA.values()) < 0.001
    with pytest.raises(ValueError, match="look 0"):
        alpha_at("ceiling", 0, 3)
