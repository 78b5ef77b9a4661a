"""Signposts by number; where one points follows from its name, and the simulation's policy knows it now and then."""

import hashlib
from pathlib import Path

from tasks.contract import Example, Item, Public

LABELS = ("north", "east", "south", "west")


def default_root() -> Path:
    """Nothing is kept on disk."""
    return Path("/nonexistent")


def get(root: Path, source: Path | None) -> None:
    """There is nothing to fetch."""


def label_of(prompt: str) -> str:
    """Where a signpost points."""
    return LABELS[hashlib.sha256(prompt.encode()).digest()[0] % len(LABELS)]


def names(split: str, count: int, seed: int) -> list[str]:
    """The ids of a split; each is its prompt as well."""
    return [f"{split}{number}s{seed}" for number in range(count)]


def load(root: Path, seed: int) -> Public:
    """The task with the labels of train alone."""
    train = tuple(Example(name, name, label_of(name), fold, name) for fold, name in enumerate(names("train", 5, seed)))
    dev, test = (
        tuple(Item(name, name) for name in names(split, count, of))
        for split, count, of in (("dev", 3, seed), ("test", 2, 0))
    )
    return Public(
        "tiny", LABELS, train, dev, test, {split: f"tiny {split} {seed}" for split in ("train", "dev", "test")}
    )


def labels(root: Path, seed: int) -> dict[str, str]:
    """The labels of train and dev."""
    return {name: label_of(name) for name in (*names("train", 5, seed), *names("dev", 3, seed))}
