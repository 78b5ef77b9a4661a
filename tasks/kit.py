"""Splits labelled texts into dev and train folds so that near-duplicates stay together and each label keeps its share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy import sparse

SHINGLE = 5
SIMILAR = 0.5
COMMON = 60
"""Shingles in more texts than this propose no pair (they still count in the Jaccard index)."""
LIKELY = 0.05
"""Pairs are compared when they share this part of the shorter one's shingles among the less common ones."""


def near_duplicates(texts: Sequence[str]) -> list[int]:
    """The group of each text: the lowest index of those it is linked to by a Jaccard index of character 5-grams of at least .5."""
    has, columns = _shingled(texts)
    sizes = np.array([len(c) for c in columns])
    spread = np.bincount(np.concatenate(columns))
    rare = has[:, (spread > 1) & (spread <= COMMON)]
    pairs = (rare @ rare.T).tocoo()
    smaller, larger = np.minimum(sizes[pairs.row], sizes[pairs.col]), np.maximum(sizes[pairs.row], sizes[pairs.col])
    likely = (pairs.row < pairs.col) & (smaller >= SIMILAR * larger) & (pairs.data >= LIKELY * smaller)
    parent = list(range(len(texts)))
    sets = [frozenset(c.tolist()) for c in columns]
    for a, b in zip(pairs.row[likely].tolist(), pairs.col[likely].tolist(), strict=True):
        root_a, root_b = _root(parent, a), _root(parent, b)
        if root_a != root_b and _similar(sets[a], sets[b]):
            parent[max(root_a, root_b)] = min(root_a, root_b)
    return [_root(parent, i) for i in range(len(texts))]


def with_near_duplicate(texts: Sequence[str], others: Sequence[str], similar: float = SIMILAR) -> set[int]:
    """The places of those texts to which one of the others has a Jaccard index of character 5-grams of at least `similar`."""
    has, columns = _shingled([*texts, *others])
    sizes = np.array([len(c) for c in columns])
    both = (has[: len(texts)] @ has[len(texts) :].T).tocoo()  # every pair that shares a shingle
    shared = both.data.astype(float)
    near = shared / (sizes[both.row] + sizes[len(texts) + both.col] - shared) >= similar
    return set(both.row[near].tolist())


def split(labels: Sequence[str], groups: Sequence[int], seed: int, share: float, folds: int) -> tuple[list[bool], list[int]]:
    """Which texts are dev, and the fold of each other text (-1 in dev). A group goes where its first text's label has room."""
    rng = np.random.default_rng(seed)
    names = sorted(set(labels))
    count = np.array([labels.count(name) for name in names], float)
    room = dict(zip(names, np.floor(count * share + rng.random(len(names))).tolist(), strict=True))
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    order = list(members.values())
    dev, fold = [False] * len(labels), [-1] * len(labels)
    filled = {name: [0] * folds for name in names}
    total = [0] * folds
    for position in rng.permutation(len(order)).tolist():
        texts, label = order[position], labels[order[position][0]]
        if room[label] >= len(texts):
            room[label] -= len(texts)
            for i in texts:
                dev[i] = True
            continue
        least = min(range(folds), key=lambda f: (filled[label][f], total[f]))
        filled[label][least] += len(texts)
        total[least] += len(texts)
        for i in texts:
            fold[i] = least
    return dev, fold


def _shingled(texts: Sequence[str]) -> tuple["sparse.csr_matrix", list[np.ndarray]]:
    """Which shingles each text has: as a matrix of ones, and as their columns in it by text."""
    from scipy import sparse

    shingles: dict[str, int] = {}
    columns = [np.array([shingles.setdefault(s, len(shingles)) for s in sorted(_shingles(t))]) for t in texts]
    row = np.repeat(np.arange(len(texts)), [len(c) for c in columns])
    ones = np.ones(len(row), np.float32)
    return sparse.csr_matrix((ones, (row, np.concatenate(columns))), shape=(len(texts), len(shingles))), columns


def _shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def _similar(a: frozenset[int], b: frozenset[int]) -> bool:
    both = len(a & b)
    return both >= SIMILAR * (len(a) + len(b) - both)


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
