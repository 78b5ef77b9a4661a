"""What a run does next, told as given-when-then."""

import random

import msgspec
import pytest

from events import codec
from events.change import ProposalFailed, ScaffoldRequested
from events.choice import FeedbackRequested, TrialFinished
from events.fact import Fact
from events.judgement import CandidateEvaluated, ScoringFailed, TrajectoryScored
from events.kinds import AuditAction, AuditLever, Memory, Purpose
from events.population import CandidateAccepted, CandidateRejected
from events.rollouts import RolloutFailed, RolloutsRequested
from events.run import AuditReleased, Budget, RunFinished, RunPaused, RunResumed
from events.weights import (
    AdapterRejected,
    AdapterServed,
    TrainingBatchSealed,
    WeightUpdateFailed,
    WeightUpdateFinished,
)
from runtime.run.batch import batch_digest
from runtime.run.fork import comparable_from
from tests.harness.facts import (
    DEV,
    adapter_of,
    agent_called,
    chosen,
    event_of,
    example,
    proposed,
    scores,
    started,
    update,
)
from tests.harness.given import Scenario, given


def judged(story: Scenario, micro_usd: int) -> Scenario:
    facts = scores(story.of(RolloutsRequested), set())
    return story.when(*(msgspec.structs.replace(fact, micro_usd=micro_usd) for fact in facts))


def played(story: Scenario, right: set[str], seed: int = 0) -> Scenario:
    facts = scores(story.of(RolloutsRequested), right)
    random.Random(seed).shuffle(facts)
    return story.when(*facts)


def accepted_start() -> Scenario:
    return played(given(started(), proposed()), {"d1"})


def published(story: Scenario, adapter: str = "a1") -> Scenario:
    (sealed,) = story.of(TrainingBatchSealed)
    served = AdapterServed(
        generation=sealed.generation, round=sealed.round, adapter=adapter, batch=sealed.digest, error=0.0
    )
    return story.when(adapter_of(sealed, adapter), served)


def test_a_run_begins_by_asking_for_a_scaffold() -> None:
    given(started()).then(ScaffoldRequested(generation=0, task="toy"))


def test_a_proposed_scaffold_is_played_on_dev_once_and_on_the_probe_in_groups() -> None:
    dev, probe = given(started(), proposed()).of(RolloutsRequested)
    assert (dev.purpose, dev.items, dev.attempts, dev.temperature, dev.fold) == ("dev", DEV, 1, 0.0, -1)
    assert (probe.purpose, probe.items, probe.attempts, probe.temperature, probe.fold) == ("probe", ("t1",), 2, 1.0, 0)


def test_shards_hold_at_most_the_shard_size() -> None:
    shards = given(started(shard_size=2), proposed()).of(RolloutsRequested)
    assert [shard.items for shard in shards] == [("d1", "d2"), ("d3", "d4"), ("t1",)]


def test_the_start_is_accepted_with_its_interval_and_feedback_is_asked() -> None:
    story = accepted_start()
    (evaluated,) = story.of(CandidateEvaluated)
    assert evaluated.score == 0.25 and evaluated.low < 0.25 < evaluated.high
    assert story.of(CandidateAccepted) and story.of(FeedbackRequested)[0].generation == 1


def test_nothing_is_decided_before_every_attempt_is_scored() -> None:
    story = given(started(), proposed())
    story.when(*scores(story.of(RolloutsRequested), set())[:-1]).then_nothing()


def test_the_order_of_scores_decides_nothing() -> None:
    ends = [played(given(started(), proposed()), {"d1", "d3"}, seed).decided for seed in range(5)]
    assert all(end == ends[0] for end in ends)


def test_of_two_outcomes_of_one_attempt_the_first_counts() -> None:
    once, twice = given(started(), proposed()), given(started(), proposed())
    facts = scores(once.of(RolloutsRequested), {"d1"})
    for fact in facts[:-1]:
        purpose: Purpose = "dev" if fact.item in DEV else "probe"
        failed = RolloutFailed(
            request=fact.request, item=fact.item, attempt=fact.attempt, purpose=purpose, kind="crashed", reason=""
        )
        twice.when(fact).then_nothing().late(failed).then_nothing()
    once.when(*facts)
    assert once.of(CandidateEvaluated)[0].items == 4
    twice.when(facts[-1]).then(*once.decided)


def test_a_worse_candidate_is_rejected_and_the_next_starts_from_the_best() -> None:
    story = played(accepted_start().when(chosen(1, "scaffold"), proposed(1, "s1")), set())
    assert story.of(CandidateRejected) and story.of(FeedbackRequested)[0].scaffold == "s0"


def test_a_better_candidate_is_built_on() -> None:
    story = played(accepted_start().when(chosen(1, "scaffold"), proposed(1, "s1")), {"d1", "d2"})
    assert story.of(CandidateAccepted) and story.of(FeedbackRequested)[0].scaffold == "s1"


def test_failed_attempts_are_counted_and_never_scored_as_zero() -> None:
    story = given(started(), proposed())
    facts: list[Fact] = [*scores(story.of(RolloutsRequested), {"d1", "d2"})]
    lost = next(fact for fact in facts if isinstance(fact, TrajectoryScored) and fact.item == "d4")
    facts[facts.index(lost)] = RolloutFailed(
        request=lost.request, item="d4", attempt=0, purpose="dev", kind="crashed", reason="boom"
    )
    (evaluated,) = story.when(*facts).of(CandidateEvaluated)
    assert (evaluated.failed, evaluated.items, evaluated.score) == (1, 4, 2 / 3)
    assert story.of(CandidateRejected) and story.of(RunFinished)[0].candidate == ""


def test_a_start_of_which_nothing_ran_ends_the_run_in_words() -> None:
    story = given(started(), proposed())
    story.when(
        *[
            ScoringFailed(
                trajectory=fact.trajectory, request=fact.request, item=fact.item, attempt=fact.attempt, reason="nan"
            )
            for fact in scores(story.of(RolloutsRequested), set())
        ]
    )
    assert story.of(RunFinished)[0].reason == "the first scaffold could not be evaluated"


def test_a_failed_proposal_costs_a_generation() -> None:
    story = accepted_start().when(ProposalFailed(generation=1, reason="no idea"))
    assert story.of(CandidateRejected)[0].reason == "no idea" and story.of(FeedbackRequested)[0].generation == 2


def test_a_weight_update_plays_all_of_train_then_only_what_is_unsolved() -> None:
    story = accepted_start().when(chosen(1, "weights"), update())
    assert [shard.items for shard in story.of(RolloutsRequested)] == [("t1", "t2"), ("t3",)]
    played(story, {"t1"})
    assert story.of(TrainingBatchSealed)[0].trajectories == 6
    assert [shard.items for shard in published(story).of(RolloutsRequested)] == [("t2",), ("t3",)]
    assert {shard.adapter for shard in story.of(RolloutsRequested)} == {"a1"}


def test_a_round_goes_on_from_the_last_adapter_and_from_what_its_training_left() -> None:
    story = played(accepted_start().when(chosen(1, "weights"), update()), {"t1"})
    assert (story.of(TrainingBatchSealed)[0].parent_adapter, story.of(TrainingBatchSealed)[0].parent_state) == ("", "")
    played(published(story), {"t2"})
    assert (story.of(TrainingBatchSealed)[0].parent_adapter, story.of(TrainingBatchSealed)[0].parent_state) == (
        "a1",
        "a1 state",
    )


def test_a_later_update_goes_on_from_what_the_accepted_one_left() -> None:
    story = published(played(accepted_start().when(chosen(1, "weights"), update(rounds=1)), {"t1"}))
    played(story, {"d1", "d2"}).when(chosen(2, "weights"), update(2))
    assert played(story, set()).of(TrainingBatchSealed)[0].parent_state == "a1 state"


def test_an_update_that_restarts_trains_from_the_base_each_round_and_samples_from_the_last_adapter() -> None:
    story = published(played(accepted_start().when(chosen(1, "weights"), update(restart=True)), {"t1"}))
    assert {shard.adapter for shard in story.of(RolloutsRequested)} == {"a1"}
    sealed = played(story, {"t2"}).of(TrainingBatchSealed)[0]
    assert (sealed.parent_adapter, sealed.parent_state) == ("", "")


def test_unsolved_items_are_played_once_more_with_a_hint_before_the_batch_is_sealed() -> None:
    story = played(accepted_start().when(chosen(1, "weights"), update(hints=True)), {"t1"})
    asked = [(shard.purpose, shard.items, shard.fold, shard.attempts) for shard in story.of(RolloutsRequested)]
    assert asked == [("hint", ("t2",), 0, 1), ("hint", ("t3",), 1, 1)]
    sealed = played(story, {"t2", "t3"}).of(TrainingBatchSealed)[0]
    assert (len(sealed.requests), sealed.trajectories) == (4, 8)
    assert [shard.items for shard in published(story).of(RolloutsRequested)] == [
        ("t2",),
        ("t3",),
    ]  # a hint solves nothing


def test_no_shard_divides_a_submission() -> None:
    whole = msgspec.structs.replace(started(shard_size=2), submissions=True)
    shards = given(whole, proposed()).of(RolloutsRequested)
    assert [shard.items for shard in shards] == [("d1", "d2", "d3", "d4"), ("t1",)]


@pytest.mark.parametrize(("least", "unsolved"), [(0.0, []), (1.0, [("t2",), ("t3",)]), (2.0, [("t1", "t2"), ("t3",)])])
def test_a_task_says_from_which_reward_on_an_item_is_solved(least: float, unsolved: list[tuple[str, ...]]) -> None:
    start = played(given(msgspec.structs.replace(started(), solved=least), proposed()), {"d1"})
    story = published(played(start.when(chosen(1, "weights"), update()), {"t1"}))
    assert [shard.items for shard in story.of(RolloutsRequested) if shard.purpose == "train"] == unsolved


def test_an_item_that_nothing_solves_is_played_in_every_round() -> None:
    start = played(given(msgspec.structs.replace(started(), solved=None), proposed()), {"d1"})
    story = published(played(start.when(chosen(1, "weights"), update()), {"t1", "t2", "t3"}))
    assert [shard.items for shard in story.of(RolloutsRequested)] == [("t1", "t2"), ("t3",)]


def test_what_judging_costs_counts_against_the_budget() -> None:
    story = judged(given(started(budget=Budget(micro_usd=100)), proposed()), 10)  # four dev items, twice one of train
    (evaluated,) = story.of(CandidateEvaluated)
    assert evaluated.micro_usd == 60 and not story.of(RunFinished)
    story = judged(given(started(budget=Budget(micro_usd=100)), proposed()), 17)
    assert [(one.reason, one.micro_usd) for one in story.of(RunFinished)] == [("budget exhausted", 102)]


def test_where_all_is_solved_or_there_is_no_room_no_hint_is_given() -> None:
    story = played(accepted_start().when(chosen(1, "weights"), update(hints=True)), {"t1", "t2", "t3"})
    assert story.of(TrainingBatchSealed)[0].trajectories == 6
    tight = played(given(started(budget=Budget(rollouts=18)), proposed()), {"d1"}).when(
        chosen(1, "weights"), update(hints=True)
    )
    assert played(tight, {"t1"}).of(TrainingBatchSealed)


def test_memory_decides_which_rounds_a_batch_covers() -> None:
    cases: tuple[tuple[Memory, int], ...] = (("update", 4), ("round", 2))
    for memory, requests in cases:
        story = played(accepted_start().when(chosen(1, "weights"), update(memory=memory, resample="all")), {"t1"})
        played(published(story), {"t1", "t2"})
        assert len(story.of(TrainingBatchSealed)[0].requests) == requests


def test_after_the_last_round_the_adapter_is_evaluated_with_the_scaffold_it_was_trained_in() -> None:
    story = published(played(accepted_start().when(chosen(1, "weights"), update(rounds=1)), {"t1"}))
    assert story.of(WeightUpdateFinished)[0].adapter == "a1"
    assert {(shard.scaffold, shard.adapter) for shard in story.of(RolloutsRequested)} == {("s0", "a1")}


def test_an_update_that_fails_leaves_the_last_good_adapter() -> None:
    story = played(accepted_start().when(chosen(1, "weights"), update()), {"t1"})
    batch = story.of(TrainingBatchSealed)[0].digest
    story.when(WeightUpdateFailed(generation=1, round=1, batch=batch, kind="diverged", reason="the loss is nan"))
    assert "the loss is nan" in story.of(CandidateRejected)[0].reason
    assert story.of(FeedbackRequested)[0].adapter == ""


def test_an_adapter_that_is_rejected_leaves_the_last_good_one() -> None:
    story = published(played(accepted_start().when(chosen(1, "weights"), update(rounds=2)), {"t1"}))
    story = played(story, {"t1"})
    sealed = story.of(TrainingBatchSealed)[0]
    story.when(adapter_of(sealed, "a2")).then_nothing()
    story.when(AdapterRejected(generation=1, round=2, adapter="a2", batch=sealed.digest, reason="it is damaged"))
    finished = story.of(WeightUpdateFinished)[0]
    assert (finished.adapter, finished.reason) == ("a1", "it is damaged")
    assert {(shard.scaffold, shard.adapter) for shard in story.of(RolloutsRequested)} == {("s0", "a1")}


def test_the_agent_may_stop() -> None:
    story = accepted_start().when(chosen(1, "stop"))
    assert story.of(RunFinished)[0].reason == "enough"


def test_a_schedule_offers_one_lever_and_says_how_likely_each_was() -> None:
    story = played(given(msgspec.structs.replace(started(), schedule="alternate"), proposed()), {"d1"})
    for generation, lever in enumerate(("scaffold", "weights"), 1):
        (asked,) = story.of(FeedbackRequested)
        assert asked.levers == (lever,) and asked.propensities == {
            "scaffold": float(lever == "scaffold"),
            "weights": float(lever == "weights"),
        }
        story.when(ProposalFailed(generation=generation, reason="no idea"))
    (asked,) = accepted_start().of(FeedbackRequested)
    assert (asked.levers, asked.propensities) == (("scaffold", "weights"), {})
    old = codec.encode(event_of(asked), version=4)
    assert codec.decode(old).data == msgspec.structs.replace(asked, settled=-1) and b"propensities" not in old


def test_a_lever_that_is_frozen_is_left_out_of_the_schedule() -> None:
    run = msgspec.structs.replace(started(), schedule="random", on_drift="freeze")
    story = played(given(run, proposed()), {"d1"}).when(released("freeze", "scaffold", generation=0, look=0))
    (asked,) = story.of(FeedbackRequested)
    assert (asked.levers, asked.propensities) == (("weights",), {"weights": 1.0})


def test_a_run_ends_after_its_generations() -> None:
    story = played(given(started(generations=0), proposed()), {"d1"})
    assert story.of(RunFinished)[0].score == 0.25


@pytest.mark.parametrize(
    ("budget", "price", "reason"),
    [
        (Budget(micro_usd=500), 499, None),
        (Budget(micro_usd=500), 500, "budget exhausted"),
        (Budget(tokens=110), None, "budget exhausted"),
        (Budget(tokens=111), None, None),
    ],
)
def test_what_the_agents_model_costs_counts_in_the_budget(
    budget: Budget, price: int | None, reason: str | None
) -> None:
    called = agent_called(0, agent="meta_agent", micro_usd=price)
    story = played(given(started(budget=budget), called, proposed()), {"d1"})
    assert [finished.reason for finished in story.of(RunFinished)] == ([reason] if reason else [])
    (evaluated,) = story.of(CandidateEvaluated)
    assert (evaluated.tokens, evaluated.micro_usd) == (110, price or 0)


def test_what_an_agent_tries_counts_in_the_budget() -> None:
    trial = example(TrialFinished, generation=0, rollouts=5, prompt_tokens=90, completion_tokens=10, micro_usd=3)
    story = played(given(started(budget=Budget(rollouts=16)), trial, proposed()), {"d1"})
    (evaluated,) = story.of(CandidateEvaluated)
    assert (evaluated.rollouts, evaluated.tokens, evaluated.micro_usd) == (11, 100, 3)
    assert [finished.reason for finished in story.of(RunFinished)] == ["budget exhausted"]  # 5 are left, 6 are needed


def test_tokens_that_are_not_reported_count_for_nothing() -> None:
    called = agent_called(0, agent="meta_agent", prompt_tokens=None, completion_tokens=None, micro_usd=None)
    (evaluated,) = played(given(started(), called, proposed()), {"d1"}).of(CandidateEvaluated)
    assert (evaluated.tokens, evaluated.micro_usd) == (0, 0)


@pytest.mark.parametrize(("rollouts", "reason"), [(6, "budget exhausted"), (11, "budget exhausted"), (12, None)])
def test_a_generation_begins_only_if_its_evaluation_fits_the_budget(rollouts: int, reason: str | None) -> None:
    story = played(given(started(budget=Budget(rollouts=rollouts)), proposed()), {"d1"})
    assert [finished.reason for finished in story.of(RunFinished)] == ([reason] if reason else [])


def test_a_training_round_that_does_not_fit_the_budget_is_not_played() -> None:
    story = played(given(started(budget=Budget(rollouts=15)), proposed()), {"d1"})
    story.when(chosen(1, "weights"), update())
    assert "no room" in story.of(CandidateRejected)[0].reason


def test_a_paused_run_decides_nothing_and_catches_up_when_resumed() -> None:
    story = given(started(), proposed())
    facts = scores(story.of(RolloutsRequested), {"d1"})
    story.when(RunPaused(number=1, reason="lunch"), *facts).then_nothing()
    assert story.when(RunResumed(number=1)).of(CandidateEvaluated)


def test_decisions_form_a_chain_that_depends_on_all_that_was_folded() -> None:
    heads = [played(given(started(), proposed()), right).decisions[-1].events[0].data for right in ({"d1"}, {"d2"})]
    assert heads[0] != heads[1]


def test_a_later_word_about_an_earlier_generation_changes_nothing() -> None:
    story = played(accepted_start().when(proposed(1, "s1")), {"d1", "d2"})
    story.late(chosen(1, "stop"), update(1), ProposalFailed(generation=1, reason="no idea")).then_nothing()


def released(action: AuditAction, lever: AuditLever = "scaffold", generation: int = 1, look: int = 1) -> AuditReleased:
    return AuditReleased(look=look, action=action, lever=lever, generation=generation, bits=2.0)


def quiet(look: int) -> AuditReleased:
    return AuditReleased(look=look, action="none", lever="", generation=-1, bits=1.0)


def improved(on_drift: str) -> Scenario:
    """The start, and a better scaffold in generation 1, by rules under which feedback for generation 2 does not wait
    for the auditor.
    """
    story = given(msgspec.structs.replace(started(), on_drift=on_drift), proposed(), version=2)
    return played(played(story, {"d1"}).when(chosen(1, "scaffold"), proposed(1, "s1")), {"d1", "d2"})


def improved_and_waiting(on_drift: str) -> Scenario:
    """The same by today's rules: nothing is asked before the auditor has looked at generation 1."""
    story = played(given(msgspec.structs.replace(started(), on_drift=on_drift), proposed()), {"d1"}).when(quiet(0))
    return played(story.when(chosen(1, "scaffold"), proposed(1, "s1")), {"d1", "d2"})


def test_a_run_that_the_auditor_stops_ends_at_the_next_barrier() -> None:
    for story in (
        played(improved("stop").when(released("stop"), proposed(2, "s2")), set()),
        improved_and_waiting("stop").when(released("stop")),
    ):
        (finished,) = story.of(RunFinished)
        assert finished.reason == "the auditor found drift since generation 1" and finished.scaffold == "s1"


def test_a_lever_that_the_auditor_has_frozen_is_not_offered_again() -> None:
    (asked,) = played(improved("freeze").when(released("freeze"), proposed(2, "s2")), set()).of(FeedbackRequested)
    (at_once,) = improved_and_waiting("freeze").when(released("freeze")).of(FeedbackRequested)
    assert (asked.levers, asked.scaffold) == (at_once.levers, at_once.scaffold) == (("weights",), "s1")
    (finished,) = played(improved("freeze").when(released("freeze", "both"), proposed(2, "s2")), set()).of(RunFinished)
    assert finished.reason == "the auditor has had every lever frozen"
    improved_and_waiting("freeze").when(released("freeze", "both")).then(
        msgspec.structs.replace(finished, generations=1, rollouts=12)
    )


def test_a_run_that_the_auditor_may_act_on_waits_for_its_look_at_what_was_kept() -> None:
    acted_on = msgspec.structs.replace(started(), on_drift="stop")
    story = played(given(acted_on, proposed()), {"d1"})
    assert story.of(CandidateAccepted) and not story.of(FeedbackRequested)
    assert story.when(quiet(0)).of(FeedbackRequested)
    played(story.when(chosen(1, "scaffold"), proposed(1, "s1")), set())
    assert story.of(FeedbackRequested)  # nothing new was kept
    played(story.when(chosen(2, "scaffold"), proposed(2, "s2")), {"d1", "d2"})
    assert story.of(CandidateAccepted) and not story.of(FeedbackRequested)
    (finished,) = story.when(released("stop", look=2)).of(RunFinished)
    assert finished.reason == "the auditor found drift since generation 1"


def test_a_run_goes_back_to_before_the_drift_and_stays_there() -> None:
    story = played(improved("rollback").when(released("rollback"), proposed(2, "s2")), set())
    (asked,) = story.of(FeedbackRequested)
    assert (asked.levers, asked.scaffold) == (("weights",), "s0")
    (finished,) = story.when(chosen(3, "stop")).of(RunFinished)
    assert finished.scaffold == "s0"
    (finished,) = improved("rollback").when(released("rollback"), chosen(2, "stop")).of(RunFinished)
    assert finished.scaffold == "s0"  # also where no further generation begins
    (asked,) = improved_and_waiting("rollback").when(released("rollback")).of(FeedbackRequested)
    assert (asked.levers, asked.scaffold) == (("weights",), "s0")


def test_scores_mean_what_they_mean_since_the_last_fork_that_judges_otherwise() -> None:
    run, fact = started(), proposed()
    longer, other = msgspec.structs.replace(run, generations=9), msgspec.structs.replace(run, verifier="v2")
    assert comparable_from([run, fact]) == comparable_from([run, fact, longer, fact]) == 0
    assert comparable_from([run, fact, longer, fact, other, fact]) == 4
    assert comparable_from([run, other, fact, msgspec.structs.replace(other, generations=9)]) == 1


def test_the_digest_of_a_batch_tells_order_and_rewards_apart() -> None:
    pairs = [("t0", 1.0), ("t1", 0.0)]
    assert len({batch_digest(pairs), batch_digest(pairs[::-1]), batch_digest([("t0", 0.0), ("t1", 1.0)])}) == 3
