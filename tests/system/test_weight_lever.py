"""The weight lever from the log to the log: what a training round appends, and whole runs of the tiny
language model.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness.cli import CliHarness
from tests.harness.paths import TASKS

pytest.importorskip("peft")
from events.judgement import LabelEstimated
from events.weights import AdapterPublished, OptimizerStepApplied, WeightUpdateFailed
from runtime.policies.bases import open_policy
from runtime.policies.interface import SampleRequest
from runtime.policies.training import (
    Sources,
    TrainingAttempt,
    TrainingCall,
    TrainingOrder,
    open_trainee,
    rollouts_from,
    train,
)
from tests.harness.trainer import LABELS, TrainerHarness

pytestmark = pytest.mark.slow

NUMBERS = TASKS / "numbers"


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> TrainerHarness:
    return TrainerHarness(tmp_path_factory.mktemp("trainer"))


def test_a_round_appends_its_steps_and_an_adapter_with_what_the_next_goes_on_from(trainer: TrainerHarness) -> None:
    *steps, published = trainer.train_round("grpo", [0.0, 0.0, 1.0, 0.0], hyper={"epochs": 3})
    assert [step.step for step in steps if isinstance(step, OptimizerStepApplied)] == [0, 1, 2]
    assert isinstance(published, AdapterPublished) and published.trained_on == 4
    second = trainer.train_round(
        "grpo", [0.0, 0.0, 1.0, 0.0], parent_adapter=published.adapter, parent_state=published.state
    )
    assert isinstance(second[-1], AdapterPublished) and second[-1].adapter != published.adapter


def test_the_same_round_gives_the_same_adapter_and_state(trainer: TrainerHarness) -> None:
    one, two = (trainer.train_round("ppo", [0.0, 0.2, 1.0, 0.0])[-1] for _ in range(2))
    assert isinstance(one, AdapterPublished) and one == two


def test_elected_labels_are_recorded_and_the_task_is_not_asked(trainer: TrainerHarness) -> None:
    vote, *_, published = trainer.train_round("ttrl", [0.0] * 6, picks=[0, 1, 0, 2, 0, 3])
    assert isinstance(vote, LabelEstimated)
    assert vote == LabelEstimated(
        generation=1, round=1, batch=vote.batch, request="q", item="i", answer=LABELS[0], votes=3, answers=6
    )
    assert isinstance(published, AdapterPublished)


@pytest.mark.parametrize(
    "algorithm, rewards, more, kind, why",
    [
        ("grpo", [0.5, 0.5, 0.5], {}, "nothing_to_learn", "all attempts have the same reward"),
        ("grpo", [0.0, 1.0, 0.0], {"shift": -2.0}, "logprobs_differ", "mean k3 is"),
        ("grpo", [0.0, 1.0, 0.0], {"hyper": {"lr": 1e38, "epochs": 4}}, "diverged", "smaller learning rate"),
        ("grpo", [0.0, 1.0, 0.0], {"hyper": {"learning_rate": 1.0}}, "refused", "no hyper-parameter 'learning_rate'"),
        ("ppo2", [0.0, 1.0, 0.0], {}, "refused", "no learning algorithm 'ppo2'"),
        ("spin", [0.0, 1.0, 0.0], {}, "refused", "the task was asked for"),
        ("opsd", [0.0, 1.0, 0.0], {}, "refused", "the task was asked for"),
        ("max_rl", [0.0, 1.0, -0.5], {}, "refused", "must be 0 or more, and one is -0.5"),
        ("grpo", [0.0, 1.0, 0.0], {"digest": "0" * 64}, "batch_differs", "sealed was 000000000000"),
    ],
)
def test_a_round_that_cannot_be_learned_from_says_why_and_publishes_nothing(
    trainer: TrainerHarness, algorithm: str, rewards: list[float], more: dict[str, Any], kind: str, why: str
) -> None:
    (failed,) = trainer.train_round(algorithm, rewards, **more)
    assert isinstance(failed, WeightUpdateFailed) and failed.kind == kind and why in failed.reason


def test_turns_of_one_attempt_are_one_sequence_with_what_the_tool_said_masked(models: Path, tmp_path: Path) -> None:
    base = base_folder(models)
    policy = open_policy(base, None)
    turns: list[TrainingCall] = []
    prompt = "task 0"
    for told in ("<|user|>task 1", ""):
        (sampled,) = policy.sample([SampleRequest(prompt=prompt, seed=5)])
        turns.append(TrainingCall(SampleRequest(prompt=prompt), sampled.tokens[0], sampled.logprobs[0]))
        prompt += f"<|assistant|>{sampled.texts[0]}<|end|>{told}"
    attempt = TrainingAttempt(id="t", group="g", item="i", adapter="", answer="", reward=1.0, calls=tuple(turns))
    from algorithms import learning

    (rollout,) = rollouts_from([attempt], learning.algorithm("ppo"), SOURCES, open_trainee(base, None, 0, False))
    said = len(turns[0].tokens)
    assert (
        rollout.mask[:said] == (1,) * said
        and 0 in rollout.mask
        and rollout.tokens[-len(turns[1].tokens) :] == turns[1].tokens
    )
    other = msgspec.structs.replace(attempt, id="u", reward=0.0)
    order = TrainingOrder(
        base=base, parent="", parent_folder=None, state=None, algorithm="ppo", hyper={}, seed=0, about={}
    )
    done = train(order, [attempt, other], SOURCES, tmp_path / "adapter", tmp_path / "left")
    assert done.steps[0].tokens == 2 * sum(rollout.mask)
    assert open_policy(base, tmp_path / "adapter").log_probs("task 0") == pytest.approx(
        done.canary[0].logprobs, abs=1e-3
    )


def no_label(item: str) -> str:
    raise AssertionError("nothing here asks for labels")


SOURCES = Sources(no_label, lambda items: {})


def base_folder(models: Path) -> Path:
    from algorithms.demos import toys
    from algorithms.models import tiny_lm

    return tiny_lm.pretrain_cached(toys.traces(0), models / "evolog" / "models")


@pytest.mark.long
def test_a_run_of_the_tiny_language_model_learns_by_the_algorithm_that_the_rules_pick(
    models: Path, tmp_path: Path
) -> None:
    base_folder(models)
    place = CliHarness(tmp_path, XDG_CACHE_HOME=str(models))
    report = json.loads(place.evolog("run", str(NUMBERS), "--levers", "weights", "--name", "n", "--json").out)
    first, last = report["generations"]
    assert first["score"] + 0.15 < last["score"] and last["accepted"]
    asked = (
        "SELECT algorithm, min(ratio_mean), max(ratio_mean), min(tokens) FROM optimizer_step_applied JOIN "
        "weight_update_requested "
    )
    asked += "USING (run, generation) WHERE step = 0 GROUP BY algorithm"
    ((algorithm, low, high, tokens),) = [
        row.values() for row in json.loads(place.evolog("sql", asked, "--format", "json").out)
    ]
    assert algorithm == "ppo" and tokens > 80
    assert low == pytest.approx(1, abs=1e-3) and high == pytest.approx(
        1, abs=1e-3
    )  # what was served is what is trained


@pytest.mark.long
def test_forks_learn_by_the_algorithms_that_the_rules_never_pick(models: Path, tmp_path: Path) -> None:
    base_folder(models)
    place = CliHarness(tmp_path, XDG_CACHE_HOME=str(models))
    place.evolog("run", str(NUMBERS), "--levers", "weights", "--generations", "1", "--name", "n")
    asked = "SELECT max(seq) AS at FROM feedback_requested"
    ((at,),) = [row.values() for row in json.loads(place.evolog("sql", asked, "--format", "json").out)]
    names = ("gspo", "max_rl", "opsd")
    place.up()
    for name in names:
        place.evolog("fork", "n", "--at", str(at), "--set", f"algorithm={name}", "--name", name, "--detach")
    place.wait_until_audited(*names)
    place.down()
    for name in names:
        first, last = json.loads(place.evolog("show", name, "--json").out)["generations"]
        print(name, first["score"], last["score"])
        assert first["score"] + 0.05 < last["score"] and last["accepted"], name
    asked = "SELECT DISTINCT algorithm FROM adapter_published"
    trained = [row["algorithm"] for row in json.loads(place.evolog("sql", asked, "--format", "json").out)]
    assert set(trained) >= set(names)


@pytest.mark.long
def test_a_run_whose_answers_earn_nothing_learns_with_hints_from_the_base(models: Path, tmp_path: Path) -> None:
    base_folder(models)
    task = tmp_path / "sparse"
    shutil.copytree(NUMBERS, task)
    verifier = (task / "verifier.py").read_text()
    told = "    return Scored(toys.closeness(numbers, target),"
    assert told in verifier
    (task / "verifier.py").write_text(
        verifier.replace(told, "    return Scored(float(toys.is_hit(numbers, target, 4)),")
    )
    place = CliHarness(tmp_path, XDG_CACHE_HOME=str(models))
    place.evolog("run", str(task), "--levers", "weights", "--name", "n", "--json")
    chosen = json.loads(place.evolog("sql", "SELECT action FROM lever_chosen", "--format", "json").out)
    assert chosen == [{"action": "star"}]
    asked = (
        "SELECT purpose, count(*) AS n FROM trajectories WHERE purpose IN ('hint', 'train') GROUP BY purpose "
        "ORDER BY purpose"
    )
    rows = json.loads(place.evolog("sql", asked, "--format", "json").out)
    assert [row["purpose"] for row in rows] == ["hint", "train"] and rows[0]["n"] >= 8
    parents = json.loads(
        place.evolog("sql", "SELECT DISTINCT parent_adapter AS p FROM adapter_published", "--format", "json").out
    )
    assert parents == [{"p": ""}]
