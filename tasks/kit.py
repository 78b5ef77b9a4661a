"""Helpers for a task of labelled texts: near-duplicates, dev and train folds, digests, and a folder for its files.

Two texts are near-duplicates where their sets of character 5-grams have a Jaccard index of at least .5. Near-duplicates
must not stand on both sides of a split or of a fold: a scaffold could look the answer up. So they form groups, and a
group is never divided.

A task's `data.py` calls `near_duplicate_groups`, then `split_by_label`, and reports each split's `digest`.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from scipy import sparse

SHINGLE = 5
"""Characters of a shingle."""
SIMILAR = 0.5
"""The least Jaccard index of near-duplicates."""
COMMON = 60
"""Shingles in more texts than this propose no pair (they still count in the Jaccard index)."""
LIKELY = 0.05
"""Pairs are compared when they share this part of the shorter one's shingles among the less common ones."""


def data_folder(task: str) -> Path:
    """Where the files of a task live: $XDG_CACHE_HOME/evolog/tasks/TASK, or ~/.cache/evolog/tasks/TASK."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolog" / "tasks" / task


def digest(items: object) -> str:
    """The SHA-256 of a split, a tuple of `Example` or `Item`, over its JSON."""
    return hashlib.sha256(msgspec.json.encode(items)).hexdigest()


def near_duplicate_groups(texts: Sequence[str]) -> list[int]:
    """The group of each text, named by the lowest index in it. Near-duplicates are in one group, and so are theirs.

    Pairs that share no more than very common shingles are not compared. Needs scipy.
    """
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


def near_duplicates_in(texts: Sequence[str], others: Sequence[str], similar: float = SIMILAR) -> set[int]:
    """The indices of those texts of which `others` holds a near-duplicate; `similar` is the least Jaccard index.

    Needs scipy.
    """
    has, columns = _shingled([*texts, *others])
    sizes = np.array([len(c) for c in columns])
    both = (has[: len(texts)] @ has[len(texts) :].T).tocoo()  # every pair that shares a shingle
    shared = both.data.astype(float)
    near = shared / (sizes[both.row] + sizes[len(texts) + both.col] - shared) >= similar
    return set(both.row[near].tolist())


def split_by_label(
    labels: Sequence[str], groups: Sequence[int], seed: int, share: float, folds: int
) -> tuple[list[bool], list[int]]:
    """Divide texts into dev and train folds, so that each label keeps its share and no group is divided.

    `labels` and `groups` are of each text, `share` is dev's part of each label. Returns whether each text is in dev,
    and its fold from 0 to `folds` - 1, or -1 in dev. A group goes where its first text's label has room. The same
    arguments give the same split.
    """
    rng = np.random.default_rng(seed)
    names = sorted(set(labels))
    count = np.array([labels.count(name) for name in names], float)
    capacity = dict(zip(names, np.floor(count * share + rng.random(len(names))).tolist(), strict=True))
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    order = list(members.values())
    dev, fold = [False] * len(labels), [-1] * len(labels)
    filled = {name: [0] * folds for name in names}
    total = [0] * folds
    for position in rng.permutation(len(order)).tolist():
        texts, label = order[position], labels[order[position][0]]
        if capacity[label] >= len(texts):
            capacity[label] -= len(texts)
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
    """Which shingles each text has: a matrix of ones (texts, shingles), and each text's columns in it."""
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
