"""A fork: a new run that shares another's past, asks again for what that had not been given, and goes its own way."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from events import codec
from events.choice import FeedbackRequested, LeverChosen, ParentSelected
from events.errors import CheckFailed, UsageError
from events.judgement import CandidateEvaluated
from events.population import CandidateAccepted, CandidateKept, CandidateRejected
from events.rollouts import RolloutsRequested
from events.run import AuditReleased, Budget, RunFinished, RunStarted
from events.secret import Scanner
from events.subjects import run_of
from events.weights import TrainingBatchSealed
from replay.fork import order_of_fork, parse_settings, plan_fork
from replay.replayer import decisions, redecide
from runtime.blobs.directory import Blobs
from runtime.effects.choose import HISTORY_TYPES, earlier_choices
from runtime.log import lineage
from runtime.log.lookup import attempt_ids, events_of_types, facts_by_id
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import Stored, append_once, readable
from runtime.run.controller import Controller
from runtime.run.decide import DECIDER
from runtime.run.order import Search
from runtime.run.state import RunState, evaluation_cost
from tests.harness import generator
from tests.harness.decided_log import DecidedLog, as_history, lagging_run, long_run, missing_answers, wide_run
from tests.harness.facts import publisher, started
from tests.harness.paths import TOY

CHILD = "child"


@pytest.fixture(scope="module")
def parent() -> list[Stored]:
    """A run of five generations with both levers, hints and a refused adapter."""
    return long_run()


@pytest.fixture(scope="module")
def wide() -> list[Stored]:
    """A run of nine generations, four at a time."""
    return wide_run()


def forked(past: Sequence[Stored], **changes: Any) -> DecidedLog:
    """The fork of a past, as `evolog fork` begins it."""
    before = next(event.data for event in reversed(readable(past)) if isinstance(event.data, RunStarted))
    ordered = msgspec.structs.replace(
        before,
        parent_run=readable(past)[-1].run,
        parent_sequence=past[-1].sequence,
        parent_digest=lineage.past_digest(past),
        **changes,
    )
    told = DecidedLog(run=f"{CHILD}-{past[-1].sequence}", past=past)
    told.say(ordered)
    return told


def of(messages: Sequence[Stored], kind: type[Any]) -> list[Any]:
    return [event.data for event in readable(messages) if isinstance(event.data, kind)]


def ended(messages: Sequence[Stored]) -> tuple[Any, ...]:
    (finished,) = of(messages, RunFinished)
    return finished.score, finished.scaffold, finished.adapter, finished.generations, finished.rollouts, finished.reason


def whole(messages: Sequence[Stored]) -> list[int]:
    """How many messages may stand before a fork: no decision is cut in two."""
    cut = {
        sequence
        for one in decisions(messages).values()
        for sequence in range(one.sequence, one.sequence + one.made.outputs)
    }
    return [end for end, stored in enumerate(messages, 1) if stored.sequence not in cut]


def test_a_fork_that_changes_nothing_ends_as_its_parent_wherever_it_begins(parent: list[Stored]) -> None:
    after_decisions = {one.sequence + one.made.outputs for one in decisions(parent).values()}
    for end in sorted({*whole(parent)[:-1:7], *after_decisions} - {len(parent)}):
        told = forked(parent[:end]).go_on()
        assert ended(told.messages) == ended(parent), end
        assert redecide(as_history(told.messages, run=told.run, past=parent[:end])).difference is None


def verdicts(messages: Sequence[Stored]) -> list[Any]:
    """What became of each generation, in the order in which they were settled."""
    kinds = (CandidateEvaluated, CandidateAccepted, CandidateKept, CandidateRejected)
    told = [event.data for event in readable(messages) if isinstance(event.data, kinds)]
    ids = {one.candidate: one.generation for one in told}
    return [
        (type(one), one.generation, one.score, one.scaffold, one.adapter, [ids[parent] for parent in one.parents])
        if isinstance(one, CandidateEvaluated)
        else (type(one), one.generation)
        for one in told
    ]


@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.slow) for first in (1, 2))])
def test_a_fork_at_any_point_of_several_generations_under_way_ends_as_its_parent(
    first: int, wide: list[Stored]
) -> None:
    ends = whole(wide)[:-1][first::3]
    under_way = Counter(len(folded(wide[:end]).flights) for end in ends)
    assert under_way[4] > 6 and under_way[3] and under_way[2]
    for end in ends:
        told = forked(wide[:end])
        before = {one.generation: one for one in of(wide[:end], ParentSelected)}
        again = [one for one in of(told.messages, ParentSelected) if one.generation in before]
        assert again == [before[one.generation] for one in again], end
        told.go_on(random=Random(end))
        assert ended(told.messages) == ended(wide), end
        assert verdicts([*wide[:end], *told.messages]) == verdicts(wide), end
        if end % 5 == 0:
            assert redecide(as_history(told.messages, run=told.run, past=wide[:end])).difference is None


def test_a_fork_amid_rollouts_that_lag_seals_its_batch_again_and_asks_again_for_what_was_under_way() -> None:
    """At any point it goes on to an end, and no batch has rollouts from further back than the lag."""
    lagging = lagging_run()
    waiting = 0
    for end in whole(lagging)[:-1]:
        past = lagging[:end]
        before = folded(past)
        told = forked(past)
        (flight,) = before.flights.values() or (None,)
        if flight and flight.update and flight.phase in ("training", "serving"):
            unanswered = [shard.requested for shard in flight.shards.values() if not shard.complete]
            waiting += bool(unanswered)
            assert of(told.messages, RolloutsRequested)[: len(unanswered)] == unanswered, end
            last = of(past, TrainingBatchSealed)[-1]
            told.go_on(random=Random(end))
            again = of(told.messages, TrainingBatchSealed)[0]
            assert (again.round, again.digest) == (last.round, last.digest), end
        else:
            told.go_on(random=Random(end))
        assert of(told.messages, RunFinished)[0].reason == "all 6 generations are done", end
        assert largest_lag([*past, *told.messages]) <= 1, end
        assert redecide(as_history(told.messages, run=told.run, past=past)).difference is None
    assert waiting > 6


def largest_lag(messages: Sequence[Stored]) -> int:
    """How many versions the furthest rollouts of a batch's own round are behind the adapter that it trains."""
    requests = {event.id: event.data for event in readable(messages) if isinstance(event.data, RolloutsRequested)}
    adapters: dict[int, list[str]] = {}
    furthest = 0
    for sealed in of(messages, TrainingBatchSealed):
        versions = adapters.setdefault(sealed.generation, [])
        if sealed.parent_adapter not in versions:
            versions.append(sealed.parent_adapter)
        at = versions.index(sealed.parent_adapter)
        own = [requests.pop(id) for id in sealed.requests if id in requests]
        furthest = max([furthest, *(at - versions.index(one.adapter) for one in own if one.purpose == "train")])
    return furthest


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 1},
        {"width": 6, "budget": Budget(rollouts=300)},
        {"strategy": "chain"},
        {"strategy": "best_of_k"},
        {"first_items": 0, "recheck": 0},
        {"first_items": 3, "recheck": 2},
        {"schedule": "alternate", "refills": 0},
        {"verifier": "v2"},
        {"levers": ("scaffold",)},
        {"budget": Budget(rollouts=100)},
    ],
    ids=str,
)
def test_a_fork_that_changes_its_search_goes_on_to_an_end(changes: dict[str, Any], wide: list[Stored]) -> None:
    """Each candidate that it judges was asked each dev item once. Its budget holds, but for judging what is under way
    where a smaller one has no room left.
    """
    limit = changes.get("budget", Budget(rollouts=170)).rollouts
    for end in whole(wide)[:-1:13]:
        past = wide[:end]
        told = forked(past, **changes).go_on(random=Random(end))
        assert redecide(as_history(told.messages, run=told.run, past=past)).difference is None
        assert {one.items for one in of(told.messages, CandidateEvaluated)} <= {4}, end
        under_way = folded(past)
        least = under_way.spent[0] + len(under_way.flights) * evaluation_cost(of(past, RunStarted)[0])
        assert ended(told.messages)[4] <= max(limit, least if limit < 170 else 0), end


def test_a_fork_under_another_strategy_selects_anew_where_an_agent_was_asked(wide: list[Stored]) -> None:
    end = next(end for end in whole(wide) if len(of(wide[:end], FeedbackRequested)) == 4)
    before, same, other = (
        [one.change for one in of(messages, ParentSelected)]
        for messages in (wide[:end], forked(wide[:end]).messages, forked(wide[:end], strategy="best_of_k").messages)
    )
    assert before == same == ["agent"] * 4 and other == ["repeat"] * 4


def test_a_fork_of_a_child_run_belongs_to_nobody(parent: list[Stored], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLOG_ALLOW_UNSANDBOXED", "1")
    begun = msgspec.structs.replace(
        of(parent, RunStarted)[0],
        task=str(TOY),
        sandbox="none",
        owner="mother",
        owner_generation=2,
        start_scaffold="s0",
    )
    told = DecidedLog()
    told.say(begun)
    plan = plan_fork(
        as_history(told.messages),
        told.messages[-1].sequence,
        order_of_fork(begun, {}),
        {},
        Blobs(Path("nowhere")),
        lambda done, total, loss: None,
    )
    assert (plan.owner, plan.owner_generation, plan.start_scaffold) == ("", 0, "s0")


def test_how_a_fork_searches_is_set_by_words_and_numbers_within_bounds(parent: list[Stored]) -> None:
    begun = msgspec.structs.replace(of(parent, RunStarted)[0], strategy="dgm", width=4, recheck=2)
    changes = parse_settings(["width=8", "first_items=3", "refills=1", "schedule=alternate", "strategy=best_of_k"])
    assert order_of_fork(begun, {}).search == Search(strategy="dgm", width=4, recheck=2)
    assert order_of_fork(begun, changes).search == Search("best_of_k", 8, 3, 2, 1, "alternate")
    for wrong in ("width=0", "width=65", "recheck=-1", "refills=21", "strategy=best", "schedule=both"):
        with pytest.raises(UsageError, match=wrong):
            order_of_fork(begun, parse_settings([wrong]))


def test_a_fork_of_a_fork_reads_both_pasts(parent: list[Stored]) -> None:
    middle = forked(parent[: len(parent) // 3]).go_on()
    past = [*parent[: len(parent) // 3], *middle.messages[: whole(middle.messages)[len(whole(middle.messages)) // 2]]]
    last = forked(past).go_on()
    assert ended(last.messages) == ended(parent)
    assert redecide(as_history(last.messages, run=last.run, past=past)).difference is None


def test_what_was_answered_is_not_asked_again(parent: list[Stored]) -> None:
    first = next(place for place, stored in enumerate(parent) if stored.subject.endswith("trajectory_scored"))
    told = forked(parent[: first + 4])  # the four dev items are scored, the probe is not
    (again,) = of(told.messages, RolloutsRequested)
    assert again.purpose == "probe" and again == of(parent, RolloutsRequested)[1]


def test_a_finished_run_goes_on_with_more_generations(parent: list[Stored]) -> None:
    told = forked(parent, generations=6).go_on()
    assert ended(told.messages)[3] == 6 and [one.generation for one in of(told.messages, CandidateEvaluated)] == [6]


def test_a_budget_counts_the_past(parent: list[Stored]) -> None:
    spent = of(parent, CandidateEvaluated)[1].rollouts
    end = next(end for end in whole(parent) if any(one.generation == 1 for one in of(parent[:end], CandidateEvaluated)))
    told = forked(parent[:end], budget=Budget(rollouts=spent)).go_on()
    assert ended(told.messages)[4:] == (spent, "budget exhausted")


@pytest.mark.parametrize("cut", ["rollouts_requested", "training_batch_sealed", "adapter_published"])
def test_another_algorithm_trains_from_the_round_under_way_on(cut: str, parent: list[Stored]) -> None:
    at = next(
        end
        for end in whole(parent)
        if any(f".{cut}" in stored.subject and b'"round":1' in stored.data for stored in parent[:end][-3:])
        and any("weight_update_requested" in stored.subject for stored in parent[:end])
    )
    sealed = of(forked(parent[:at], algorithm="rloo").go_on().messages, TrainingBatchSealed)
    assert sealed[0].round == 1 and {one.algorithm for one in sealed} == {"rloo"} and sealed[0].hyper == {}


def test_under_another_verifier_the_best_candidate_is_judged_anew(parent: list[Stored]) -> None:
    end = whole(parent)[-2]
    told = forked(parent[:end], verifier="v2", generations=5)
    asked = of(told.messages, RolloutsRequested)
    best = ended(parent)
    assert {one.purpose for one in asked} == {"dev", "probe"} and {(one.scaffold, one.adapter) for one in asked} == {
        best[1:3]
    }


def test_on_another_base_model_the_best_scaffold_starts_without_its_adapter(parent: list[Stored]) -> None:
    trained = next(
        end for end in whole(parent) if any("weight_update_finished" in stored.subject for stored in parent[:end])
    )
    asked = of(forked(parent[:trained], base_model="c", policy="other").messages, RolloutsRequested)
    assert {one.adapter for one in asked} == {""}


def test_a_real_controller_goes_on_from_the_past_on_its_log_and_refuses_another(parent: list[Stored]) -> None:
    async def check() -> None:
        log = MemoryLog(MemoryStream())
        for stored in parent:
            log.memory.messages.append(stored)
            log.memory.last_sequences[stored.subject] = stored.sequence
            log.memory.ends[stored.subject.rpartition(".")[0] + ".*"] = stored.sequence
        begun = of(forked(parent[:60]).messages, RunStarted)[0]
        false = msgspec.structs.replace(begun, parent_digest="0" * 64)
        controller = Controller(log, DECIDER, Scanner([]))
        for run, fact in (("true", begun), ("false", false)):
            await append_once(log, [codec.event(fact, run=run, source=publisher(fact), cause="", time="")], Scanner([]))
        for _ in range(2000):
            if not await controller.step():
                mine = [stored for stored in log.memory.messages if ".true." in stored.subject]
                told = [
                    codec.event(fact, run="true", source=publisher(fact), cause="", time="")
                    for fact in missing_answers(mine)[:1]
                ]
                if not told:
                    break
                await append_once(log, told, Scanner([]))
        assert ended([stored for stored in log.memory.messages if ".true." in stored.subject]) == ended(parent)
        assert sum(".false." in stored.subject for stored in log.memory.messages) == 1

    asyncio.run(check())


def test_a_reader_of_a_fork_finds_what_stands_in_its_past_and_nothing_that_came_later(parent: list[Stored]) -> None:
    async def check() -> None:
        end = whole(parent)[len(whole(parent)) // 2]
        told = forked(parent[:end])
        log = as_history(told.messages, run=told.run, past=parent).log
        spans = await lineage.ancestors(log, told.run)
        assert spans == (lineage.Span("r", parent[end - 1].sequence),)
        evaluated = await events_of_types(log, told.run, [CandidateEvaluated], spans)
        assert (
            [event.data for event in evaluated]
            == of(parent[:end], CandidateEvaluated)
            != of(parent, CandidateEvaluated)
        )
        assert await lineage.past(log, told.run) == parent[:end]
        late, asked = next(
            (event.id, event.data) for event in readable(parent[end:]) if isinstance(event.data, RolloutsRequested)
        )
        assert await facts_by_id(log, told.run, RolloutsRequested, [late], spans) == {}
        assert attempt_ids("r", late, asked) != attempt_ids(told.run, late, asked)

    asyncio.run(check())


def test_a_past_that_was_changed_is_refused(parent: list[Stored]) -> None:
    told = forked(parent[:60])
    wrong = [msgspec.structs.replace(parent[5], data=parent[5].data + b" "), *parent[6:60]]
    with pytest.raises(CheckFailed, match="its fork was made from"):
        redecide(as_history(told.messages, run=told.run, past=[*parent[:5], *wrong]))


def test_a_fork_of_what_waits_to_be_asked_again_may_be_judged_by_another_verifier(parent: list[Stored]) -> None:
    first = forked(parent[: place_of_scores(parent) + 2])
    past = [
        *parent[: place_of_scores(parent) + 2],
        *first.messages[:1],
    ]  # the fork has begun, and has not asked again yet
    told = forked(past, verifier="v2").go_on()
    assert (
        of(told.messages, RunFinished)
        and redecide(as_history(told.messages, run=told.run, past=past)).difference is None
    )


def place_of_scores(messages: Sequence[Stored]) -> int:
    return next(place for place, stored in enumerate(messages) if stored.subject.endswith("trajectory_scored"))


def test_a_run_that_its_agent_ended_goes_on_under_another_verifier() -> None:
    told = DecidedLog()
    told.say(started(generations=5))
    while not of(told.messages, FeedbackRequested)[1:]:
        told.say(missing_answers(told.messages)[0])
    told.say(
        LeverChosen(
            generation=told.session.state.generation,
            lever="stop",
            action="",
            reason="enough",
            propensities={},
            diagnosis={},
        )
    )
    assert ended(told.messages)[-1] == "enough"
    for changes in ({}, {"verifier": "v2"}, {"base_model": "c"}):
        assert ended(forked(told.messages, **changes).go_on().messages)[-1] == "all 5 generations are done"


def test_judging_anew_takes_a_generation_of_its_own_that_counts_for_none(parent: list[Stored]) -> None:
    told = forked(parent, verifier="v2", generations=7).go_on()
    evaluated = of(told.messages, CandidateEvaluated)
    assert [(one.generation, one.lever) for one in evaluated] == [(6, "start"), (7, "weights"), (8, "weights")]
    choice = LeverChosen(generation=7, lever="weights", action="grpo", reason="", propensities={}, diagnosis={})
    known = [event for event in readable([*parent, *told.messages]) if isinstance(event.data, HISTORY_TYPES)]
    known.append(codec.event(choice, run=told.run, source="feedback_agent", cause="", time=""))
    (requested,) = [one for one in of(told.messages, FeedbackRequested) if one.generation == 8]
    (tried,) = earlier_choices(known, requested)
    assert (tried.before, tried.after) == (evaluated[0].score, evaluated[1].score)


def test_judging_anew_is_nobodys_turn_in_a_schedule(parent: list[Stored]) -> None:
    told = forked(parent, verifier="v2", generations=9, schedule="alternate").go_on()
    turns = {one.generation: (one.levers, one.propensities) for one in of(told.messages, FeedbackRequested)}
    assert turns[7] == (("weights",), {"scaffold": 0.0, "weights": 1.0})
    assert turns[8] == (("scaffold",), {"scaffold": 1.0, "weights": 0.0})


def test_a_fork_without_the_weights_ends_the_update_under_way(parent: list[Stored]) -> None:
    trained = next(end for end in whole(parent) if any("adapter_served" in stored.subject for stored in parent[:end]))
    told = forked(parent[:trained], levers=("scaffold",)).go_on()
    assert not [one for one in of(told.messages, TrainingBatchSealed) if one.generation == 3] and of(
        told.messages, RunFinished
    )


def test_what_the_auditor_had_done_does_not_outlive_the_scores_that_it_was_about() -> None:
    """A run whose levers were frozen, forked to another verifier or to where nobody may act, has them again."""
    told = DecidedLog()
    told.say(started(generations=5))
    while not of(told.messages, FeedbackRequested)[1:]:
        told.say(missing_answers(told.messages)[0])
    told.say(AuditReleased(look=1, action="freeze", lever="both", generation=1, bits=2.0))
    told.say(
        LeverChosen(
            generation=told.session.state.generation,
            lever="stop",
            action="",
            reason="enough",
            propensities={},
            diagnosis={},
        )
    )
    frozen = "the auditor has had every lever frozen"
    for changes, reason in (
        ({"on_drift": "freeze"}, frozen),
        ({"on_drift": ""}, "all 5 generations are done"),
        ({"on_drift": "freeze", "verifier": "v2"}, "all 5 generations are done"),
    ):
        assert ended(forked(told.messages, **changes).go_on().messages)[-1] == reason


def test_a_fork_that_the_auditor_may_act_on_waits_for_each_look_at_what_it_keeps(parent: list[Stored]) -> None:
    """Wherever its parent was left, also while a generation was played. What the parent kept is not waited for."""
    for end in whole(parent)[::7]:
        told = forked(parent[:end], on_drift="stop").go_on()
        waiting: set[int] = set()
        for event in readable(told.messages):
            match event.data:
                case CandidateAccepted(generation=generation):
                    waiting.add(generation)
                case AuditReleased(look=look):
                    waiting.discard(look)
                case FeedbackRequested() | RunFinished():
                    assert not waiting, (end, event.data)
        assert of(told.messages, RunFinished)


def test_a_past_is_folded_without_the_attempts_that_an_evaluation_sums_up(
    parent: list[Stored], wide: list[Stored], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a run is left, the state is that of all events, and a fork decides the same."""
    generated = [stored for stored in generator.log(3000, runs=1, items=30) if run_of(stored.subject) == "run-0"]
    pasts = [generated[:end] for end in whole(generated)[::211]]
    before = parent[: len(parent) // 3]
    middle = forked(before).go_on()
    pasts += [[*before, *middle.messages[:end]] for end in whole(middle.messages)[::17]]
    pasts += [wide[:end] for end in whole(wide)]
    decided = [forked(past, first_items=3).messages for past in pasts[::9]]
    states = [folded(past) for past in pasts]
    assert any(candidate.rewards for state in states for candidate in state.population)
    assert any(len(state.accepted) > 1 and state.tokens and state.flights for state in states)
    assert sum(1 for _ in lineage.in_folding_order(generated)) < len(generated) / 2
    monkeypatch.setattr(lineage, "SUMMED_UP", frozenset())
    assert states == [folded(past) for past in pasts]
    assert decided == [forked(past, first_items=3).messages for past in pasts[::9]]


def folded(past: Sequence[Stored]) -> RunState:
    state = DECIDER.initial(CHILD)
    for event in lineage.in_folding_order(past):
        state = DECIDER.evolve(state, event)
    return state
