"""Sentences of made-up words: each trade has words of its own, and few of them share letters with its name."""

import hashlib
import random
from pathlib import Path

from tasks.contract import FOLDS, Example, Item, Public

LABELS = ("baker", "carpenter", "farmer", "fisher", "mason", "miner", "smith", "weaver")


def default_root() -> Path:
    """Nothing is kept on disk."""
    return Path("/nonexistent")


def get(root: Path, source: Path | None) -> None:
    """There is nothing to fetch."""


def rows(split: str, count: int, seed: int) -> list[tuple[str, str, str]]:
    """(id, sentence, label) of a split."""
    words = {
        label: [f"{label[:2]}{number}" if number < 2 else _word(label, number) for number in range(12)]
        for label in LABELS
    }
    common = [_word("common", number) for number in range(20)]
    draw = random.Random(f"{split} {seed}")
    found = []
    for number in range(count):
        label = LABELS[number % len(LABELS)]
        sentence = (
            draw.choices(words[label], k=4) + draw.choices(common, k=8) + draw.choices(words[draw.choice(LABELS)], k=2)
        )
        draw.shuffle(sentence)
        found.append((f"{split}{number}", " ".join(sentence), label))
    return found


def load(root: Path, seed: int) -> Public:
    """The task with the labels of train alone."""
    train = tuple(
        Example(id, text, label, number % FOLDS, text)
        for number, (id, text, label) in enumerate(rows("train", 80, seed))
    )
    dev = tuple(Item(id, text) for id, text, _ in rows("dev", 40, seed))
    test = tuple(Item(id, text) for id, text, _ in rows("test", 40, seed))
    digests = {
        name: hashlib.sha256(repr(split).encode()).hexdigest()
        for name, split in (("train", train), ("dev", dev), ("test", test))
    }
    return Public("toy", LABELS, train, dev, test, digests)


def labels(root: Path, seed: int) -> dict[str, str]:
    """The labels of train and dev."""
    return {id: label for split, count in (("train", 80), ("dev", 40)) for id, _, label in rows(split, count, seed)}


def _word(of: str, number: int) -> str:
    return (
        hashlib.sha256(f"{of} {number}".encode()).hexdigest()[:5].translate(str.maketrans("0123456789", "ghijklmnop"))
    )
