"""What a run with several generations under way does next, told as given-when-then."""

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from random import Random
from typing import Any

import msgspec
import pytest

from algorithms.search import dgm
from algorithms.search.catalogue import STRATEGIES
from algorithms.search.strategy import Member, ParentChoice, Strategy
from events import codec
from events.change import ChildRunFinished, ChildRunOrdered, ChildRunRequested, ProposalFailed
from events.choice import FeedbackRequested, ParentSelected
from events.codec import Event
from events.fact import Fact, derive, derive_seed
from events.judgement import CandidateEvaluated, CandidateRechecked, JudgeCalled, StageEvaluated, TrajectoryScored
from events.kinds import AuditAction, AuditLever
from events.population import ArtefactPublished, CandidateAccepted, CandidateKept, CandidateRejected
from events.rollouts import ModelCalled, RolloutsRequested
from events.run import AuditReleased, Budget, RunCancelled, RunFinished, RunPaused, RunStarted, TimeSpent
from events.weights import TrainingBatchSealed
from runtime.run import looks
from runtime.run.child import child_started
from runtime.run.state import descendants, members
from tests.harness.decided_log import answers
from tests.harness.facts import DEV, RUN, agent_called, chosen, proposed, scores, started, update
from tests.harness.few import few
from tests.harness.given import Scenario, given

VERDICTS = (CandidateAccepted, CandidateKept, CandidateRejected)
MINUTE = 60.0


def ordered(strategy: str = "dgm", width: int = 4, generations: int = 8, **fields: Any) -> RunStarted:
    return msgspec.structs.replace(started(generations), strategy=strategy, width=width, **fields)


def played(story: Scenario, right: AbstractSet[str]) -> Scenario:
    return story.when(*scores(story.of(RolloutsRequested), {*right}))


def begun(start: RunStarted, right: AbstractSet[str] = frozenset({"d1"})) -> Scenario:
    """A run whose start was accepted, so that generations have begun."""
    return played(given(start, proposed()), right)


def tried(story: Scenario, generation: int, right: set[str]) -> Scenario:
    """Another scaffold in a generation, that solves these items."""
    return played(story.when(proposed(generation, f"s{generation}")), right)


def verdicts(story: Scenario) -> list[tuple[str, int]]:
    return [(type(fact).tag(), fact.generation) for fact in story.decided if isinstance(fact, VERDICTS)]


def id_of(generation: int) -> str:
    return derive(RUN, "candidate", generation)


def made_from(parents: Mapping[int, tuple[int, ...]]) -> Strategy:
    """A strategy that has each generation made from these, one or two, and judges as dgm does."""
    numbers = {Random(derive_seed(started().seed, "parent", number)).random(): number for number in parents}

    def select(population: Sequence[Member], random: Random) -> ParentChoice | None:
        ids = {member.generation: member.id for member in population}
        chosen = tuple(ids[generation] for generation in parents[numbers[random.random()]])
        return ParentChoice(chosen, {chosen[0]: 1.0}, "agent")

    return Strategy(select, dgm.judge)


# how generations begin and end


def test_as_many_generations_begin_as_the_width_allows_each_from_what_is_settled() -> None:
    asked = begun(ordered()).of(FeedbackRequested)
    assert [fact.generation for fact in asked] == [1, 2, 3, 4]
    assert {(fact.candidate, fact.scaffold, fact.settled) for fact in asked} == {(id_of(0), "s0", 0)}
    assert [fact.beside for fact in asked] == [(), (1,), (1, 2), (1, 2, 3)]


def test_a_chain_of_width_one_has_one_generation_under_way() -> None:
    assert len(begun(ordered("chain", width=1)).of(FeedbackRequested)) == 1


def test_generations_end_in_any_order_and_are_settled_in_order() -> None:
    story = begun(ordered())
    tried(story, 3, {"d1", "d2", "d3"}).then_nothing()
    tried(story, 2, set()).then_nothing()
    tried(story, 1, {"d1", "d2"})
    assert verdicts(story) == [("candidate_accepted", 1), ("candidate_kept", 2), ("candidate_accepted", 3)]
    assert [fact.generation for fact in story.of(FeedbackRequested)] == [5, 6, 7]
    tried(story, 4, {"d1", "d2"})
    assert verdicts(story) == [("candidate_kept", 4)]  # against generation 3, though it began beside it


def test_the_next_generation_begins_from_the_population_as_it_was_after_one_more_was_settled() -> None:
    story = begun(ordered())
    for generation in (4, 3, 2):
        tried(story, generation, {"d1"})
    tried(story, 1, {"d1"})
    assert [len(fact.probabilities) for fact in story.of(ParentSelected)] == [2, 3, 4, 5]
    assert [fact.settled for fact in story.of(FeedbackRequested)] == [1, 2, 3, 4]


def test_a_generation_that_fails_waits_for_its_turn_too() -> None:
    story = begun(ordered())
    story.when(chosen(2, "stop")).then_nothing()
    tried(story, 1, {"d1"})
    assert verdicts(story) == [("candidate_kept", 1), ("candidate_rejected", 2)]


class AnyOrder:
    """A run whose answers come in an order that is drawn: what stands before what in the log, stays so."""

    def __init__(self, start: RunStarted, seed: int) -> None:
        self.story = Scenario()
        self.draw = Random(seed)
        self._waiting: list[list[Fact]] = []
        self._say(start)
        while self._waiting:
            place = self.draw.randrange(len(self._waiting))
            fact = self._waiting[place].pop(0)
            self._waiting = [facts for facts in self._waiting if facts]
            self._say(fact)

    @property
    def decided(self) -> dict[str, Fact]:
        """All that was decided, by id, but for the decisions' heads."""
        return {event.id: event.data for decision in self.story.decisions for event in decision.events[1:]}

    def _say(self, fact: Fact) -> None:
        before = len(self.story.decisions)
        self.story.when(fact)
        for decision in self.story.decisions[before:]:
            for event in decision.events[1:]:
                self._waiting += answered(event)
        if not isinstance(fact, RunStarted | TrajectoryScored | ModelCalled | JudgeCalled):
            self._waiting += [[answer] for answer in answers(codec.event(fact, run=RUN, source="", cause="", time=""))]


def answered(event: Event) -> list[list[Fact]]:
    """What comes in answer to a decision: of each item a call of the policy, then what each attempt is worth."""
    found = answers(event)
    if not isinstance(event.data, RolloutsRequested):
        return [[fact] for fact in found]
    by_item: dict[str, list[Fact]] = {item: [called(event.id, item)] for item in event.data.items}
    for fact in found:
        assert isinstance(fact, TrajectoryScored)
        by_item[fact.item] += [judge_called(fact.trajectory, event.data.generation), fact]
    return list(by_item.values())


def called(request: str, item: str) -> ModelCalled:
    return ModelCalled(
        request=request,
        item=item,
        ordinal=0,
        provider="p",
        model="m",
        adapter="",
        body="b",
        index=0,
        sampling_seed=0,
        temperature=1.0,
        texts=("",),
        tokens=((0,),),
        logprobs=((0.0,),),
        prompt_tokens=len(item + request),
        completion_tokens=1,
        micro_usd=2,
        seconds=0.0,
    )


def judge_called(trajectory: str, generation: int) -> JudgeCalled:
    return JudgeCalled(
        trajectory=trajectory,
        ordinal=0,
        provider="p",
        model="m",
        request="q",
        response="a",
        prompt_tokens=3,
        completion_tokens=4,
        micro_usd=5,
        seconds=0.0,
        attempts=1,
        status="answered",
        generation=generation,
    )


ORDERS: Mapping[str, RunStarted] = {
    "dgm": ordered(),
    "dgm, few rollouts": ordered(budget=Budget(rollouts=75)),
    "dgm, few tokens": ordered(budget=Budget(tokens=6000)),
    "dgm, in stages, with second looks and refills": ordered(first_items=2, recheck=2, refills=2),
    "chain": ordered("chain"),
    "chain, in turn": ordered("chain", schedule="alternate", first_items=1, recheck=1),
    "best_of_k": ordered("best_of_k", budget=Budget(rollouts=40)),
    "best_of_k, width 2": ordered("best_of_k", width=2),
}


@pytest.mark.parametrize("name", few(ORDERS, *(name for name in ORDERS if "in stages" not in name)))
def test_the_same_is_decided_in_whichever_order_answers_come(name: str) -> None:
    first = AnyOrder(ORDERS[name], 0)
    assert first.story.session.state.finished
    for seed in range(1, 50 if name in ("dgm, few rollouts", "dgm, in stages, with second looks and refills") else 10):
        other = AnyOrder(ORDERS[name], seed)
        assert other.decided == first.decided
        assert other.story.session.state.population == first.story.session.state.population


def test_orders_of_answers_differ_and_settling_does_not() -> None:
    runs = [AnyOrder(ORDERS["dgm"], seed) for seed in range(10)]
    assert len({tuple(run.decided) for run in runs}) > 1
    for run in runs:
        settled = [fact.generation for fact in run.decided.values() if isinstance(fact, VERDICTS)]
        assert settled == list(range(9))


# the budget


def test_what_generations_are_granted_adds_up_to_the_budget() -> None:
    story = begun(ordered(budget=Budget(rollouts=101)))
    state = story.session.state
    assert [flight.grant for flight in state.flights.values()] == [23, 24, 24, 24]
    assert state.rollouts + sum(flight.grant or 0 for flight in state.flights.values()) == 101
    assert [fact.rollouts_left for fact in story.of(FeedbackRequested)] == [17, 18, 18, 18]


def test_what_a_generation_left_is_granted_to_the_next() -> None:
    story = tried(begun(ordered(budget=Budget(rollouts=101))), 1, {"d1"})
    assert [flight.grant for flight in story.session.state.flights.values()] == [24, 24, 24, 17]  # 23 less 6


def test_a_generation_without_room_for_an_evaluation_does_not_begin() -> None:
    story = begun(ordered(budget=Budget(rollouts=6 + 6 + 6 + 5)))
    assert [fact.generation for fact in story.of(FeedbackRequested)] == [1, 2]
    tried(story, 2, {"d1"})
    tried(story, 1, {"d1"})
    (finished,) = story.of(RunFinished)
    assert (finished.reason, finished.rollouts) == ("budget exhausted", 18)


@pytest.mark.parametrize("name", ORDERS)
def test_no_more_rollouts_are_asked_for_than_the_budget_has(name: str) -> None:
    run = AnyOrder(ORDERS[name], 3)
    requests = [fact for fact in run.decided.values() if isinstance(fact, RolloutsRequested)]
    (finished,) = (fact for fact in run.decided.values() if isinstance(fact, RunFinished))
    limit = ORDERS[name].budget.rollouts
    assert finished.rollouts == sum(len(fact.items) * fact.attempts for fact in requests)
    assert limit is None or finished.rollouts <= limit
    assert finished.reason != "budget exhausted" or limit is None or limit - finished.rollouts < 6


# strategies


def test_dgm_keeps_what_runs_and_selects_by_score_and_children() -> None:
    story = begun(ordered(width=1))
    tried(story, 1, set())
    assert verdicts(story) == [("candidate_kept", 1)]
    (selected,) = story.of(ParentSelected)
    # s = 1/(1 + e^2.5) and 1/(1 + e^5), h = 1/2 and 1: .0758581800/2 : .0066928509
    assert selected.probabilities == pytest.approx({id_of(0): 0.850010, id_of(1): 0.149990}, abs=1e-6)
    finished = story.when(RunCancelled(reason="")).of(RunFinished)[0]
    assert finished.scaffold == "s0"  # what was kept is not what a run ends with


def test_a_candidate_counts_how_often_it_was_selected_and_what_came_of_it() -> None:
    story = begun(ordered())
    tried(story, 1, {"d1"})
    start, first = members(story.session.state.population)
    assert (start.visits + first.visits, start.children, first.children) == (5, 1, 0)
    assert first.parents == (start.id,)


def test_best_of_k_asks_the_start_again_with_other_seeds_and_pulls_no_lever() -> None:
    story = begun(ordered("best_of_k", width=2, generations=3))
    assert not story.of(FeedbackRequested)
    assert [(fact.change, fact.candidate) for fact in story.of(ParentSelected)] == [("repeat", id_of(0))] * 2
    requests = story.of(RolloutsRequested)
    assert [(fact.generation, fact.purpose, fact.attempts, fact.temperature) for fact in requests] == [
        (1, "dev", 1, 1.0),
        (1, "probe", 1, 1.0),
        (2, "dev", 1, 1.0),
        (2, "probe", 1, 1.0),
    ]
    assert {(fact.scaffold, fact.adapter) for fact in requests} == {("s0", "")}
    assert len({fact.seed for fact in requests}) == 4
    story.when(*scores([fact for fact in requests if fact.generation == 2], {*DEV})).then_nothing()
    story.when(*scores([fact for fact in requests if fact.generation == 1], {"t1"}))
    assert verdicts(story) == [("candidate_accepted", 1), ("candidate_rejected", 2)]  # by train, and not by dev
    (evaluated, _) = story.of(CandidateEvaluated)
    assert (evaluated.lever, evaluated.parents) == ("repeat", (id_of(0),))


def test_an_agent_that_gives_up_on_one_candidate_ends_no_run_that_has_another() -> None:
    story = begun(ordered(width=2, generations=4))
    story.when(chosen(1, "stop"))
    assert verdicts(story) == [("candidate_rejected", 1)]
    assert story.of(CandidateRejected)[0].reason == "the agent chose to stop here: enough"
    assert not story.of(FeedbackRequested)  # there is none but the one that it has given up on
    tried(story, 2, set())
    assert [fact.probabilities for fact in story.of(ParentSelected)] == [{id_of(2): 1.0}] * 2
    story.when(chosen(4, "stop")).then_nothing()
    (finished,) = story.when(chosen(3, "stop")).of(RunFinished)
    assert (finished.reason, finished.scaffold) == ("enough", "s0")


def test_a_candidate_of_two_parents_names_both_and_starts_from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dict_of_strategies(), "two", made_from({1: (0,), 2: (1, 0), 3: (2,)}))
    story = begun(ordered("two", width=1))
    tried(story, 1, {"d1", "d2"})
    (selected,), (asked,) = story.of(ParentSelected), story.of(FeedbackRequested)
    assert (selected.candidate, selected.second) == (id_of(1), id_of(0))
    assert (asked.scaffold, asked.second_scaffold) == ("s1", "s0")
    tried(story, 2, {"d1"})
    assert story.of(CandidateEvaluated)[0].parents == (id_of(1), id_of(0))
    assert [member.children for member in members(story.session.state.population)] == [2, 1, 0]


def test_what_comes_of_a_candidate_by_either_parent_is_its_descendant(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = made_from({1: (0,), 2: (0,), 3: (2, 1), 4: (3,), 5: (2,), 6: (0,)})
    monkeypatch.setitem(dict_of_strategies(), "tree", tree)
    story = begun(ordered("tree", width=1))
    for generation in range(1, 6):
        tried(story, generation, {"d1"})
    assert descendants(story.session.state.population, [id_of(1)]) == {id_of(1), id_of(3), id_of(4)}


def dict_of_strategies() -> dict[str, Strategy]:
    assert isinstance(STRATEGIES, dict)
    return STRATEGIES


# looks at a candidate


def differing(first_items: int, recheck: int, worse: int) -> Scenario:
    """Eight dev items, all solved by the start; the first change fails at so many of them, the first ones first."""
    dev = tuple(f"d{number}" for number in range(1, 9))
    order = ordered("chain", width=1, first_items=first_items, recheck=recheck)
    items = msgspec.structs.replace(order.items, dev=dev)
    story = begun(msgspec.structs.replace(order, items=items), {*dev})
    story.when(proposed(1, "s1"))
    return played(story, {*dev[worse:]})


@pytest.mark.parametrize(("worse", "passed"), [(5, True), (6, False)])
def test_fewer_than_six_items_that_differ_say_nothing(worse: int, passed: bool) -> None:
    """Six that all speak against a candidate do so by chance in 1 of 64 cases, five in 1 of 32."""
    (stage,) = differing(first_items=7, recheck=0, worse=worse).of(StageEvaluated)
    assert stage.passed == passed
    looked = differing(first_items=0, recheck=1, worse=worse).of(RolloutsRequested)
    assert [asked.purpose for asked in looked] == (["recheck", "recheck"] if passed else [])


@pytest.fixture
def few_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four dev items are enough to tell two candidates apart."""
    monkeypatch.setattr(looks, "FEWEST", 1)


@pytest.mark.usefixtures("few_tell")
def test_a_candidate_is_asked_the_first_items_and_then_the_others_each_once() -> None:
    story = begun(ordered("chain", width=1, first_items=2))
    first = story.when(proposed(1, "s1")).of(RolloutsRequested)
    assert [(fact.purpose, fact.shard, fact.items) for fact in first] == [("dev", 0, ("d1", "d2"))]
    story.when(*scores(first, {"d2"}))
    (stage,) = story.of(StageEvaluated)
    assert (stage.passed, stage.score, stage.items, stage.failed) == (True, 0.5, 2, 0)
    rest = story.of(RolloutsRequested)
    assert [(fact.purpose, fact.shard, fact.items) for fact in rest] == [
        ("dev", 1, ("d3", "d4")),
        ("probe", 0, ("t1",)),
    ]
    (evaluated,) = story.when(*scores(rest, {"d3"})).of(CandidateEvaluated)
    assert (evaluated.items, evaluated.score, evaluated.rollouts) == (4, 0.5, 6 + 6)


@pytest.mark.usefixtures("few_tell")
def test_a_candidate_that_does_worse_on_the_first_items_is_asked_no_others() -> None:
    story = begun(ordered("chain", width=1, first_items=2), {*DEV})
    story.when(proposed(1, "s1"))
    played(story, set())
    (stage,) = story.of(StageEvaluated)
    assert (stage.passed, stage.score) == (False, 0.0)
    assert story.of(CandidateRejected)[0].reason == stage.reason
    assert stage.reason == "-1.0000 against its parent on the first 2 items, at most -1.0000"
    assert not story.of(CandidateEvaluated) and story.session.state.rollouts == 6 + 2


def test_the_start_and_a_repeat_are_asked_all_items_at_once() -> None:
    for strategy in ("chain", "best_of_k"):
        story = given(ordered(strategy, width=1, first_items=2), proposed())
        assert [fact.items for fact in story.of(RolloutsRequested)] == [DEV, ("t1",)]
    assert [fact.items for fact in played(story, {"d1"}).of(RolloutsRequested)] == [DEV, ("t1",)]


def test_candidates_too_close_to_call_are_both_looked_at_again_and_the_pooled_difference_decides() -> None:
    story = begun(ordered("chain", width=1, recheck=1), {"d1", "d2"})
    story = tried(story, 1, {"d1", "d3"})
    asked = story.of(RolloutsRequested)
    assert [(fact.purpose, fact.round, fact.scaffold, fact.items) for fact in asked] == [
        ("recheck", 1, "s1", DEV),
        ("recheck", 2, "s0", DEV),
    ]
    assert len({fact.seed for fact in asked}) == 2 and not story.of(CandidateEvaluated)
    second, theirs = ([fact] for fact in asked)
    story.when(*scores(second, {*DEV}), *scores(theirs, {"d1", "d2"}))
    # first looks differ by 0, -1, 1, 0; second ones by 0, 0, 1, 1: pooled 0, -1/2, 1, 1/2
    (looked,) = story.of(CandidateRechecked)
    assert (looked.difference, looked.items, looked.attempts, looked.against) == (0.25, 4, 1, id_of(0))
    half = 3.182 * (1.25 / 3) ** 0.5 / 2  # squares of -1/4, -3/4, 3/4, 1/4 over 3; t of 3 degrees of freedom
    assert (looked.low, looked.high) == pytest.approx((0.25 - half, 0.25 + half))
    (evaluated,) = story.of(CandidateEvaluated)
    assert (evaluated.score, evaluated.items, evaluated.rollouts) == (0.5, 4, 6 + 6 + 8)
    assert story.of(CandidateAccepted)[0].reason == "0.7500 on dev, the best so far was 0.5000"


def test_what_a_second_look_gave_must_be_beaten_by_the_next() -> None:
    """The first look's score is recorded; accepting by the second must not lower the bar."""
    story = tried(
        begun(ordered("chain", width=1, recheck=1, budget=Budget(rollouts=6 + 6 + 8 + 7)), {"d1", "d2"}), 1, {"d1"}
    )
    second, theirs = ([fact] for fact in story.of(RolloutsRequested))
    story.when(*scores(second, {*DEV}), *scores(theirs, {"d1"}))
    # first looks differ by 0, -1, 0, 0; second ones by 0, 1, 1, 1: pooled 0, 0, 1/2, 1/2
    assert story.of(CandidateAccepted)[0].score == 0.25
    (best,) = [one for one in members(story.session.state.population) if one.generation == 1]
    assert best.score == 0.5 + 0.25
    played(story.when(proposed(2, "s2")), {"d1", "d2"})  # no rollouts are left for a second look
    assert story.of(CandidateRejected)[0].reason == "0.5000 on dev does not beat 0.7500"


def test_a_second_look_may_reverse_the_first() -> None:
    story = tried(begun(ordered("chain", width=1, recheck=2), {"d1"}), 1, {"d1", "d2"})
    second, theirs = ([fact] for fact in story.of(RolloutsRequested))
    story.when(*scores(second, {"d1"}), *scores(theirs, {"d1", "d2"}))
    # first looks differ by 0, 1, 0, 0; second ones, of twice the weight, by 0, -1, 0, 0
    assert story.of(CandidateRechecked)[0].difference == pytest.approx(-1 / 12)
    assert verdicts(story) == [("candidate_rejected", 1)]


@pytest.mark.usefixtures("few_tell")
def test_what_is_not_close_or_too_dear_is_not_looked_at_again() -> None:
    clear = tried(begun(ordered("chain", width=1, recheck=1), set()), 1, {*DEV})
    assert verdicts(clear) == [("candidate_accepted", 1)] and not clear.of(CandidateRechecked)
    tight = ordered("chain", width=1, recheck=1, budget=Budget(rollouts=6 + 6 + 7))
    close = tried(begun(tight, {"d1", "d2"}), 1, {"d1", "d3"})
    assert verdicts(close) == [("candidate_rejected", 1)]


def test_groups_that_tie_are_played_again_so_often_and_the_batch_has_all_of_them() -> None:
    story = begun(ordered("chain", width=1, refills=2)).when(update(rounds=1))
    first = story.of(RolloutsRequested)
    halves = [
        msgspec.structs.replace(score, reward=1.0, outcome="right")
        if (score.item, score.attempt) == ("t2", 0)
        else score
        for score in scores(first, {"t1"})
    ]
    story.when(*halves)  # t1 is right twice and t3 wrong twice
    second = story.of(RolloutsRequested)
    assert [(fact.items, fact.fold, fact.refill, fact.shard, fact.attempts) for fact in second] == [
        (("t1",), 0, 1, 2, 2),
        (("t3",), 1, 1, 3, 2),
    ]
    assert not {fact.seed for fact in second} & {fact.seed for fact in first}
    differs = [
        msgspec.structs.replace(score, reward=1.0) if (score.item, score.attempt) == ("t3", 1) else score
        for score in scores(second, {"t1"})
    ]
    story.when(*differs)
    third = story.of(RolloutsRequested)
    assert [(fact.items, fact.refill, fact.shard) for fact in third] == [(("t1",), 2, 4)]
    (sealed,) = story.when(*scores(third, {"t1"})).of(TrainingBatchSealed)
    ids = [codec.event_id(RUN, RolloutsRequested, *fact.key()) for fact in (*first, *second, *third)]
    assert (list(sealed.requests), sealed.trajectories) == (ids, 6 + 4 + 2)


def test_a_group_whose_rewards_rounding_sets_apart_is_played_again() -> None:
    story = begun(ordered("chain", width=1, refills=1)).when(update(rounds=1))
    first = story.of(RolloutsRequested)
    rewards = {("t2", 0): 0.3, ("t2", 1): 0.1 + 0.2, ("t3", 0): 0.3, ("t3", 1): 0.300001}
    story.when(
        *(
            msgspec.structs.replace(score, reward=rewards.get((score.item, score.attempt), 1.0))
            for score in scores(first, {"t1"})
        )
    )
    assert [fact.items for fact in story.of(RolloutsRequested)] == [("t1", "t2")]


def test_groups_that_tie_are_not_played_again_where_the_budget_has_no_room() -> None:
    tight = ordered("chain", width=1, refills=1, budget=Budget(rollouts=6 + 6 + 6 + 5))
    assert played(begun(tight).when(update(rounds=1)), set()).of(TrainingBatchSealed)


# levers


@pytest.mark.parametrize(
    ("schedule", "levers"),
    [
        ("agent", ["scaffold weights"] * 4),
        ("alternate", ["scaffold", "weights", "scaffold", "weights"]),
        ("scaffold-then-weights", ["scaffold", "scaffold", "weights", "weights"]),
        ("weights-then-scaffold", ["weights", "weights", "scaffold", "scaffold"]),
    ],
)
def test_a_schedule_says_whose_turn_it_is(schedule: str, levers: list[str]) -> None:
    asked = begun(ordered(generations=4, schedule=schedule)).of(FeedbackRequested)
    assert [" ".join(fact.levers) for fact in asked] == levers


def test_a_random_schedule_is_drawn_from_the_seed() -> None:
    asked = [begun(ordered(width=1, generations=1, schedule="random", seed=seed)) for seed in range(40)]
    drawn = Counter(story.of(FeedbackRequested)[0].levers for story in asked)
    assert drawn.keys() == {("scaffold",), ("weights",)} and min(drawn.values()) > 10


def test_an_agent_with_one_lever_on_offer_that_stops_has_not_given_up() -> None:
    story = begun(ordered("chain", width=1, schedule="alternate")).when(chosen(1, "stop"))
    assert story.of(CandidateRejected)[0].reason == "nothing to do with the lever whose turn it was: enough"
    assert story.of(FeedbackRequested)[0].levers == ("weights",)


# how runs end


def test_a_run_that_is_cancelled_ends_with_what_it_has() -> None:
    story = tried(begun(ordered()), 1, {"d1", "d2"})
    story.when(proposed(3, "s3"))
    (finished,) = story.when(RunCancelled(reason="dinner")).of(RunFinished)
    assert (finished.reason, finished.scaffold, finished.score) == ("cancelled: dinner", "s1", 0.5)
    assert finished.rollouts == 6 + 6 + 6  # generation 3 had asked for its evaluation
    (finished,) = given(ordered(), RunCancelled(reason="")).of(RunFinished)
    assert (finished.reason, finished.candidate) == ("cancelled", "")


def test_a_paused_run_can_be_cancelled() -> None:
    story = begun(ordered()).when(RunPaused(number=1, reason=""))
    assert story.when(RunCancelled(reason="")).of(RunFinished)


def test_a_run_ends_when_its_time_is_over() -> None:
    story = begun(ordered(budget=Budget(seconds=MINUTE)))
    story.when(TimeSpent(number=1, seconds=MINUTE - 1)).then_nothing()
    (finished,) = story.when(TimeSpent(number=2, seconds=MINUTE)).of(RunFinished)
    assert (finished.reason, finished.scaffold) == ("budget exhausted", "s0")


# runs of their own


def nested(generation: int, rollouts: int | None = None) -> ChildRunRequested:
    return ChildRunRequested(generation=generation, levers=("scaffold",), generations=2, rollouts=rollouts, reason="")


def ended(order: ChildRunOrdered, scaffold: str = "s9", rollouts: int = 12) -> ChildRunFinished:
    return ChildRunFinished(
        generation=order.generation,
        child=order.child,
        reason="all 2 generations are done",
        scaffold=scaffold,
        adapter="a9" if scaffold else "",
        rollouts=rollouts,
        tokens=30,
        micro_usd=40,
    )


def test_a_child_run_is_ordered_and_what_it_ends_with_is_the_candidate() -> None:
    story = begun(ordered(width=2)).when(nested(2))
    (order,) = story.of(ChildRunOrdered)
    assert (order.child, order.levers, order.scaffold, order.rollouts) == ("r-child-2", ("scaffold",), "s0", None)
    first = child_started(RUN, ordered(), order)
    assert (first.seed, first.draw_seed) == (started().seed, order.seed)  # its owner's splits, and draws of its own
    asked = given(first).of(RolloutsRequested)
    seeds = {fact.seed for fact in given(started(), proposed()).of(RolloutsRequested)}
    assert asked and not seeds & {fact.seed for fact in asked}
    dev, probe = story.when(ended(order)).of(RolloutsRequested)
    assert {(fact.scaffold, fact.adapter) for fact in (dev, probe)} == {("s9", "a9")}
    story.when(*scores([dev, probe], {*DEV})).then_nothing()
    tried(story, 1, set())
    evaluated = next(fact for fact in story.of(CandidateEvaluated) if fact.generation == 2)
    assert (evaluated.lever, evaluated.parents) == ("child", (id_of(0),))


def test_what_a_child_run_spent_is_its_owners_and_counted_once() -> None:
    story = begun(ordered(width=1, budget=Budget(rollouts=100))).when(nested(1))
    (order,) = story.of(ChildRunOrdered)
    assert order.rollouts == 100 - 6 - 6  # what is left once the start and what comes of it are evaluated
    played(story.when(ended(order)), {"d1"})
    (evaluated,) = story.of(CandidateEvaluated)
    assert (evaluated.rollouts, evaluated.tokens, evaluated.micro_usd) == (6 + 12 + 6, 30, 40)
    assert story.session.state.flights[2].grant == 100 - 24
    assert story.session.state.rollouts == 24


def test_a_child_run_gets_no_more_than_was_asked_for_it() -> None:
    story = begun(ordered(width=1, budget=Budget(rollouts=100))).when(nested(1, rollouts=20))
    assert story.of(ChildRunOrdered)[0].rollouts == 20


@pytest.mark.parametrize("settled_first", [False, True])
def test_a_child_run_may_spend_what_was_left_when_its_generation_began(settled_first: bool) -> None:
    """What the others take meanwhile would make it a matter of who is faster."""
    story = begun(ordered(width=2, budget=Budget(tokens=1000, micro_usd=500)))
    story.when(agent_called(1, prompt_tokens=300, completion_tokens=0, micro_usd=90))
    if settled_first:
        story.when(ProposalFailed(generation=1, reason="none"))
    (order,) = story.when(nested(2)).of(ChildRunOrdered)
    assert (order.tokens, order.micro_usd) == (1000, 500)


@pytest.mark.parametrize(("budget", "wanted"), [(6 + 6 + 5, None), (100, 5)])
def test_a_child_run_that_could_not_evaluate_its_start_is_not_ordered(budget: int, wanted: int | None) -> None:
    story = begun(ordered(width=1, budget=Budget(rollouts=budget))).when(nested(1, rollouts=wanted))
    assert not story.of(ChildRunOrdered)
    assert story.of(CandidateRejected)[0].reason == "5 rollouts are too few for a child run, whose start takes 6"


@pytest.mark.parametrize("scaffold", ["", "s0"])
def test_a_child_run_that_changed_nothing_is_no_candidate(scaffold: str) -> None:
    story = begun(ordered(width=1)).when(nested(1))
    (order,) = story.of(ChildRunOrdered)
    story.when(msgspec.structs.replace(ended(order, scaffold), adapter=""))
    assert story.of(CandidateRejected)[0].reason == "run r-child-1 changed nothing: all 2 generations are done"


def test_what_a_candidate_left_stays_with_it() -> None:
    story = begun(ordered(width=1))
    story.when(
        ArtefactPublished(generation=1, name="notes", blob="n1", media_type="text/markdown", size=1, summary="")
    ).then_nothing()
    tried(story, 1, {"d1"})
    assert [candidate.artefacts for candidate in story.session.state.population] == [(), ("n1",)]


# the auditor


def released(look: int, action: AuditAction = "none", generation: int = -1) -> AuditReleased:
    lever: AuditLever = "" if action == "none" else "scaffold"
    return AuditReleased(look=look, action=action, lever=lever, generation=generation, bits=1.0)


def test_a_rollback_takes_a_branch_of_the_tree_and_what_is_being_made_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = made_from({1: (0,), 2: (0,), 3: (1,), 4: (2,), 5: (2, 3), 6: (2,), 7: (4,)})
    monkeypatch.setitem(dict_of_strategies(), "tree", tree)
    story = begun(ordered("tree", width=2, on_drift="rollback")).when(released(0))
    tried(story, 1, {"d1", "d2"}).when(released(1))
    tried(story, 2, {"d1"})
    tried(story, 3, {"d1"})
    tried(story, 4, {"d1", "d2", "d3"})
    assert verdicts(story) == [("candidate_accepted", 4)] and not story.of(FeedbackRequested)
    story.when(released(4, "rollback", generation=1))
    assert [(fact.generation, fact.candidate) for fact in story.of(ParentSelected)] == [(6, id_of(2))]
    assert [candidate.generation for candidate in story.session.state.population] == [0, 2, 4]
    tried(story, 5, {*DEV})
    assert story.of(CandidateRejected)[0].reason == "the candidate that it was made from was rolled back"
