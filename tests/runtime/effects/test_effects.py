"""What effects do between the log and the code that they call: batches as recorded, labels, and what was
tried before.
"""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from algorithms.levers.rules import Choice, PastChoice
from events.change import ProposalFailed, ScaffoldProposed, WeightUpdateRequested
from events.choice import FeedbackRequested, LeverChosen, ParentSelected
from events.codec import Event
from events.errors import CheckFailed, NotHere, TryAgain
from events.fact import Fact
from events.judgement import CandidateEvaluated
from events.kinds import CandidateOrigin, Lever, LeverChoice
from events.population import CandidateAccepted, CandidateKept
from events.rollouts import CallUse, ModelCalled, TrajectoryRecorded
from events.weights import AdapterPublished, TrainingBatchSealed, WeightUpdateFailed
from runtime.agents.ancestry import ancestry
from runtime.blobs.directory import Blobs
from runtime.effects import train as effects_train
from runtime.effects.choose import choice_beside, choose_by_rules, earlier_choices, rivals
from runtime.effects.serve import ServedModels, check_adapter
from runtime.effects.train import TrainingHost, repeated_completions, sealed_attempts, sources, train_round
from runtime.policies import text_scorer
from runtime.policies.bases import prepare_base
from runtime.policies.interface import SampleRequest
from runtime.rollouts.attempt import RecordedAttempt
from runtime.run.batch import batch_digest
from runtime.run.loading import LoadedRun
from runtime.run.order import RunOrder, plan
from tasks.loading import load
from tests.harness.agents import request_for_feedback
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


def test_a_batch_says_which_answers_were_cut_and_how_many_completions_repeat_another(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    of = sealed(batch_digest([("t0", 1.0), ("t1", 0.0)]))
    old = played(blobs)
    assert [attempt.calls[0].cut for attempt in sealed_attempts(blobs, {"q": old}, of)] == [False, False]
    (made,) = old[0].calls
    new = [one._replace(calls=(msgspec.structs.replace(made, cut=(True, False), repeated=1),)) for one in old]
    assert [attempt.calls[0].cut for attempt in sealed_attempts(blobs, {"q": new}, of)] == [True, False]
    assert repeated_completions({"q": new}, of) == 1  # one call, which both attempts used
    assert repeated_completions({"q": old}, of) == 0


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


def test_labels_hints_and_copies_come_from_train_as_the_item_may_see_it() -> None:
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
    assert found.hint(public.train[0].id) == f"\nThe answer is {public.train[0].label}."
    assert found.copies([public.train[0].id]) == {public.train[0].id: []}
    assert len(loads) == 1


def parent(generation: int, of: int) -> Event:
    return event_of(ParentSelected(generation=generation, candidate=f"c{of}", probabilities={f"c{of}": 1.0}))


def chosen(generation: int, lever: LeverChoice, action: str) -> Event:
    return event_of(
        LeverChosen(generation=generation, lever=lever, action=action, reason="", propensities={}, diagnosis={})
    )


def evaluated(generation: int, score: float, lever: CandidateOrigin = "scaffold", scaffold: str = "") -> Event:
    return event_of(
        CandidateEvaluated(
            generation=generation,
            candidate=f"c{generation}",
            scaffold=scaffold,
            adapter="",
            lever=lever if generation else "start",
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


def kept(generation: int) -> Event:
    return event_of(CandidateKept(generation=generation, candidate=f"c{generation}", score=0.0, reason=""))


def asked(generation: int, of: int, **more: Any) -> FeedbackRequested:
    return request_for_feedback(**{"generation": generation, "candidate": f"c{of}", **more})


def past(lever: str, action: str, before: float, after: float, accepted: bool = True, **more: Any) -> PastChoice:
    return PastChoice(lever=lever, action=action, accepted=accepted, before=before, after=after, **more)


def test_the_agent_remembers_what_it_tried_and_what_came_of_it() -> None:
    told = [evaluated(0, 0.4), accepted(0)]
    told += [parent(1, 0), chosen(1, "scaffold", "vote"), evaluated(1, 0.7), accepted(1)]
    told += [parent(2, 1), chosen(2, "weights", "grpo"), evaluated(2, 0.6), parent(3, 1)]
    told += [chosen(3, "weights", "best_of_n")]
    assert earlier_choices(told, asked(3, 1)) == [
        past("scaffold", "vote", 0.4, 0.7),
        past("weights", "grpo", 0.7, 0.6, accepted=False),
    ]


def test_in_a_chain_an_agent_remembers_all_choices_in_their_order() -> None:
    """Whatever was accepted, rejected, or never became a candidate: `before` is the best of its time."""
    draw = Random(7)
    for _ in range(50):
        told, best, expected, at = [evaluated(0, 0.1), accepted(0)], 0.1, [], 0
        for number in range(1, 9):
            told += [parent(number, at), chosen(number, draw.choice(("scaffold", "weights")), f"a{number}")]
            lever = next(event.data.lever for event in reversed(told) if isinstance(event.data, LeverChosen))
            score = draw.choice((None, best - 0.01, best + 0.01))
            told += [] if score is None else [evaluated(number, score)]
            won = score is not None and score > best
            expected.append(past(lever, f"a{number}", best, best if score is None else score, won))
            if score is not None and won:
                told, best, at = [*told, accepted(number)], score, number
        assert earlier_choices(told, asked(9, at)) == expected
        assert earlier_choices(told, asked(9, at, settled=8)) == expected


FAMILY = [
    *(evaluated(0, 0.4), accepted(0)),
    *(parent(1, 0), chosen(1, "scaffold", "vote"), evaluated(1, 0.5), accepted(1)),
    *(parent(2, 0), chosen(2, "scaffold", "ridge"), evaluated(2, 0.3), kept(2)),
    *(parent(3, 2), chosen(3, "weights", "grpo"), evaluated(3, 0.35)),
    *(parent(4, 1), chosen(4, "weights", "rloo"), evaluated(4, 0.6), accepted(4)),
    *(parent(5, 2), chosen(5, "weights", "ppo"), evaluated(5, 0.45), kept(5)),
]
"""Generation 0 has the children 1 and 2, generation 2 the children 3, which was rejected, and 5; 4 comes of 1."""


def test_in_a_population_an_agent_remembers_what_was_tried_from_the_candidate_and_its_ancestors() -> None:
    """Each with the score of its own parent. What led to the candidate stands last among its parent's."""
    assert earlier_choices(FAMILY, asked(6, 5)) == [
        past("scaffold", "vote", 0.4, 0.5, other_branch=True),
        past("scaffold", "ridge", 0.4, 0.3),
        past("weights", "grpo", 0.3, 0.35, accepted=False),
        past("weights", "ppo", 0.3, 0.45),
    ]
    assert [one.action for one in earlier_choices(FAMILY, asked(6, 1))] == ["ridge", "vote", "rloo"]
    assert [one.action for one in earlier_choices(FAMILY, asked(6, 0))] == ["vote", "ridge"]


def test_an_agent_knows_nothing_of_what_is_not_settled() -> None:
    """So what it does is the same, whichever generation beside its own ends first."""
    for known in range(2, 6):
        request = asked(6, 2, settled=known)
        early = [event for event in FAMILY if int(event.data.key()[0]) <= known]
        assert earlier_choices(FAMILY, request) == earlier_choices(early, request)
        assert ancestry(FAMILY, request) == ancestry(early, request)
    assert len(earlier_choices(FAMILY, asked(6, 2))) == len(earlier_choices(FAMILY, asked(6, 2, settled=4))) + 1


def test_a_start_that_was_judged_anew_goes_on_from_the_candidate_that_it_is() -> None:
    told = [evaluated(0, 0.4, scaffold="a"), accepted(0), parent(1, 0), chosen(1, "scaffold", "vote")]
    told += [evaluated(1, 0.5, scaffold="b"), accepted(1), evaluated(2, 0.9, "start", scaffold="b"), accepted(2)]
    told += [parent(3, 2), chosen(3, "weights", "grpo"), evaluated(3, 0.8)]
    assert earlier_choices(told, asked(4, 2)) == [
        past("scaffold", "vote", 0.4, 0.5),
        past("weights", "grpo", 0.9, 0.8, accepted=False),
    ]


def by_rules(*actions: str, lever: LeverChoice = "weights") -> Callable[[Sequence[PastChoice]], Choice]:
    """Rules that try these actions in turn, each until it was rejected, and then stop."""

    def choose(tried: Sequence[PastChoice]) -> Choice:
        left = [action for action in actions if action not in {one.action for one in tried}]
        return Choice(lever=lever if left else "stop", action=left[0] if left else "", reason="r")

    return choose


@pytest.mark.parametrize(
    ("lever", "others", "action"),
    [
        ("weights", 0, "a"),
        ("weights", 1, "b"),
        ("weights", 2, "a"),  # nothing is left: once more with another seed
        ("weights", 5, "a"),
        ("scaffold", 1, "b"),
        ("scaffold", 2, ""),  # an edit made twice is the same edit
    ],
)
def test_agents_beside_each_other_choose_in_turn_without_waiting(lever: LeverChoice, others: int, action: str) -> None:
    choice = choice_beside(by_rules("a", "b", lever=lever), [], 0.5, others)
    assert choice.action == action and choice.lever == (lever if action else "stop")
    assert ("Beside this one" in choice.reason) == bool(others and action)


def test_an_agent_beside_others_takes_what_they_leave_of_what_is_known() -> None:
    tried = [past("weights", "a", 0.5, 0.4, accepted=False)]
    assert choice_beside(by_rules("a", "b", "c"), tried, 0.5, 1).action == "c"


def test_who_pulls_another_lever_is_no_rival() -> None:
    told = [event_of(asked(3, 0, levers=("scaffold",))), event_of(asked(4, 0, levers=("weights",)))]
    assert rivals(told, asked(5, 0, levers=("scaffold",), beside=(3, 4))) == 1
    assert rivals(told, asked(5, 0, beside=(3, 4))) == 2
    assert rivals([], asked(5, 0, beside=(3, 4))) == 2 and rivals(told, asked(5, 0)) == 0


class RulesHarness:
    """The rules agent on the toy task, whose probe holds a right and a wrong answer to each of four items."""

    def __init__(self, folder: Path) -> None:
        task = load(str(TOY))
        public = task.public(0)
        order = RunOrder(task=str(TOY), levers="both", seed=0, generations=None, budget="")
        self.blobs, self.loaded = Blobs(folder), LoadedRun(plan(task, public, order, "b"), task, public)
        self.scaffold = self.blobs.put_tree({path: text.encode() for path, text in task.scaffold().items()})
        self.attempts = []
        for number in range(8):
            recorded = trajectory(number).data
            assert isinstance(recorded, TrajectoryRecorded)
            recorded = msgspec.structs.replace(
                recorded, item=public.train[number // 2].id, attempt=number % 2, calls=()
            )
            self.attempts.append(RecordedAttempt(f"t{number}", recorded, float(number % 2), "", ()))

    def choose(self, **requested: Any) -> list[Fact]:
        """What the agent answers in generation 5, about the start of a run."""
        request = asked(5, 0, scaffold=self.scaffold, **requested)
        return choose_by_rules(self.blobs, [evaluated(0, 0.5), accepted(0)], self.attempts, self.loaded, request)


@pytest.mark.parametrize(
    ("levers", "beside", "action"),
    [
        (("scaffold", "weights"), (), "shared_words"),
        (("scaffold", "weights"), (3,), "best_of_n"),
        (("scaffold", "weights"), (3, 4), "grpo"),
        (("weights",), (2, 3, 4), "best_of_n"),
    ],
)
def test_the_rules_agent_leaves_to_others_what_they_choose(
    tmp_path: Path, levers: tuple[Lever, ...], beside: tuple[int, ...], action: str
) -> None:
    _, choice, change = RulesHarness(tmp_path).choose(levers=levers, beside=beside)
    assert isinstance(choice, LeverChosen) and (choice.action, choice.propensities) == (action, {choice.lever: 1.0})
    assert isinstance(change, ScaffoldProposed if action == "shared_words" else WeightUpdateRequested)


def test_the_rules_agent_does_not_stop_while_others_change_the_same_candidate(tmp_path: Path) -> None:
    (failed,) = RulesHarness(tmp_path).choose(beside=(2, 3, 4))
    assert isinstance(failed, ProposalFailed)
    assert failed.reason.startswith(
        "nothing is left to try beside generations 2, 3, 4, which change the same candidate"
    )


def test_under_a_schedule_a_lever_is_as_likely_as_the_schedule_has_it(tmp_path: Path) -> None:
    chances = {"scaffold": 0.5, "weights": 0.5}
    _, choice, _ = RulesHarness(tmp_path).choose(levers=("weights",), propensities=chances)
    assert isinstance(choice, LeverChosen) and (choice.lever, choice.propensities) == ("weights", chances)
