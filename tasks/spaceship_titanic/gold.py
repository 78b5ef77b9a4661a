"""Gold of Spaceship Titanic, for the auditor alone: the answers to test, canaries, perturbations, and the accuracy of a
whole submission.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from tasks.contract import EvaluationSet, Item, Perturbation
from tasks.sia_wheel import labels_of_test, require_each_once
from tasks.spaceship_titanic import data

SPENDING = ("RoomService", "FoodCourt", "ShoppingMall", "Spa", "VRDeck")


def labels(root: Path, seed: int) -> dict[str, str]:
    """The answer to each test item by its id. Raises NotFound or CheckFailed as `data.load` does."""
    return labels_of_test(data.load(root, seed), data.answers(root))


def accuracy(answers: Iterable[tuple[str, str | None]], truth: Mapping[str, str]) -> float:
    """The share of passengers that pairs of a passenger's id and an answer get right; raises CheckFailed unless each is
    answered once.
    """
    given = require_each_once(answers, list(truth))
    return sum(answer == truth[id] for id, answer in given.items()) / len(truth)


def _each(
    change: Callable[[list[str], random.Random], list[str]],
) -> Callable[[EvaluationSet, Mapping[str, str], int], EvaluationSet]:
    """A perturbation of each record's lines by itself."""

    def changed(original: EvaluationSet, truth: Mapping[str, str], seed: int) -> EvaluationSet:
        return EvaluationSet(original.labels, tuple(change_item(item, seed) for item in original.items))

    def change_item(item: Item, seed: int) -> Item:
        lines = change(item.prompt.split("\n"), random.Random(f"{seed} {item.id}"))
        return msgspec.structs.replace(item, prompt="\n".join(lines))

    return changed


def _shuffled(lines: list[str], draw: random.Random) -> list[str]:
    return draw.sample(lines, len(lines))


def _without(*columns: str) -> Callable[[list[str], random.Random], list[str]]:
    def emptied(lines: list[str], draw: random.Random) -> list[str]:
        return [f"{name}: " if (name := line.partition(":")[0]) in columns else line for line in lines]

    return emptied


def _strangers(original: EvaluationSet, truth: Mapping[str, str], seed: int) -> EvaluationSet:
    """Families are not always one group: a name in train may give its bearer's family away."""
    train = {_surname(example.prompt) for example in data.load(data.default_root(), seed).train}
    strangers = tuple(item for item in original.items if _surname(item.prompt) not in train - {""})
    return EvaluationSet(original.labels, strangers)


def _surname(prompt: str) -> str:
    names = [line.partition(": ")[2] for line in prompt.split("\n") if line.startswith("Name:")]
    return names[0].rpartition(" ")[2] if names else ""


PERTURBATIONS: Mapping[str, Perturbation] = {
    "column_order": Perturbation("The lines of each record come in another order.", True, _each(_shuffled)),
    "no_spending": Perturbation("Nothing is recorded of what passengers spent.", False, _each(_without(*SPENDING))),
    "no_name": Perturbation("Nothing is recorded of names and cabins.", False, _each(_without("Name", "Cabin"))),
    "strangers": Perturbation("Only passengers whose surname no train passenger has.", False, _strangers),
}
