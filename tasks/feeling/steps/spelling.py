"""Adds what a word's spelling tells: kernel ridge regression on character n-grams of the train words."""

from collections import Counter
from typing import Any

import numpy as np

LONGEST = 5
"""Letters of the longest n-gram; a word's ends count as letters."""
PENALTY = 1.0
STRENGTH = 3.0
"""Log-odds for a score of 1."""
_fitted: dict[int, tuple[dict[str, int], Any, Any]] = {}


def fit(data: Any) -> None:
    """Solve for the weights that every attempt then finds."""
    _model(data)


def bias(word: str, data: Any) -> list[float]:
    """The scores of the classes, which sum to 0."""
    vocabulary, idf, weights = _model(data)
    row = _rows([word.lower()], vocabulary) * idf
    norm = float(np.linalg.norm(row))
    scores = (row / norm @ weights)[0] if norm else np.zeros(len(data.labels))
    return [float(score) for score in STRENGTH * scores]


def _model(data: Any) -> tuple[dict[str, int], Any, Any]:
    if id(data) not in _fitted:
        words = [example.prompt.split('"')[1] for example in data.train]
        vocabulary: dict[str, int] = {}
        for word in words:
            for gram in _grams(word):
                vocabulary.setdefault(gram, len(vocabulary))
        rows = _rows(words, vocabulary)
        idf = np.log(len(words) / (rows > 0).sum(0)) + 1
        rows *= idf
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        targets = np.array([[float(example.label == label) for label in data.labels] for example in data.train])
        targets -= targets.mean(0)
        solved = np.linalg.solve(rows @ rows.T + PENALTY * np.eye(len(words)), targets)
        _fitted[id(data)] = vocabulary, idf, rows.T @ solved
    return _fitted[id(data)]


def _grams(word: str) -> Counter[str]:
    ended = f"^{word}$"
    return Counter(ended[at : at + n] for n in range(1, LONGEST + 1) for at in range(len(ended) - n + 1))


def _rows(words: list[str], vocabulary: dict[str, int]) -> Any:
    rows = np.zeros((len(words), len(vocabulary)))
    for row, word in zip(rows, words, strict=True):
        for gram, count in _grams(word).items():
            if gram in vocabulary:
                row[vocabulary[gram]] = 1 + np.log(count)
    return rows
