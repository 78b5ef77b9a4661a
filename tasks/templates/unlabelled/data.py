"""Bags to pack, made up from the seed of a run. Nobody says which packing is the best, so there are no labels.

Put your own items in the place of `bags`. `traces` is what the small language model is pre-trained on: it has to know
the form of a prompt and of an answer, and must not know good answers.
"""

import random
from pathlib import Path

from tasks import kit
from tasks.contract import Item, Public

from .task import NAME


def default_root() -> Path:
    """Where the data live on this machine; nothing is kept there yet."""
    return kit.data_folder(NAME)


def get(root: Path, source: Path | None) -> None:
    """There is nothing to fetch."""


def prompt_of(draw: random.Random) -> str:
    """A bag that holds half of what there is: its room, then weights and values of the six things."""
    weights, values = (" ".join(str(draw.randrange(1, 10)) for _ in range(6)) for _ in range(2))
    return f"room {sum(map(int, weights.split())) // 2:02d} weights {weights} values {values}"


def bags(split: str, count: int, seed: int) -> list[Item]:
    """The items of a split."""
    draw = random.Random(f"{split} {seed}")
    return [Item(f"{split}-{number}", prompt_of(draw)) for number in range(count)]


def load(root: Path, seed: int) -> Public:
    """All that the loop may see."""
    train, dev = kit.train_and_dev(bags("case", 90, seed), {}, seed, share=1 / 3)
    return kit.public(NAME, (), train, dev, bags("test", 40, seed))


def labels(root: Path, seed: int) -> dict[str, str]:
    """None: the verifier judges an answer by its item."""
    return {}


def reference_answer(item: Item, label: str | None) -> str:
    """An answer that must earn something, for `evolog task check`: the lightest thing alone, which always fits."""
    weights = item.prompt.split()[3:9]
    return "".join("01"[position == weights.index(min(weights))] for position in range(6))


def traces(seed: int) -> list[tuple[str, str]]:
    """(prompt, completion) pairs: any two or three things of any bag."""
    draw, pairs = random.Random(seed), []
    for _ in range(8000):
        chosen = draw.sample(range(6), draw.choice((2, 3)))
        pairs.append((prompt_of(draw), "".join("01"[position in chosen] for position in range(6))))
    return pairs
