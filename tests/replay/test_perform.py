"""Recorded effects performed again by the services' own code, and what another verifier or another table of rules would
have changed.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness.cli import CliHarness
from tests.harness.decided_log import DecidedLog
from tests.harness.facts import ANY_ITEM, RUN
from tests.harness.paths import TASKS, TOY
from tests.harness.polling import wait_until

pytest.importorskip("peft")

from events import codec
from events.change import ScaffoldProposed, WeightUpdateRequested
from events.choice import FeedbackRequested, LeverChosen
from events.errors import Misconfigured, NotFound, UsageError, UserError
from events.fact import Fact
from events.judgement import CandidateEvaluated, TrajectoryScored
from events.rollouts import ModelCalled, RolloutsRequested, TrajectoryRecorded
from events.run import Budget, Items, RunStarted
from events.subjects import LOG, tag_of
from events.weights import AdapterPublished, AdapterRejected, AdapterServed, TrainingBatchSealed
from replay.perform import KINDS, Performed, perform
from replay.swap import RewardComparison, SwapReport, TurningPoint, swap
from runtime.blobs.directory import Blobs
from runtime.log.port import Stored
from runtime.run.loading import OWN
from services.views.replayed import performed_lines, swap_lines
from tasks.loading import load

pytestmark = pytest.mark.slow

NUMBERS = TASKS / "numbers"
RULES = Path(__file__).parents[2] / "algorithms" / "levers" / "rules.py"
GRADED = """
from dataclasses import dataclass

from tasks.contract import Scored

VERSION = "graded-1"


@dataclass
class Worth:
    of: "float"


def score(answer, label):
    return Scored(Worth(0.9 if answer == label else 0.1).of, "right" if answer == label else "wrong")
"""
"""Keeps every order, and says less."""
FINE = GRADED.replace("else 0.1)", "else 0.1 + 0.01 * (len(answer or '') % 7))")
"""The same, with several rewards for what is wrong."""
FLIPPED = """
from tasks.contract import Scored

VERSION = "flipped-1"


def score(answer, label):
    return Scored(float(answer != label), "wrong")
"""
ONE_WORD = """
from tasks.contract import Scored

VERSION = "one-word-1"


def score(answer, label):
    if answer == "nobody":
        raise KeyError(answer)
    return Scored(1.0, "right")
"""
GRPO = """
from algorithms.levers.rules import Choice


def choose(evidence, history, levers, edits):
    return Choice(lever="weights", action="grpo", reason=f"after {len(history)} choices", rounds=2)
"""


class Run:
    """A run that was: its messages, and where its blobs are."""

    def __init__(self, messages: Sequence[Stored], blobs: Path) -> None:
        self.messages, self.blobs = list(messages), blobs

    def perform(self, work: Path, *kinds: str) -> list[Performed]:
        return perform(self.messages, Blobs(self.blobs), work, kinds, lambda kind, done, total: None, OWN)

    def swap(self, work: Path, service: str, path: Path) -> SwapReport:
        return swap(self.messages, Blobs(self.blobs), work, service, path, OWN)

    def changed(
        self, kind: type[Fact], change: Callable[[Any], dict[str, object]], place: int = -1
    ) -> tuple["Run", int]:
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


def ran(place: CliHarness, *flags: str) -> Run:
    """What a run of real processes left."""
    place.up()
    try:
        place.evolog("run", *flags, "--name", "r", "--detach")
        wire = place.connect("operator", LOG)
        wait_until(
            lambda: any(tag_of(stored.subject) == "run_finished" for stored in wire.read(1, 100_000)),
            "the run is finished",
        )
        return Run(wire.read(1, 100_000), place.node.blobs)
    finally:
        place.down()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of both levers, with room for one training round."""
    return ran(CliHarness(tmp_path_factory.mktemp("toy")), str(TOY), "--budget", "rollouts=1150")


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def same(performed: Sequence[Performed]) -> bool:
    return all(of.performed and of.performed == of.same and not of.cannot and of.first is None for of in performed)


def test_every_effect_of_a_run_comes_out_the_same_and_its_blobs_are_left_alone(toy: Run, tmp_path: Path) -> None:
    before, told = files(toy.blobs), []
    performed = perform(toy.messages, Blobs(toy.blobs), tmp_path, list(KINDS), lambda *said: told.append(said), OWN)
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
    run = ran(CliHarness(tmp_path / "place", XDG_CACHE_HOME=str(models)), str(NUMBERS), "--levers", "weights")
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
        ("policy", ModelCalled, lambda of: {"cut": tuple(not cut for cut in of.cut)}, "model_called.cut[0]"),
        ("policy", AdapterServed, lambda of: {"error": of.error + 1e-15}, "adapter_served.error"),
        ("feedback_agent", LeverChosen, lambda of: {"action": "ppo"}, "lever_chosen.action"),
        (
            "feedback_agent",
            WeightUpdateRequested,
            lambda of: {"hyper": of.hyper | {"epochs": 7}},
            "weight_update_requested.hyper.epochs",
        ),
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


def test_a_call_of_an_older_log_which_does_not_say_what_was_cut_comes_out_the_same(toy: Run, tmp_path: Path) -> None:
    run, _ = toy.changed(ModelCalled, lambda of: {"cut": ()})
    assert same(run.perform(tmp_path, "policy"))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (
            lambda of: {"adapter": of.adapter[:-1] + ("1" if of.adapter[-1] == "0" else "0")},
            "adapter_published.adapter",
        ),
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


def test_what_comes_out_and_is_not_recorded_is_found(toy: Run, tmp_path: Path) -> None:
    lost = next(stored for stored in toy.messages if tag_of(stored.subject) == "optimizer_step_applied")
    (performed,) = Run([stored for stored in toy.messages if stored != lost], toy.blobs).perform(tmp_path, "trainer")
    asked = next(stored.sequence for stored in toy.messages if tag_of(stored.subject) == "training_batch_sealed")
    assert performed.same == 0 and performed.first
    assert (performed.first.sequence, performed.first.field, performed.first.recorded) == (asked, "event", "nothing")
    assert performed.first.now.startswith("optimizer_step_applied {")


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
        ("policy", AdapterPublished, {"adapter": "0" * 64}, "Blob " + "0" * 64 + " is not in"),
        ("policy", ModelCalled, {"body": "0" * 64}, "Blob " + "0" * 64 + " is not in"),
        ("trainer", AdapterPublished, {"processes": 8, "back_end": "trl"}, "trained by 8 processes"),
        ("trainer", AdapterPublished, {"processes": 2, "back_end": "native"}, "trained by 2 processes"),
    ],
)
def test_what_cannot_be_performed_again_says_why(
    toy: Run, tmp_path: Path, service: str, kind: type[Fact], change: dict[str, object], why: str
) -> None:
    (performed,) = toy.changed(kind, lambda of: change)[0].perform(tmp_path, service)
    assert performed.first is None and (performed.performed == 0 or service == "policy")
    ((reason, count),) = performed.cannot.items()
    assert why in reason and count == {"feedback_agent": 2, "verifier": 1144}.get(service, 1)
    assert performed_lines([performed])[-1] == f"  {count:,} cannot be performed again: {reason}"


def test_a_trainer_that_asks_for_a_task_that_is_not_here_cannot_train_again(toy: Run, tmp_path: Path) -> None:
    asking, _ = toy.changed(TrainingBatchSealed, lambda of: {"algorithm": "spin", "hyper": {}})
    run, _ = asking.changed(RunStarted, lambda of: {"task": "/nonexistent"})
    (performed,) = run.perform(tmp_path, "trainer")
    assert performed.performed == 0 and "There is no task '/nonexistent'" in next(iter(performed.cannot))


def test_a_model_with_a_server_of_its_own_is_not_asked_again(toy: Run, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    base = blobs.put_tree({"base.json": b'{"kind": "hf"}'})
    run, _ = toy.changed(RunStarted, lambda of: {"base_model": base})
    run, _ = Run(run.messages, blobs.root).changed(ModelCalled, lambda of: {"model": base})
    shutil.copytree(toy.blobs, blobs.root, dirs_exist_ok=True)
    policy, trainer = run.perform(tmp_path / "work", "policy", "trainer")
    assert policy.same == policy.performed and sum(policy.cannot.values()) == 1 and trainer.performed == 0
    assert all("Hugging Face" in reason for reason in (*policy.cannot, *trainer.cannot))


def test_an_adapter_that_is_rejected_again_was_in_another_folder_then(toy: Run, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    shutil.copytree(toy.blobs, blobs.root)
    empty = blobs.put_tree({"README.md": b""})
    run, _ = toy.changed(AdapterPublished, lambda of: {"adapter": empty})
    published = next(
        codec.decode(stored.data) for stored in run.messages if tag_of(stored.subject) == "adapter_published"
    )
    assert isinstance(published.data, AdapterPublished)
    at = next(number for number, stored in enumerate(run.messages) if tag_of(stored.subject) == "adapter_served")
    why = f"The adapter folder /elsewhere/work/policy-0/{empty} lacks adapter_config.json; it is no peft adapter."
    fact = AdapterRejected(generation=2, round=1, adapter=empty, batch=published.data.batch, reason=why)
    event = codec.event(fact, run="r", source="policy", cause=published.id, time="")
    run.messages[at] = msgspec.structs.replace(run.messages[at], subject=event.subject, data=codec.encode(event))
    (policy,) = Run(run.messages, blobs.root).perform(tmp_path / "work", "policy")
    assert policy.same == policy.performed and not policy.cannot


def test_no_other_kind_can_be_performed(toy: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'auditor' cannot be performed again; expected one or more of verifier, "):
        toy.perform(tmp_path, "verifier", "auditor")


def story(folder: Path, agent: str = "rules", first: int = 1, second: int = 3) -> Run:
    """Two candidates on four dev items, the start with so many right and its edit.

    Of two attempts at the one item of the probe, the first is right both times.
    """
    task, blobs, log = load(str(TOY)), Blobs(folder), DecidedLog()
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
    answered(log, 0, {*dev[:first]}, labels)
    chosen = LeverChosen(
        generation=1, lever="scaffold", action=edit.name, reason="", propensities={"scaffold": 1.0}, diagnosis={}
    )
    edited = ScaffoldProposed(generation=1, scaffold=trees[1], parent=trees[0], summary=edit.summary, reason="")
    asked = codec.event_id(RUN, FeedbackRequested, 1)
    log.say_at_once(
        *(codec.event(fact, run=RUN, source="feedback_agent", cause=asked, time="") for fact in (chosen, edited))
    )
    answered(log, 1, {*dev[:second]}, labels)
    return Run(log.messages, folder)


def answered(log: DecidedLog, generation: int, right: set[str], labels: dict[str, str]) -> None:
    """The attempts that a candidate was asked for: right at these dev items, and in the first attempt at all others."""
    events = [codec.decode(stored.data) for stored in log.messages]
    for request in events:
        asked = request.data
        if not isinstance(asked, RolloutsRequested) or asked.generation != generation:
            continue
        for item, attempt in [(item, attempt) for item in asked.items for attempt in range(asked.attempts)]:
            hit = item in right if asked.purpose == "dev" else attempt == 0
            recorded = TrajectoryRecorded(
                request=request.id,
                item=item,
                attempt=attempt,
                purpose=asked.purpose,
                split=asked.split,
                generation=generation,
                scaffold=asked.scaffold,
                adapter="",
                answer=labels[item] if hit else "nobody",
                calls=(),
                seconds=0.0,
            )
            scored = TrajectoryScored(
                trajectory=codec.event_id(RUN, TrajectoryRecorded, *recorded.key()),
                request=request.id,
                item=item,
                attempt=attempt,
                reward=float(hit),
                outcome="right" if hit else "wrong",
                verifier="toy/toy-1",
            )
            log.say(recorded, scored)


def written(folder: Path, text: str) -> Path:
    path = folder / "verifier.py"
    path.write_text(text)
    return path


def test_another_verifier_tells_which_rewards_scores_and_decision_would_have_been_others(tmp_path: Path) -> None:
    run, path = story(tmp_path / "blobs"), written(tmp_path, FLIPPED)
    swapped = run.swap(tmp_path / "work", "verifier", path)
    assert (swapped.recorded_name, swapped.name, swapped.performed, swapped.differ) == (
        "toy/toy-1",
        "toy/flipped-1",
        12,
        12,
    )
    assert swapped.rewards == [
        RewardComparison(purpose="dev", attempts=8, differ=8, recorded=0.5, now=0.5),
        RewardComparison(purpose="probe", attempts=4, differ=4, recorded=0.5, now=0.5),
    ]
    assert [(of.lever, of.standing, of.recorded, of.now) for of in swapped.scores] == [
        ("start", "accepted", 0.25, 0.75),
        ("scaffold", "accepted", 0.75, 0.25),
    ]
    assert [(of.item, of.answer, of.recorded, of.now) for of in swapped.examples] == [
        ("dev0", "baker", 1.0, 0.0),
        ("dev1", "nobody", 0.0, 1.0),
    ]
    events = [(stored.sequence, codec.decode(stored.data).data) for stored in run.messages]
    decided = max(sequence for sequence, fact in events if isinstance(fact, CandidateEvaluated))
    assert swapped.turn == TurningPoint(
        sequence=decided, words="generation 1 would have been rejected: 0.2500 on dev does not beat 0.7500"
    )
    asked = max(sequence for sequence, fact in events if isinstance(fact, RolloutsRequested) and fact.generation == 0)
    assert swapped.fork == f"evolog fork {RUN} --at {asked} --set verifier={path}" and not swapped.unknown
    assert "  1  scaffold  0.7500 -> 0.2500  accepted, as recorded" in "\n".join(swap_lines(swapped))
    assert msgspec.json.decode(msgspec.json.encode(swapped), type=SwapReport) == swapped


@pytest.mark.parametrize(
    ("first", "second", "text", "words"),
    [
        (3, 1, FLIPPED, "generation 1 would have been accepted: 0.7500 on dev, the best so far was 0.2500"),
        (1, 3, ONE_WORD, "generation 0 would have been rejected: 3 of 4 attempts failed to run, at most 5% may"),
        (4, 0, ONE_WORD, "generation 1 could not have been evaluated: 4 of 4 attempts failed to run, at most 5% may"),
    ],
)
def test_a_verdict_that_would_have_been_another_is_told_with_its_reason(
    tmp_path: Path, first: int, second: int, text: str, words: str
) -> None:
    swapped = story(tmp_path / "blobs", first=first, second=second).swap(
        tmp_path / "work", "verifier", written(tmp_path, text)
    )
    assert swapped.turn and swapped.turn.words == words


@pytest.mark.parametrize(("first", "second"), [(1, 3), (3, 1)])
def test_a_verifier_that_keeps_every_order_changes_no_verdict(tmp_path: Path, first: int, second: int) -> None:
    swapped = story(tmp_path / "blobs", first=first, second=second).swap(
        tmp_path / "work", "verifier", written(tmp_path, GRADED)
    )
    assert swapped.turn is None and swapped.differ == 12
    assert [of.now for of in swapped.scores] == pytest.approx([0.1 + 0.2 * first, 0.1 + 0.2 * second])
    assert "Every decision would have been the same." in swap_lines(swapped)


def test_the_same_verifier_by_its_task_folder_changes_nothing(toy: Run, tmp_path: Path) -> None:
    before = files(toy.blobs)
    swapped = toy.swap(tmp_path, "verifier", TOY)
    assert (
        swapped.performed and not swapped.differ and not swapped.examples and swapped.turn is None and not swapped.fork
    )
    assert swap_lines(swapped)[-1] == "Nothing would have come out differently."
    assert files(toy.blobs) == before


def test_a_choice_of_the_rules_agent_that_would_have_been_another_comes_before_the_batch_that_it_led_to(
    toy: Run, tmp_path: Path
) -> None:
    before = files(toy.blobs)
    swapped = toy.swap(tmp_path / "work", "verifier", written(tmp_path, FINE))
    assert files(toy.blobs) == before  # though the agent was shown what it had not been shown
    assert swapped.turn and swapped.turn.words.startswith(
        "in generation 2 the Feedback-Agent would have chosen weights ppo, "
    )
    assert " and not weights best_of_n, 3 rounds, " in swapped.turn.words
    assert (
        swapped.turn.sequence
        == next(
            stored.sequence
            for stored in reversed(toy.messages)
            if tag_of(stored.subject) in ("context_assembled", "lever_chosen")
        )
        - 1
    )


def test_a_batch_of_other_rewards_is_told_where_it_was_sealed(toy: Run, tmp_path: Path) -> None:
    labels = load(str(TOY)).labels(0)
    attempts = [
        codec.decode(stored.data).data for stored in toy.messages if tag_of(stored.subject) == TrajectoryRecorded.tag()
    ]
    pairs = [(of.purpose, (of.answer, labels[of.item])) for of in attempts if isinstance(of, TrajectoryRecorded)]
    shown = {pair for purpose, pair in pairs if purpose != "train"}
    rare = next(pair for _, pair in pairs if pair not in shown)
    text = f"from tasks.contract import Scored\nVERSION = 'rare'\nRARE = {rare!r}\n"
    text += (
        "def score(answer, label): return Scored(0.5 if (answer, label) == RARE else float(answer == label), 'wrong')"
    )
    swapped = toy.swap(tmp_path / "work", "verifier", written(tmp_path, text))
    assert swapped.differ == sum(pair == rare for _, pair in pairs)
    at = next(stored.sequence for stored in toy.messages if tag_of(stored.subject) == "training_batch_sealed")
    assert swapped.turn == TurningPoint(
        sequence=at, words="the batch of generation 2, round 1, would have held other rewards"
    )


def test_what_a_language_model_would_have_chosen_is_not_known(tmp_path: Path) -> None:
    run = story(tmp_path / "blobs", agent="openai:gpt")
    swapped = run.swap(tmp_path / "work", "verifier", written(tmp_path, FLIPPED))
    assert swapped.unknown.startswith("What openai:gpt would have chosen from generation 1 on")
    assert swapped.unknown in swap_lines(swapped) and swapped.turn


def test_a_fork_is_gone_through_with_its_past(tmp_path: Path) -> None:
    run = story(tmp_path / "blobs")
    messages = run.messages[:-1]  # the past did not end
    began = codec.decode(messages[0].data)
    (*_, played), (*_, scored) = (
        [codec.decode(stored.data) for stored in messages if tag_of(stored.subject) == kind.tag()]
        for kind in (TrajectoryRecorded, TrajectoryScored)
    )
    again = codec.event_id("f", TrajectoryRecorded, *played.data.key())
    for fact, source, cause in (
        (msgspec.structs.replace(began.data, parent_run=RUN, parent_sequence=len(messages)), "operator", ""),
        (played.data, "executor", ""),
        (msgspec.structs.replace(scored.data, trajectory=again), "verifier", again),
    ):
        event = codec.event(fact, run="f", source=source, cause=cause, time="")
        messages.append(Stored(len(messages) + 1, 10**9, event.subject, codec.encode(event)))
    fork = Run(messages, run.blobs)
    (performed,) = fork.perform(tmp_path / "work", "verifier")
    assert (performed.performed, performed.same) == (1, 1)
    swapped = fork.swap(tmp_path / "swapped", "verifier", written(tmp_path, GRADED))
    assert swapped.run == "f" and swapped.performed == 13 and swapped.turn is None and swapped.unknown == ""
    assert swapped.fork.startswith(f"evolog fork {RUN} --at ")


def test_other_rules_are_asked_what_the_run_asked(toy: Run, tmp_path: Path) -> None:
    path = written(tmp_path, GRPO)
    swapped = toy.swap(tmp_path / "work", "feedback_agent", path)
    assert (swapped.performed, swapped.differ) == (2, 2)
    one, two = swapped.choices
    assert (one.generation, one.recorded_lever, one.recorded_action, one.lever) == (
        1,
        "scaffold",
        "shared_words",
        "weights",
    )
    assert two.recorded_action.startswith("best_of_n, 3 rounds, dropout 0.5, ") and two.action.startswith(
        "grpo, 2 rounds, "
    )
    assert (one.reason, two.reason) == ("after 0 choices", "after 1 choices")
    assert swap_lines(swapped)[-1] == f"    now      weights {two.action}: after 1 choices"


def test_the_same_rules_choose_the_same(toy: Run, tmp_path: Path) -> None:
    swapped = toy.swap(tmp_path, "feedback_agent", RULES)
    assert (swapped.performed, swapped.differ) == (2, 0)


@pytest.mark.parametrize(
    ("service", "text", "error", "words"),
    [
        ("verifier", None, NotFound, r"verifier\.py cannot be read .*; give a Python file that is there"),
        ("verifier", "def score(:", Misconfigured, r"verifier\.py cannot be imported \(SyntaxError: .*; mend it"),
        ("verifier", "import nowhere", Misconfigured, r"cannot be imported \(ModuleNotFoundError: .*; mend it"),
        ("verifier", "VERSION = '1'", Misconfigured, r"must define one function of score and score_submission"),
        ("verifier", "VERSION = 1\ndef score(answer, label): ...", Misconfigured, r"VERSION is 1; expected a string"),
        (
            "verifier",
            "VERSION = '1'\ndef score(answer, label): 1 / 0",
            Misconfigured,
            r"scored none of 12 .*verifier\.py: score raised ZeroDiv",
        ),
        (
            "verifier",
            "VERSION = '1'\ndef score(answer, label): ...",
            Misconfigured,
            r"scored none of 12 .*verifier\.py: score gave None",
        ),
        ("feedback_agent", "choices = 1", Misconfigured, r"defines no 'choose'"),
        (
            "feedback_agent",
            "def choose(*seen): 1 / 0",
            Misconfigured,
            r"choose raised ZeroDivisionError: .* in generation 1; mend it",
        ),
        ("feedback_agent", "def choose(*seen): ...", Misconfigured, r"choose gave None; expected a Choice"),
        (
            "feedback_agent",
            GRPO.replace('"weights"', '"luck"'),
            Misconfigured,
            r"choose gave Choice.*'luck'.*expected a Choice",
        ),
        (
            "feedback_agent",
            GRPO.replace('"weights"', '"scaffold"'),
            Misconfigured,
            r"named the edit 'grpo'; expected one of shared_words",
        ),
        ("trainer", "", UsageError, r"'trainer' cannot be swapped; expected verifier or feedback_agent"),
    ],
)
def test_code_that_cannot_be_put_in_a_service_s_place_is_said_in_words(
    tmp_path: Path, service: str, text: str | None, error: type[UserError], words: str
) -> None:
    path = tmp_path / "verifier.py" if text is None else written(tmp_path, text)
    with pytest.raises(error, match=words):
        story(tmp_path / "blobs").swap(tmp_path / "work", service, path)


def test_a_task_with_another_verifier_is_scored_by_it_and_keeps_the_rest() -> None:
    task = load(str(TOY))
    other = task.with_verifier(FLIPPED, "blob 1234")
    assert [of.score(ANY_ITEM, "a", "a").reward for of in (task, other)] == [1.0, 0.0]
    assert (task.verifier, other.verifier) == ("toy/toy-1", "toy/flipped-1")
    assert other.public(0) == task.public(0) and other.edits() == task.edits()


def test_a_verifier_in_another_s_place_imports_what_its_task_has_and_is_named_in_errors() -> None:
    text = "from . import data\nVERSION = '1'\ndef score(answer, label): return data.LABELS"
    with pytest.raises(Misconfigured, match=r"^blob 1234: score gave \('baker', .* expected a Scored"):
        load(str(TOY)).with_verifier(text, "blob 1234").score(ANY_ITEM, "a", "a")
