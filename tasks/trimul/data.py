"""TriMul's items: shapes that kernels are timed on. There are no labels, and nothing is kept on disk."""

import random
from collections.abc import Sequence
from pathlib import Path

from tasks.contract import FOLDS, Example, Item, Public
from tasks.kit import public
from tasks.trimul.baselines import text
from tasks.trimul.cases import SMALL
from tasks.trimul.sandboxed.workload import Workload

SIZES = {"train": 5, "dev": 3, "test": 4}
"""Shapes of each split."""
ASKED = 5
"""Items of each train shape: a weight update needs more attempts than there are shapes, and a kernel is measured once.
"""
LEAN = 0.6
"""How often a word of a trace is the reference's own rather than any."""
WORDS = (
    ("apart", "joined"),
    ("einsum", "bmm", "rows"),
    ("f32", "mixed"),
    ("masked", "unmasked"),
)
"""The words that each place of a schedule can hold, the reference's first: scaffold/schedule.py says what they do."""
TRIES = 3


def default_root() -> Path:
    """Nothing is kept on disk."""
    return Path("/nonexistent")


def get(root: Path, source: Path | None) -> None:
    """There is nothing to fetch."""


def splits(seed: int) -> dict[str, tuple[Workload, ...]]:
    """The workloads of each split: half of them with a mask, none in two splits."""
    order = random.Random(f"trimul {seed}").sample(SMALL, len(SMALL))
    out, at = {}, 0
    for split, size in SIZES.items():
        out[split] = tuple(order[at : at + size])
        at += size
    return out


def workload_of(item: Item) -> Workload:
    """The workload that an item is timed on."""
    n, bs, dim, mask, distribution = item.metadata["workload"].split()
    return Workload(int(n), int(bs), int(dim), mask, distribution)


def neighbours(item: Item) -> tuple[Workload, ...]:
    """The workloads of the item's split, which are measured together."""
    return tuple(
        Workload(int(n), int(bs), int(dim), mask, distribution)
        for n, bs, dim, mask, distribution in map(str.split, item.metadata["split"].split(","))
    )


def load(root: Path, seed: int) -> Public:
    """The items of all splits."""
    of = splits(seed)
    train = tuple(
        Example(f"{item.id}-{copy}", item.prompt, None, number % FOLDS, item.id, metadata=item.metadata)
        for number, item in enumerate(_items("train", of["train"]))
        for copy in range(ASKED)
    )
    return public("trimul", (), train, _items("dev", of["dev"]), _items("test", of["test"]))


def labels(root: Path, seed: int) -> dict[str, str]:
    """None: an answer is judged by what it does."""
    return {}


def reference_answer(item: Item, label: str | None) -> str:
    """The reference kernel, which is right everywhere and as fast as itself."""
    return text("reference")


def traces(seed: int, count: int = 4_000) -> list[tuple[str, str]]:
    """(prompt, schedule) pairs that tiny-lm is pre-trained on: mostly the reference's words, whatever the shape."""
    draw, pairs = random.Random(seed), []
    for _ in range(count):
        words = [place[0] if draw.random() < LEAN else draw.choice(place) for place in WORDS]
        pairs.append((f"{draw.choice(SMALL).text} {draw.randrange(TRIES)}", " ".join(words)))
    return pairs


def _items(split: str, workloads: Sequence[Workload]) -> tuple[Item, ...]:
    together = ",".join(_fields(workload) for workload in workloads)
    return tuple(
        Item(f"{split}-{number}", workload.text, metadata={"workload": _fields(workload), "split": together})
        for number, workload in enumerate(workloads)
    )


def _fields(workload: Workload) -> str:
    return " ".join(map(str, workload))
