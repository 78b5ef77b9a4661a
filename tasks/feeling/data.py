"""VADER's lexicon as a task: words with ten people's ratings, fetched once, one word of each stem, divided by seed."""

import json
import random
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tasks.contract import FOLDS, Example, Item, Public
from tasks.kit import PublishedFiles, data_folder, public, split_by_label

CLASSES = ("terrible", "bad", "good", "wonderful")
"""The labels, from the worst up."""
LEXICON = "vader_lexicon.txt"
FILES = PublishedFiles(
    task="feeling",
    package="vaderSentiment==3.3.2",
    wheel="3bf1d243b98b1afad575b9f22bc2cb1e212b94ff89ca74f8a23a588d024ea311",
    inside="vaderSentiment/",
    checksums={LEXICON: "1ec9c6e9ee19aade328f8beb393a6afa71a5bb3acf7d3cc22d4ef568df374bf5"},
)
LEAST_LETTERS, LEAST_FEELING = 3, 0.8
"""Words of fewer letters are left out, and words whose mean rating is nearer to 0."""
LEAST_ROOT = 4
"""Letters of a stem from which on those that begin with it are of one family with it."""
CUTS = (-2.0, 0.0, 1.8)
"""Where a mean rating, from -4 to 4, passes from one class into the next."""
TEST_SHARE, DEV_SHARE = 0.2, 0.14
HINTS = 6
"""How often a hint says the answer: after a plain text SmolLM2 then chooses it with a probability of .95."""
QUESTION = 'Terrible, bad, good or wonderful: how does the word "{word}" feel?'


class RatedWord(NamedTuple):
    """A word of the lexicon, the mean of its ratings, and the ten ratings, whole numbers from -4 to 4."""

    word: str
    mean: float
    ratings: tuple[int, ...]
    family: str = ""
    """The first letters of its stem that other stems may have too."""

    @property
    def label(self) -> str:
        """The class of the mean."""
        return CLASSES[sum(self.mean >= cut for cut in CUTS)]


def default_root() -> Path:
    """Where the file lives on this machine."""
    return data_folder("feeling")


def get(root: Path, source: Path | None = None) -> None:
    """Put the lexicon under `root`, from `source` or by pip; raises as `PublishedFiles.get` does."""
    FILES.get(root, source)


def load(root: Path, seed: int) -> Public:
    """What the loop may see: train with labels and folds, dev and test without labels.

    The seed draws one word of each stem, and divides the words; each split has its share of each class, and no two have
    words of one family. Raises NotFound where the file is missing, and CheckFailed where it is not as published.
    """
    words = drawn(root, seed)
    labels = [word.label for word in words]
    test, _ = split_by_label(labels, [word.family for word in words], seed, TEST_SHARE, 1)
    rest = [word for word, is_test in zip(words, test, strict=True) if not is_test]
    dev, folds = split_by_label(
        [word.label for word in rest], [word.family for word in rest], seed, DEV_SHARE / (1 - TEST_SHARE), FOLDS
    )
    return public(
        "feeling",
        CLASSES,
        [
            Example(word.word, question(word.word), word.label, fold, word.family)
            for word, is_dev, fold in zip(rest, dev, folds, strict=True)
            if not is_dev
        ],
        [_item(word) for word, is_dev in zip(rest, dev, strict=True) if is_dev],
        [_item(word) for word, is_test in zip(words, test, strict=True) if is_test],
    )


def labels(root: Path, seed: int) -> dict[str, str]:
    """The classes of train and dev, by item id, for the verifier."""
    shown = load(root, seed)
    known = {example.id for example in shown.train} | {item.id for item in shown.dev}
    return {word.word: word.label for word in drawn(root, seed) if word.word in known}


def hint(label: str) -> str:
    """What shows the true answer after a prompt: so often that a small model goes on with it."""
    return f" {label}," * HINTS


def question(word: str) -> str:
    """The prompt of a word."""
    return QUESTION.format(word=word)


def drawn(root: Path, seed: int) -> list[RatedWord]:
    """One word of each stem, drawn by the seed, in the order of the lexicon.

    Words of a stem, such as "lag" and "lagging", tell of each other, so no two of them are asked.
    """
    draw = random.Random(seed)
    chosen = [draw.choice(words) for words in stems(root)]
    return sorted(chosen)


@lru_cache(maxsize=2)
def stems(root: Path) -> tuple[tuple[RatedWord, ...], ...]:
    """The words of the lexicon that have a feeling and nothing but letters, by their stem (Porter 2001, Snowball).

    Stems that begin with another one are of its family, as "cutest" is of "cute", which the stemmer leaves apart.
    """
    import snowballstemmer

    stemmer = snowballstemmer.stemmer("english")
    by_stem: dict[str, list[RatedWord]] = {}
    for line in FILES.read(root, LEXICON).decode().splitlines():
        word, mean, _, ratings = line.split("\t")
        letters = word.isascii() and word.isalpha() and word.islower()
        if letters and len(word) >= LEAST_LETTERS and abs(float(mean)) >= LEAST_FEELING:
            rated = RatedWord(word, float(mean), tuple(json.loads(ratings)))
            by_stem.setdefault(stemmer.stemWord(word), []).append(rated)
    family = ""
    for stem in sorted(by_stem):
        if not (len(family) >= LEAST_ROOT and stem.startswith(family)):
            family = stem
        by_stem[stem] = [word._replace(family=family) for word in by_stem[stem]]
    return tuple(map(tuple, by_stem.values()))


def rated(root: Path) -> dict[str, RatedWord]:
    """Every word that may be asked, by itself."""
    return {word.word: word for words in stems(root) for word in words}


def _item(word: RatedWord) -> Item:
    return Item(word.word, question(word.word), word.family)
