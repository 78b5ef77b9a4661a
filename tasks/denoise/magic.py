"""MAGIC (van Dijk 2018, Cell 174:716) in numpy and scipy: each cell's profile becomes a mean over the cells that a
random walk reaches.

    d = Euclidean distances on principal components;
    K_ij = exp(-(d_ij / bandwidth_i)^decay) for the 3 knn nearest, 0 below 1e-4
    K = (K + K') / 2;  P = K / rowsum K;  imputed = P^t Y

bandwidth_i is the distance to the knn-th neighbour. Y is made of the counts in one of two orders, with f the square
root, log1p or nothing:

    standard   Y = f(X / rowsum X),    output = f^-1(P^t Y) rowsum X
    reversed   Y = f(X) / S, S = rowsum f(X),    output = f^-1(P^t Y) S
               the rows then add up to about 1, and not to the library

magic-impute 3.0 finds its principal components by a randomised method; here they are exact. Beyond that it is the same
computation.

This file is also a part of scaffolds, so it imports nothing of evolog.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from scipy import linalg, sparse

Matrix = np.ndarray[Any, np.dtype[Any]]
Order = Literal["standard", "reversed"]
Norm = Literal["sqrt", "log", "linear"]
THRESHOLD = 1e-4
WIDTH = 3
"""Neighbours that may carry weight, in units of knn."""
DENSE = 1000
"""Cells up to which a dense matrix of the walk is quicker than a sparse one."""
FORWARD: dict[Norm, Callable[[Matrix], Matrix]] = {"sqrt": np.sqrt, "log": np.log1p, "linear": np.asarray}
BACK: dict[Norm, Callable[[Matrix], Matrix]] = {"sqrt": np.square, "log": np.expm1, "linear": np.asarray}


def denoise(
    counts: Matrix,
    order: Order = "standard",
    norm: Norm = "sqrt",
    *,
    knn: int = 5,
    t: int = 3,
    n_pca: int = 100,
    decay: float | None = 1.0,
    solver: Literal["exact", "approximate"] = "exact",
) -> Matrix:
    """The output of the formulas above (cells, genes). Without `decay` all knn neighbours weigh the same."""
    scaled, sums = normalised(counts, order, norm)
    components, axes, centre = principal_components(scaled, n_pca)
    walk = transitions(components, knn, decay)
    if solver == "exact" or axes is None:
        return restored(walked(walk, scaled, t), sums, norm)
    return restored(walked(walk, components, t) @ axes + centre, sums, norm)


def normalised(counts: Matrix, order: Order, norm: Norm) -> tuple[Matrix, Matrix]:
    """Y of the formulas above, and the sums (cells, 1) that its rows were divided by."""
    raw = np.asarray(counts, float)
    before = raw if order == "standard" else FORWARD[norm](raw)
    sums = before.sum(axis=1, keepdims=True)
    scaled = before / np.where(sums == 0, 1, sums)
    return (FORWARD[norm](scaled) if order == "standard" else scaled), sums


def restored(imputed: Matrix, sums: Matrix, norm: Norm) -> Matrix:
    """The way back from Y to counts."""
    return BACK[norm](imputed) * sums


def principal_components(data: Matrix, count: int) -> tuple[Matrix, Matrix | None, Matrix]:
    """The rows on their first `count` principal axes, these axes, and the centre.

    Where there are not that many, the rows as they are and no axes. Takes the eigenvectors of the smaller of the two
    Gram matrices.
    """
    centre = data.mean(axis=0)
    if count >= min(data.shape):
        return data, None, centre
    centred = data - centre
    cells, genes = data.shape
    gram = centred @ centred.T if cells <= genes else centred.T @ centred
    _, vectors = linalg.eigh(gram, subset_by_index=(len(gram) - count, len(gram) - 1))
    vectors = vectors[:, ::-1]
    axes = vectors.T if cells > genes else _unit(vectors.T @ centred)
    return centred @ axes.T, axes, centre


def transitions(points: Matrix, knn: int, decay: float | None) -> Matrix | sparse.csr_matrix:
    """P of the formulas above, dense for up to `DENSE` points."""
    count = len(points)
    reach = min(WIDTH * knn if decay is not None else knn, count - 1)
    near, far = _neighbours(points, reach)
    bandwidth = np.maximum(far[:, min(knn, reach) - 1 : min(knn, reach)], np.finfo(float).eps)
    weights = np.ones_like(far) if decay is None else np.exp(-((far / bandwidth) ** decay))
    weights[weights < THRESHOLD] = 0
    rows = np.repeat(np.arange(count), reach)
    kernel = sparse.csr_matrix((weights.ravel(), (rows, near.ravel())), shape=(count, count)) + sparse.identity(
        count, format="csr"
    )
    kernel = (kernel + kernel.T) / 2
    walk = sparse.diags_array(1 / np.asarray(kernel.sum(axis=1)).ravel()) @ kernel
    return walk.toarray() if count <= DENSE else walk.tocsr()


def walked(walk: Matrix | sparse.csr_matrix, data: Matrix, t: int) -> Matrix:
    """P^t of the data."""
    if isinstance(walk, np.ndarray):
        return np.asarray(np.linalg.matrix_power(walk, t) @ data)
    for _ in range(t):
        data = walk @ data
    return data


def _neighbours(points: Matrix, count: int) -> tuple[Matrix, Matrix]:
    """The nearest others of each point and how far they are, the nearest first; in slices, for the room that distances
    take.
    """
    near, far = [], []
    squares = (points**2).sum(axis=1)
    for start in range(0, len(points), DENSE):
        part = points[start : start + DENSE]
        distances = np.maximum(squares[start : start + DENSE, None] - 2 * part @ points.T + squares, 0)
        distances[np.arange(len(part)), np.arange(start, start + len(part))] = np.inf
        nearest = np.argpartition(distances, count - 1, axis=1)[:, :count]
        found = np.take_along_axis(distances, nearest, axis=1)
        order = np.argsort(found, axis=1, kind="stable")
        near.append(np.take_along_axis(nearest, order, axis=1))
        far.append(np.sqrt(np.take_along_axis(found, order, axis=1)))
    return np.concatenate(near), np.concatenate(far)


def _unit(rows: Matrix) -> Matrix:
    unit: Matrix = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny)
    return unit
