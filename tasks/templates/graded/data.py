"""Plots of a garden, made up from the seed of a run: what a plot needs follows from its soil and its sun.

Put your own items in the place of `plots`. `traces` is what the small language model is pre-trained on: it has to know
the form of a prompt and of an answer, and must not know the answers.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from tasks import kit
from tasks.contract import Item, Public

from .task import NAME

SIZES = {"case": 90, "test": 40}


def default_root() -> Path:
    """Where the data live on this machine; nothing is kept there yet."""
    return kit.data_folder(NAME)


def get(root: Path, source: Path | None) -> None:
    """There is nothing to fetch."""


def prompt_of(soil: int, sun: int) -> str:
    """The prompt of a plot; both figures have two digits."""
    return f"soil {soil:02d} sun {sun:02d}"


def plots(split: str, seed: int) -> list[tuple[Item, str]]:
    """Items of a split with the best answer to each."""
    total = sum(SIZES.values())
    drawn = random.Random(seed).sample([(soil, sun) for soil in range(100) for sun in range(100)], total)
    start = 0 if split == "case" else SIZES["case"]
    rows: Sequence[tuple[int, int]] = drawn[start : start + SIZES[split]]
    return [
        (Item(f"{split}-{number}", prompt_of(soil, sun)), f"{9 - soil // 30} {5 + sun // 20}")
        for number, (soil, sun) in enumerate(rows)
    ]


def load(root: Path, seed: int) -> Public:
    """All that the loop may see: best answers of train alone. No labels are on offer, since answers are written."""
    train, dev = kit.train_and_dev([item for item, _ in plots("case", seed)], labels(root, seed), seed, share=1 / 3)
    return kit.public(NAME, (), train, dev, [item for item, _ in plots("test", seed)])


def labels(root: Path, seed: int) -> dict[str, str]:
    """The best answers to train and dev by item id, for the verifier."""
    return {item.id: label for item, label in plots("case", seed)}


def traces(seed: int) -> list[tuple[str, str]]:
    """(prompt, completion) pairs: any answer to any prompt."""
    draw = random.Random(seed)
    return [
        (prompt_of(draw.randrange(100), draw.randrange(100)), f"{draw.randrange(10)} {draw.randrange(10)}")
        for _ in range(8000)
    ]
