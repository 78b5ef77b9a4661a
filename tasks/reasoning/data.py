"""The items of the reasoning task: problems of reasoning-gym, drawn under a key of this machine.

The package gives the same problem and the same answer for the same seed. So a problem's seed is the HMAC of its split,
the run's seed and its number under a key that no sandbox shows (`tasks/kit.py`). It has 128 bits, which the package
takes whole. A scaffold may import the package, and still cannot make an item again from its seed.

No problem stands in two splits, in whatever order its numbers come. Of all problems a quarter, by a digest, are items',
and the others the traces'. Test is the same for every seed of a run; train and dev differ.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import version
from itertools import count
from math import gcd
from pathlib import Path
from typing import Any

import msgspec

from tasks import kit
from tasks.contract import FOLDS, Example, Item, Public
from tasks.kit import data_folder, public
from tasks.reasoning.scaffold import exercises
from tasks.reasoning.scaffold.exercises import Problem

SIZES = {"train": 10, "dev": 20, "test": 40}
"""Problems of each generator in each split."""
GENERATORS: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 3, "max_digits": 1},
    "gcd": {"max_value": 30},
    "number_sorting": {"min_numbers": 3, "max_numbers": 4, "max_decimals": 0, "min_value": 0.0, "max_value": 9.0},
}
"""reasoning-gym's generators with the settings that differ from their defaults."""
SEED_BYTES = 16
KNOWN = 0.9
"""The share of traces whose answer is right."""
COPIES = 2
"""Views of each kind in the demonstrations of `copies`."""


class Entry(msgspec.Struct, frozen=True):
    """A problem as reasoning-gym gives it."""

    generator: str
    name: str
    """What its seed is derived from."""
    question: str
    answer: str


def default_root() -> Path:
    """Where the key lives on this machine."""
    return data_folder("reasoning")


def get(root: Path, source: Path | None) -> None:
    """Make this machine's key if there is none, or take the one in the file `source`; raises as `kit.take_key`."""
    kit.take_key(root, source)


def load(root: Path, seed: int) -> Public:
    """All that the loop may see: the questions, and the answers of train."""
    items = {split: list(map(_item, ids(split), entries(root, split, seed))) for split in SIZES}
    answers = labels(root, seed)
    train = tuple(
        Example(item.id, item.prompt, answers[item.id], number % FOLDS, item.id, metadata=item.metadata)
        for number, item in enumerate(items["train"])
    )
    return public("reasoning", (), train, items["dev"], items["test"])


def labels(root: Path, seed: int) -> dict[str, str]:
    """The answers of train and dev by item id."""
    return {id: answer for split in ("train", "dev") for id, answer in answers(root, split, seed).items()}


def answers(root: Path, split: str, seed: int) -> dict[str, str]:
    """The answers of a split by item id."""
    return {id: entry.answer for id, entry in zip(ids(split), entries(root, split, seed), strict=True)}


def ids(split: str) -> list[str]:
    """The item ids of a split."""
    return [f"{split}-{number}" for number in range(SIZES[split] * len(GENERATORS))]


def entries(root: Path, split: str, seed: int) -> list[Entry]:
    """The problems of a split: one of each generator in turn."""
    return _entries(root, kit.key(root), seed)[split]


@lru_cache(maxsize=4)
def _entries(root: Path, key: bytes, seed: int) -> dict[str, list[Entry]]:
    """All splits: from the file that keeps them if its seal holds, else drawn and kept.

    Importing reasoning-gym takes seconds, and every process of a run needs the problems.
    """
    inputs = f"{version('reasoning-gym')} {GENERATORS} {SIZES} {seed}"
    source = kit.derived(key, inputs).hex()
    return kit.cached(root / f"problems-{seed}", source, dict[str, list[Entry]], lambda: _draw(key, seed))


def _draw(key: bytes, seed: int) -> dict[str, list[Entry]]:
    """All splits; test comes first, so that no other changes it."""
    seen: set[Problem] = set()
    splits = {}
    for split in ("test", "train", "dev"):
        scope = split if split == "test" else f"{split} {seed}"
        drawn = [_drawn(key, scope, generator, seen) for generator in GENERATORS]
        splits[split] = [next(problems) for _ in range(SIZES[split]) for problems in drawn]
    return splits


def _drawn(key: bytes, scope: str, generator: str, seen: set[Problem]) -> Iterator[Entry]:
    """New problems of a generator that are items'."""
    for number in count():
        name = f"{scope} {number}"
        entry = made(key, generator, name)
        problem = _unordered(exercises.read(entry["question"]))
        if problem not in seen and is_item(problem):
            seen.add(problem)
            yield Entry(generator, name, entry["question"], entry["answer"])


def made(key: bytes, generator: str, name: str) -> dict[str, Any]:
    """The problem of this name as reasoning-gym gives it, always the same under one key."""
    import reasoning_gym

    seed = int.from_bytes(kit.derived(key, f"{generator} {name}")[:SEED_BYTES], "big")
    entry: dict[str, Any] = reasoning_gym.create_dataset(generator, seed=seed, size=1, **GENERATORS[generator])[0]
    return entry


def is_item(problem: Problem) -> bool:
    """Whether a problem may be an item; the others may be traces. The order of its numbers makes no difference."""
    return hashlib.sha256(repr(_unordered(problem)).encode()).digest()[0] < 64


def _unordered(problem: Problem) -> Problem:
    return Problem(problem.kind, tuple(sorted(problem.numbers)))


def _item(id: str, entry: Entry) -> Item:
    return Item(id, entry.question, metadata={"generator": entry.generator, "entry": entry.name})


def traces(seed: int, count: int = 24_000) -> list[tuple[str, str]]:
    """(prompt, answer) pairs that the policy is pre-trained on: problems that are no items, some of them answered
    wrongly.
    """
    draw = random.Random(seed)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < count:
        problem = _made_up(draw)
        if not is_item(problem):
            answer = solved(problem)
            pairs.append(
                (exercises.asked(problem), exercises.spoken(answer if draw.random() < KNOWN else _wrong(draw, answer)))
            )
    return pairs


def copies(prompt: str, train: Sequence[Example], seed: int) -> list[tuple[str, str]]:
    """Demonstrations for one item: the train problems of its generator with their answers, as they are and in views."""
    kinds = {exercises.read(prompt).kind}
    kinds |= {"up", "down"} if kinds & {"up", "down"} else set()
    draw = random.Random(seed)
    pairs = []
    for example in train:
        problem, answer = exercises.read(example.prompt), exercises.heard(example.label or "")
        if problem.kind in kinds and answer:
            pairs += [
                (exercises.asked(view.problem), exercises.spoken(view.change(answer)))
                for view in exercises.views(problem, draw, COPIES)
            ]
    return pairs


def solved(problem: Problem) -> tuple[int, ...]:
    """The numbers of a problem's answer."""
    match problem.kind:
        case "sum":
            return (sum(problem.numbers),)
        case "gcd":
            return (gcd(*problem.numbers),)
        case _:
            return tuple(sorted(problem.numbers, reverse=problem.kind == "down"))


def _made_up(draw: random.Random) -> Problem:
    """A problem such as the generators give, or a view of one."""
    match draw.choice(("sum", "gcd", "up", "down")):
        case "sum":
            terms = [draw.randint(0, 9) * draw.choice((-1, 1)) for _ in range(draw.randint(2, 3))]
            return Problem("sum", tuple(terms))
        case "gcd":
            return Problem("gcd", (draw.randint(1, 30), draw.randint(1, 30)))
        case way:
            return Problem(way, tuple(draw.randint(0, exercises.LARGEST) for _ in range(draw.randint(3, 4))))


def _wrong(draw: random.Random, answer: tuple[int, ...]) -> tuple[int, ...]:
    """An answer near the true one: another number, or two numbers in each other's place."""
    if len(answer) == 1:
        return (answer[0] + draw.choice((-2, -1, 1, 2)),)
    first = draw.randrange(len(answer) - 1)
    return (*answer[:first], answer[first + 1], answer[first], *answer[first + 2 :])
