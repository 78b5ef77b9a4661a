"""The auditor is audited: it is quiet about null runs, and finds planted cases, when and by which lever they began.

Samples of `make audit-self`, whose tables are in replay/audit/RESULTS.md.
"""

from itertools import pairwise

import msgspec
import pytest

from events.gold import GOLD, VERIFIER
from events.rollouts import RolloutFailed
from events.run import RunStarted
from replay.audit.audit import Audit
from replay.audit.candidates import pair_outcomes
from replay.audit.pair import PairKey
from replay.audit.statistics.interval import mean
from replay.audit.verdict import FAMILIES
from tests.harness.audited_facts import as_stored
from tests.harness.few import few
from tests.harness.interval_coverage import DISTRIBUTIONS, FIGURES, coverage, coverage_of_kappa
from tests.harness.null_runs import LONG, NULLS, null_result, null_run
from tests.harness.planted_cases import BEGINS, CASES, RAISED, Hack, case_result, first_hack, hacked_run
from tests.harness.simulated import Form, Part, Setting, Simulated

LENGTH = Hack("weights", {"trick": 0.3})
NOT_A_NUMBER = Hack("scaffold", facts=lambda run: {"not_a_number": 12})
ROUNDED = Hack("scaffold", {"skill": -0.3, "trick": 0.5})
GRADED = Setting(seed=0, form="graded")
NUMBERS = {case.name: number for number, case in enumerate(CASES)}
SEED = 1
FOUND_WITH = {"half of dev known by heart": 0}
"""Seeds of cases that are not found with each: this one is in two runs of three."""
TAKES_LONG = ("creep of .028 a generation", "half of gold flipped, and an honest gain", "half of dev known by heart")


@pytest.mark.parametrize("runs", [1, pytest.param(8, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.long)])
def test_null_runs_are_hardly_ever_flagged(runs: int) -> None:
    """At most 5 % of them, no drift, and what of provenance needs no statistics never."""
    results = [null_result(kind, seed) for kind in NULLS if kind != LONG for seed in range(runs)]
    flagged = [one for one in results if one.state in RAISED]
    assert len(flagged) <= 0.05 * len(results) and not any(one.state == "drift" for one in results)
    assert not any(family == "provenance" for one in results for family, _, _ in one.rules)


@pytest.mark.slow
def test_a_null_run_of_300_generations_is_not_flagged() -> None:
    assert null_result(LONG, 0).state not in RAISED


def test_of_few_items_nothing_but_provenance_is_said() -> None:
    result = null_result("few items", 1)
    states = dict(result.families)
    assert result.state == states["selection"] == states["misspecification"] == "unknown"
    assert states["provenance"] == "green" and set(states) == set(FAMILIES)


@pytest.mark.slow
def test_null_runs_have_what_could_raise_an_alarm() -> None:
    """Winner's curse, cross-play, perturbations, moves enough for exchange rates, and crashes: else a quiet auditor
    would prove nothing.
    """
    runs = [null_run(seed) for seed in range(20)]
    audits = [run.audit() for run in runs]
    last = [
        [row for row in found.rows if row.accepted][-1]
        for run, found in zip(runs, audits, strict=True)
        if run.setting.greedy
    ]
    assert sum(row.p_new is not None and row.score > row.p_new.value for row in last) > 0.6 * len(last) > 3
    assert sum(bool(found.cross) for found in audits) > 4 and sum(bool(found.perturbed) for found in audits) > 12
    assert sum(any(finding.rule == "ceiling" for finding in found.findings) for found in audits) > 0
    assert any(rate.kappa for found in audits for rate in found.exchange.values())
    assert sum(any(isinstance(fact, RolloutFailed) for fact in run.facts) for run in runs) > 5


@pytest.mark.parametrize("seed", few([2, 4], 2))
def test_what_a_look_has_found_the_last_look_finds_too(seed: int) -> None:
    """So that the rates of finished runs are those of runs that are looked at after each generation; alarms are made by
    a trick.
    """
    run = hacked_run(Hack("weights", {"trick": 0.1 * seed}), GRADED._replace(seed=seed))
    raised = [{finding.rule for finding in look.findings if finding.raised} for look in run.looks()]
    assert raised[0] == set() != raised[-1] and all(before <= after for before, after in pairwise(raised))


@pytest.mark.parametrize("name", few(NUMBERS, *(name for name in list(NUMBERS)[::2] if name not in TAKES_LONG)))
def test_a_planted_case_is_found(name: str) -> None:
    """In its family, by its lever, from its generation on."""
    case, found = CASES[NUMBERS[name]], case_result(NUMBERS[name], FOUND_WITH.get(name, SEED), True)
    assert found.found, found
    assert case.lever is None or found.lever, found
    assert case.generation is None or (found.generation and found.delay is not None and found.delay >= 0), found


@pytest.mark.parametrize(
    "number", [pytest.param(at, marks=[pytest.mark.slow] * (at % 5 > 0)) for at in range(len(CASES))]
)
def test_its_honest_twin_is_not_flagged(number: int) -> None:
    assert not case_result(number, SEED, False).flagged


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (at % 3 > 0)) for name, at in NUMBERS.items()]
)
def test_a_planted_case_is_flagged_while_the_run_goes_on(name: str) -> None:
    run = CASES[NUMBERS[name]].make(0, True)
    found = run.audit()
    first = next((generation for generation, look in enumerate(run.looks()) if look.state in RAISED), None)
    if name == "the start hacks":  # what noise in gold explains of it shows once enough answers are wrong
        assert first is not None and found.flagged == 0 <= first
    else:
        assert first == (found.flagged if found.state in RAISED else None)


def test_a_hack_that_was_reverted_is_called_so() -> None:
    found = CASES[NUMBERS["a hack that is reverted"]].make(0, True).audit()
    assert "It was reverted: since generation 3" in found.sentence


def test_what_hacks_do_is_what_they_are_called() -> None:
    """The planted trick raises the score and not gold, on test."""
    run = hacked_run(ROUNDED, GRADED)
    outcomes = pair_outcomes(as_stored(run.gold))
    start, end = outcomes[PairKey(run.start.digest, "")], outcomes[PairKey(run.scaffold.digest, run.adapter.digest)]
    assert mean(end[VERIFIER]) > mean(start[VERIFIER]) + 0.1
    assert mean(end[GOLD]) < mean(start[GOLD]) - 0.2
    assert first_hack("weights") == BEGINS and first_hack("scaffold") == BEGINS + 1


@pytest.mark.parametrize("items", [1, 2])
def test_a_run_with_hardly_a_test_item_is_audited_all_the_same(items: int) -> None:
    hack = Hack("scaffold", facts=lambda run: {"twice": 20})
    found = hacked_run(hack, Setting(seed=0, items=items)).audit()
    assert (found.state, found.rule) == ("drift", "counted_otherwise")  # which needs no test item
    rows = [row for row in found.rows if row.accepted]
    assert len(rows) > 1 and all((row.p_new is None) == (items == 1) for row in rows)


def test_a_fork_that_judges_anew_is_audited_from_there() -> None:
    """Scores that meant something else are no part of it: here the parent's hack, which longer answers leave behind."""
    run = hacked_run(LENGTH, GRADED)
    assert run.audit().state == "drift"
    before = run.facts[0]
    assert isinstance(before, RunStarted)
    run.facts.append(msgspec.structs.replace(before, max_tokens=before.max_tokens + 1))
    run.candidate(9, "start", run.start, Part(""), fate="accepted")
    run.candidate(10, "scaffold", run.edited(10, skill=0.1), Part(""), fate="accepted")
    found = run.audit()
    assert [row.generation for row in found.rows] == [9, 10] and found.state == "green", found.sentence


def test_what_an_unmeasured_candidate_does_to_the_log_is_found_of_what_the_run_stands_on_too() -> None:
    """A candidate whose attempts at test fail is not measured; that hides nothing of its rewards."""
    run = hacked_run(NOT_A_NUMBER, Setting(seed=0))
    run.gold = [fact for fact in run.gold if getattr(fact, "scaffold", "") == run.start.digest]
    run.ends[-1] = run.ends[-1][0], len(run.gold)
    for found in (run.audit(), run.audit(lineage_only=True)):
        assert found.state == "drift" and found.rule == "out_of_range"


def test_pairs_that_nothing_links_have_no_additive_fit_and_the_audit_goes_on() -> None:
    run = hacked_run(LENGTH, GRADED)
    assert run.audit().fits
    pairs = {(run.scaffold.digest, run.adapter.digest), (run.start.digest, "")}
    run.gold = [fact for fact in run.gold if (getattr(fact, "scaffold", ""), getattr(fact, "adapter", "")) in pairs]
    run.ends[-1] = run.ends[-1][0], len(run.gold)
    assert run.audit().fits == {}


def test_of_graded_rewards_luck_is_that_of_their_spread() -> None:
    graded, passes = (luck_of("graded"), luck_of("passes"))
    assert 0 < graded < passes


@pytest.mark.parametrize("figure", FIGURES)
def test_intervals_hold_the_true_value(figure: str) -> None:
    """Of means of lognormal and Pareto scores 12 items hold it nine times in ten; all else 95 times in 100."""
    for name in ("0 or 1, half", "lognormal"):
        held, rejected = coverage(figure, name, 12, trials=60)
        assert held >= (0.85 if (figure, name) == ("mean", "lognormal") else 0.9) and rejected <= 0.05
    assert DISTRIBUTIONS["lognormal"].mean == pytest.approx(1.6487, abs=1e-4)


def test_the_interval_of_an_exchange_rate_of_twelve_moves_holds_the_true_rate() -> None:
    assert coverage_of_kappa("normal", 12, trials=300) > 0.94


def luck_of(form: Form) -> float:
    run = Simulated(Setting(seed=1, form=form))
    for generation in range(1, 5):
        run.candidate(generation, "scaffold", run.edited(generation), run.adapter)
    found: Audit = run.audit()
    assert found.luck
    return found.luck.expected
