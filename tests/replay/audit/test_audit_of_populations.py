"""Audits of runs that hold a population: a step goes from parent to child, wherever both stand in the tree."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy")

import msgspec

from events.choice import ParentSelected
from events.fact import Fact
from events.judgement import StageEvaluated
from events.population import CandidateAccepted, CandidateKept, CandidateRejected
from events.run import AuditReleased, RunStarted
from replay.audit.ancestry import ancestors, evaluations, moved
from replay.audit.audit import Audit, audit
from replay.audit.candidates import audited_run, look_number
from replay.audit.provenance.bookkeeping import booked
from replay.audit.provenance.checks import Known
from replay.audit.provenance.fault import ProvenanceFault
from replay.audit.verdict import Finding
from replay.exports import folder
from replay.recorded import EventIndex, StoredEvent
from runtime.log.port import Stored
from services.views import audit as views
from tests.harness.audited_facts import accepted, evaluated, rollout_request
from tests.harness.decided_log import DecidedLog, missing_answers
from tests.harness.facts import started
from tests.harness.made_up_runs import Step, export, run_started
from tests.harness.simulated import Setting, Simulated

START = Step("start", True, 0.2, 0.2, 0.2)
HACK = Step("weights", False, 0.38, 0.5, 0.0, parent=0, kept=True)
"""A branch of which the first is only kept, and drifts."""
TREE = (
    START,
    Step("scaffold", True, 0.4, 0.4, 0.4, parent=0),
    HACK,
    Step("scaffold", True, 0.5, 0.6, 0.1, parent=2),
    Step("weights", True, 0.7, 0.7, 0.7, parent=1),
)
"""Two branches: 0, 2, 3 drifts in its kept candidate, and 0, 1, 4 is honest."""


def audited(path: Path, steps: Sequence[Step], *, lineage_only: bool = False, strategy: str = "dgm") -> Audit:
    """The audit of a run of these steps."""
    run = folder.read(export(path, f"r{len(steps)}{lineage_only}", steps, started=run_started(strategy=strategy)))
    log, gold = EventIndex(run.everything).events, EventIndex(run.gold).events
    return audit(log, gold, run.blobs.get, Known(low=0, high=1), lineage_only=lineage_only)


def finding(of: Audit, rule: str) -> Finding:
    (found,) = (one for one in of.findings if one.rule == rule)
    return found


def test_drift_is_placed_in_the_kept_parent_whose_step_it_was(tmp_path: Path) -> None:
    whole = audited(tmp_path, TREE)
    assert (whole.state, whole.generation, whole.lever) == ("drift", 2, "weights"), whole.sentence
    assert [row.generation for row in whole.rows if row.growth] == [1, 2, 3, 4]
    assert [row.parent for row in whole.rows] == [None, 0, 0, 2, 1]
    assert [(row.accepted, row.kept) for row in whole.rows][2] == (False, True)


def test_what_was_kept_counts_once_something_accepted_was_made_from_it(tmp_path: Path) -> None:
    before = audited(tmp_path, (*TREE[:3], Step("scaffold", False, 0.1, 0.1, 0.1, parent=1)))
    assert before.state == "suspect" and finding(before, "own answers").generation == 2, "it is in the population"
    assert [row.generation for row in before.rows if row.growth] == [1]
    at_once = audited(tmp_path / "then", TREE[:4])
    assert at_once.state == "drift" and at_once.flagged == 2, "its own answers are seen at once"
    assert finding(at_once, "gap").figures["seen"] == 3


def test_a_branch_that_does_not_drift_stands_on_no_drift(tmp_path: Path) -> None:
    standing = audited(tmp_path, TREE, lineage_only=True)
    assert standing.state == "green", standing.sentence
    assert [row.generation for row in standing.rows if row.growth] == [1, 4]
    drifting = audited(tmp_path, TREE[:4], lineage_only=True)
    assert (drifting.state, drifting.generation, drifting.lever) == ("drift", 2, "weights")
    assert [row.generation for row in drifting.rows if row.growth] == [2, 3]


def test_two_siblings_that_were_accepted_are_each_a_step_from_their_parent(tmp_path: Path) -> None:
    """At width 2 both were under way at once. By the order of numbers the second would have gained nothing."""
    first = Step("weights", True, 0.5, 0.55, 0.15, parent=0)
    second = Step("scaffold", True, 0.7, 0.7, 0.2, parent=0)
    found = audited(tmp_path, (START, first, second))
    assert (finding(found, "gap").generation, finding(found, "gap").lever) == (1, "weights")
    honest = first._replace(gold=0.55)
    gap = finding(audited(tmp_path / "second", (START, honest, second)), "gap")
    assert gap.raised and (gap.generation, gap.lever) == (2, "scaffold")
    assert "since scaffold in generation 2" in gap.sentence
    assert audited(tmp_path / "line", (START, first, second._replace(gold=0.7)), lineage_only=True).state == "green"


@pytest.mark.parametrize("accept", [False, True])
def test_repeats_change_nothing_and_no_lever_is_blamed(tmp_path: Path, accept: bool) -> None:
    """Best of k: the start again and again, with a verifier that never meant what gold does."""
    start = Step("start", True, 0.5, 0.5, 0.1)
    again = [Step("repeat", accept or number % 2 == 0, 0.45 + 0.03 * number, 0.5, 0.1, parent=0) for number in range(6)]
    found = audited(tmp_path, (start, *again), strategy="made-up")
    assert (found.state, found.rule, found.lever, found.generation) == ("drift", "own answers", "", 0), "its start's"
    assert found.luck and not found.exchange and (found.luck.tried, found.luck.expected) == (1, 0)
    assert {row.growth.value for row in found.rows if row.growth} == {0}
    assert "nothing was chosen among" in views.luck(found)


def test_a_fault_in_a_repeat_names_its_generation_and_no_lever(tmp_path: Path) -> None:
    bad = Step("repeat", True, 0.5, 0.5, 0.5, top=3.0, parent=0)
    found = audited(tmp_path, (START, bad), strategy="made-up")
    assert (found.state, found.rule, found.generation, found.lever) == ("drift", "out_of_range", 1, "")


def test_what_a_run_of_its_own_ended_with_is_blamed_on_what_it_changed(tmp_path: Path) -> None:
    both = Step("child", True, 0.7, 0.7, 0.05, parent=0)
    found = audited(tmp_path, (START, both))
    gap = finding(found, "gap")
    assert gap.raised and gap.lever == "both" and "since both levers in generation 1" in gap.sentence
    assert not any(one.rule == "served_otherwise" and one.raised for one in found.findings)
    start, one, other, same = (
        evaluated(rollout_request(number, scaffold, "i", adapter=adapter), 0.5, lever="child")
        for number, (scaffold, adapter) in enumerate([("s", "a"), ("s", "b"), ("t", "a"), ("s", "a")])
    )
    by_id = {"c0": start}
    assert [moved(msgspec.structs.replace(made, parents=("c0",)), by_id) for made in (one, other, same)] == [
        "weights",
        "scaffold",
        "",
    ]


def test_candidates_that_were_kept_or_rejected_were_chosen_among(tmp_path: Path) -> None:
    steps = (
        START,
        Step("scaffold", False, 0.15, 0.2, 0.2, parent=0, kept=True),
        Step("scaffold", False, 0.10, 0.2, 0.2, parent=0),
        Step("scaffold", True, 0.30, 0.3, 0.3, parent=0),
        Step("scaffold", False, 0.25, 0.3, 0.3, parent=1, kept=True),
        Step("scaffold", True, 0.40, 0.4, 0.4, parent=1),
    )
    found = audited(tmp_path, steps)
    assert found.luck and found.luck.tried == 6, "those that were kept or rejected were tried too"


def test_a_tree_says_what_each_candidate_was_made_from_and_a_chain_does_not(tmp_path: Path) -> None:
    table = views.generations(audited(tmp_path, TREE))
    assert table.columns[:4] == ("gen", "from", "lever", "accepted")
    assert [row[:4] for row in table.rows][2:4] == [("2", "0", "weights", "kept"), ("3", "2", "scaffold", "yes")]
    chain = (START, Step("scaffold", False, 0.1, 0.1, 0.1, parent=0), Step("scaffold", True, 0.4, 0.4, 0.4, parent=0))
    assert "from" not in views.generations(audited(tmp_path, chain)).columns


def test_pictures_draw_lines_from_parent_to_child(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from services.views.audit_pictures import _branches, pictures

    found = audited(tmp_path, TREE)
    assert [[row.generation for row in line] for line in _branches(found.rows)] == [[0, 1, 4], [0, 2, 3]]
    assert len(pictures(found)) > 1


def test_looks_are_numbered_as_they_came(tmp_path: Path) -> None:
    """A kept candidate takes the number of the look at which it was measured: no earlier look changes."""
    steps = (*TREE[:3], TREE[4]._replace(lever="scaffold"), TREE[3]._replace(dev=0.9, p_new=0.9))
    run = folder.read(export(tmp_path, "looks", steps))
    events, gold = EventIndex(run.everything).events, EventIndex(run.gold).events
    whole = audited_run(events, gold, lineage_only=False)
    assert whole.looks == {0: 0, 1: 1, 3: 3, 2: 4, 4: 4} and list(whole.looks) == [0, 1, 3, 2, 4]
    line = audited_run(events, gold, lineage_only=True)
    assert [one.generation for one in line.measured] == [0, 2, 4]
    assert [look_number(line, one.generation, look) for look, one in enumerate(line.measured)] == [0, 3, 4]


def test_parents_are_known_of_logs_that_do_not_name_them_with_the_evaluation() -> None:
    def one(generation: int, lever: Any = "scaffold") -> Fact:
        return evaluated(rollout_request(generation, "s", "i"), 0.5, lever=lever)

    def selected(generation: int, candidate: str, second: str = "") -> Fact:
        return ParentSelected(generation=generation, candidate=candidate, second=second, probabilities={})

    facts = [
        *(one(0, "start"), accepted(0, 0.5)),
        *(one(1), accepted(1, 0.5)),
        *(selected(2, "c0"), one(2)),
        *(selected(3, "c1", "c2"), one(3)),
        one(4),
    ]
    named = evaluations(facts)
    assert [fact.parents for fact in named] == [(), ("c0",), ("c0",), ("c1", "c2"), ("c1",)]
    assert ancestors(named, "c3") == {"c0", "c1", "c2", "c3"} and ancestors(named, "c4") == {"c0", "c1", "c4"}


def null_tree(seed: int) -> Simulated:
    """A run of random edits, each to one of the candidates so far, in which score and gold stay as they were."""
    run = Simulated(Setting(seed=seed, items=40, dev=20, generations=8, greedy=False))
    draw, made = random.Random(seed), [(run.scaffold, run.adapter, run.source)]
    for generation in range(1, 9):
        parent = draw.randrange(len(made))
        run.scaffold, run.adapter, run.source = made[parent]
        run.facts.append(ParentSelected(generation=generation, candidate=f"c{parent}", probabilities={}))
        if draw.random() < 0.5:
            run.candidate(generation, "scaffold", run.edited(generation, apart=0.1), run.adapter)
        else:
            run.candidate(generation, "weights", run.scaffold, run.trained(generation, apart=0.1))
        made.append((run.scaffold, run.adapter, run.source))
    return run


def test_null_trees_are_green() -> None:
    assert [found.sentence for found in (null_tree(seed).audit() for seed in range(12)) if found.state == "drift"] == []


# what the decider decides is found to be decided rightly

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "chain": {},
    "a chain of width 4": {"width": 4},
    "dgm": {"strategy": "dgm"},
    "dgm of width 4 with all that there is": {
        "strategy": "dgm",
        "width": 4,
        "first_items": 2,
        "recheck": 2,
        "refills": 2,
        "on_drift": "rollback",
    },
    "second looks in a chain": {"recheck": 3},
    "best of k": {"strategy": "best_of_k", "width": 2},
}


def decided(setting: Mapping[str, Any]) -> list[Stored]:
    log = DecidedLog()
    log.say(msgspec.structs.replace(started(generations=8), **setting))
    return log.go_on().messages


def counted_otherwise(events: Sequence[StoredEvent]) -> list[ProvenanceFault]:
    return booked(events).faults(-1e9, 1e9)["counted_otherwise"]


@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_is_found_in_what_the_decider_decides(name: str) -> None:
    events = EventIndex(decided(SETTINGS[name])).events
    found = booked(events).faults(-1e9, 1e9)
    assert not any(found[check] for check in ("counted_otherwise", "served_otherwise", "out_of_range"))
    tags = {stored.event.tag for stored in events}
    assert "stage_evaluated" in tags or "first_items" not in SETTINGS[name]
    assert "candidate_rechecked" in tags or "recheck" not in SETTINGS[name]
    assert "candidate_kept" in tags or SETTINGS[name].get("strategy") != "dgm"


def changed(events: Sequence[StoredEvent], tag: str, **fields: Any) -> list[StoredEvent]:
    """The events with the last one of a type changed."""
    at = max(place for place, stored in enumerate(events) if stored.event.tag == tag)
    event = events[at].event
    event = msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, **fields))
    return [*events[:at], StoredEvent(events[at].stored, event), *events[at + 1 :]]


@pytest.mark.parametrize(
    ("tag", "fields", "words"),
    [
        ("stage_evaluated", {"score": 0.123}, "The first score of generation"),
        ("stage_evaluated", {"items": 1}, "counts 1 attempts, and 2 were asked for"),
        ("candidate_rechecked", {"difference": 0.123}, "says +0.123 over 4 items, and its attempts say"),
        ("candidate_rechecked", {"difference": -7.0}, "and by its scores it is not to be"),
        ("candidate_kept", {"score": 0.123}, "gives it 0.123, and its score is"),
        ("candidate_accepted", {"score": 0.123}, "gives it 0.123, and its score is"),
    ],
)
def test_what_goes_against_the_attempts_or_the_scores_is_found(tag: str, fields: Any, words: str) -> None:
    events = EventIndex(decided(SETTINGS["dgm of width 4 with all that there is"])).events
    said = [fault.sentence for fault in counted_otherwise(changed(events, tag, **fields))]
    assert any(words in sentence for sentence in said), said


def test_a_strategy_that_is_not_known_here_may_accept_what_it_likes() -> None:
    events = EventIndex(decided(SETTINGS["dgm"])).events
    as_chain = [
        stored._replace(event=msgspec.structs.replace(stored.event, data=msgspec.structs.replace(data, strategy=name)))
        if isinstance(data := stored.event.data, RunStarted)
        else stored
        for name in ("chain",)
        for stored in events
    ]
    said = [fault.sentence for fault in counted_otherwise(as_chain)]
    assert said and all("was kept, and by its scores it is not to be" in sentence for sentence in said)


def test_candidates_that_the_first_items_stopped_were_tried_too(tmp_path: Path) -> None:
    run = folder.read(export(tmp_path, "stopped", TREE, started=run_started(strategy="dgm")))
    stopped = StageEvaluated(generation=5, candidate="c5", score=0.0, items=9, failed=0, passed=False, reason="")
    passed = msgspec.structs.replace(stopped, generation=1, candidate="c1", passed=True)
    events = EventIndex(run.everything).events
    for fact, more in ((stopped, 1), (passed, 0)):
        event = msgspec.structs.replace(events[-1].event, data=fact)
        longer = [*events, StoredEvent(events[-1].stored, event)]
        found = audit(longer, EventIndex(run.gold).events, run.blobs.get, Known(low=0, high=1))
        assert found.luck and found.luck.tried == 5 + more


def test_a_run_that_the_auditor_may_stop_settles_and_begins_nothing_until_it_has_looked() -> None:
    """Three are under way at once. After the rollback what was made from the candidate is no part of the population."""
    log = DecidedLog()
    log.say(msgspec.structs.replace(started(generations=9), strategy="dgm", width=3, on_drift="rollback"))

    def unheard(messages: Sequence[Stored]) -> list[Fact]:
        return [fact for fact in missing_answers(messages) if not isinstance(fact, AuditReleased)]

    def step() -> CandidateAccepted:
        """Answer all but the auditor; the candidate at which the run then waits."""
        while facts := unheard(log.messages):
            log.say(facts[0])
        facts = [stored.event.data for stored in EventIndex(log.messages).events]
        last = max(place for place, fact in enumerate(facts) if isinstance(fact, CandidateAccepted))
        waits_at = facts[last]
        verdicts = CandidateAccepted | CandidateKept | CandidateRejected | ParentSelected
        assert isinstance(waits_at, CandidateAccepted)
        assert not [fact for fact in facts[last + 1 :] if isinstance(fact, verdicts)]
        return waits_at

    first, quiet = step(), AuditReleased(look=0, action="none", lever="", generation=-1, bits=1.0)
    assert first.generation == 0
    log.say(quiet)
    drifting = step()
    flights = log.session.state.flights
    assert drifting.generation > 0 and len(flights) == 2
    number = drifting.generation
    log.say(AuditReleased(look=number, action="rollback", lever="", generation=number, bits=3.0))
    log.go_on()
    facts = [stored.event.data for stored in EventIndex(log.messages).events]
    made = {one.candidate: one for one in evaluations(facts)}
    later = [fact for fact in facts if isinstance(fact, CandidateAccepted | CandidateKept)]
    later = later[later.index(drifting) + 1 :]
    assert later and not any(drifting.candidate in ancestors(list(made.values()), one.candidate) for one in later)
    assert counted_otherwise(EventIndex(log.messages).events) == []
