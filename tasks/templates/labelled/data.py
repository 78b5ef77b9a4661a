"""Messages of customers, made up from the seed of a run: some words are those of a desk, the others anybody's.

Put your own items in the place of `messages`. Files that are fetched belong into `get`, by the kit's `PublishedFiles`.
"""

import random
from functools import cache
from pathlib import Path

from tasks import kit
from tasks.contract import Item, Public

from .task import NAME

WORDS = {
    "account": ["password", "login", "username", "profile", "email", "locked"],
    "billing": ["invoice", "charged", "card", "twice", "refund", "price"],
    "delivery": ["parcel", "courier", "late", "address", "tracking", "doorstep"],
    "repair": ["broken", "screen", "noise", "battery", "warranty", "cracked"],
}
LABELS = tuple(sorted(WORDS))
ANYBODYS = ["please", "help", "with", "my", "order", "since", "monday", "again", "thanks", "your", "shop", "the", "new"]


def default_root() -> Path:
    """Where the data live on this machine; nothing is kept there yet."""
    return kit.data_folder(NAME)


def get(root: Path, source: Path | None) -> None:
    """There is nothing to fetch."""


@cache
def messages(split: str, count: int, seed: int) -> tuple[tuple[Item, str], ...]:
    """Items of a split with their labels; near-duplicates share a group."""
    draw, ids, texts, labels = random.Random(f"{split} {seed}"), [], [], []
    for number in range(count):
        label, other = draw.choices(LABELS, weights=(4, 3, 2, 1))[0], draw.choice(LABELS)
        words = draw.sample(WORDS[label], 2) + draw.sample(ANYBODYS, 6) + draw.sample(WORDS[other], 1)
        draw.shuffle(words)
        ids.append(f"{split}-{number}")
        texts.append(" ".join(words))
        labels.append(label)
    return tuple(zip(kit.grouped(ids, texts), labels, strict=True))


def load(root: Path, seed: int) -> Public:
    """All that the loop may see: labels of train alone."""
    items = [item for item, _ in messages("case", 240, seed)]
    train, dev = kit.train_and_dev(items, labels(root, seed), seed, share=1 / 3)
    return kit.public(NAME, LABELS, train, dev, [item for item, _ in messages("test", 40, seed)])


def labels(root: Path, seed: int) -> dict[str, str]:
    """The labels of train and dev by item id, for the verifier."""
    return {item.id: label for item, label in messages("case", 240, seed)}
