"""Texts with their labels, from `items.csv` in this folder: a column of texts and a column of labels.

Put your own file in its place, and say which columns are which. Rows stay what they are with another seed, and the
seed divides them into train, dev and test.
"""

from functools import cache
from pathlib import Path

from tasks import kit
from tasks.contract import Item, Public

from .task import NAME

FILE = "items.csv"
TEXT, LABEL = "text", "label"


def default_root() -> Path:
    """Where the data live: in this folder."""
    return Path(__file__).parent


def get(root: Path, source: Path | None) -> None:
    """There is nothing to fetch."""


@cache
def texts(root: Path) -> tuple[tuple[Item, ...], dict[str, str]]:
    """The items of all splits, of which near-duplicates share a group, and the label of each by its id."""
    rows = kit.table(root / FILE, [TEXT, LABEL])
    items = kit.grouped([f"row-{number}" for number in range(len(rows))], [row[TEXT] for row in rows])
    return tuple(items), {item.id: row[LABEL] for item, row in zip(items, rows, strict=True)}


def held_out(root: Path, seed: int) -> tuple[list[Item], tuple[Item, ...]]:
    """The items of train and dev, and those of test: a fifth of each label."""
    items, labels = texts(root)
    _, test = kit.train_and_dev(items, labels, seed, share=1 / 5)
    hidden = {item.id for item in test}
    return [item for item in items if item.id not in hidden], test


def load(root: Path, seed: int) -> Public:
    """All that the loop may see: labels of train alone."""
    known, test = held_out(root, seed)
    train, dev = kit.train_and_dev(known, labels(root, seed), seed, share=1 / 4)
    return kit.public(NAME, sorted(set(texts(root)[1].values())), train, dev, test)


def labels(root: Path, seed: int) -> dict[str, str]:
    """The labels of train and dev by item id, for the verifier."""
    return {item.id: texts(root)[1][item.id] for item in held_out(root, seed)[0]}
