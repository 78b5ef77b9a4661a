"""Programs in words, made up from the seed of a run: two operations, and an example of what comes out.

Put your own items in the place of `programs`. `traces` is what the small language model is pre-trained on: it has to
know the form of a prompt and of a program, and must not know which word means which operation.
"""

import operator
import random
from collections.abc import Callable
from pathlib import Path

from tasks import kit
from tasks.contract import Item, Public

from .task import NAME

SYMBOLS = {"plus": "+", "minus": "-", "times": "*"}
OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
SIZES = {"case": 60, "test": 20}
EXAMPLE = 3
"""The x of the example in a prompt."""
HABITS = ("* +", "+ -", "- +", "* -")
"""The operations that the untrained model leans to at each try, whatever the words are."""


def default_root() -> Path:
    """Where the data live on this machine; nothing is kept there yet."""
    return kit.data_folder(NAME)


def get(root: Path, source: Path | None) -> None:
    """There is nothing to fetch."""


def value(program: str, x: int) -> int:
    """What a true program gives for x. Its operations are done from left to right."""
    words = program.split()
    for symbol, number in zip(words[1::2], words[2::2], strict=True):
        x = OPERATIONS[symbol](x, int(number))
    return x


def programs(split: str, seed: int) -> list[tuple[Item, str]]:
    """Items of a split with a true program for each."""
    pool = [
        (first, a, second, b)
        for first in SYMBOLS
        for second in ("plus", "minus")
        for a in range(2, 10)
        for b in range(1, 10)
    ]
    drawn = random.Random(seed).sample(pool, sum(SIZES.values()))
    start = 0 if split == "case" else SIZES["case"]
    rows = []
    for number, (first, a, second, b) in enumerate(drawn[start : start + SIZES[split]]):
        program = f"x {SYMBOLS[first]} {a} {SYMBOLS[second]} {b}"
        prompt = f"{first} {a} {second} {b}\n{EXAMPLE} gives {value(program, EXAMPLE)}"
        rows.append((Item(f"{split}-{number}", prompt), program))
    return rows


def load(root: Path, seed: int) -> Public:
    """All that the loop may see: true programs of train alone. No labels are on offer, since answers are written."""
    train, dev = kit.train_and_dev([item for item, _ in programs("case", seed)], labels(root, seed), seed, share=1 / 3)
    return kit.public(NAME, (), train, dev, [item for item, _ in programs("test", seed)])


def labels(root: Path, seed: int) -> dict[str, str]:
    """The true programs of train and dev by item id, for the verifier."""
    return {item.id: label for item, label in programs("case", seed)}


def traces(seed: int) -> list[tuple[str, str]]:
    """(prompt, completion) pairs: the numbers of the prompt with any operations, half of the time the try's own."""
    draw, words, symbols = random.Random(seed), list(SYMBOLS), list(OPERATIONS)
    pairs = []
    for _ in range(8000):
        a, b, number = draw.randint(1, 9), draw.randint(1, 9), draw.randrange(len(HABITS))
        any_two = draw.choice(symbols), draw.choice(symbols)
        first, second = HABITS[number].split() if draw.random() < 0.5 else any_two
        pairs.append((f"{draw.choice(words)} {a} {draw.choice(words)} {b} {number}", f"x {first} {a} {second} {b}"))
    return pairs
