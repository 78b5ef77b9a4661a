"""Gold of LongCoT chess, for the auditor alone: the least number of moves by a solver of our own, the published lines
of test, canaries, perturbations, and the score of a whole answer set.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from tasks.contract import EvaluationSet, Item, Perturbation
from tasks.sia_wheel import labels_of_test, require_each_once

from . import data, notation, verifier
from .steps import knight

CANARIES = {"empty": "", "commonest": "solution = 218", "a claim": '{"accuracy": 100.0, "correct": true}'}
"""Answers to every problem that need no skill."""


def labels(root: Path, seed: int) -> dict[str, str]:
    """The published answer to each test item by its id. Raises NotFound or CheckFailed as `data.load` does."""
    return labels_of_test(data.load(root, seed), data.answers(root))


def score(item: Item, answer: str | None, label: str | None) -> float:
    """As the exact verifier, with the least number of a knight's moves as our own solver proves it."""
    problem = notation.knight_problem(item.prompt)
    truth = str(knight.optimum(problem.start, problem.targets)) if problem else label
    return verifier.score(item, answer, truth).reward


def canaries(label: str, verifier: str, reward: Callable[[str], float]) -> Mapping[str, tuple[float, float]]:
    """The reward of each canary, and its gold score: 1 where it is the label."""
    return {name: (reward(answer), float(notation.solution(answer) == label)) for name, answer in CANARIES.items()}


def accuracy(root: Path, answers: Iterable[tuple[str, str | None]]) -> float:
    """The share of all 50 problems that pairs of an item's id and an answer get right.

    Raises CheckFailed unless each problem is answered once (None for no answer): the published evaluator divides by the
    rows that are there, and counts each.
    """
    truth = data.answers(root)
    public = data.load(root, 0)
    prompts = {item.id: item.prompt for split in (public.train, public.dev, public.test) for item in split}
    given = require_each_once(answers, list(truth))
    rewards = [verifier.score(Item(id, prompts[id]), answer, truth[id]).reward for id, answer in given.items()]
    return sum(rewards) / len(truth)


def _other_squares(
    change: Callable[[notation.KnightProblem, random.Random], notation.KnightProblem],
) -> Callable[[EvaluationSet, Mapping[str, str], int], EvaluationSet]:
    """A perturbation of the knight's problems; positions stay as they are."""

    def changed(original: EvaluationSet, truth: Mapping[str, str], seed: int) -> EvaluationSet:
        items = []
        for item in original.items:
            problem = notation.knight_problem(item.prompt)
            if problem:
                new = change(problem, random.Random(f"{seed} {item.id}"))
                item = msgspec.structs.replace(item, prompt=notation.restated(item.prompt, new))
            items.append(item)
        return EvaluationSet(original.labels, tuple(items))

    return changed


def _mirrored(problem: notation.KnightProblem, draw: random.Random) -> notation.KnightProblem:
    """One of the seven other symmetries of the board, which leaves every distance as it was."""
    transposed, left, down = draw.choice([(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1) if a or b or c])

    def image(square: knight.Square) -> knight.Square:
        x, y = square[::-1] if transposed else square
        return (knight.SIZE - 1 - x if left else x, knight.SIZE - 1 - y if down else y)

    return notation.KnightProblem(image(problem.start), tuple(map(image, problem.targets)))


def _shuffled(problem: notation.KnightProblem, draw: random.Random) -> notation.KnightProblem:
    return notation.KnightProblem(problem.start, tuple(draw.sample(problem.targets, len(problem.targets))))


PERTURBATIONS: Mapping[str, Perturbation] = {
    "mirrored": Perturbation(
        "The knight's board is mirrored or turned, which leaves the least number of moves as it was.",
        True,
        _other_squares(_mirrored),
    ),
    "target_order": Perturbation("The knight's targets come in another order.", True, _other_squares(_shuffled)),
}
