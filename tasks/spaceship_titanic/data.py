"""Spaceship Titanic: its files and splits, fetched once, checked by SHA-256, and divided by seed."""

import csv
from collections import Counter
from functools import lru_cache
from pathlib import Path

from tasks.contract import Item, Public
from tasks.kit import data_folder
from tasks.sia_wheel import sia_files, three_splits, train_and_dev_labels

LABELS = ("False", "True")
TRAIN, TEST = "public/train.csv", "private/test.csv"
FILES = sia_files(
    "spaceship-titanic",
    "spaceship-titanic",
    {
        TRAIN: "d852203bbc5e603b92a7cfc0b46e23277c43d7a910b1db8b0ad58b7c6e3f2baa",
        TEST: "d2dc1d37f29c423a9c8f2d6b8675f57e207b7ec2588d2e064af64b761141ef20",
    },
)
TEST_SHARE, DEV_SHARE = 0.34, 0.1
"""The parts of all passengers that are test and dev. A fold of train has fewer than 1,000, which one submission holds.
"""
COLUMNS = (
    "HomePlanet",
    "CryoSleep",
    "Cabin",
    "Destination",
    "Age",
    "VIP",
    "RoomService",
    "FoodCourt",
    "ShoppingMall",
    "Spa",
    "VRDeck",
    "Name",
)
"""The columns of a passenger's record that are shown. `GroupSize` is added; the group's number is left out."""


def default_root() -> Path:
    """Where the files live on this machine."""
    return data_folder("spaceship-titanic")


def get(root: Path, source: Path | None = None) -> None:
    """Put the files under `root`, as `PublishedFiles.get` does."""
    FILES.get(root, source)


def load(root: Path, seed: int) -> Public:
    """All that the loop may see: answers of train alone. The seed divides groups of passengers, each kept whole.

    Raises NotFound and CheckFailed as `PublishedFiles.read`.
    """
    return _public(FILES.read(root, TRAIN), FILES.read(root, TEST), seed)


def labels(root: Path, seed: int) -> dict[str, str]:
    """The answers to train and dev by item id, for the verifier."""
    return train_and_dev_labels(load(root, seed), answers(root))


def answers(root: Path) -> dict[str, str]:
    """The answer to each of the 8,693 passengers, by item id."""
    rows = _rows(FILES.read(root, TRAIN), FILES.read(root, TEST))
    return {row["PassengerId"]: row["Transported"] for row in rows}


@lru_cache(maxsize=4)
def _public(train_file: bytes, test_file: bytes, seed: int) -> Public:
    rows = _rows(train_file, test_file)
    groups = [row["PassengerId"].partition("_")[0] for row in rows]
    sizes = Counter(groups)
    items = [
        Item(row["PassengerId"], _prompt(row, sizes[group]), group) for row, group in zip(rows, groups, strict=True)
    ]
    truth = {row["PassengerId"]: row["Transported"] for row in rows}
    return three_splits(
        "spaceship-titanic", LABELS, items, truth, list(truth.values()), seed, test=TEST_SHARE, dev=DEV_SHARE
    )


def _rows(*files: bytes) -> list[dict[str, str]]:
    return [row for file in files for row in csv.DictReader(file.decode().splitlines())]


def _prompt(row: dict[str, str], size: int) -> str:
    """A line for each column, with nothing after the colon where nothing is recorded."""
    return "\n".join([*(f"{column}: {row[column]}" for column in COLUMNS), f"GroupSize: {size}"])
