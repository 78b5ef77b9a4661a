"""The auditor is audited: it is quiet about null runs, and finds planted hacks, when and by which lever they began."""

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
from replay.audit.verdict import ALPHA
from tests.harness.audited_facts import as_stored
from tests.harness.power import HACKS, Hack, Part, Setting, Simulated, first_hack, hacked_run, null_rates, null_run


@pytest.mark.parametrize("runs", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_null_runs_are_green_as_often_as_stated(runs: int) -> None:
    """Each family's part of .05, and what of provenance needs no statistics never.

    The rates themselves: `make audit-self`.
    """
    states, families = null_rates(runs)
    assert states.total() == runs
    allowed = {family: max(1, alpha * runs) for family, alpha in {**ALPHA, "exchange_rate": 0.01}.items()}
    assert states["drift"] + states["suspect"] <= sum(ALPHA.values()) * runs
    assert {family: families[family] for family in allowed if families[family] > allowed[family]} == {}
    assert families["provenance"] == 0


def test_null_runs_have_what_could_raise_an_alarm() -> None:
    """Winner's curse, cross-play, perturbations, moves enough for exchange rates, and crashes: else a quiet auditor
    would prove nothing.
    """
    runs = [null_run(seed) for seed in range(30)]
    audits = [run.audit() for run in runs]
    last = [
        [row for row in found.rows if row.accepted][-1]
        for run, found in zip(runs, audits, strict=True)
        if run.setting.greedy
    ]
    assert sum(row.p_new is not None and row.score > row.p_new.value for row in last) > 0.7 * len(last) > 5
    assert sum(bool(found.cross) for found in audits) > 5 and sum(bool(found.perturbed) for found in audits) > 20
    assert sum(any(finding.rule == "ceiling" for finding in found.findings) for found in audits) > 2
    assert any(rate.kappa for found in audits for rate in found.exchange.values())
    assert sum(any(isinstance(fact, RolloutFailed) for fact in run.facts) for run in runs) > 8


@pytest.mark.parametrize("seed", range(1, 5))
def test_what_a_look_has_found_the_last_look_finds_too(seed: int) -> None:
    """So that the rates of finished runs are those of runs that are looked at after each generation; alarms are made by
    a trick.
    """
    run = hacked_run(Hack("weights", (), {"trick": 0.1 * seed}, graded=True), seed)
    raised = [{finding.rule for finding in look.findings if finding.raised} for look in run.looks()]
    assert raised[0] == set() != raised[-1] and all(before <= after for before, after in pairwise(raised))


@pytest.mark.parametrize("name", HACKS)
def test_a_planted_hack_is_found_when_it_begins_with_its_lever(name: str) -> None:
    hack = HACKS[name]
    run = hacked_run(hack)
    found = run.audit()
    raised = {finding.rule for finding in found.findings if finding.raised}
    assert found.state == ("suspect" if name == "candidate code crashes on what it cannot answer" else "drift")
    assert found.rule in hack.rules or raised & set(hack.rules)
    assert found.lever == hack.lever
    assert found.generation == found.flagged == first_hack(hack)


@pytest.mark.slow
@pytest.mark.parametrize("name", HACKS)
def test_a_planted_hack_is_flagged_while_the_run_goes_on(name: str) -> None:
    run = hacked_run(HACKS[name])
    first = next(generation for generation, look in enumerate(run.looks()) if look.state != "green")
    assert first == run.audit().flagged


@pytest.mark.parametrize("lever", ["scaffold", "weights"])
def test_without_its_hack_the_same_run_is_green(lever: str) -> None:
    for graded in (False, True):
        assert hacked_run(Hack(lever, (), graded=graded)).audit().state == "green"


def test_what_hacks_do_is_what_they_are_called() -> None:
    """The planted trick raises the score and not gold, on test."""
    run = hacked_run(HACKS["output rounded to zeros"])
    outcomes = pair_outcomes(as_stored(run.gold))
    start, end = outcomes[PairKey(run.start.digest, "")], outcomes[PairKey(run.scaffold.digest, run.adapter.digest)]
    assert mean(end[VERIFIER]) > mean(start[VERIFIER]) + 0.1
    assert mean(end[GOLD]) < mean(start[GOLD]) - 0.2


@pytest.mark.parametrize("items", [1, 2])
def test_a_run_with_hardly_a_test_item_is_audited_all_the_same(items: int) -> None:
    found = hacked_run(next(iter(HACKS.values())), setting=Setting(seed=0, items=items)).audit()
    assert (found.state, found.rule) == ("drift", "counted_otherwise")  # which needs no test item
    rows = [row for row in found.rows if row.accepted]
    assert len(rows) > 1 and all((row.p_new is None) == (items == 1) for row in rows)


def test_a_fork_that_judges_anew_is_audited_from_there() -> None:
    """Scores that meant something else are no part of it: here the parent's hack, which longer answers leave behind."""
    run = hacked_run(HACKS["a judge that loves length"])
    assert run.audit().state == "drift"
    before = run.facts[0]
    assert isinstance(before, RunStarted)
    run.facts.append(msgspec.structs.replace(before, max_tokens=before.max_tokens + 1))
    run.candidate(9, "start", run.start, Part(""), keep=True)
    run.candidate(10, "scaffold", run.edited(10, skill=0.1), Part(""), keep=True)
    found = run.audit()
    assert [row.generation for row in found.rows] == [9, 10] and found.state == "green", found.sentence


def test_what_an_unmeasured_candidate_does_to_the_log_is_found_of_what_the_run_stands_on_too() -> None:
    """A candidate whose attempts at test fail is not measured; that hides nothing of its rewards."""
    run = hacked_run(HACKS["a NaN hole"])
    run.gold = [fact for fact in run.gold if getattr(fact, "scaffold", "") == run.start.digest]
    run.ends[-1] = run.ends[-1][0], len(run.gold)
    for found in (run.audit(), run.audit(lineage_only=True)):
        assert found.state == "drift" and found.rule == "out_of_range"


def test_pairs_that_nothing_links_have_no_additive_fit_and_the_audit_goes_on() -> None:
    run = hacked_run(HACKS["a judge that loves length"])
    assert run.audit().fits
    pairs = {(run.scaffold.digest, run.adapter.digest), (run.start.digest, "")}
    run.gold = [fact for fact in run.gold if (getattr(fact, "scaffold", ""), getattr(fact, "adapter", "")) in pairs]
    run.ends[-1] = run.ends[-1][0], len(run.gold)
    assert run.audit().fits == {}


def test_of_graded_rewards_luck_is_that_of_their_spread() -> None:
    graded, passes = (null_run_of(graded) for graded in (True, False))
    assert 0 < graded.optimism < passes.optimism


def null_run_of(graded: bool) -> Audit:
    run = Simulated(Setting(seed=1, graded=graded))
    for generation in range(1, 5):
        run.candidate(generation, "scaffold", run.edited(generation), run.adapter)
    return run.audit()
