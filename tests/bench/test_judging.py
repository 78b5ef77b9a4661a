"""What benchmarks take for the best of several attempts, and the figures of what needs no agent."""

from pathlib import Path

import pytest

from tasks.loading import Task, load
from tasks.templates import new_task
from tests.bench.baselines import rows
from tests.bench.judging import Answers, Judging
from tests.harness.paths import TOY

pytest.importorskip("scipy")


def halves(task: Task) -> tuple[Answers, Answers]:
    """Two attempts at test: one right about the first half of the items, the other about the second."""
    truth, test = task.gold(0), task.public(0).test
    half = len(test) // 2
    first = {item.id: truth[item.id] if place < half else "none" for place, item in enumerate(test)}
    return first, {id: "none" if answer == truth[id] else truth[id] for id, answer in first.items()}


def test_of_single_answers_the_best_to_each_item_counts() -> None:
    task = load(str(TOY))
    judging, test = Judging(task, 0), task.public(0).test
    first, second = halves(task)
    assert judging.reward(test, first) == judging.gold(test, first) == 0.5
    assert judging.best(test, [first, second]) == task.gold(0)


def test_of_submissions_the_best_one_counts_as_a_whole(tmp_path: Path) -> None:
    task = load(str(new_task("mine", "submission", tmp_path)))
    judging, test = Judging(task, 0), task.public(0).test
    first, second = halves(task)
    truth = task.gold(0)
    better = {**first, test[-1].id: truth[test[-1].id]}
    assert judging.best(test, [first, better, second]) in (better, second)
    assert judging.best(test, [first, better]) == better
    assert judging.reward(test, truth) == judging.gold(test, truth) == pytest.approx(1.0)
    assert 0 < judging.reward(test, first) < judging.reward(test, better) < 1


def test_an_item_at_which_each_attempt_failed_has_no_answer() -> None:
    task = load(str(TOY))
    judging, test = Judging(task, 0), task.public(0).test
    best = judging.best(test, [{}, {}])
    assert set(best.values()) == {None} and judging.gold(test, best) == 0


def test_each_baseline_has_a_row_for_dev_test_and_all_items() -> None:
    task = load(str(TOY))
    public = task.public(0)
    everything = len(public.train) + len(public.dev) + len(public.test)
    printed = list(rows(str(TOY), 0))
    assert [row[1] for row in printed] == ["dev", "test", "all"] and printed[2][2] == str(everything)
    assert all(0 <= float(row[3]) <= 1 and row[3] == row[4] for row in printed)


def test_a_candidates_program_runs_in_the_sandbox(tmp_path: Path) -> None:
    task = load(str(new_task("mine", "program", tmp_path)))
    judging, test = Judging(task, 0), task.public(0).test
    (predict,) = task.baselines().values()
    answers = predict(task.public(0), test[:1])
    assert 0 < judging.reward(test[:1], answers) <= 1 and judging.reward(test[:1], {test[0].id: "no program"}) == 0
