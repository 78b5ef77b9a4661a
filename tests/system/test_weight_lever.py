"""The weight lever from the log to the log: what a training round appends, and whole runs of the tiny language model."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from tests.harness.command import Place
from tests.harness.places import TASKS

pytest.importorskip("peft")
from events.errors import UsageError
from events.fact import Fact
from events.judgement import LabelEstimated
from events.rollouts import CallUse, ModelCalled, TrajectoryRecorded
from events.weights import AdapterPublished, OptimizerStepApplied, TrainingBatchSealed, WeightUpdateFailed
from runtime.blobs.directory import Blobs
from runtime.effects.train import TrainingHost, train_round
from runtime.policies.bases import open_policy
from runtime.policies.interface import SampleRequest
from runtime.policies.text_scorer import build_base, load
from runtime.policies.training import Attempt, Call, Order, Sources, open_trainee, recorded, train
from runtime.rollouts.attempt import RecordedAttempt
from runtime.run.decide import batch_digest
from runtime.run.loading import Loaded
from tests.runtime.policies.test_text_scorer import LABELS, TEXTS, ask

NUMBERS = TASKS / "numbers"


class Hall:
    """Blobs with a text scorer in them, and batches of attempts at its texts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.blobs = folder, Blobs(folder / "blobs")
        build_base(LABELS, TEXTS).save(folder / "base")
        self.base = self.blobs.put_folder(folder / "base")

    def train_round(self, algorithm: str, rewards: list[float], *, shift: float = 0.0, **order: object) -> list[Fact]:
        """A round in which attempt k at the first text answers with label k; `shift` is added to the recorded log-probabilities."""
        logs = load(self.folder / "base").log_probs(TEXTS[0])
        body = self.blobs.put(msgspec.json.encode([ask(TEXTS[0], n=len(rewards))]))
        call = ModelCalled(
            request="q",
            item="i",
            ordinal=0,
            provider="embedded",
            model=self.base,
            adapter="",
            body=body,
            index=0,
            sampling_seed=0,
            temperature=1.0,
            texts=tuple(LABELS[k % 5] for k in range(len(rewards))),
            tokens=tuple((k % 5,) for k in range(len(rewards))),
            logprobs=tuple((logs[k % 5] + shift,) for k in range(len(rewards))),
            prompt_tokens=1,
            completion_tokens=len(rewards),
            micro_usd=0,
            seconds=0.0,
        )
        played = [RecordedAttempt(f"t{k}", self.recorded(k, call.texts[k]), reward, "", (call,)) for k, reward in enumerate(rewards)]
        sealed = TrainingBatchSealed(
            **{
                "generation": 1,
                "round": 1,
                "algorithm": algorithm,
                "hyper": {},
                "parent_adapter": "",
                "training_seed": 3,
                "requests": ("q",),
                "trajectories": len(rewards),
                "digest": batch_digest([(f"t{k}", reward) for k, reward in enumerate(rewards)]),
                **order,
            }
        )
        return train_round(TrainingHost(self.blobs, self.folder / "work"), {"q": played}, sealed, self.base, self.no_task)

    @staticmethod
    def recorded(attempt: int, answer: str) -> TrajectoryRecorded:
        return TrajectoryRecorded(
            request="q",
            item="i",
            attempt=attempt,
            purpose="train",
            split="train",
            generation=1,
            scaffold="s",
            adapter="",
            answer=answer,
            calls=(CallUse("c", attempt),),
            seconds=0.0,
        )

    @staticmethod
    def no_task() -> Loaded:
        raise UsageError("the task was asked for")


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Hall:
    return Hall(tmp_path_factory.mktemp("hall"))


def test_a_round_appends_its_steps_and_an_adapter_with_what_the_next_goes_on_from(hall: Hall) -> None:
    *steps, published = hall.update("grpo", [0.0, 0.0, 1.0, 0.0], hyper={"epochs": 3})
    assert [step.step for step in steps if isinstance(step, OptimizerStepApplied)] == [0, 1, 2]
    assert isinstance(published, AdapterPublished) and published.trained_on == 4
    second = hall.update("grpo", [0.0, 0.0, 1.0, 0.0], parent_adapter=published.adapter, parent_state=published.state)
    assert isinstance(second[-1], AdapterPublished) and second[-1].adapter != published.adapter


def test_the_same_round_gives_the_same_adapter_and_state(hall: Hall) -> None:
    one, two = (hall.update("ppo", [0.0, 0.2, 1.0, 0.0])[-1] for _ in range(2))
    assert isinstance(one, AdapterPublished) and one == two


def test_elected_labels_are_recorded_and_the_task_is_not_asked(hall: Hall) -> None:
    vote, *_, published = hall.update("ttrl", [0.0] * 6)
    assert vote == LabelEstimated(generation=1, round=1, batch=vote.batch, request="q", item="i", answer=LABELS[0], votes=2, answers=6)  # type: ignore[attr-defined]
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
        ("grpo", [0.0, 1.0, 0.0], {"digest": "0" * 64}, "batch_differs", "sealed was 000000000000"),
    ],
)
def test_a_round_that_cannot_be_learned_from_says_why_and_publishes_nothing(
    hall: Hall, algorithm: str, rewards: list[float], more: dict[str, object], kind: str, why: str
) -> None:
    (failed,) = hall.update(algorithm, rewards, **more)  # type: ignore[arg-type]
    assert isinstance(failed, WeightUpdateFailed) and failed.kind == kind and why in failed.reason


def test_turns_of_one_attempt_are_one_sequence_with_what_the_tool_said_masked(models: Path, tmp_path: Path) -> None:
    base = base_folder(models)
    policy = open_policy(base, None)
    turns: list[Call] = []
    prompt = "task 0"
    for told in ("<|user|>task 1", ""):
        (sampled,) = policy.sample([SampleRequest(prompt=prompt, seed=5)])
        turns.append(Call(SampleRequest(prompt=prompt), sampled.tokens[0], sampled.logprobs[0]))
        prompt += f"<|assistant|>{sampled.texts[0]}<|end|>{told}"
    attempt = Attempt(id="t", group="g", item="i", adapter="", answer="", reward=1.0, calls=tuple(turns))
    from algorithms import learning

    (rollout,) = recorded([attempt], learning.algorithm("ppo"), SOURCES, open_trainee(base, None, 0, False))
    said = len(turns[0].tokens)
    assert rollout.mask[:said] == (1,) * said and 0 in rollout.mask and rollout.tokens[-len(turns[1].tokens) :] == turns[1].tokens
    other = msgspec.structs.replace(attempt, id="u", reward=0.0)
    order = Order(base=base, parent="", parent_folder=None, state=None, algorithm="ppo", hyper={}, seed=0, about={})
    done = train(order, [attempt, other], SOURCES, tmp_path / "adapter", tmp_path / "left")
    assert done.steps[0].tokens == 2 * sum(rollout.mask)
    assert open_policy(base, tmp_path / "adapter").log_probs("task 0") == pytest.approx(done.canary[0].logprobs, abs=1e-3)


def no_label(item: str) -> str:
    raise AssertionError("nothing here asks for labels")


SOURCES = Sources(no_label, lambda items: {})


def base_folder(models: Path) -> Path:
    from algorithms.demos import toys
    from algorithms.models import tiny_lm

    return tiny_lm.cached(toys.traces(0), models / "evolog" / "models")


@pytest.mark.long
def test_a_run_of_the_tiny_language_model_learns_by_the_algorithm_that_the_rules_pick(models: Path, tmp_path: Path) -> None:
    base_folder(models)
    place = Place(tmp_path, XDG_CACHE_HOME=str(models))
    report = json.loads(place.evolog("run", str(NUMBERS), "--levers", "weights", "--name", "n", "--json").out)
    first, last = report["generations"]
    assert first["score"] + 0.15 < last["score"] and last["accepted"]
    asked = "SELECT algorithm, min(ratio_mean), max(ratio_mean), min(tokens) FROM optimizer_step_applied JOIN weight_update_requested "
    asked += "USING (run, generation) WHERE step = 0 GROUP BY algorithm"
    ((algorithm, low, high, tokens),) = [row.values() for row in json.loads(place.evolog("sql", asked, "--format", "json").out)]
    assert algorithm == "ppo" and tokens > 80
    assert low == pytest.approx(1, abs=1e-3) and high == pytest.approx(1, abs=1e-3)  # what was served is what is trained


@pytest.mark.long
def test_a_run_whose_answers_earn_nothing_learns_with_hints_from_the_base(models: Path, tmp_path: Path) -> None:
    base_folder(models)
    task = tmp_path / "sparse"
    shutil.copytree(NUMBERS, task)
    verifier = (task / "verifier.py").read_text()
    told = "    return Scored(toys.closeness(numbers, target),"
    assert told in verifier
    (task / "verifier.py").write_text(verifier.replace(told, "    return Scored(float(toys.hit(numbers, target, 4)),"))
    place = Place(tmp_path, XDG_CACHE_HOME=str(models))
    place.evolog("run", str(task), "--levers", "weights", "--name", "n", "--json")
    chosen = json.loads(place.evolog("sql", "SELECT action FROM lever_chosen", "--format", "json").out)
    assert chosen == [{"action": "star"}]
    asked = "SELECT purpose, count(*) AS n FROM trajectories WHERE purpose IN ('hint', 'train') GROUP BY purpose ORDER BY purpose"
    rows = json.loads(place.evolog("sql", asked, "--format", "json").out)
    assert [row["purpose"] for row in rows] == ["hint", "train"] and rows[0]["n"] >= 8
    parents = json.loads(place.evolog("sql", "SELECT DISTINCT parent_adapter AS p FROM adapter_published", "--format", "json").out)
    assert parents == [{"p": ""}]
