"""Denoise's splits: simulated data sets, 20 for train, 12 for dev and 32 for test, each of 200 cells and about 1,100
genes.

What a scaffold sees of a data set is its prompt: a line of what kind of data it is, and the counts of train. Its label
is a name, by which verifier and auditor find the held-out molecules and the true expression. They are drawn anew in the
memory of those that need them, from the name and a key of 32 random bytes that this machine made for itself, under
`default_root()`. No sandbox shows that file. So neither a name nor these sources, nor both, are enough to remake what
is held out. `evolog data get denoise --from FILE` takes the key of another machine, which then has the same data.
Prompts are kept beside the key, since every process of a run needs them.

Test is the same for every seed of a run; train and dev differ.
"""

import hashlib
import itertools
import random
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks import kit
from tasks.contract import FOLDS, Example, Item, Public
from tasks.denoise import counts, metric, program
from tasks.denoise.magic import normalised
from tasks.denoise.metric import Matrix
from tasks.denoise.simulate import simulate

SIZES = {"train": 20, "dev": 12, "test": 32}
CELLS, GENES = 200, 1200
LARGEST_GENE = 0.2
"""The most of all molecules that one gene holds. From a quarter on, the published gate refuses zeros and stock MAGIC on
some data sets: no program of the base grammar would earn anything there.
"""
TRIES = 3
LEAN = 0.4
"""How often a word of a trace is its try's own rather than any."""
HABITS = (
    "rev sqrt k5 t3 p100 d1 blend0",
    "rev sqrt k12 t3 p20 d2 power0",
    "std lin k12 t3 p20 d2 scale2",
)
"""What the untrained policy leans to at each try; the first is MAGIC as OpenProblems runs it, in reversed order."""
EDGES = {"depth": (630, 720), "zeros": (0.762, 0.783), "gap": (1.15, 1.28)}
"""Where the buckets of a data set's first line meet: median molecules of a cell, share of zeros, second over third
singular value.
"""


class DataSet(NamedTuple):
    """One data set, as the key draws it: four matrices (cells, genes).

    `train` and `test` are counts, `truth` each cell's true shares of its genes, and `rate` the means that its counts
    were drawn at.
    """

    train: Matrix
    test: Matrix
    truth: Matrix
    rate: Matrix


def default_root() -> Path:
    """Where the key and the cached prompts live on this machine."""
    return kit.data_folder("denoise")


def get(root: Path, source: Path | None = None) -> None:
    """Make this machine's key if there is none, or take the one in the file `source`; raises as `take_key` does."""
    kit.take_key(root, source)


SOURCES = ("counts.py", "data.py", "magic.py", "metric.py", "simulate.py")
"""The files that prompts are computed by.

Cached prompts of other sources, another key, NumPy or zlib are computed again.
"""


def load(root: Path, seed: int) -> Public:
    """What the loop may see: the prompts of all data sets, and the names of train's, which are their labels."""
    return _public(root, kit.key(root), seed)


def labels(root: Path, seed: int) -> dict[str, str]:
    """The labels of train and dev by item id: the names of their data sets."""
    return {id: label for split in ("train", "dev") for id, label in names(split, seed)}


def names(split: str, seed: int = 0) -> list[tuple[str, str]]:
    """(item id, name of the data set) for each item of a split. Test's names are the same for every seed."""
    suffix = "" if split == "test" else f"-{seed}"
    return [(f"{split}-{number}", f"{split}{suffix}-{number}") for number in range(SIZES[split])]


@lru_cache(maxsize=sum(SIZES.values()))
def data_set(key: bytes, name: str) -> DataSet:
    """The data set of this name, always the same under one key. Counts with a larger gene than `LARGEST_GENE` are drawn
    again.
    """
    for attempt in itertools.count():
        seed = list(hashlib.sha256(key + name.encode() + (b"" if attempt == 0 else b" again %d" % attempt)).digest())
        draw = random.Random(bytes(seed))
        simulated = simulate(
            seed,
            CELLS,
            GENES,
            types=draw.randint(3, 8),
            depth=draw.uniform(600, 900),
            gene_sigma=draw.uniform(1.7, 1.85),
            de_scale=draw.uniform(0.6, 1.0),
        )
        if simulated.counts.sum(axis=0).max() <= LARGEST_GENE * simulated.counts.sum():
            break
    train, test, genes = metric.split(simulated.counts, draw.getrandbits(32))
    small = [matrix.astype(np.float32) for matrix in (simulated.truth[:, genes], simulated.rate[:, genes])]
    return DataSet(train.astype(np.uint16), test.astype(np.uint16), *small)


def context(train: Matrix) -> str:
    """What kind of data set it is, as the policy is asked: each of three figures by one of three buckets, "depth 1
    zeros 0 gap 2".
    """
    scaled, sums = normalised(train, "standard", "sqrt")
    centred = scaled - scaled.mean(axis=0)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(centred @ centred.T), 0))
    figures = {
        "depth": float(np.median(sums)),
        "zeros": float(np.mean(train == 0)),
        "gap": float(values[-2] / values[-3]),
    }
    return " ".join(f"{name} {int(np.searchsorted(EDGES[name], value))}" for name, value in figures.items())


def prompt_of(train: Matrix) -> str:
    """The prompt of a data set: a line of its kind, and below it the counts of train as text."""
    return f"{context(train)}\n{counts.written(train)}"


def reference_answer(item: Item, label: str | None) -> str:
    """MAGIC as OpenProblems runs it, which both verifiers and gold reward on any data set."""
    return HABITS[0].rpartition(" ")[0]


def traces(seed: int, count: int = 12_000) -> list[tuple[str, str]]:
    """(prompt, program) pairs that the policy is pre-trained on, for either grammar and each kind of data set.

    Each try leans to a program of its own, `HABITS`, whatever the data are.
    """
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        kind = " ".join(f"{name} {draw.randrange(3)}" for name in EDGES)
        grammar, words = draw.choice((("base", program.BASE), ("full", len(program.SLOTS))))
        number = draw.randrange(TRIES)
        choices = zip(HABITS[number].split(), program.drawn(draw, words).split(), strict=False)
        pairs.append(
            (f"{kind} {grammar} {number}", " ".join(habit if draw.random() < LEAN else word for habit, word in choices))
        )
    return pairs


@lru_cache(maxsize=4)
def _public(root: Path, key: bytes, seed: int) -> Public:
    prompts = {name: prompt for split in SIZES for name, prompt in _prompts(root, key, split, seed).items()}
    train = tuple(
        Example(id, prompts[name], name, number % FOLDS, name) for number, (id, name) in enumerate(names("train", seed))
    )
    dev, test = (tuple(Item(id, prompts[name]) for id, name in names(split, seed)) for split in ("dev", "test"))
    digests = {
        split: hashlib.sha256("\n".join(prompts[name] for _, name in names(split, seed)).encode()).hexdigest()
        for split in SIZES
    }
    return Public("denoise", tuple(name for _, name in names("train", seed)), train, dev, test, digests)


def _prompts(root: Path, key: bytes, split: str, seed: int) -> dict[str, str]:
    """A split's prompts by the data set's name, which are computed once and cached."""
    path = root / f"{split if split == 'test' else f'{split}-{seed}'}.prompts"
    versions = f"{path.name} {np.__version__} {zlib.ZLIB_RUNTIME_VERSION}"
    inputs = key + versions.encode() + b"".join(Path(__file__).with_name(source).read_bytes() for source in SOURCES)
    data_sets = [name for _, name in names(split, seed)]

    def draw() -> dict[str, str]:
        with ThreadPoolExecutor() as pool:  # NumPy lets other threads run while it draws
            drawn = pool.map(lambda name: prompt_of(data_set(key, name).train), data_sets)
            return dict(zip(data_sets, drawn, strict=True))

    return kit.cached(path, hashlib.sha256(inputs).hexdigest(), dict[str, str], draw)
