"""What effects do between the log and the code that they call: batches as recorded, labels, and what was
tried before.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from algorithms.levers.rules import PastChoice
from events.choice import LeverChosen
from events.codec import Event
from events.errors import CheckFailed, NotHere, TryAgain
from events.fact import Fact
from events.judgement import CandidateEvaluated
from events.kinds import LeverChoice
from events.population import CandidateAccepted
from events.rollouts import CallUse, ModelCalled, TrajectoryRecorded
from events.weights import AdapterPublished, TrainingBatchSealed, WeightUpdateFailed
from runtime.blobs.directory import Blobs
from runtime.effects import train as effects_train
from runtime.effects.choose import earlier_choices
from runtime.effects.serve import ServedModels, check_adapter
from runtime.effects.train import TrainingHost, sealed_attempts, sources, train_round
from runtime.policies import text_scorer
from runtime.policies.bases import prepare_base
from runtime.policies.interface import SampleRequest
from runtime.rollouts.attempt import RecordedAttempt
from runtime.run.batch import batch_digest
from runtime.run.loading import LoadedRun
from runtime.run.order import RunOrder, plan
from tasks.loading import load
from tests.harness.facts import event_of, trajectory
from tests.harness.faults import damage
from tests.harness.paths import TOY


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


def played(blobs: Blobs) -> list[RecordedAttempt]:
    """Two attempts at one item, which were given the two completions of one call."""
    made = call(blobs.put(msgspec.json.encode([SampleRequest(prompt="p", choices=("a", "b"), bias=(0.5, 0.0), n=2)])))
    attempts = []
    for number in range(2):
        recorded = trajectory(number).data
        assert isinstance(recorded, TrajectoryRecorded)
        recorded = msgspec.structs.replace(recorded, calls=(CallUse("c", number),))
        attempts.append(RecordedAttempt(f"t{number}", recorded, float(number == 0), "", (made,)))
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


def no_task() -> LoadedRun:
    raise AssertionError("nothing here asks for the task")


def test_a_batch_is_trained_on_as_recorded(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    batch = sealed_attempts(blobs, {"q": played(blobs)}, sealed(batch_digest([("t0", 1.0), ("t1", 0.0)])))
    assert [(of.calls[0].tokens, of.calls[0].logprobs, of.reward) for of in batch] == [
        ((0,), (-0.1,), 1.0),
        ((1,), (-2.3,), 0.0),
    ]
    assert batch[0].calls[0].request.bias == (0.5, 0.0) and batch[0].group == batch[1].group


def test_a_batch_that_is_not_what_was_sealed_is_not_trained_on(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    with pytest.raises(CheckFailed, match="over 2 trajectories, sealed was"):
        sealed_attempts(blobs, {"q": played(blobs)}, sealed(batch_digest([("t0", 1.0), ("t1", 1.0)])))
    base = blobs.put_folder(prepare_base(text_scorer.KIND, load(str(TOY)).public(0), list))
    (failed,) = train_round(
        TrainingHost(blobs, tmp_path / "work"), {"q": played(blobs)}, sealed("0" * 64), base, no_task
    )
    assert isinstance(failed, WeightUpdateFailed) and failed.kind == "batch_differs"


def full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_in_words(*arguments: object) -> None:
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


class Trainer:
    """A host that trains on two attempts."""

    def __init__(self, folder: Path) -> None:
        self.host = TrainingHost(Blobs(folder / "blobs"), folder / "work")
        self.base = self.host.blobs.put_folder(prepare_base(text_scorer.KIND, load(str(TOY)).public(0), list))
        self.attempts = {"q": played(self.host.blobs)}

    def train(self, state: str = "") -> list[Fact]:
        batch = sealed(batch_digest([("t0", 1.0), ("t1", 0.0)]))
        batch = msgspec.structs.replace(batch, parent_state=state)
        return train_round(self.host, self.attempts, batch, self.base, no_task)


@pytest.mark.parametrize("failing", [full, full_in_words])
def test_a_disk_that_is_full_fails_no_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: Callable[..., None]
) -> None:
    monkeypatch.setattr(effects_train, "train", failing)
    with pytest.raises(TryAgain, match="No room left"):
        Trainer(tmp_path).train()


def test_a_blob_that_this_host_lacks_or_that_is_damaged_fails_no_update(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    with pytest.raises(NotHere, match="is not in"):
        trainer.train(state="0" * 64)
    trainer = Trainer(tmp_path / "other")
    damage(trainer.host.blobs, trainer.base)
    with pytest.raises(NotHere, match="is damaged"):
        trainer.train()


def test_a_disk_that_is_full_rejects_no_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = AdapterPublished(
        generation=1,
        round=1,
        adapter="a" * 64,
        parent_adapter="",
        base_model="b" * 64,
        batch="b",
        algorithm="best_of_n",
        canary=(),
        trained_on=1,
    )
    models = ServedModels(Blobs(tmp_path), tmp_path)
    monkeypatch.setattr(models, "find", full_in_words)
    with pytest.raises(TryAgain):
        check_adapter(models, published)


def test_labels_and_copies_come_from_train_as_the_item_may_see_it() -> None:
    task = load(str(TOY))
    public = task.public(0)
    loads: list[int] = []

    def loaded() -> LoadedRun:
        loads.append(1)
        return LoadedRun(
            plan(task, public, RunOrder(task=str(TOY), levers="both", seed=0, generations=None, budget=""), "b"),
            task,
            public,
        )

    found = sources(loaded, 0)
    assert not loads
    assert [found.label(example.id) for example in public.train[:3]] == [example.label for example in public.train[:3]]
    assert found.copies([public.train[0].id]) == {public.train[0].id: []}
    assert len(loads) == 1


def chosen(generation: int, lever: LeverChoice, action: str) -> Event:
    return event_of(
        LeverChosen(generation=generation, lever=lever, action=action, reason="", propensities={}, diagnosis={})
    )


def evaluated(generation: int, score: float) -> Event:
    return event_of(
        CandidateEvaluated(
            generation=generation,
            candidate=f"c{generation}",
            scaffold="",
            adapter="",
            lever="scaffold" if generation else "start",
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
    return event_of(CandidateAccepted(generation=generation, candidate=f"c{generation}", score=0.0, reason=""))


def test_the_agent_remembers_what_it_tried_and_what_came_of_it() -> None:
    told = [evaluated(0, 0.4), accepted(0), chosen(1, "scaffold", "vote"), evaluated(1, 0.7), accepted(1)]
    told += [chosen(2, "weights", "grpo"), evaluated(2, 0.6), chosen(3, "weights", "best_of_n")]
    assert earlier_choices(told, 3) == [
        PastChoice(lever="scaffold", action="vote", accepted=True, before=0.4, after=0.7),
        PastChoice(lever="weights", action="grpo", accepted=False, before=0.7, after=0.6),
    ]
