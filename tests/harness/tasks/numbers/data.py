"""Four questions, asked over and over."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from algorithms.demos import toys
from tasks.contract import FOLDS, Example, Item, Public

TARGETS = ("72 15", "68 22", "25 60", "40 85")


def default_root() -> Path:
    """Nothing is kept on disk."""
    return Path("/nonexistent")


def get(root: Path, source: Path | None) -> None:
    """There is nothing to fetch."""


def rows(split: str, count: int) -> list[tuple[str, str, str]]:
    """(id, prompt, label) of a split."""
    return [(f"{split}{number}", f"task {number % 2}", TARGETS[number % 2]) for number in range(count)]


def load(root: Path, seed: int) -> Public:
    """The task with the labels of train alone."""
    train = tuple(
        Example(id, prompt, label, number % FOLDS, id) for number, (id, prompt, label) in enumerate(rows("train", 10))
    )
    dev = tuple(Item(id, prompt) for id, prompt, _ in rows("dev", 4))
    test = tuple(Item(id, prompt) for id, prompt, _ in rows("test", 4))
    digests = {
        name: hashlib.sha256(repr(split).encode()).hexdigest()
        for name, split in (("train", train), ("dev", dev), ("test", test))
    }
    return Public("numbers", TARGETS, train, dev, test, digests)


def labels(root: Path, seed: int) -> dict[str, str]:
    """The labels of train and dev."""
    return {id: label for split, count in (("train", 10), ("dev", 4)) for id, _, label in rows(split, count)}


def traces(seed: int) -> list[tuple[str, str]]:
    """The toys' habits."""
    return toys.traces(seed)


def hint(label: str) -> str:
    """In the words that the base policy knows."""
    return f" near {label}"


def copies(prompt: str, train: Sequence[Example], seed: int) -> list[tuple[str, str]]:
    """What other people were told when they asked the same."""
    return [(example.prompt, example.label or "") for example in train if example.prompt == prompt]
