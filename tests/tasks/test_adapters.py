"""Tasks from elsewhere: what of a SIA directory a program sees, and how its evaluate.py judges."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from algorithms.statistics import mean_interval
from events.errors import Misconfigured, NotFound
from events.judgement import TrajectoryScored
from events.rollouts import TrajectoryRecorded
from runtime.effects.score import score
from runtime.effects.scoring import in_process
from runtime.effects.tools import SandboxTools
from runtime.rollouts.shard import AttemptResult
from runtime.run.loading import LoadedRun
from tasks.adapters import folder, sia
from tasks.adapters.sia_directory import adapt
from tasks.contract import Example, Item, Submission
from tasks.loading import Task, load
from tests.harness.facts import started
from tests.harness.runner import RunnerHarness, answers, shard_of
from tests.harness.sia_directory import BLIND, COUNT, LOOKS, SQUARED, ScriptedPolicy, parity, write, write_passengers


def refuse(prompt: str, max_tokens: int) -> str:
    raise AssertionError("no evaluate.py asks a model")


TOOLS = SandboxTools(refuse)


def made(tmp_path: Path, **directory: str) -> Task:
    """The task of a directory."""
    return load(str(adapt(write(tmp_path / "parity", **directory), tmp_path / "tasks", TOOLS)))


@pytest.fixture(scope="module")
def parity_task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return made(tmp_path_factory.mktemp("parity"))


def judged(task: Task, given: Mapping[str, str | None]) -> tuple[list[Item], Submission]:
    """The judgement of answers to the first dev items, by place."""
    items = list(task.public(0).dev)
    labels = task.labels(0)
    handed_in = {item.id: given.get(place, labels[item.id]) for place, item in zip("abcdef", items, strict=True)}
    return items, sia.judge(task.folder, items, handed_in, labels, TOOLS)


def test_items_are_divided_by_the_seed_and_labels_are_those_of_their_split(parity_task: Task) -> None:
    task = parity_task
    public = task.public(0)
    ids = [[item.id for item in split] for split in (public.train, public.dev, public.test)]
    assert [len(split) for split in ids] == [12, 6, 6] and len(set().union(*ids)) == COUNT
    assert set(task.labels(0)) == {*ids[0], *ids[1]} and set(sia.labels(task.folder, 0, "test")) == {*ids[2]}
    assert task.labels(0)[public.dev[0].id] == parity(int(public.dev[0].name)) and public.labels == ("even", "odd")
    assert sorted(example.fold for example in public.train) == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
    assert task.public(1).digests["test"] != public.digests["test"] and task.public(0) == public


def test_a_submission_counts_what_is_left_out_though_evaluate_py_does_not(parity_task: Task) -> None:
    items, found = judged(parity_task, {"b": "neither", "c": None, "d": "", "e": None})
    assert found.total.reward == pytest.approx(2 / 6) and found.total.outcome == "wrong"
    assert [found.items[item.id].outcome for item in items] == [
        "right", "wrong", "unparsed", "unparsed", "unparsed", "right",
    ]  # fmt: skip
    assert judged(parity_task, dict.fromkeys("abcdef"))[1].total.outcome == "unparsed"


def test_a_score_that_is_no_mean_over_items_is_the_submissions_alone(tmp_path: Path) -> None:
    _, found = judged(made(tmp_path, evaluate=SQUARED), {"a": "neither", "b": "neither", "c": "neither"})
    assert found.total.reward == 0.25 and found.total.outcome == "scored" and found.items == {}


def test_without_evaluate_py_an_answer_is_the_label_or_it_is_not(tmp_path: Path) -> None:
    task = made(tmp_path, evaluate="")
    assert task.verifier == "sia-parity/exact-1"
    assert judged(task, {"a": "neither", "b": None})[1].total.reward == pytest.approx(4 / 6)


def test_an_evaluate_py_that_fails_gives_no_score(tmp_path: Path) -> None:
    task = made(tmp_path)
    (task.folder / "evaluate.py").write_text("raise SystemExit('no truth')")
    with pytest.raises(Misconfigured, match=r"failed on a submission: it exited with no truth"):
        judged(task, {})


def played(
    tmp_path: Path, task: Task, policy: ScriptedPolicy, items: list[str], fold: int | None
) -> list[AttemptResult]:
    """What the reference agent makes of items, in its sandbox."""
    harness = RunnerHarness(tmp_path, policy)
    harness.public = task.public(0)
    scaffold = harness.blobs.put_tree({path: text.encode() for path, text in task.scaffold().items()})
    return harness.run(shard_of(items, scaffold=scaffold, fold=fold, draw="0 0 dev 0"))


def test_the_reference_agent_answers_items_by_their_own_names(tmp_path: Path, parity_task: Task) -> None:
    task = parity_task
    policy = ScriptedPolicy(lambda prompt: parity(int(re.findall(r"\d+", prompt)[0])))
    dev = task.public(0).dev
    results = played(tmp_path, task, policy, [item.id for item in dev], None)
    assert [result.item for result in results] == [item.id for item in dev]
    assert answers(results) == [task.labels(0)[item.id] for item in dev]
    assert all(len(result.uses) == 1 for result in results) and len(policy.asked) == 6


def test_a_program_sees_all_public_files_and_nothing_that_is_hidden(tmp_path: Path) -> None:
    task = made(tmp_path, agent=LOOKS, evaluate="")
    public = task.public(0)
    fold = [example for example in public.train if example.fold == 0]
    results = played(tmp_path, task, ScriptedPolicy(str), [example.id for example in fold], 0)
    seen: dict[str, Any] = json.loads(answers(results)[0] or "")
    assert seen["files"] == ["notes/hint.txt", "questions.json", "task.md", "train.json"]
    assert {str(row["id"]) for row in seen["items"]} == {example.name for example in fold}
    assert all(set(row) == {"id", "question", "level"} for row in seen["items"])
    visible: dict[str, Example] = {example.name: example for example in public.train if example.fold != 0}
    assert {str(row["id"]): row["answer"] for row in seen["train"]} == {n: e.label for n, e in visible.items()}


def test_a_submission_that_a_program_hands_in_is_scored_whole_and_credited_by_item(tmp_path: Path) -> None:
    folder = adapt(write_passengers(tmp_path / "passengers"), tmp_path / "tasks", TOOLS)
    task = replace(load(str(folder)), tools=TOOLS)
    public, labels = task.public(0), task.labels(0)
    dev = [item.id for item in public.dev]
    results = played(tmp_path, task, ScriptedPolicy(str), dev, None)
    attempts = {
        result.item: TrajectoryRecorded(
            request="q", item=result.item, attempt=0, purpose="dev", split="dev", generation=0,
            scaffold="s", adapter="", answer=answer, calls=(), seconds=0.0,
        )
        for result, answer in zip(results, answers(results), strict=True)
    }  # fmt: skip
    facts = score(attempts, LoadedRun(started(), task, public), labels, in_process, {"q": dev})
    credited = {fact.item: (fact.reward, fact.outcome) for fact in facts if isinstance(fact, TrajectoryScored)}
    surprising = {item.id for item in public.dev if int(item.name[:4]) % 5 == 0}
    assert 0 < len(surprising) < len(dev) and all(not result.uses for result in results)
    assert credited == {id: (0.0, "wrong") if id in surprising else (1.0, "right") for id in dev}
    mean, half = mean_interval([reward for reward, _ in credited.values()])
    total = task.score_submission(public.dev, {id: one.answer for id, one in attempts.items()}, labels).total
    assert total.reward == pytest.approx(mean) and 0 < half < 1


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda root: (root / "reference/reference_target_agent.py").unlink(), "has no reference/reference_target"),
        (lambda root: (root / "data/public/x").symlink_to(root / "data/private/answers.json"), "leads out of"),
        (
            lambda root: (root / "data/public/x").write_bytes((root / "data/private/answers.json").read_bytes()),
            "data/public/x is the same as a file of data/private",
        ),
        (lambda root: (root / "data/public/questions.json").unlink(), "no table of data/public lists the items"),
        (lambda root: (root / "data/public/evaluate.py").write_text(BLIND), "does not tell true answers from others"),
        (lambda root: (root / "data/public/evaluate.py").write_text("1/0"), "ZeroDivisionError"),
    ],
)
def test_a_directory_that_cannot_be_a_task_is_refused_in_a_sentence(tmp_path: Path, damage: Any, says: str) -> None:
    root = write(tmp_path / "parity")
    damage(root)
    with pytest.raises(Misconfigured, match=says):
        adapt(root, tmp_path / "tasks", TOOLS)
    assert not (tmp_path / "tasks").exists()


def test_there_must_be_a_directory(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"There is no directory .*; --from sia takes"):
        adapt(tmp_path / "nowhere", tmp_path / "tasks", TOOLS)


def test_a_folder_is_named_by_what_is_in_it_and_outlives_the_directory(tmp_path: Path) -> None:
    one = adapt(root := write(tmp_path / "parity", evaluate=""), tmp_path / "tasks", TOOLS)
    assert adapt(root, tmp_path / "tasks", TOOLS) == one
    (root / "data/public/notes/hint.txt").write_text("Ask.")
    other = adapt(root, tmp_path / "tasks", TOOLS)
    assert other != one and load(str(other)).public(0).digests != load(str(one)).public(0).digests


def test_no_group_is_divided_and_each_split_has_items() -> None:
    groups = [str(number // 2) for number in range(24)]
    found = folder.split(groups, 3, 0.25, 0.25)
    assert all(found[2 * pair] == found[2 * pair + 1] for pair in range(12))
    assert [sum(one.name == name for one in found) for name in ("train", "dev", "test")] == [12, 6, 6]
    assert {one.name for one in folder.split(["a"] * 9 + ["b", "c"], 0, 0.1, 0.0)} == {"train", "dev"}


def test_what_a_fold_has_no_room_for_is_spare() -> None:
    found = folder.split([str(number // 2) for number in range(2000)], 0, 0.15, 0.0)
    sizes = {name: sum(one.name == name for one in found) for name in ("train", "dev", "test", "spare")}
    assert sizes == {"train": 600, "dev": 300, "test": 0, "spare": 1100}
    assert {fold: sum(one.fold == fold for one in found) for fold in range(5)} == dict.fromkeys(range(5), 120)
    assert all(found[2 * pair] == found[2 * pair + 1] for pair in range(1000))
    assert sum(one.name == "dev" for one in folder.split(list(map(str, range(9000))), 0, 0.15, 0.0)) == 400


def test_answers_are_a_closed_set_where_they_are_few_and_repeated() -> None:
    assert folder.choices_of(["b", "a", "b", "a", "b", "a"]) == ("a", "b")
    assert folder.choices_of(["a", "b", "c", "a", "b"]) == ()


def test_what_tiny_lm_is_pre_trained_on_holds_no_true_answer() -> None:
    pairs = folder.traces(["q1", "q2", "q3"], ["a1", "a2", "a3"], 0)
    assert len(pairs) > 1000 and not {("q1", "a1"), ("q2", "a2"), ("q3", "a3")} & set(pairs)
