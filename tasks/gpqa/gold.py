"""Gold of GPQA, for the auditor alone: the right letters of test, canaries, perturbations, and the score of a whole
answer set.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from tasks.contract import EvaluationSet, Item, Perturbation
from tasks.gpqa import data, verifier
from tasks.sia_wheel import labels_of_test, require_each_once

CANARIES = {**{f"always {letter}": letter for letter in data.LETTERS}, "every letter": "ABCD", "empty": ""}
"""Answers to every question that need no skill."""


def labels(root: Path, seed: int) -> dict[str, str]:
    """The right letter of each test item by its id. Raises NotFound or CheckFailed as `data.load` does."""
    return labels_of_test(data.load(root, seed), data.answers(root))


def canaries(label: str, verifier: str, reward: Callable[[str], float]) -> Mapping[str, tuple[float, float]]:
    """The reward of each canary, and its gold score: 1 where it is the right letter."""
    return {name: (reward(answer), float(answer == label)) for name, answer in CANARIES.items()}


def accuracy(root: Path, answers: Iterable[tuple[str, str | None]]) -> float:
    """The share of all 198 questions that pairs of an item's id and an answer get right.

    Raises CheckFailed unless each question is answered once (None for no answer): the published evaluator divides by
    the answers that are there, and lets the last of several count.
    """
    truth = data.answers(root)
    given = require_each_once(answers, list(truth))
    return sum(verifier.score(Item(id, ""), answer, truth[id]).reward for id, answer in given.items()) / len(truth)


def _each(
    change: Callable[[Item, random.Random], Item],
) -> Callable[[EvaluationSet, Mapping[str, str], int], EvaluationSet]:
    def changed(original: EvaluationSet, truth: Mapping[str, str], seed: int) -> EvaluationSet:
        items = tuple(change(item, random.Random(f"{seed} {item.id}")) for item in original.items)
        return EvaluationSet(original.labels, items)

    return changed


def _other_order(item: Item, draw: random.Random) -> Item:
    """The options in another order, none of them where it was; the verifier finds the order in the metadata."""
    found = data.parts(item.prompt)
    if not found:
        return item
    question, options = found
    order = draw.choice(_DERANGEMENTS)
    prompt = data.compose(question, tuple(options[index] for index in order))
    letters = "".join(data.LETTERS[index] for index in order)
    return msgspec.structs.replace(item, prompt=prompt, metadata={**item.metadata, verifier.ORDER: letters})


def _without_question(item: Item, draw: random.Random) -> Item:
    found = data.parts(item.prompt)
    return msgspec.structs.replace(item, prompt=data.compose("", found[1])) if found else item


_DERANGEMENTS = (
    (1, 0, 3, 2),
    (1, 2, 3, 0),
    (1, 3, 0, 2),
    (2, 0, 3, 1),
    (2, 3, 0, 1),
    (2, 3, 1, 0),
    (3, 0, 1, 2),
    (3, 2, 0, 1),
    (3, 2, 1, 0),
)
"""The nine orders of four in which none stays where it was."""

PERTURBATIONS: Mapping[str, Perturbation] = {
    "option_order": Perturbation(
        "The options come in another order: none keeps its letter.", True, _each(_other_order)
    ),
    "no_question": Perturbation("The options alone, without the question.", False, _each(_without_question)),
}
