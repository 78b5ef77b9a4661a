"""The items of the optimisation task: hidden functions, drawn by seed under a key of this machine.

A prompt says the function's kind and dimension. The function itself is drawn anew in the memory of those that need it,
from the item's name and a key that no sandbox shows (`tasks/kit.py`). So these sources and a seed are not enough to
find an optimum without a search. There is no label anywhere: nobody knows which program is the best for an item.

Test is the same for every seed of a run; train and dev differ.
"""

import random
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks import kit
from tasks.contract import FOLDS, Example, Item, Public
from tasks.kit import data_folder, digest
from tasks.optimum import functions, search
from tasks.optimum.functions import Function

SIZES = {"train": 24, "dev": 24, "test": 48}
PROMPTS = [f"{kind} {dimension}" for dimension in functions.DIMENSIONS for kind in functions.KINDS]
RUNS = 4
"""How often a program is run on a function; what counts is the mean of the lowest values."""
RANDOM_SEARCH = "rand s0 n4 c0 r1"
RANDOM = search.parse(RANDOM_SEARCH)
"""What other programs are held against."""
REFERENCES = ("walk s2 n16 c1 r2", "mix s3 n8 c0 r1", "cloud s1 n8 c2 r1", "walk s2 n8 c1 r1", "mix s2 n16 c2 r1")
"""Programs of which one at least finds lower values than random search of nearly every function."""
TRIES = 3
LEAN = 0.4
"""How often a word of a trace is its try's own rather than any."""
HABITS = ("rand s0 n32 c0 r4 p1", "walk s1 n16 c0 r4 p2", "mix s0 n32 c0 r2 p1")
"""What the untrained policy leans to at each try."""


class Problem(NamedTuple):
    """A hidden function, and the lowest value that random search finds of it, the mean over RUNS."""

    function: Function
    random: float


def default_root() -> Path:
    """Where the key lives on this machine."""
    return data_folder("optimum")


def get(root: Path, source: Path | None) -> None:
    """Make this machine's key if there is none, or take the one in the file `source`; raises as `kit.take_key`."""
    kit.take_key(root, source)


def load(root: Path, seed: int) -> Public:
    """All that the loop may see: what kind of function each item is."""
    key = kit.key(root)
    splits = {split: [_item(split, seed, number) for number in range(SIZES[split])] for split in SIZES}
    train = tuple(
        Example(item.id, item.prompt, None, number % FOLDS, item.id, metadata=item.metadata)
        for number, item in enumerate(splits["train"])
    )
    digests = {
        split: digest([(item, kit.derived(key, item.metadata["function"]).hex()) for item in items])
        for split, items in splits.items()
    }
    return Public("optimum", (), train, tuple(splits["dev"]), tuple(splits["test"]), digests)


def labels(root: Path, seed: int) -> dict[str, str]:
    """There are none."""
    return {}


def _item(split: str, seed: int, number: int) -> Item:
    """An item; its metadata name the function, and no scaffold sees them."""
    name = f"{split} {number}" if split == "test" else f"{split} {seed} {number}"
    return Item(f"{split}-{number}", PROMPTS[number % len(PROMPTS)], metadata={"function": name})


@lru_cache(maxsize=1024)
def problem(key: bytes, prompt: str, name: str) -> Problem:
    """The hidden function of an item's prompt and name, always the same under one key."""
    kind, dimension = prompt.split()
    function = functions.drawn(generator(kit.derived(key, name)), kind, int(dimension))
    return Problem(function, mean_lowest(function, RANDOM, kit.derived(key, f"{name} random")))


def mean_lowest(function: Function, program: search.Program, seed: bytes) -> float:
    """The mean over RUNS of the lowest value that a program finds; the same seed gives the same."""
    draw = generator(seed)
    lowest = [search.best_value(function.values, len(function.place), program, draw) for _ in range(RUNS)]
    return sum(lowest) / RUNS


def lowest_found(key: bytes, prompt: str, name: str, program: search.Program) -> float:
    """The mean lowest value that a program finds of an item's function, always the same under one key."""
    return mean_lowest(problem(key, prompt, name).function, program, kit.derived(key, f"{name} {program}"))


def reference_answer(item: Item, label: str | None) -> str | None:
    """The first of REFERENCES that finds lower values than random search does; None where none of them does."""
    key, name = kit.key(default_root()), item.metadata["function"]
    random_value = problem(key, item.prompt, name).random
    better = (text for text in REFERENCES if lowest_found(key, item.prompt, name, search.parse(text)) < random_value)
    return next(better, None)


def generator(seed: bytes) -> np.random.Generator:
    """A generator whose numbers follow from these bytes."""
    return np.random.default_rng(list(seed))


def traces(seed: int, count: int = 12_000) -> list[tuple[str, str]]:
    """(prompt, program) pairs that the policy is pre-trained on, for either grammar and each kind of function.

    Each try leans to a program of its own, `HABITS`, whatever the function is.
    """
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        grammar, words = draw.choice((("base", search.BASE), ("full", len(search.SLOTS))))
        number = draw.randrange(TRIES)
        choices = zip(HABITS[number].split(), search.drawn(draw, words).split(), strict=False)
        program = " ".join(habit if draw.random() < LEAN else word for habit, word in choices)
        pairs.append((f"{draw.choice(PROMPTS)} {grammar} {number}", program))
    return pairs
