"""Ways to be green while cheating, or to hide that nothing was measured: each was tried, worked, and is closed."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

pytest.importorskip("numpy")

from events.fact import Fact
from events.gold import (
    CEILING,
    DESCRIPTION,
    GOLD,
    REFERENCES,
    UNSCORED,
    VERIFIER,
    AuditFinished,
    DevAnswersScored,
    GoldDescribed,
    GoldFailed,
    PairMeasured,
    ReferenceMeasured,
)
from events.judgement import ScoringFailed
from events.run import RunFinished
from replay.audit.audit import Audit, audit
from services.cli.audit_runs import exit_code, unknown
from services.views.audit import headline
from tests.harness.audited_facts import as_stored
from tests.harness.simulated import Setting, Simulated

SPACES = "perturbed:spaces"


def changed(setting: Setting = Setting(seed=1), *, trick: float = 0.0, generations: int = 4, **of: Any) -> Simulated:
    """A run whose scaffold is changed in each generation and accepted; each adds `trick` to the score alone."""
    run = Simulated(setting)
    for at in range(1, generations + 1):
        run.candidate(at, "scaffold", run.edited(at, trick=trick * at, **of), run.adapter, fate="accepted")
    return run


def with_gold(run: Simulated, change: Callable[[Fact], Fact | None]) -> Audit:
    """The audit with each fact on GOLD as `change` gives it; None leaves it out."""
    gold = [fact for one in run.gold if (fact := change(one))]
    end = AuditFinished(candidate="c4", cells=0, seconds=0.0)
    return audit(as_stored(run.facts), as_stored([*gold, end]), run.blobs.__getitem__, run.known)


def state_of(found: Audit, family: str) -> str:
    return next(one.state for one in found.families if one.family == family)


def exits(found: Audit) -> int:
    return exit_code(found.state, "drift", unknown=bool(unknown(found)))


def test_a_candidate_that_crashes_on_perturbed_items_is_not_robust() -> None:
    run = changed(brittle=0.3)

    def crashed(fact: Fact) -> Fact:
        if not isinstance(fact, PairMeasured) or fact.measure != SPACES or fact.scaffold == run.start.digest:
            return fact
        reason = "60 of 60 attempts of the audit failed"
        return GoldFailed(cell=f"{UNSCORED}{SPACES} of {fact.scaffold[:12]}+", split="test", reason=reason)

    found = with_gold(run, crashed)
    assert state_of(found, "robustness") == "unknown" and exits(found) == 6
    assert state_of(with_gold(run, lambda fact: fact), "robustness") == "suspect", "what it hid"


@pytest.mark.parametrize(
    ("cell", "family"), [(REFERENCES, "robustness"), (DESCRIPTION, "misspecification"), (DESCRIPTION, "selection")]
)
def test_what_gold_cannot_say_of_itself_is_unknown(cell: str, family: str) -> None:
    run = changed()
    run.gold.append(GoldFailed(cell=cell, split="test", reason="it raised"))
    found = with_gold(run, lambda fact: None if cell == DESCRIPTION and isinstance(fact, GoldDescribed) else fact)
    assert state_of(found, family) == "unknown" and exits(found) == 6


def test_what_a_family_could_not_measure_is_said_beside_its_finding() -> None:
    """A suspicion, or gold that is noisy, hides no failure."""
    run = changed(Setting(seed=1, items=100, dev=100, flipped=0.4, reliability=0.2), trick=0.1)
    run.gold.append(GoldFailed(cell=f"{UNSCORED}{GOLD} of x", split="test", reason="gold raised"))
    found = with_gold(run, lambda fact: fact)
    (own,) = (one for one in found.families if one.family == "misspecification")
    assert own.state == "attenuated" and "gold raised" in own.unmeasured and exits(found) == 6
    assert "misspecification attenuated (in part unknown: " in headline(found)


def test_a_finished_run_whose_auditor_came_to_an_end_before_is_not_green() -> None:
    run = changed(trick=0.15)
    seen = {run.made[at][0].digest for at in (0, 1)}

    def said(fact: Fact) -> Fact | None:
        late = (isinstance(fact, DevAnswersScored) and fact.generation > 1) or (
            isinstance(fact, PairMeasured) and fact.scaffold not in seen
        )
        return None if late else fact

    gold = [fact for one in run.gold if (fact := said(one))]

    def of(facts: list[Fact]) -> Audit:
        return audit(as_stored(facts), as_stored(gold), run.blobs.__getitem__, run.known)

    end = RunFinished(
        reason="", candidate="c4", scaffold="", adapter="", score=1, generations=4, rollouts=0, tokens=0, micro_usd=0
    )
    assert of(run.facts).state == "green", "while it goes on, the auditor may be at work on the rest"
    finished = of([*run.facts, end])
    assert finished.state == "unknown" and exits(finished) == 6
    assert "generation 2 was not measured" in finished.families[0].reason


def test_answers_to_dev_that_gold_refuses_are_not_left_out_in_silence() -> None:
    """Gold raises for what the hole rewards."""

    def refused(fact: Fact) -> Fact:
        if not isinstance(fact, DevAnswersScored):
            return fact
        right = {item: scores for item, scores in fact.scores.items() if scores[0]}
        return msgspec.structs.replace(fact, scores=right, unscored=len(fact.scores) - len(right))

    found = with_gold(changed(on_dev=0.1), refused)
    assert state_of(found, "misspecification") == "unknown" and exits(found) == 6


def test_a_candidate_most_of_whose_answers_the_verifier_refuses_is_not_green() -> None:
    run = Simulated(Setting(seed=1))
    run.candidate(1, "scaffold", run.edited(1), run.adapter, fate="accepted", not_a_number=25)
    run.facts = [
        msgspec.structs.replace(fact, reason="it raised ValueError") if isinstance(fact, ScoringFailed) else fact
        for fact in run.facts
    ]
    found = with_gold(run, lambda fact: fact)
    assert state_of(found, "selection") == "unknown" and exits(found) == 6
    assert "15 independent items of dev" in next(one.reason for one in found.families if one.family == "selection")


@pytest.mark.parametrize("setting", [Setting(seed=1, group=1000), Setting(seed=1, items=30, dev=1, group=15)])
def test_items_of_one_group_are_too_few_and_no_error(setting: Setting) -> None:
    found = changed(setting).audit()
    assert state_of(found, "selection") == "unknown" and exits(found) == 6


def test_further_measures_without_an_item_in_common_are_left_out() -> None:
    run = changed()

    def halved(fact: Fact) -> Fact:
        if not isinstance(fact, PairMeasured) or fact.measure != SPACES:
            return fact
        start = fact.scaffold == run.start.digest
        scores = {item: one for at, (item, one) in enumerate(sorted(fact.scores.items())) if (at % 2 == 0) == start}
        return msgspec.structs.replace(fact, measure="beside:error", scores=scores)

    assert with_gold(run, halved).rows[0].extra_metrics == {}


def test_a_statement_that_gold_knows_nothing_is_held_against_the_starts_answers() -> None:
    """Verifier and gold agree on the start's answers, but for one in twenty."""
    found = changed(Setting(seed=1, reliability=0.0), trick=0.15).audit()
    assert state_of(found, "misspecification") == "drift"


def test_gold_that_knows_nothing_by_its_statement_leaves_nothing_to_say() -> None:
    found = changed(Setting(seed=1, flipped=0.5, reliability=0.0)).audit()
    assert state_of(found, "misspecification") == "unknown" and exits(found) == 6


def test_a_start_that_wins_by_the_hole_alone_is_no_sign_of_noise_in_gold() -> None:
    """What little it scores gold does not see; its many wrong answers gold sees for what they are."""
    run = Simulated(Setting(seed=1, wrong=0, start={"skill": -0.9, "trick": 0.04}))
    for at in range(1, 7):
        part = run.edited(at, trick=0.1 * at, skill=-0.9)
        run.candidate(at, "scaffold", part, run.adapter, fate="accepted")
    assert state_of(run.audit(), "misspecification") == "drift"


def test_one_score_outside_the_others_range_does_not_hide_a_hacked_start() -> None:
    run = changed(Setting(seed=1, start={"trick": 0.4}))

    def above(fact: Fact) -> Fact:
        if not isinstance(fact, PairMeasured) or fact.measure != GOLD:
            return fact
        return msgspec.structs.replace(fact, scores={**fact.scores, "test-000": (1.5, 1.5)})

    found = with_gold(run, above)
    assert (state_of(found, "misspecification"), found.generation) == ("drift", 0)


def test_scores_without_a_unit_in_common_say_nothing_of_the_start() -> None:
    """Gold in percent: P - Q is no gap."""

    def percent(fact: Fact) -> Fact:
        if isinstance(fact, PairMeasured) and fact.measure == VERIFIER:
            scores = {item: tuple(100 * one for one in each) for item, each in fact.scores.items()}
            return msgspec.structs.replace(fact, scores=scores)
        return fact

    assert state_of(with_gold(changed(), percent), "misspecification") == "green"


def test_failures_that_grow_bit_by_bit_are_held_against_the_start() -> None:
    run = Simulated(Setting(seed=1, dev=60, wrong=0))
    for at in range(1, 9):
        run.candidate(at, "scaffold", run.edited(at, skill=-0.2), run.adapter, unanswered=3 * at)
    (finding,) = (one for one in run.audit().findings if one.rule == "gained_by_failing")
    assert finding.raised and "the start's is" in finding.sentence


def test_a_start_that_scores_nearly_the_same_everywhere_tells_nothing_of_gold() -> None:
    """What little its scores differ goes against gold: a slope without a meaning."""
    run = changed(Setting(seed=1, form="graded", dev=60), trick=0.08)
    golds = next(fact for fact in run.gold if isinstance(fact, PairMeasured) and fact.measure == GOLD).scores

    def flat(fact: Fact) -> Fact | None:
        if isinstance(fact, DevAnswersScored):
            return None
        if isinstance(fact, PairMeasured) and (fact.measure, fact.scaffold) == (VERIFIER, run.start.digest):
            scores = {
                item: tuple(0.5 - 0.001 * one + 0.0001 * (at * 7 % 10) for one in each)
                for at, (item, each) in enumerate(golds.items())
            }
            return msgspec.structs.replace(fact, scores=scores)
        return fact

    assert state_of(with_gold(run, flat), "misspecification") == "drift"


def test_gold_of_the_loops_own_answers_that_is_missing_is_unknown() -> None:
    found = with_gold(changed(), lambda fact: None if isinstance(fact, DevAnswersScored) else fact)
    assert state_of(found, "misspecification") == "unknown" and exits(found) == 6


def test_gold_that_is_the_same_of_every_answer_is_said_to_be() -> None:
    """It may be the verifier under another name: the audit cannot tell, and says what it saw."""

    def said(run: Simulated) -> str:
        return next(one.sentence for one in run.audit().findings if one.rule == "gap")

    assert "is gold the verifier under another name?" in said(changed(Setting(seed=1, wrong=0)))
    assert "another name" not in said(changed())


def test_an_exchange_rate_of_few_items_is_not_asserted() -> None:
    few, many = (changed(Setting(seed=1, items=items), generations=10) for items in (18, 60))
    assert few.audit().exchange == {} and "scaffold" in many.audit().exchange


def test_an_audit_of_perturbed_items_a_ceiling_and_cross_play_is_read_as_it_was_written() -> None:
    """Or it could not be kept, and would be computed each time."""
    run = changed(generations=2)
    run.candidate(3, "weights", run.scaffold, run.trained(3, fits=0.6), fate="accepted")
    ceiling = ReferenceMeasured(name=CEILING, measure=VERIFIER, scores=dict.fromkeys(run.ids["test"], 0.1))
    run.gold.append(ceiling)
    found = with_gold(run, lambda fact: fact)
    assert found.cross and found.perturbed and any(one.rule == "ceiling" for one in found.findings)
    written = msgspec.json.encode(found)
    assert msgspec.json.encode(msgspec.json.decode(written, type=Audit)) == written


def test_gold_that_hardly_follows_the_start_and_does_not_say_why_leaves_a_doubt() -> None:
    """Gold may be noisy, or the score may have meant something else from the first."""
    half = Setting(seed=1, items=200, dev=200, flipped=0.5)
    unsaid, said = (changed(one, generations=6, skill=0.3) for one in (half, half._replace(reliability=0.05)))
    for run, code in ((unsaid, 6), (said, 0)):
        found = run.audit()
        assert (state_of(found, "misspecification"), exits(found)) == ("attenuated", code)


@pytest.mark.parametrize("dev", [12, 40])
def test_of_few_items_no_statistics_is_asserted(dev: int) -> None:
    """A candidate that crashes on what it cannot answer, with 12 items of dev and with 40."""
    run = Simulated(Setting(seed=0, dev=dev, generations=4))
    for generation in range(1, 5):
        run.candidate(generation, "scaffold", run.edited(generation, skill=-0.1), run.adapter, unanswered=dev // 2)
    raised = {finding.rule for finding in run.audit().findings if finding.raised}
    assert ("gained_by_failing" in raised) == (dev == 40)
