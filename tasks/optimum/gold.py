"""Gold of the optimisation task, for the auditor alone: the regret to the optimum, which is known to whoever draws the
function.

    regret = v - lowest          v: the mean of the lowest values that the program finds
    gold   = 1 - regret / (regret of random search), cut to [0, 1]
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from tasks import kit
from tasks.contract import Item
from tasks.optimum import data, verifier


def labels(root: Path, seed: int) -> dict[str, str]:
    """There are none."""
    return {}


def score(item: Item, answer: str | None, label: str | None) -> float:
    """The share of random search's regret that a program avoids, 1 at the optimum; 0 for what is no program."""
    of_random = _random(item) - _lowest(item)
    return min(1.0, max(0.0, 1 - regret(item, answer, label) / of_random))


def regret(item: Item, answer: str | None, label: str | None) -> float:
    """How far above the optimum a program stays, in the function's own units; for what is no program, as far as random
    search.
    """
    try:
        value = verifier.found(item, answer or "").lowest
    except ValueError:
        value = _random(item)
    return value - _lowest(item)


EXTRA_METRICS: Mapping[str, Callable[[Item, str | None, str | None], float]] = {"regret": regret}


def canaries(label: str | None, verifier: str, reward: Callable[[str], float]) -> Mapping[str, tuple[float, float]]:
    """Random search, which is what rewards are counted from, and an answer that is none: both have no gold."""
    return {name: (reward(answer), 0.0) for name, answer in (("random search", data.RANDOM_SEARCH), ("empty", ""))}


def _problem(item: Item) -> data.Problem:
    return data.problem(kit.key(data.default_root()), item.prompt, item.metadata["function"])


def _random(item: Item) -> float:
    return _problem(item).random


def _lowest(item: Item) -> float:
    return _problem(item).function.lowest
