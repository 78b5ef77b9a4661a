"""What `given`, `when` and `then` refuse, and what they print."""

from typing import Any

import msgspec
import pytest

from events import codec
from events.change import ChildRunFinished, ChildRunRequested, ProposalFailed, ScaffoldRequested
from events.choice import AgentCalled, FeedbackRequested
from events.fact import Fact
from events.gold import AuditFinished
from events.judgement import ScoringFailed, TrajectoryScored
from events.population import CandidateAccepted
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import AuditReleased, DecisionMade, RunPaused, RunResumed
from events.weights import (
    AdapterPublished,
    AdapterRejected,
    AdapterServed,
    OptimizerStepApplied,
    TrainingBatchSealed,
    WeightUpdateFailed,
)
from tests.harness.facts import RUN, chosen, example, proposed, scores, started, update
from tests.harness.given import Scenario, first_difference, given

SCAFFOLD = ScaffoldRequested(generation=0, task="toy")


def asked() -> tuple[Scenario, list[TrajectoryScored]]:
    """A run that waits for rollouts, and the scores that would end that."""
    story = given(started(), proposed())
    return story, scores(story.of(RolloutsRequested), {"d1"})


def under_way(on_drift: str = "") -> Scenario:
    """A run that waits for feedback in generation 1."""
    story = given(msgspec.structs.replace(started(), on_drift=on_drift), proposed())
    return story.when(*scores(story.of(RolloutsRequested), {"d1"}))


def training() -> tuple[Scenario, TrainingBatchSealed]:
    """A run that waits for an adapter, and the batch that it is to come from."""
    story = under_way().when(update(rounds=1))
    (sealed,) = story.when(*scores(story.of(RolloutsRequested), {"t1"})).of(TrainingBatchSealed)
    return story, sealed


def adapter(sealed: TrainingBatchSealed, **changes: Any) -> AdapterPublished:
    known = {"generation": 1, "round": 1, "batch": sealed.digest, "parent_adapter": "", "adapter": "a1", **changes}
    made: AdapterPublished = example(AdapterPublished, canary=(), **known)
    return made


def test_a_history_that_can_be_is_taken() -> None:
    story, sealed = training()
    served = AdapterServed(generation=1, round=1, adapter="a1", batch=sealed.digest, error=0.0)
    assert story.when(adapter(sealed), served).of(RolloutsRequested)


def refused(story: Scenario, fact: Fact, reason: str) -> None:
    """The fact is refused in a sentence that names it and says why, and the run is as it was."""
    before = story.session.decisions
    with pytest.raises(AssertionError) as wrong:
        story.when(fact)
    assert str(wrong.value).startswith(f"No run can have {type(fact).__name__}(") and str(wrong.value).endswith(
        f" here: {reason}."
    )
    assert story.session.decisions == before


def test_nothing_comes_before_the_start_and_nothing_after_the_end() -> None:
    refused(given(), proposed(), "the run is not started")
    refused(given(started()), started(), "the run was started already, and this is no fork")
    refused(under_way().when(chosen(1, "stop")), RunPaused(number=1, reason=""), "the run is finished")


@pytest.mark.parametrize(
    "fact",
    [example(DecisionMade), example(RolloutsRequested), example(TrainingBatchSealed), example(CandidateAccepted)],
)
def test_what_the_decider_says_is_not_given(fact: Fact) -> None:
    refused(given(started()), fact, "only the decider says it")


def test_what_stands_on_another_stream_is_not_given() -> None:
    refused(given(started()), example(AuditFinished), "it stands on the stream GOLD")


def test_nothing_stands_on_the_log_twice() -> None:
    story, facts = asked()
    refused(story.when(facts[0]), facts[0], "the log holds it already, and holds nothing twice")


def test_an_outcome_is_that_of_an_attempt_that_was_asked_for() -> None:
    story, facts = asked()
    request = facts[0].request
    refused(story, msgspec.structs.replace(facts[0], request="q"), "nobody made the request 'q'")
    refused(story, msgspec.structs.replace(facts[0], item="d9"), f"request {request!r} has no item 'd9'")
    reason = f"request {request!r} asked for 1 attempts, and this is attempt 1 counted from 0"
    refused(story, msgspec.structs.replace(facts[0], attempt=1), reason)
    failed = RolloutFailed(request=request, item="d1", attempt=0, purpose="train", kind="crashed", reason="")
    refused(story, failed, f"request {request!r} is for 'dev', not for 'train'")
    where: dict[str, Any] = {"request": request, "item": "d1", "attempt": 0}
    refused(
        story.when(facts[0]), ScoringFailed(trajectory="t", **where, reason=""), "the attempt has an outcome already"
    )
    refused(story, example(TrajectoryRecorded, request="q"), "nobody made the request 'q'")
    refused(story, example(ModelCalled, request=request, item="d9"), f"request {request!r} has no item 'd9'")


def test_a_child_run_is_asked_for_with_levers_on_offer_and_ends_once_it_was_ordered() -> None:
    wanted = ChildRunRequested(generation=1, levers=("weights",), generations=1, rollouts=None, reason="")
    ended = example(ChildRunFinished, generation=1, child="r-child-1")
    refused(under_way(), ended, "nobody ordered the run 'r-child-1' there")
    refused(given(started()), wanted, "generation 1 is not under way")
    only = msgspec.structs.replace(started(), levers=("scaffold",))
    story = given(only, proposed())
    story.when(*scores(story.of(RolloutsRequested), {"d1"}))
    refused(story, wanted, "the levers weights were not on offer in generation 1")
    refused(under_way().when(chosen(1, "scaffold")), wanted, "the agent chose the lever 'scaffold' in generation 1")
    story = under_way().when(chosen(1, "child"), wanted)
    refused(story, msgspec.structs.replace(ended, child="r-child-2"), "nobody ordered the run 'r-child-2' there")
    assert story.when(ended).of(RolloutsRequested)


def test_an_answer_is_that_of_a_generation_that_is_under_way() -> None:
    for fact in (proposed(1, "s1"), update(), chosen(1, "stop"), ProposalFailed(generation=1, reason="")):
        refused(given(started()), fact, "generation 1 is not under way")
        refused(under_way(), msgspec.structs.replace(fact, generation=2), "generation 2 is not under way")
    over = "generation 1 has its answer already and is under way no more"
    refused(under_way().when(proposed(1, "s1")), update(), over)
    refused(under_way().when(update()), chosen(1, "weights"), over)
    called = example(AgentCalled, generation=1)
    refused(given(started()), called, "no agent was asked for generation 1, or it has answered")
    refused(under_way().when(proposed(1, "s1")), called, "no agent was asked for generation 1, or it has answered")


def test_an_answer_pulls_the_lever_that_was_chosen_of_those_on_offer() -> None:
    refused(given(started()), chosen(0, "scaffold"), "the lever 'scaffold' was not on offer in generation 0")
    refused(given(started()), update(0), "the lever 'weights' was not on offer in generation 0")
    unknown: Any = "verifier"
    refused(under_way(), chosen(1, unknown), "the lever 'verifier' was not on offer in generation 1")
    refused(
        under_way().when(chosen(1, "weights")), proposed(1, "s1"), "the agent chose the lever 'weights' in generation 1"
    )


def test_an_adapter_is_that_of_a_batch_that_was_sealed() -> None:
    story, sealed = training()
    refused(under_way(), adapter(sealed), f"no batch {sealed.digest!r} was sealed")
    refused(story, adapter(sealed, round=2), f"batch {sealed.digest!r} is that of generation 1, round 1")
    refused(story, adapter(sealed, parent_adapter="a0"), f"batch {sealed.digest!r} trains the adapter '', not 'a0'")
    refused(story, example(OptimizerStepApplied, batch="b"), "no batch 'b' is being trained on")
    failed = WeightUpdateFailed(generation=1, round=1, batch=sealed.digest, kind="diverged", reason="")
    refused(story.when(adapter(sealed)), failed, f"the training on batch {sealed.digest!r} has ended already")


def test_an_adapter_is_served_or_rejected_once_and_after_it_was_published() -> None:
    story, sealed = training()
    rejected = AdapterRejected(generation=1, round=1, adapter="a1", batch=sealed.digest, reason="")
    refused(story, rejected, f"no adapter 'a1' was published for batch {sealed.digest!r}")
    story.when(adapter(sealed))
    refused(
        story, msgspec.structs.replace(rejected, round=2), f"batch {sealed.digest!r} is that of generation 1, round 1"
    )
    story.when(AdapterServed(generation=1, round=1, adapter="a1", batch=sealed.digest, error=0.0))
    refused(story, rejected, "the log holds it already, and holds nothing twice")


def test_a_pause_ends_once() -> None:
    paused = given(started(), RunPaused(number=1, reason=""))
    refused(paused, RunPaused(number=2, reason=""), "the run is paused already")
    refused(paused, RunResumed(number=2), "pause 2 does not last")
    refused(paused.when(RunResumed(number=1)), RunResumed(number=2), "pause 2 does not last")


def test_the_auditor_acts_where_it_may_and_on_what_was_accepted() -> None:
    stop = AuditReleased(look=0, action="stop", lever="both", generation=0, bits=1.0)
    refused(under_way(), stop, "the auditor may not act on this run")
    refused(under_way("freeze"), stop, "the auditor may freeze, not stop")
    refused(under_way("stop"), msgspec.structs.replace(stop, look=1), "no candidate of generation 1 was accepted")


def test_what_is_late_is_taken_as_late_alone() -> None:
    story, facts = asked()
    other = ScoringFailed(trajectory="t", request=facts[0].request, item=facts[0].item, attempt=0, reason="")
    with pytest.raises(AssertionError, match="it is not late"):
        story.late(other)
    story.when(facts[0]).late(other).then_nothing()
    with pytest.raises(AssertionError, match="only outcomes of attempts and answers of agents come late"):
        story.late(RunPaused(number=1, reason=""))
    with pytest.raises(AssertionError, match="generation 1 is not under way"):
        story.late(update())


def test_then_takes_what_was_decided_and_nothing_else() -> None:
    story = given(started()).then(SCAFFOLD)
    story.when(RunPaused(number=1, reason="")).then_nothing()
    with pytest.raises(AssertionError, match="nothing more was expected, decided was ScaffoldRequested"):
        given(started()).then_nothing()


def test_the_first_difference_names_the_fact_the_field_and_both_values() -> None:
    with pytest.raises(AssertionError) as wrong:
        given(started()).then(ScaffoldRequested(generation=0, task="sums"))
    assert str(wrong.value) == "Fact 1, ScaffoldRequested.task: expected 'sums', decided was 'toy'."
    with pytest.raises(AssertionError) as wrong:
        given(started()).then(SCAFFOLD, SCAFFOLD)
    assert str(wrong.value) == f"Fact 2: expected {SCAFFOLD!r}, nothing more was decided."
    accepted, feedback = example(CandidateAccepted), example(FeedbackRequested)
    assert (
        first_difference([SCAFFOLD, accepted], [SCAFFOLD, feedback])
        == f"Fact 2: expected {accepted!r}, decided was {feedback!r}."
    )
    assert first_difference([SCAFFOLD], [SCAFFOLD]) is None


def test_a_run_of_older_rules_is_decided_by_them() -> None:
    """Version 3 waits for the auditor where version 2 went on."""
    drifting = msgspec.structs.replace(started(), on_drift="stop")
    for version, count in ((2, 1), (3, 0)):
        story = given(drifting, proposed(), version=version)
        story.when(*scores(story.of(RolloutsRequested), {"d1"}))
        assert len(story.of(FeedbackRequested)) == count
        assert {decision.made.decider for decision in story.decisions} == {version}


def test_the_ids_that_are_known_are_those_of_the_log() -> None:
    story, facts = asked()
    (dev, _) = story.of(RolloutsRequested)
    assert facts[0].request == codec.event_id(RUN, RolloutsRequested, *dev.key())
