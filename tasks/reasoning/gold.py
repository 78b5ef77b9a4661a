"""Gold of the reasoning task, for the auditor alone: the answer of test, character for character."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path

from tasks.contract import EvaluationSet, Item, Perturbation
from tasks.reasoning import data
from tasks.reasoning.scaffold import exercises

CANARIES = {"empty": "", "all digits": "0123456789", "one": "1"}
"""Answers to every problem that need no skill."""


def labels(root: Path, seed: int) -> dict[str, str]:
    """The answer of each test item, by item id."""
    return data.answers(root, "test", seed)


def score(answer: str | None, label: str) -> float:
    """1 for the answer, else 0; no part of it counts."""
    return float(answer == label)


def canaries(label: str, verifier: str, reward: Callable[[str], float]) -> Mapping[str, tuple[float, float]]:
    """The reward of each canary and its gold score."""
    return {name: (reward(answer), score(answer, label)) for name, answer in CANARIES.items()}


def ceiling(label: str, verifier: str) -> float:
    """Full marks."""
    return 1.0


def _reordered(original: EvaluationSet, truth: Mapping[str, str], seed: int) -> EvaluationSet:
    def changed(item: Item) -> Item:
        problem = exercises.read(item.prompt)
        order = random.Random(f"{seed} {item.id}").sample(problem.numbers, len(problem.numbers))
        before, after = map(_as_written, (problem, exercises.Problem(problem.kind, tuple(order))))
        return Item(item.id, item.prompt.replace(before, after, 1), metadata=item.metadata)

    return EvaluationSet(original.labels, tuple(map(changed, original.items)))


def _as_written(problem: exercises.Problem) -> str:
    if problem.kind == "sum":
        return exercises.expression(problem.numbers)
    return ", ".join(f"{number}.0" if problem.kind in ("up", "down") else str(number) for number in problem.numbers)


PERTURBATIONS: Mapping[str, Perturbation] = {
    "reordered": Perturbation("The numbers of each problem come in another order.", True, _reordered),
}
