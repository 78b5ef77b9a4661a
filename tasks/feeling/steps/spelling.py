"""Adds what a word's spelling tells: ridge regression on character n-grams of the train words, solved in the dual."""

from collections import Counter
from typing import Any

import numpy as np
from scipy import linalg, sparse

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
    scores = (_rows([word.lower()], vocabulary, idf) @ weights)[0]
    return [float(score) for score in STRENGTH * scores]


def _model(data: Any) -> tuple[dict[str, int], Any, Any]:
    if id(data) not in _fitted:
        words = [example.prompt.split('"')[1] for example in data.train]
        count = Counter(gram for word in words for gram in _grams(word))
        vocabulary = {gram: place for place, gram in enumerate(count)}
        idf = np.log(len(words) / np.array(list(count.values()))) + 1
        rows = _rows(words, vocabulary, idf)
        targets = np.array([[float(example.label == label) for label in data.labels] for example in data.train])
        targets -= targets.mean(0)
        gram = (rows @ rows.T).toarray() + PENALTY * np.eye(len(words))
        _fitted[id(data)] = vocabulary, idf, rows.T @ linalg.solve(gram, targets, assume_a="pos")
    return _fitted[id(data)]


def _grams(word: str) -> Counter[str]:
    ended = f"^{word}$"
    return Counter(ended[at : at + n] for n in range(1, LONGEST + 1) for at in range(len(ended) - n + 1))


def _rows(words: list[str], vocabulary: dict[str, int], idf: Any) -> Any:
    """Rows (words, n-grams) of logarithmic counts times idf, each of the length 1, or 0 where no n-gram is known."""
    places: list[int] = []
    values: list[float] = []
    ends = [0]
    for word in words:
        known = {vocabulary[gram]: 1 + np.log(count) for gram, count in _grams(word).items() if gram in vocabulary}
        row = np.array(list(known.values())) * idf[list(known)] if known else np.zeros(0)
        places += known
        values += list(row / np.linalg.norm(row) if len(row) else row)
        ends.append(len(places))
    return sparse.csr_matrix((values, places, ends), (len(words), len(vocabulary)))
