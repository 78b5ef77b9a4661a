"""Rollouts while training: what is asked for ahead, what a batch takes, and what comes too late."""

from typing import Any

import msgspec
import pytest

from events import codec
from events.errors import UsageError
from events.rollouts import RolloutsRequested
from events.run import Budget
from events.weights import AdapterServed, TrainingBatchSealed, WeightUpdateFailed, WeightUpdateFinished
from runtime.run.order import largest_decision, require_playable
from tests.harness.facts import RUN, adapter_of, proposed, scores, started, update
from tests.harness.given import Scenario, given


def played(story: Scenario, right: set[str]) -> Scenario:
    return story.when(*scores(story.of(RolloutsRequested), right))


def lagging(lag: int, rounds: int = 4, **fields: Any) -> Scenario:
    """A run whose first generation is a weight update of so many rounds; each asks for 4 attempts in fold 0 and for 2
    in fold 1.
    """
    order = msgspec.structs.replace(started(), max_lag=lag, **fields)
    return played(given(order, proposed()), set()).when(update(rounds=rounds, resample="all", memory="round"))


def asked(story: Scenario) -> list[RolloutsRequested]:
    return [fact for fact in story.decided if isinstance(fact, RolloutsRequested) and fact.purpose == "train"]


def waves(story: Scenario) -> list[tuple[int, int, str]]:
    """Round, fold and adapter of the train requests that were decided last."""
    return [(fact.round, fact.fold, fact.adapter) for fact in asked(story)]


def sealed(story: Scenario) -> tuple[int, str, list[str]]:
    (batch,) = story.of(TrainingBatchSealed)
    return batch.round, batch.parent_adapter, list(batch.requests)


def ids(*requests: RolloutsRequested) -> list[str]:
    return [codec.event_id(RUN, RolloutsRequested, *requested.key()) for requested in requests]


def served(batch: TrainingBatchSealed, adapter: str) -> tuple[Any, AdapterServed]:
    place: dict[str, Any] = {"generation": batch.generation, "round": batch.round, "batch": batch.digest}
    return adapter_of(batch, adapter), AdapterServed(**place, adapter=adapter, error=0.0)


def test_without_lag_no_rollouts_are_asked_for_while_an_adapter_is_trained() -> None:
    story = lagging(0)
    assert waves(story) == [(1, 0, ""), (1, 1, "")]
    (batch,) = played(story, {"t1"}).of(TrainingBatchSealed)
    assert batch.round == 1 and not asked(story)
    assert waves(story.when(*served(batch, "a1"))) == [(2, 0, "a1"), (2, 1, "a1")]


def test_a_lag_of_one_has_the_next_round_played_while_one_is_trained() -> None:
    story = lagging(1)
    assert waves(story) == [(1, 0, ""), (1, 1, ""), (2, 0, ""), (2, 1, "")]
    first, second = asked(story)[:2], asked(story)[2:]
    story.when(*scores(first, {"t1"}))
    assert sealed(story) == (1, "", ids(*first)) and not asked(story)  # round 3 would be two versions behind
    (batch,) = story.of(TrainingBatchSealed)
    story.when(*scores(second, {"t1"})).then_nothing()  # they wait for the adapter
    story.when(*served(batch, "a1"))
    assert sealed(story) == (2, "a1", ids(*second))  # rollouts of the version before
    assert waves(story) == [(3, 0, "a1"), (3, 1, "a1")]


@pytest.mark.parametrize("lag", [1, 2, 4])
def test_no_batch_has_rollouts_of_an_adapter_further_back_than_the_lag(lag: int) -> None:
    story, rounds = lagging(lag, rounds=8), 8
    of_version = {"": 0} | {f"a{number}": number for number in range(1, rounds + 1)}
    waiting, far = asked(story), list[int]()
    adapter_of_request: dict[str, str] = {}
    assert len(waiting) == 2 * (lag + 1)
    for number in range(1, rounds + 1):
        adapter_of_request |= dict(zip(ids(*waiting), [fact.adapter for fact in waiting], strict=True))
        if waiting:
            story.when(*scores(waiting, {"t1"}))
        if number == 1:
            batches = story.of(TrainingBatchSealed)
        (batch,) = batches
        far += [number - 1 - of_version[adapter_of_request[id]] for id in batch.requests]
        story.when(*served(batch, f"a{number}"))
        waiting, batches = asked(story), story.of(TrainingBatchSealed)
    assert max(far) == lag and not waiting
    (finished,) = story.of(WeightUpdateFinished)
    assert (finished.rounds, finished.rollouts, finished.adapter) == (rounds, rounds * 6, f"a{rounds}")


def test_a_batch_is_sealed_by_count_from_what_is_there_first_old_adapters_before_new_ones() -> None:
    story = lagging(1)
    one, two, three, four = asked(story)
    story.when(*scores([three], set())).then_nothing()  # 4 attempts of the 6 that round 1 asked for
    story.when(*scores([two], set()))
    assert sealed(story) == (1, "", ids(two, three))  # fold 1 of round 1, and fold 0 of round 2
    (batch,) = story.of(TrainingBatchSealed)
    assert batch.trajectories == 6
    story.when(*served(batch, "a1"), *scores([four], set()))
    assert not story.of(TrainingBatchSealed)
    story.when(*scores([one], set()))
    assert sealed(story) == (2, "a1", ids(one, four))


def test_a_straggler_beyond_the_lag_is_refused_and_its_late_results_change_nothing() -> None:
    story = lagging(1, rounds=3)
    one, two, three, four = asked(story)
    story.when(*scores([two, three], set()))
    (batch,) = story.of(TrainingBatchSealed)
    story.when(*served(batch, "a1"))
    (five, six) = asked(story)
    assert (five.adapter, five.round) == ("a1", 3)
    story.when(*scores([four, five], set()))
    assert sealed(story) == (2, "a1", ids(four, five))
    (batch,) = story.of(TrainingBatchSealed)
    story.when(*scores([one], set())).then_nothing()  # of the base, which is two versions behind round 3's parent
    story.when(*served(batch, "a2"), *scores([six], set()))
    assert sealed(story) == (3, "a2", ids(six))  # no round is left to be asked for: it is what there is
    (batch,) = story.of(TrainingBatchSealed)
    (finished,) = story.when(*served(batch, "a3")).of(WeightUpdateFinished)
    assert (finished.rounds, finished.rollouts) == (3, 18)


def test_an_update_that_ends_early_leaves_what_it_asked_for_ahead_behind() -> None:
    story = lagging(1)
    first, second = asked(story)[:2], asked(story)[2:]
    (batch,) = story.when(*scores(first, {"t1"})).of(TrainingBatchSealed)
    story.when(*served(batch, "a1"))
    story.when(*scores(second, {"t1"}))
    (batch,) = story.of(TrainingBatchSealed)
    failed = WeightUpdateFailed(
        generation=1, round=2, batch=batch.digest, kind="nothing_to_learn", reason="All groups tie."
    )
    story.when(failed)
    (finished,) = story.of(WeightUpdateFinished)
    assert (finished.adapter, finished.rounds, finished.reason) == ("a1", 2, "All groups tie.")
    assert {fact.purpose for fact in story.of(RolloutsRequested)} == {"dev", "probe"}
    played(story, {"d1"})
    assert story.session.state.population[-1].adapter == "a1"


def test_rounds_with_hints_take_turns_whatever_the_lag() -> None:
    order = msgspec.structs.replace(started(), max_lag=2)
    story = played(given(order, proposed()), set()).when(update(hints=True))
    assert {number for number, _, _ in waves(story)} == {1}


def test_the_budget_bounds_what_is_asked_for_ahead() -> None:
    story = lagging(2, budget=Budget(rollouts=6 + 6 + 6))  # start, one round, the evaluation of what it finds
    assert {number for number, _, _ in waves(story)} == {1}
    (batch,) = played(story, {"t1"}).of(TrainingBatchSealed)
    (finished,) = story.when(*served(batch, "a1")).of(WeightUpdateFinished)
    assert finished.reason == "the budget has no room for 6 more rollouts"


def test_refills_and_lag_are_not_ordered_together_and_a_decision_must_fit() -> None:
    order = msgspec.structs.replace(started(), max_lag=1, refills=1)
    with pytest.raises(UsageError, match="give one of the two"):
        require_playable("toy", order)
    assert largest_decision(msgspec.structs.replace(started(), max_lag=2)) > largest_decision(started())
