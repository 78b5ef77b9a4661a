"""What the services do between the log and the code that they call."""

from pathlib import Path

import msgspec
import pytest
from test_log import trajectory

from events import codec
from events.choice import LeverChosen
from events.codec import Event
from events.errors import CheckFailed
from events.fact import Fact
from events.judgement import CandidateEvaluated
from events.play import CallUse, ModelCalled, TrajectoryRecorded
from events.population import CandidateAccepted
from events.run import RunFinished
from events.weights import TrainingBatchSealed, WeightUpdateFailed
from runtime.agents.rules import Tried
from runtime.blobs import Blobs
from runtime.lookup import Attempted
from runtime.policies.interface import SampleRequest
from runtime.run_decider import batch_digest
from services.auditor import cells_of
from services.feedback_agent import history
from services.running import Order, plan
from services.trainer import sealed_rollouts, update
from tasks.loading import load

TOY = Path(__file__).parent / "toy"


def event(fact: Fact) -> Event:
    return codec.event(fact, run="r", source="test", cause="", time="")


def call(body: str) -> ModelCalled:
    return ModelCalled(
        request="q",
        item="i",
        ordinal=0,
        provider="embedded",
        model="m",
        adapter="",
        body=body,
        index=0,
        sampling_seed=1,
        temperature=1.0,
        texts=("a", "b"),
        tokens=((0,), (1,)),
        logprobs=((-0.1,), (-2.3,)),
        prompt_tokens=1,
        completion_tokens=2,
        micro_usd=0,
        seconds=0.0,
    )


def played(blobs: Blobs) -> list[Attempted]:
    """Two attempts at one item, which were given the two completions of one call."""
    made = call(blobs.put(msgspec.json.encode([SampleRequest(prompt="p", choices=("a", "b"), bias=(0.5, 0.0), n=2)])))
    attempts = []
    for number in range(2):
        recorded = trajectory(number).data
        assert isinstance(recorded, TrajectoryRecorded)
        recorded = msgspec.structs.replace(recorded, calls=(CallUse("c", number),))
        attempts.append(Attempted(f"t{number}", recorded, float(number == 0), "", (made,)))
    return attempts


def sealed(digest: str) -> TrainingBatchSealed:
    return TrainingBatchSealed(
        generation=1,
        round=1,
        algorithm="best_of_n",
        hyper={},
        parent_adapter="",
        training_seed=0,
        requests=("q",),
        trajectories=2,
        digest=digest,
    )


def test_a_batch_is_trained_on_as_recorded(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    rollouts = sealed_rollouts(blobs, {"q": played(blobs)}, sealed(batch_digest([("t0", 1.0), ("t1", 0.0)])))
    assert [(of.token, of.logprob, of.reward) for of in rollouts] == [(0, -0.1, 1.0), (1, -2.3, 0.0)]
    assert rollouts[0].bias == (0.5, 0.0) and rollouts[0].group == rollouts[1].group


def test_a_batch_that_is_not_what_was_sealed_is_not_trained_on(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    with pytest.raises(CheckFailed, match="over 2 trajectories, sealed was"):
        sealed_rollouts(blobs, {"q": played(blobs)}, sealed(batch_digest([("t0", 1.0), ("t1", 1.0)])))
    (failed,) = update(blobs, tmp_path / "work", {"q": played(blobs)}, sealed("0" * 64), "0" * 64)
    assert isinstance(failed, WeightUpdateFailed) and failed.kind == "batch_differs"


def test_the_digest_of_a_batch_tells_order_and_rewards_apart() -> None:
    pairs = [("t0", 1.0), ("t1", 0.0)]
    assert len({batch_digest(pairs), batch_digest(pairs[::-1]), batch_digest([("t0", 0.0), ("t1", 1.0)])}) == 3


def chosen(generation: int, lever: str, action: str) -> Event:
    return event(LeverChosen(generation=generation, lever=lever, action=action, reason="", propensities={}, diagnosis={}))


def evaluated(generation: int, score: float) -> Event:
    return event(
        CandidateEvaluated(
            generation=generation,
            candidate=f"c{generation}",
            scaffold="",
            adapter="",
            lever="",
            score=score,
            low=0.0,
            high=1.0,
            items=1,
            failed=0,
            pass_at_1=0.0,
            pass_at_k=0.0,
            tied_groups=0.0,
            rollouts=0,
            tokens=0,
            micro_usd=0,
        )
    )


def accepted(generation: int) -> Event:
    return event(CandidateAccepted(generation=generation, candidate=f"c{generation}", score=0.0, reason=""))


def test_the_agent_remembers_what_it_tried_and_what_came_of_it() -> None:
    told = [evaluated(0, 0.4), accepted(0), chosen(1, "scaffold", "vote"), evaluated(1, 0.7), accepted(1)]
    told += [chosen(2, "weights", "grpo"), evaluated(2, 0.6), chosen(3, "weights", "best_of_n")]
    assert history(told, 3) == [
        Tried(lever="scaffold", action="vote", accepted=True, before=0.4, after=0.7),
        Tried(lever="weights", action="grpo", accepted=False, before=0.7, after=0.6),
    ]


def finished(scaffold: str, adapter: str) -> RunFinished:
    return RunFinished(
        reason="", candidate="c", scaffold=scaffold, adapter=adapter, score=0.0, generations=1, rollouts=0, tokens=0, micro_usd=0
    )


def test_each_lever_is_scored_alone_where_both_moved() -> None:
    assert [cell.name for cell in cells_of("s0", finished("s1", "a1"))] == ["start", "scaffold", "weights", "final", "uniform_policy"]
    assert [cell.name for cell in cells_of("s0", finished("s1", ""))] == ["start", "final", "uniform_policy"]
    assert [cell.name for cell in cells_of("s0", finished("s0", "a1"))] == ["start", "final", "uniform_policy"]


def test_a_run_is_planned_from_its_task_and_seed_alone() -> None:
    task = load(str(TOY))
    order = Order(task=str(TOY), levers="weights", seed=0, generations=None, budget="rollouts=1k")
    one, other = (plan(task, task.public(0), order, "b") for _ in range(2))
    assert one == other and one.levers == ("weights",) and one.budget.rollouts == 1000
    assert sum(map(len, one.items.folds)) == len(task.public(0).train)
    assert set(one.items.probe[0]) <= set(one.items.folds[0])
