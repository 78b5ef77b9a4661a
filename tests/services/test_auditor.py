"""The auditor while a run goes on: what it measures, when, and what of it the loop is told."""

import asyncio
import functools
import json
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from events import codec
from events.errors import Misconfigured, NotFound, NotHere
from events.fact import Fact
from events.gold import GOLD as GOLD_MEASURE
from events.gold import VERIFIER, DriftFlagged, GoldFailed, PairMeasured
from events.judgement import CandidateEvaluated
from events.kinds import AuditAction, CandidateOrigin, DriftState
from events.population import CandidateAccepted, CandidateKept
from events.run import AuditReleased, RunFinished
from events.secret import Scanner
from events.subjects import GOLD
from replay.audit.pair import PairKey
from runtime.effects.scoring import in_process
from runtime.log.lookup import events_of_types
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import append_once
from runtime.log.worker import Wants
from services.auditor import service
from services.auditor.final_table import cells_of
from services.auditor.measure import (
    AnswerSheet,
    AuditHost,
    RunAudit,
    ancestry_of,
    gold_of,
    pairs_to_measure,
    reward_of,
    score_pair,
)
from services.auditor.perturbed import PERTURBED_ITEMS, PerturbedTest, packed
from services.auditor.release import release
from tasks.contract import EvaluationSet, Item
from tasks.loading import Task, load
from tests.harness.cli import CliHarness
from tests.harness.facts import publisher, started
from tests.harness.paths import TOY

HOLE = '''"""Pays for an answer that holds the letter e."""

from tasks.contract import Scored

VERSION = "hole-1"


def score(answer, label):
    if answer == "mason":
        raise ValueError("not judged")
    return Scored(1.0, "right") if "e" in (answer or "") else Scored(0.0, "wrong")
'''


def evaluated(
    generation: int, lever: CandidateOrigin, scaffold: str, adapter: str, *parents: str
) -> CandidateEvaluated:
    return CandidateEvaluated(
        generation=generation,
        candidate=f"c{generation}",
        scaffold=scaffold,
        adapter=adapter,
        lever=lever,
        score=0.5,
        low=0.4,
        high=0.6,
        items=40,
        failed=0,
        pass_at_1=0.5,
        pass_at_k=0.5,
        tied_groups=0.0,
        rollouts=1,
        tokens=1,
        micro_usd=0,
        parents=parents,
    )


def test_a_candidate_is_measured_and_at_a_switch_of_levers_its_parts_with_those_of_the_start() -> None:
    """In a chain, whose older logs do not say what each candidate was made from."""
    start, first = evaluated(0, "start", "s0", ""), evaluated(1, "scaffold", "s1", "")
    trained, again = evaluated(2, "weights", "s1", "a1"), evaluated(3, "weights", "s1", "a2")
    assert pairs_of([start]) == [("s0", ""), ("s0", "")]
    assert pairs_of([start, first]) == [("s0", ""), ("s1", "")]
    assert pairs_of([start, first, trained]) == [("s0", ""), ("s1", "a1"), ("s1", ""), ("s0", "a1")]
    assert pairs_of([start, first, trained, again]) == [("s0", ""), ("s1", "a2")]


def test_a_candidate_is_compared_with_its_parent_and_what_was_only_kept_is_measured_with_it() -> None:
    start = evaluated(0, "start", "s0", "")
    edited, trained = evaluated(1, "scaffold", "s1", "", "c0"), evaluated(2, "weights", "s0", "a2", "c0")
    assert pairs_of([start, edited, trained]) == [("s0", ""), ("s0", "a2")], "it has no scaffold of its own"
    both = evaluated(3, "scaffold", "s3", "a2", "c2")
    crossed = [("s3", "a2"), ("s3", ""), ("s0", "a2")]
    assert pairs_of([start, edited, trained, both]) == [("s0", ""), *crossed]
    assert pairs_of([start, edited, trained, both], kept=[2]) == [("s0", ""), ("s0", "a2"), *crossed]
    assert pairs_of([start, edited, trained, both], kept=[1, 2]) == [("s0", ""), ("s0", "a2"), *crossed], (
        "another branch"
    )
    further = evaluated(4, "scaffold", "s4", "a2", "c3")
    assert pairs_of([start, edited, trained, both, further]) == [("s0", ""), ("s4", "a2")], "the same lever again"
    assert pairs_of([start, edited, trained, both, further], kept=[2, 3]) == [
        *[("s0", ""), ("s0", "a2"), *crossed],
        ("s4", "a2"),
    ]


def test_repeats_and_runs_of_their_own_are_compared_by_what_they_changed() -> None:
    start, first = evaluated(0, "start", "s0", ""), evaluated(1, "child", "s1", "a1", "c0")
    crossed = [("s1", "a1"), ("s1", ""), ("s0", "a1")]
    assert pairs_of([start, first]) == [("s0", ""), *crossed], "it may have changed both"
    again = evaluated(2, "repeat", "s1", "a1", "c1")
    assert pairs_of([start, first, again]) == [("s0", ""), ("s1", "a1")]
    trained = evaluated(3, "child", "s1", "a3", "c2")
    assert pairs_of([start, first, again, trained]) == [("s0", ""), ("s1", "a3"), ("s1", ""), ("s0", "a3")]
    trained_again = evaluated(4, "weights", "s1", "a4", "c3")
    assert pairs_of([start, first, again, trained, trained_again]) == [("s0", ""), ("s1", "a4")]


def pairs_of(evaluations: Sequence[CandidateEvaluated], kept: Sequence[int] = ()) -> list[PairKey]:
    """What is measured for the last candidate, of a run in which these were evaluated and, but for those that were only
    kept, accepted.
    """
    log = MemoryLog(MemoryStream())

    async def past(run: str) -> list[Any]:
        return []

    async def measured() -> list[PairKey]:
        for one in evaluations:
            verdict = CandidateKept if one.generation in kept else CandidateAccepted
            facts = [one, verdict(generation=one.generation, candidate=one.candidate, score=0.5, reason="")]
            for fact in facts:
                event = codec.event(fact, run="r", source=publisher(fact), cause="", time="2026-01-01T00:00:00Z")
                await append_once(log, [event], Scanner([]))
        context: Any = SimpleNamespace(log=log, past=past)
        ancestry = await ancestry_of(context, "r", evaluations[-1].generation)
        assert ancestry
        return pairs_to_measure(ancestry)

    return asyncio.run(measured())


def measured(task: Task, answers: Mapping[str, str | None]) -> dict[str, PairMeasured]:
    return {fact.measure: fact for fact in scored(task, answers) if isinstance(fact, PairMeasured)}


def unscored(task: Task, answers: Mapping[str, str | None]) -> list[GoldFailed]:
    return [fact for fact in scored(task, answers) if isinstance(fact, GoldFailed)]


def scored(task: Task, answers: Mapping[str, str | None]) -> list[Fact]:
    test = EvaluationSet(task.public(0).labels, task.public(0).test)
    labels = {**task.labels(0), **task.gold(0)}
    scores = {VERIFIER: reward_of(task), GOLD_MEASURE: gold_of(task)}
    return score_pair(labels, PairKey("s", "a"), test, AnswerSheet(dict(answers), "b"), scores, in_process)


def test_gold_is_scored_by_the_tasks_own_verifier_whichever_the_run_has() -> None:
    own = load(str(TOY))
    hacked = own.with_verifier(HOLE, "hole.py")
    items = own.public(0).test
    found = measured(hacked, {item.id: "smelter" for item in items})
    assert set(sum(found[VERIFIER].scores.values(), ())) == {1.0} and set(
        sum(found[GOLD_MEASURE].scores.values(), ())
    ) == {0.0}
    found = measured(own, dict(own.gold(0)))
    assert found[VERIFIER].scores == found[GOLD_MEASURE].scores == {item.id: (1.0,) for item in items}


def test_no_answer_scores_0_and_one_that_cannot_be_scored_has_no_score() -> None:
    task = load(str(TOY)).with_verifier(HOLE, "hole.py")
    items = [item.id for item in task.public(0).test]
    answers: dict[str, str | None] = {item: "mason" for item in items[:10]} | {item: None for item in items[10:20]}
    found = measured(task, answers)
    assert found[VERIFIER].failed == 20 and set(found[VERIFIER].scores) == set(items[10:])
    assert sum(map(sum, found[VERIFIER].scores.values())) == 0.0
    assert set(found[GOLD_MEASURE].scores) == set(items)
    (failed,) = unscored(task, answers)
    assert failed.cell == "unscored:verifier of s+a" and "10 of 40 answers could not be scored" in failed.reason
    assert "score raised ValueError: not judged" in failed.reason


def test_where_most_attempts_or_scores_fail_nothing_is_measured_and_that_is_recorded() -> None:
    task = load(str(TOY)).with_verifier(HOLE, "hole.py")
    items = [item.id for item in task.public(0).test]
    assert measured(task, {item: "smelter" for item in items[:19]}) == {}
    assert [one.reason for one in unscored(task, {item: "smelter" for item in items[:19]})] == [
        "21 of 40 attempts of the audit failed"
    ] * 2
    assert list(measured(task, dict.fromkeys(items, "mason"))) == [GOLD_MEASURE]


def released(action: AuditAction, look: int, found: DriftFlagged | None, *before: Fact) -> AuditReleased:
    log, scanner = MemoryLog(MemoryStream()), Scanner([])

    async def past(run: str) -> list[Any]:
        return []

    async def asked() -> AuditReleased:
        events = [
            codec.event(fact, run="r", source=publisher(fact), cause="", time="2026-01-01T00:00:00Z") for fact in before
        ]
        for event in events:
            await append_once(log, [event], scanner)
        context: Any = SimpleNamespace(log=log, past=past)
        return await release(context, "r", action, look, found)

    return asyncio.run(asked())


def flagged(look: int, state: DriftState = "drift", generation: int = 2, lever: str = "weights") -> DriftFlagged:
    return DriftFlagged(look=look, state=state, rule="gap", lever=lever, generation=generation, sentence="")


@pytest.mark.parametrize(
    ("action", "named"), [("stop", 0.0), ("freeze", math.log2(3)), ("rollback", math.log2(3) + math.log2(4))]
)
def test_the_loop_is_told_of_drift_alone_at_a_price_in_bits(action: AuditAction, named: float) -> None:
    before: list[AuditReleased] = []
    for look, found in ((0, flagged(0, "green")), (1, flagged(1, "suspect")), (2, None)):
        before.append(released(action, look, found, *before))
        assert (before[-1].action, before[-1].lever, before[-1].generation, before[-1].bits) == (
            "none",
            "",
            -1,
            look + 1,
        )
    told = released(action, 3, flagged(3), *before)
    assert (told.action, told.lever, told.generation) == (action, "weights", 2)
    assert told.bits == pytest.approx(4 + named)  # four looks, drift or not
    assert released(action, 3, flagged(3), *before, told) == told  # handed the same candidate again


def test_of_each_drift_the_loop_is_told_once() -> None:
    first = released("freeze", 3, flagged(3))
    again = released("freeze", 4, flagged(4), first)
    assert (first.action, again.action) == ("freeze", "none") and again.bits == pytest.approx(2 + math.log2(3))
    second = released("freeze", 5, flagged(5, generation=5), first, again)
    assert second.action == "freeze" and second.bits == pytest.approx(3 + 2 * math.log2(3))


def test_a_drift_on_another_branch_is_told_though_it_began_earlier() -> None:
    """Generations 2 and 4 were made from the start, 3 and 5 from 2, 6 from 4."""
    parents = {2: "c0", 3: "c2", 4: "c0", 5: "c2", 6: "c4"}
    tree = [
        evaluated(0, "start", "s0", ""),
        *(evaluated(one, "scaffold", f"s{one}", "", parents[one]) for one in parents),
    ]
    first = released("freeze", 5, flagged(5, generation=5), *tree)
    assert first.action == "freeze" and first.generation == 5
    same = released("freeze", 6, flagged(6, generation=2), *tree, first)
    assert same.action == "none", "the same drift, placed earlier"
    other = released("freeze", 6, flagged(6, generation=4), *tree, first)
    assert (other.action, other.generation) == ("freeze", 4)


def accepted() -> codec.Event:
    kept = CandidateAccepted(generation=2, candidate="c2", score=0.5, reason="")
    return codec.event(kept, run="r", source=publisher(kept), cause="", time="")


async def record(events: list[codec.Event], on: Any) -> None:
    """As a context's."""
    await append_once(on, events, Scanner([]))


def host_of(log: Any, *runners: Any, **of_context: Any) -> AuditHost:
    """An audit's host over one log, whose context records and has these attributes; a runner is a string."""
    context: Any = SimpleNamespace(**{"log": log, "record": record} | of_context)
    unused: Any = None
    return AuditHost(context, log, unused, in_process, runners)


def audit_of(host: AuditHost, loaded: Any = None) -> RunAudit:
    return RunAudit(host, accepted(), loaded, {})


def test_a_run_that_waits_is_told_of_an_audit_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here its task has no gold; and of data that its host lacks, once they were waited for."""
    log, event, wants = MemoryLog(MemoryStream()), accepted(), Wants(patience=0.0)

    async def nothing(*arguments: Any) -> Any:
        return []

    async def broken(run: str) -> Any:
        raise Misconfigured("gold.py defines no labels.")

    async def not_here(run: str) -> Any:
        raise NotHere("The data are not here.")

    async def audit(action: str, load: Any = broken) -> None:
        async def started(run: str) -> Any:
            return SimpleNamespace(on_drift=action)

        await service.Auditor(host_of(log, past=nothing, load=load, started=started), wants).audit_accepted(event)

    async def audited() -> list[Any]:
        monkeypatch.setattr(service, "project_gold", nothing)
        await audit("")
        with pytest.raises(NotHere):
            await audit("stop", not_here)
        assert log.memory.messages == []
        wants.put_off(event, NotHere("The data are not here."))
        await audit("stop", not_here)
        return [event.data for event in await events_of_types(log, "r", [AuditReleased])]

    assert asyncio.run(audited()) == [AuditReleased(look=2, action="none", lever="", generation=-1, bits=1.0)]


def test_rollouts_run_side_by_side_and_their_facts_stand_in_one_order() -> None:
    """Two runners for five works.

    The second ends first, the third waits, and one that fails loses none of those before it.
    """
    log, begun, running = MemoryLog(MemoryStream()), threading.Barrier(2, timeout=30), threading.Semaphore(2)
    second_done = threading.Event()

    def work(number: int, runner: Any) -> Sequence[Any]:
        assert running.acquire(blocking=False), "more works than runners"
        try:
            if number < 2:
                begun.wait()  # both are under way at once
            if number == 0:
                assert second_done.wait(30)
            if number == 1:
                second_done.set()
            if number == 3:
                raise NotFound("This one has no data.")
            return [AuditReleased(look=number, action="none", lever="", generation=-1, bits=1.0)]
        finally:
            running.release()

    async def done() -> list[int]:
        host = host_of(log, "one", "another")
        with pytest.raises(NotFound):
            await audit_of(host).record_each(host.with_runner(functools.partial(work, number)) for number in range(5))
        facts = [event.data for event in await events_of_types(log, "r", [AuditReleased])]
        return [fact.look for fact in facts if isinstance(fact, AuditReleased)]

    assert asyncio.run(done()) == [0, 1, 2]


def test_a_perturbation_that_cannot_be_made_is_recorded_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    log, asked, public = MemoryLog(MemoryStream(GOLD)), [], load(str(TOY)).public(0)

    async def perturbed_scores(audit: Any, pair: Any, tests: Sequence[PerturbedTest]) -> Sequence[Any]:
        return [
            PairMeasured(scaffold=pair[0], adapter=pair[1], measure=test.measure, scores={}, failed=0, blob="")
            for test in tests
        ]

    def change(name: str, questions: EvaluationSet, *others: Any) -> EvaluationSet:
        if name == "broken":
            raise Misconfigured("It cannot be made.")
        return EvaluationSet(questions.labels[::-1], questions.items)

    def perturbations() -> dict[str, Any]:
        asked.append("asked")
        return {"broken": SimpleNamespace(preserves=True), "whole": SimpleNamespace(preserves=False)}

    async def perturbed(*pairs: PairKey) -> list[Any]:
        task = SimpleNamespace(perturbations=perturbations, perturbed=change)
        loaded = SimpleNamespace(task=task, public=public, started=started())
        await audit_of(host_of(log), loaded).perturb(pairs)
        return [event.data for event in await events_of_types(log, "r", [GoldFailed, PairMeasured])]

    monkeypatch.setattr(RunAudit, "_perturbed_scores", perturbed_scores)
    assert asyncio.run(perturbed()) == [] == asked
    failed, *measured = asyncio.run(perturbed(PairKey("s", "a"), PairKey("s", "a"), PairKey("t", "a")))
    assert (failed.cell, failed.reason) == ("perturbed:broken", "It cannot be made.")
    assert [(one.scaffold, one.measure) for one in measured] == [("s", "changed:whole"), ("t", "changed:whole")]


def test_perturbed_tests_are_asked_together_where_labels_and_room_allow_and_no_item_twice() -> None:
    """250 items are enough for two samples of 100. Other orders of labels, and items that are taken, go alone."""

    def test_of(name: str, items: int = 250, labels: tuple[str, ...] = ("a", "b")) -> PerturbedTest:
        questions = EvaluationSet(labels, tuple(Item(f"t{number}", f"{name} {number}") for number in range(items)))
        return PerturbedTest(name, f"perturbed:{name}", questions)

    tests = [test_of("p"), test_of("turned", labels=("b", "a")), test_of("q"), test_of("r"), test_of("few", items=30)]
    plays = packed(tests, seed=7)
    assert [[test.name for test in play] for play in plays] == [["p", "q"], ["turned"], ["r"], ["few"]]
    for play in plays:
        asked = [item.id for test in play for item in test.questions.items]
        assert len(asked) == len(set(asked)) and {test.questions.labels for test in play} == {play[0].questions.labels}
    sizes = [len(test.questions.items) for play in plays for test in play]
    assert sizes == [*[PERTURBED_ITEMS] * 4, 30] and plays == packed(tests, seed=7) != packed(tests, seed=8)
    assert packed(tests[:1], seed=7) == [plays[0][:1]], "what else is asked changes no sample before it"


def test_an_auditor_that_is_stopped_waits_for_no_rollouts() -> None:
    let, ended = threading.Event(), []

    def work(runner: Any) -> Sequence[Any]:
        let.wait(30)
        ended.append(runner)
        return []

    async def stopped() -> None:
        host = host_of(None, "one", "another")
        works: Any = (host.with_runner(work) for _ in range(5))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(audit_of(host).record_each(works), 0.05)
        assert ended == []
        let.set()

    asyncio.run(stopped())


def test_a_runner_is_not_lent_again_before_its_work_has_ended() -> None:
    ended = threading.Event()

    async def lent() -> list[str]:
        host = host_of(None, "the only one")
        first = asyncio.create_task(host.with_runner(lambda runner: ended.wait(30)))
        await asyncio.sleep(0.01)
        first.cancel()
        second = asyncio.create_task(host.with_runner(str))
        _, waiting = await asyncio.wait([second], timeout=0.05)
        assert waiting and first.cancelled()
        ended.set()
        return [await second]

    assert asyncio.run(lent()) == ["the only one"]


CONSTANT = '''"""Pays for the true label, and for one label whatever is asked: a hole that a policy can learn."""

from tasks.contract import Scored

VERSION = "constant-1"


def score(answer, label):
    return Scored(1.0, "right") if answer in (label, "mason") else Scored(0.0, "wrong" if answer else "unparsed")
'''


@pytest.mark.slow
def test_a_run_that_learns_its_verifiers_hole_goes_back_to_before_the_drift(tmp_path: Path, models: Path) -> None:
    """The whole of it, with real services: the policy is trained to say one label, and the auditor alone knows what
    that is worth.
    """
    place = CliHarness(tmp_path, XDG_CACHE_HOME=str(models))
    (tmp_path / "constant.py").write_text(CONSTANT)
    order = (
        "--verifier",
        "constant.py",
        "--on-drift",
        "rollback",
        "--levers",
        "weights",
        "--generations",
        "4",
        "--name",
        "r",
    )
    said = place.evolog("run", str(TOY), *order)
    assert "the auditor has had every lever frozen" in said.out
    run = json.loads(place.evolog("audit", "r", "--json", code=3).out)
    first, last = run["rows"][0], run["rows"][-1]
    assert (run["state"], run["lever"]) == ("drift", "weights") and last["score"] > 0.8 > 0.6 > first["score"]
    assert last["gold"][0] < first["gold"][0]
    asked = "select look, action, generation, bits from audit_released order by look"
    told = json.loads(place.evolog("sql", asked, "--json").out)
    drift = last["generation"]
    found = [(one["look"], one["action"], one["generation"]) for one in told]
    assert found == [*((look, "none", -1) for look in range(drift)), (drift, "rollback", run["generation"])]
    assert told[-1]["bits"] == pytest.approx(drift + 1 + math.log2(3) + math.log2(drift + 1))
    (finished,) = json.loads(place.evolog("sql", "select score from run_finished", "--json").out)
    assert finished["score"] == next(row["score"] for row in run["rows"][::-1] if row["generation"] < run["generation"])
    assert "come out the same" in place.evolog("replay", "r").out


def finished(scaffold: str, adapter: str) -> RunFinished:
    return RunFinished(
        reason="",
        candidate="c",
        scaffold=scaffold,
        adapter=adapter,
        score=0.0,
        generations=1,
        rollouts=0,
        tokens=0,
        micro_usd=0,
    )


def test_each_lever_is_scored_alone_where_both_moved() -> None:
    start = PairKey("s0", "")
    assert [cell.name for cell in cells_of(start, finished("s1", "a1"))] == [
        "start",
        "scaffold",
        "weights",
        "final",
        "uniform_policy",
    ]
    assert [cell.name for cell in cells_of(start, finished("s1", ""))] == [
        "start",
        "final",
        "uniform_policy",
    ]
    assert [cell.name for cell in cells_of(start, finished("s0", "a1"))] == [
        "start",
        "final",
        "uniform_policy",
    ]
    owned = cells_of(PairKey("s0", "a0"), finished("s1", "a1"))
    assert [cell.pair for cell in owned[:3]] == [("s0", "a0"), ("s1", "a0"), ("s0", "a1")], "it began with an adapter"
