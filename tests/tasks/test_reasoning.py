"""The reasoning task: problems, their views and the vote among them, by hand. What needs the package is in
test_reasoning_gym.py.
"""

import random
from pathlib import Path

import pytest

from tasks import loading
from tasks.reasoning import catalogue, data
from tasks.reasoning.scaffold import exercises
from tasks.reasoning.scaffold.exercises import Problem
from tests.harness.scaffolds import play

SUM = "State the final answer to the following arithmetic problem: 4 - 3 + 7 ="
GCD = "Find the Greatest Common Divisor (GCD) of these numbers: 12, 18. Give only the GCD as your final answer."
SORT = "Sort these numbers in descending order: 3.0, 9.0, 4.0\nPlease follow the instruction below:"
EDITS = {edit.name: edit for edit in catalogue.EDITS}


@pytest.mark.parametrize(
    ("prompt", "problem", "asked"),
    [
        (SUM, Problem("sum", (4, -3, 7)), "sum 4 - 3 + 7"),
        (GCD, Problem("gcd", (12, 18)), "gcd 12 18"),
        (SORT, Problem("down", (3, 9, 4)), "down 3 9 4"),
    ],
)
def test_problems_are_read_and_asked(prompt: str, problem: Problem, asked: str) -> None:
    assert exercises.read(prompt) == problem
    assert exercises.asked(problem) == asked


def test_a_text_that_is_no_problem_is_refused() -> None:
    with pytest.raises(ValueError, match="What is"):
        exercises.read("What is 2 + 2?")


def test_answers_are_read_in_either_form_and_written_as_owed() -> None:
    assert exercises.heard("9 4 3") == exercises.heard("['9.0', '4.0', '3.0']") == (9, 4, 3)
    assert exercises.heard("-8") == (-8,)
    assert exercises.heard("8 apples") is exercises.heard("") is exercises.heard("8,") is None
    assert exercises.written(Problem("down", (4, 9)), (9, 4)) == "['9.0', '4.0']"
    assert exercises.written(Problem("sum", (4, -12)), (-8,)) == "-8"


def test_views_by_hand() -> None:
    by_kind = {view.kind: view for view in exercises.views(Problem("up", (3, 9, 4)), random.Random(0), 1)}
    assert list(by_kind) == ["plain", "order", "reversed", "mirrored"]
    assert by_kind["reversed"].problem.kind == by_kind["mirrored"].problem.kind == "down"
    assert sorted(by_kind["mirrored"].problem.numbers) == [0, 5, 6]
    assert by_kind["mirrored"].undo((6, 5, 0)) == by_kind["reversed"].undo((9, 4, 3)) == (3, 4, 9)
    by_kind = {view.kind: view for view in exercises.views(Problem("sum", (4, -3, 7)), random.Random(0), 1)}
    assert sorted(by_kind["negated"].problem.numbers) == [-7, -4, 3] and by_kind["negated"].undo((-8,)) == (8,)
    by_kind = {view.kind: view for view in exercises.views(Problem("gcd", (12, 18)), random.Random(0), 1)}
    assert sorted(by_kind["difference"].problem.numbers) == [6, 12]
    assert [view.kind for view in exercises.views(Problem("gcd", (5, 5)), random.Random(0), 3)] == ["plain"]


@pytest.mark.parametrize("kind", ["sum", "gcd", "up", "down"])
def test_a_views_answer_gives_away_the_problems(kind: str) -> None:
    draw = random.Random(3)
    problem = Problem(kind, tuple(draw.sample(range(1, 10), 2 if kind == "gcd" else 4)))
    answer, views = data.solved(problem), exercises.views(problem, draw, 3)
    assert len({view.problem for view in views}) == len(views) > 2
    for view in views:
        assert view.undo(data.solved(view.problem)) == answer and view.change(answer) == data.solved(view.problem)


def test_traces_hold_no_item_and_are_mostly_right() -> None:
    found = data.traces(0, count=2000)
    right = 0
    for prompt, answer in found:
        kind, _, numbers = prompt.partition(" ")
        problem = Problem(kind, exercises._numbers(numbers.replace("- ", "-").replace("+ ", "")))
        assert exercises.asked(problem) == prompt and not data.is_item(problem)
        right += exercises.heard(answer) == data.solved(problem)
    assert 0.85 < right / len(found) < 0.95


def edited(*names: str) -> dict[str, str]:
    files = loading.load("reasoning").scaffold()
    for name in names:
        files = EDITS[name].apply(files)
    return files


def test_the_reference_asks_once_and_hands_back_what_it_hears(tmp_path: Path) -> None:
    (outcome,), asked = play(tmp_path, edited(), [SORT], lambda ask: "9 4 3")
    assert (outcome.answer, asked) == ("9 4 3", ["down 3 9 4"])


def test_views_outvote_a_wrong_answer(tmp_path: Path) -> None:
    """The policy is wrong about the problem as it is, and right about most of its views."""
    views = exercises.views(Problem("down", (3, 9, 4)), random.Random(SORT), catalogue.VIEWS)
    says = {exercises.asked(view.problem): exercises.spoken(data.solved(view.problem)) for view in views}
    says["down 3 9 4"] = "4 9 3"
    files = edited("answer_form", "vote_over_views")
    (outcome,), asked = play(tmp_path, files, [SORT], lambda ask: says[ask.prompt])
    assert outcome.answer == "['9.0', '4.0', '3.0']"
    assert sorted(asked) == sorted(says)
