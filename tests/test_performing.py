"""Recorded effects performed again by the services' own code, and what another verifier or another table of rules would have changed."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command import Place, wait_for
from given import RUN
from test_chain import Told as Log

pytest.importorskip("peft")

from events import codec
from events.change import ScaffoldProposed, WeightUpdateRequested
from events.choice import FeedbackRequested, LeverChosen
from events.errors import UsageError
from events.fact import Fact
from events.judgement import CandidateEvaluated, TrajectoryScored
from events.play import ModelCalled, RolloutsRequested, TrajectoryRecorded
from events.run import Budget, Items, RunStarted
from events.subjects import LOG, tag_of
from events.weights import AdapterPublished, AdapterServed, TrainingBatchSealed
from runtime.blobs import Blobs
from runtime.log import Stored
from services.performing import KINDS, Performed, perform, performed_lines
from services.swapping import Rewards, Swapped, Turn, swap, swapped_lines
from tasks.loading import load

TOY = Path(__file__).parent / "toy"
NUMBERS = Path(__file__).parent / "numbers"
RULES = Path(__file__).parent.parent / "runtime" / "agents" / "rules.py"
HALF = """
from dataclasses import dataclass

from tasks.contract import Scored

VERSION = "half-1"


@dataclass
class Worth:
    right: "float"


def score(answer, label):
    if answer == "mason" and label == "mason":
        return Scored(0.5, "right")
    return Scored(Worth(1.0).right, "right") if answer == label else Scored(0.0, "wrong")
"""
"""The toy's verifier, but for one label."""
FLIPPED = """
from tasks.contract import Scored

VERSION = "flipped-1"


def score(answer, label):
    return Scored(float(answer != label), "wrong")
"""
GRPO = """
from runtime.agents.rules import Choice


def choose(evidence, history, levers, edits):
    return Choice(lever="weights", action="grpo", reason=f"after {len(history)} choices", rounds=2)
"""


class Run:
    """A run that was: its messages, and where its blobs are."""

    def __init__(self, messages: Sequence[Stored], blobs: Path) -> None:
        self.messages, self.blobs = list(messages), blobs

    def perform(self, work: Path, *kinds: str) -> list[Performed]:
        return perform(self.messages, Blobs(self.blobs), work, kinds, lambda kind, done, total: None)

    def swap(self, work: Path, service: str, path: Path) -> Swapped:
        return swap(self.messages, Blobs(self.blobs), work, service, path)

    def changed(self, kind: type[Fact], change: Callable[[Any], dict[str, object]], place: int = -1) -> tuple["Run", int]:
        """The run with other words in one event of a type, as if they were recorded; and its sequence."""
        at = [number for number, stored in enumerate(self.messages) if tag_of(stored.subject) == kind.tag()][place]
        event = codec.decode(self.messages[at].data)
        event = msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, **change(event.data)))
        messages = list(self.messages)
        messages[at] = msgspec.structs.replace(messages[at], data=codec.encode(event))
        return Run(messages, self.blobs), messages[at].sequence

    def until(self, kind: type[Fact]) -> "Run":
        """The run up to its first event of a type."""
        end = next(number for number, stored in enumerate(self.messages, 1) if tag_of(stored.subject) == kind.tag())
        return Run(self.messages[:end], self.blobs)


def ran(place: Place, *flags: str) -> Run:
    """What a run of real processes left."""
    place.up()
    try:
        place.evolog("run", *flags, "--name", "r", "--detach")
        wire = place.wire("operator", LOG)
        wait_for(lambda: any(tag_of(stored.subject) == "run_finished" for stored in wire.read(1, 100_000)), "the run is finished")
        return Run(wire.read(1, 100_000), place.node.blobs)
    finally:
        place.down()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of both levers, with room for one training round."""
    return ran(Place(tmp_path_factory.mktemp("toy")), str(TOY), "--budget", "rollouts=1150")


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def same(performed: Sequence[Performed]) -> bool:
    return all(of.performed and of.performed == of.same and not of.cannot and of.first is None for of in performed)


def test_every_effect_of_a_run_comes_out_the_same_and_its_blobs_are_left_alone(toy: Run, tmp_path: Path) -> None:
    before, told = files(toy.blobs), []
    performed = perform(toy.messages, Blobs(toy.blobs), tmp_path, list(KINDS), lambda *said: told.append(said))
    assert same(performed), performed_lines(performed)
    assert {of.kind: of.performed for of in performed if of.kind != "policy"} == {
        "verifier": sum(tag_of(stored.subject) == "trajectory_scored" for stored in toy.messages),
        "meta_agent": 1,
        "feedback_agent": 2,
        "trainer": 1,
    }
    assert {said[0]: said[1:] for said in told} == {of.kind: (of.performed, of.performed) for of in performed}
    assert files(toy.blobs) == before


@pytest.mark.long
def test_every_effect_of_a_language_model_comes_out_the_same(models: Path, tmp_path: Path) -> None:
    run = ran(Place(tmp_path / "place", XDG_CACHE_HOME=str(models)), str(NUMBERS), "--levers", "weights")
    performed = run.perform(tmp_path / "work", *KINDS)
    assert same(performed), performed_lines(performed)


def nudged(call: ModelCalled) -> dict[str, object]:
    ((first, *rest), *others) = call.logprobs
    return {"logprobs": ((first - 1e-15, *rest), *others)}


@pytest.mark.parametrize(
    ("service", "kind", "change", "field"),
    [
        ("verifier", TrajectoryScored, lambda of: {"reward": 1 - of.reward}, "trajectory_scored.reward"),
        ("policy", ModelCalled, nudged, "model_called.logprobs[0][0]"),
        ("policy", AdapterServed, lambda of: {"error": of.error + 1e-15}, "adapter_served.error"),
        ("feedback_agent", LeverChosen, lambda of: {"action": "ppo"}, "lever_chosen.action"),
        ("feedback_agent", WeightUpdateRequested, lambda of: {"hyper": of.hyper | {"lr": 1e-3}}, "weight_update_requested.hyper.lr"),
        ("meta_agent", ScaffoldProposed, lambda of: {"scaffold": "0" * 64}, "scaffold_proposed.scaffold"),
    ],
)
def test_what_comes_out_otherwise_is_found_and_nothing_else(
    toy: Run, tmp_path: Path, service: str, kind: type[Fact], change: Callable[[Any], dict[str, object]], field: str
) -> None:
    run, sequence = toy.changed(kind, change, 0 if kind is ScaffoldProposed else -1)
    (performed,) = run.perform(tmp_path, service)
    assert performed.same == performed.performed - 1 and performed.first
    assert (performed.first.sequence, performed.first.field) == (sequence, field)
    assert performed.first.recorded != performed.first.now
    assert performed_lines([performed])[1] == f"  first at sequence {sequence}, {field}:"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda of: {"adapter": of.adapter[:-1] + ("1" if of.adapter[-1] == "0" else "0")}, "adapter_published.adapter"),
        (lambda of: {"state": "0" * 64}, "adapter_published.state"),
    ],
)
def test_an_adapter_or_state_of_other_bytes_is_found(
    toy: Run, tmp_path: Path, change: Callable[[Any], dict[str, object]], field: str
) -> None:
    run, sequence = toy.changed(AdapterPublished, change)
    (performed,) = run.perform(tmp_path, "trainer")
    assert (performed.performed, performed.same) == (1, 0) and performed.first
    assert (performed.first.sequence, performed.first.field) == (sequence, field)


def test_of_several_that_come_out_otherwise_the_first_in_the_log_is_told(toy: Run, tmp_path: Path) -> None:
    last, _ = toy.changed(ModelCalled, nudged)
    both, sequence = last.changed(ModelCalled, nudged, 0)
    (performed,) = both.perform(tmp_path, "policy")
    assert performed.same == performed.performed - 2 and performed.first and performed.first.sequence == sequence


def test_an_effect_that_was_not_answered_is_not_performed(toy: Run, tmp_path: Path) -> None:
    verifier, trainer = toy.until(TrainingBatchSealed).perform(tmp_path, "verifier", "trainer")
    assert verifier.performed and trainer.performed == 0
    assert performed_lines([trainer]) == ["trainer: none performed again"]


@pytest.mark.parametrize(
    ("service", "kind", "change", "why"),
    [
        ("verifier", RunStarted, {"splits": {"train": "0" * 64}}, "is not what run r was started on"),
        ("verifier", RunStarted, {"verifier": "toy/toy-0"}, "scored by toy/toy-0, and the task has toy/toy-1 now"),
        ("verifier", RunStarted, {"task": "/nonexistent"}, "There is no task '/nonexistent'"),
        ("feedback_agent", RunStarted, {"agent": "openai:gpt"}, "the agent is a language model, openai:gpt"),
        ("meta_agent", RunStarted, {"agent": "openai:gpt"}, "the agent is a language model, openai:gpt"),
        ("trainer", RunStarted, {"base_model": "0" * 64}, "Blob " + "0" * 64 + " is not in"),
        ("trainer", TrainingBatchSealed, {"parent_state": "0" * 64}, "Blob " + "0" * 64 + " is not in"),
        ("trainer", AdapterPublished, {"processes": 8, "back_end": "trl"}, "trained by 8 processes"),
    ],
)
def test_what_cannot_be_performed_again_says_why(
    toy: Run, tmp_path: Path, service: str, kind: type[Fact], change: dict[str, object], why: str
) -> None:
    (performed,) = toy.changed(kind, lambda of: change)[0].perform(tmp_path, service)
    assert performed.performed == 0
    ((reason, count),) = performed.cannot.items()
    assert why in reason and count == {"feedback_agent": 2, "meta_agent": 1, "trainer": 1}.get(service, count)
    assert performed_lines([performed])[-1] == f"  {count:,} cannot be performed again: {reason}"


def test_a_model_with_a_server_of_its_own_is_not_asked_again(toy: Run, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    base = blobs.put_tree({"base.json": b'{"kind": "hf"}'})
    run, _ = toy.changed(RunStarted, lambda of: {"base_model": base})
    run, _ = Run(run.messages, blobs.root).changed(ModelCalled, lambda of: {"model": base})
    shutil.copytree(toy.blobs, blobs.root, dirs_exist_ok=True)
    policy, trainer = run.perform(tmp_path / "work", "policy", "trainer")
    assert policy.same == policy.performed and sum(policy.cannot.values()) == 1 and trainer.performed == 0
    assert all("Hugging Face" in reason for reason in (*policy.cannot, *trainer.cannot))


def test_no_other_kind_can_be_performed(toy: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'auditor' cannot be performed again; expected one or more of verifier, "):
        toy.perform(tmp_path, "verifier", "auditor")


def story(folder: Path, agent: str = "rules") -> Run:
    """Two candidates on four dev items: the start has one right and is kept, its edit has three right and is kept.

    Of two attempts at the one item of the probe, the first is right both times.
    """
    task, blobs, log = load(str(TOY)), Blobs(folder), Log()
    public, labels = task.public(0), task.labels(0)
    files, (edit, *_) = task.scaffold(), task.edits()
    trees = [blobs.put_tree({path: text.encode() for path, text in of.items()}) for of in (files, edit.apply(files))]
    dev, probe = tuple(item.id for item in public.dev[:4]), public.train[0].id
    log.say(
        RunStarted(
            task=str(TOY),
            seed=0,
            levers=("scaffold", "weights"),
            generations=1,
            budget=Budget(),
            items=Items(dev=dev, folds=((probe,),), probe=((probe,),)),
            splits=public.digests,
            verifier="toy/toy-1",
            policy="text-scorer",
            base_model="b",
            agent=agent,
            group_size=2,
        )
    )
    proposed = ScaffoldProposed(generation=0, scaffold=trees[0], parent="", summary="", reason="")
    log.say(proposed)
    answered(log, 0, {*dev[:1]}, labels)
    chosen = LeverChosen(generation=1, lever="scaffold", action=edit.name, reason="", propensities={"scaffold": 1.0}, diagnosis={})
    edited = ScaffoldProposed(generation=1, scaffold=trees[1], parent=trees[0], summary=edit.summary, reason="")
    asked = codec.event_id(RUN, FeedbackRequested, 1)
    for fact in (chosen, edited):
        log.unheard.append(log.append(codec.event(fact, run=RUN, source="feedback_agent", cause=asked, time="")))
    log.hear()
    answered(log, 1, {*dev[:3]}, labels)
    return Run(log.messages, folder)


def answered(log: Log, generation: int, right: set[str], labels: dict[str, str]) -> None:
    """The attempts that a candidate was asked for: right at these dev items, and in the first attempt at all others."""
    events = [codec.decode(stored.data) for stored in log.messages]
    for request in events:
        asked = request.data
        if not isinstance(asked, RolloutsRequested) or asked.generation != generation:
            continue
        for item, attempt in [(item, attempt) for item in asked.items for attempt in range(asked.attempts)]:
            place = {"request": request.id, "item": item, "attempt": attempt}
            hit = item in right if asked.purpose == "dev" else attempt == 0
            of = {"purpose": asked.purpose, "split": asked.split, "generation": generation, "scaffold": asked.scaffold, "adapter": ""}
            recorded = TrajectoryRecorded(**place, **of, answer=labels[item] if hit else "nobody", calls=(), seconds=0.0)  # type: ignore[arg-type]
            trajectory = codec.event_id(RUN, TrajectoryRecorded, *recorded.key())
            scored = {"reward": float(hit), "outcome": "right" if hit else "wrong", "verifier": "toy/toy-1"}
            log.say(recorded, TrajectoryScored(trajectory=trajectory, **place, **scored))  # type: ignore[arg-type]


def written(folder: Path, text: str) -> Path:
    path = folder / "verifier.py"
    path.write_text(text)
    return path


def test_another_verifier_tells_which_rewards_scores_and_decision_would_have_been_others(tmp_path: Path) -> None:
    run, path = story(tmp_path / "blobs"), written(tmp_path, FLIPPED)
    swapped = run.swap(tmp_path / "work", "verifier", path)
    assert (swapped.recorded_name, swapped.name, swapped.performed, swapped.differ) == ("toy/toy-1", "toy/flipped-1", 12, 12)
    assert swapped.rewards == [
        Rewards(purpose="dev", attempts=8, differ=8, recorded=0.5, now=0.5),
        Rewards(purpose="probe", attempts=4, differ=4, recorded=0.5, now=0.5),
    ]
    assert [(of.lever, of.accepted, of.recorded, of.now) for of in swapped.scores] == [
        ("start", True, 0.25, 0.75),
        ("scaffold", True, 0.75, 0.25),
    ]
    assert [(of.item, of.answer, of.recorded, of.now) for of in swapped.examples] == [
        ("dev0", "baker", 1.0, 0.0),
        ("dev1", "nobody", 0.0, 1.0),
    ]
    events = [(stored.sequence, codec.decode(stored.data).data) for stored in run.messages]
    decided = max(sequence for sequence, fact in events if isinstance(fact, CandidateEvaluated))
    assert swapped.turn == Turn(sequence=decided, words="generation 1 would have been dropped: 0.2500 on dev does not beat 0.7500")
    asked = max(sequence for sequence, fact in events if isinstance(fact, RolloutsRequested) and fact.generation == 0)
    assert swapped.fork == f"evolog fork {RUN} --at {asked} --set verifier={path}" and not swapped.unknown
    assert "  1  scaffold  0.7500 -> 0.2500  kept, as recorded" in "\n".join(swapped_lines(swapped))
    assert msgspec.json.decode(msgspec.json.encode(swapped), type=Swapped) == swapped
