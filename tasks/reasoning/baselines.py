"""Baselines that a run is compared with: what needs no agent."""

from collections.abc import Sequence

from tasks.contract import Item, Public
from tasks.reasoning import data
from tasks.reasoning.scaffold import exercises


def computed(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """The answers of a few lines of Python."""
    problems = {item.id: exercises.read(item.prompt) for item in items}
    return {id: exercises.written(problem, data.solved(problem)) for id, problem in problems.items()}


def one(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """The commonest answer: numbers mostly have no common divisor."""
    return {item.id: "1" for item in items}


BASELINES = {"a few lines of Python": computed, "1 for every problem": one}
