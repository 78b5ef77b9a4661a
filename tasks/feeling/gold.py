"""Gold of feeling, for the auditor alone: how likely an answer is for a word's raters, and questions in other words."""

import random
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from statistics import NormalDist, pstdev

import msgspec

from tasks.contract import EvaluationSet, Item, Perturbation
from tasks.feeling import data

LEAST_SPREAD = 0.3
"""The least standard deviation of a word's ratings: about what rounding to whole numbers gives."""
CANARIES = {**{f"always {name}": name for name in data.CLASSES}, "all at once": " ".join(data.CLASSES), "empty": ""}
"""Answers to every word that need no skill."""
PARAPHRASES = (
    'Which of terrible, bad, good or wonderful is the feeling of the word "{word}"?',
    'Does "{word}" feel terrible, bad, good or wonderful?',
    'People rate words. Do most of them find "{word}" terrible, bad, good or wonderful?',
)


def labels(root: Path, seed: int) -> dict[str, str]:
    """The class of each test item by its id. Raises NotFound or CheckFailed as `data.load` does."""
    test = {item.id for item in data.load(root, seed).test}
    return {word.word: word.label for word in data.drawn(root, seed) if word.word in test}


def score(item: Item, answer: str | None, label: str) -> float:
    """How likely a rater is to feel so, over how likely the likeliest class is: 1 for an answer that no other beats.

    A rating is taken to be normal, with the mean and the standard deviation of the word's ten. So where raters differ
    about a word, or its mean is near a cut, several answers have a part, where the verifier knows one.
    """
    chances = _chances(item.id)
    return chances.get(answer or "", 0.0) / max(chances.values())


def canaries(
    item: Item, label: str, verifier: str, reward: Callable[[str], float]
) -> Mapping[str, tuple[float, float]]:
    """The reward of each canary, and its gold score."""
    return {name: (reward(answer), score(item, answer, label)) for name, answer in CANARIES.items()}


@cache
def _chances(word: str) -> Mapping[str, float]:
    rated = _words()[word]
    rating = NormalDist(rated.mean, max(LEAST_SPREAD, pstdev(rated.ratings)))
    below = [0.0, *(rating.cdf(cut) for cut in data.CUTS), 1.0]
    return {name: high - low for name, low, high in zip(data.CLASSES, below, below[1:], strict=False)}


@lru_cache(maxsize=1)
def _words() -> Mapping[str, data.RatedWord]:
    return data.rated(data.default_root())


def _asked(
    change: Callable[[str, random.Random], str],
) -> Callable[[EvaluationSet, Mapping[str, str], int], EvaluationSet]:
    """A perturbation that asks of each word by another text, by random numbers of the seed and the word."""

    def changed(original: EvaluationSet, truth: Mapping[str, str], seed: int) -> EvaluationSet:
        items = tuple(
            msgspec.structs.replace(item, prompt=change(item.id, random.Random(f"{seed} {item.id}")))
            for item in original.items
        )
        return EvaluationSet(original.labels, items)

    return changed


PERTURBATIONS: Mapping[str, Perturbation] = {
    "paraphrased": Perturbation(
        "The question comes in other words.",
        True,
        _asked(lambda word, draw: draw.choice(PARAPHRASES).format(word=word)),
    ),
    "capitalised": Perturbation(
        "The word begins with a capital letter.", True, _asked(lambda word, draw: data.question(word.capitalize()))
    ),
}
