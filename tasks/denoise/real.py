"""Counts of real cells: those of 700 blood cells that come with scanpy, and files of one's own, such as OpenProblems'
pancreas.

Their true expression is not known, so no run is made of them; `python -m tasks.denoise.table` shows what the scores are
worth on them.
"""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from events.errors import Misconfigured, NotFound, UsageError
from tasks.denoise.metric import Matrix
from tasks.kit import PublishedFiles

BLOOD = "10x_pbmc68k_reduced.h5ad"
FILES = PublishedFiles(
    task="denoise",
    package="scanpy==1.11.5",
    inside="scanpy/datasets/",
    checksums={BLOOD: "e71d41e737c941559b7c57c9243bdb3d2c889c2adfdf00e3422ac6b46783676f"},
)
NEAR = 0.01
"""How far a recovered count may be from a whole number, as a part of it."""


def get(root: Path, source: Path | None = None) -> Path:
    """Put the counts of 700 blood cells and 765 genes (10x Genomics' 68k PBMC, reduced) into `root`, and return their
    file.

    They are computed from scanpy's wheel: `source`, or else pip fetches it. The wheel holds log1p(counts times a factor
    of the cell); a cell's least entry above 0 comes from a count of one. Raises as `PublishedFiles.get` does, and
    Misconfigured without h5py.
    """
    target = root / "pbmc68k_reduced.npz"
    if source is None and target.exists():
        return target
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "files"
        FILES.get(folder, source)
        content = FILES.read(folder, BLOOD)
    with _h5py().File(io.BytesIO(content)) as file:
        scaled = np.expm1(_matrix(file["raw.X"]))
    least = np.array([row[row > 0].min() for row in scaled])
    root.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, counts=_whole(scaled / least[:, None], BLOOD))
    return target


def read(path: Path, layer: str = "", only: str = "") -> Matrix:
    """The counts (cells, genes) of a file: the array `counts` of an .npz, or a layer of an .h5ad, `counts` or X where
    none is named.

    `only`, such as "tech=inDrop1", takes the cells of an .h5ad that have this value in this column of obs. Cells of
    under two molecules and genes of none are left out, as OpenProblems does. Raises NotFound, UsageError for what holds
    no counts, Misconfigured without h5py.
    """
    if not path.is_file():
        raise NotFound(f"{path} is not there; expected an .npz with an array `counts`, or an .h5ad.")
    try:
        if path.suffix == ".npz":
            raw = np.load(path)["counts"]
        else:
            with _h5py().File(path) as file:
                layers = file.get("layers", {})
                raw = _matrix(layers[layer or "counts"] if layer or "counts" in layers else file["X"])
                if only:
                    raw = raw[_column(file["obs"], only.partition("=")[0]) == only.partition("=")[2]]
    except (OSError, KeyError, ValueError) as wrong:
        raise UsageError(
            f"{path} cannot be read as counts ({wrong}); expected an .npz with an array `counts`, or an .h5ad."
        ) from wrong
    counts = _whole(raw, str(path))
    if not counts.any():
        raise UsageError(
            f"{path} holds no molecule{f' where {only}' if only else ''}; name a layer with counts, and a value that "
            "occurs."
        )
    counts = counts[:, counts.any(axis=0)]
    enough: Matrix = counts[counts.sum(axis=1) >= 2]
    return enough


def _matrix(node: Any) -> Matrix:
    """A dense or sparse matrix as anndata writes it, in its formats before and since 0.7."""
    if hasattr(node, "shape"):
        return np.asarray(node[()], float)
    from scipy import sparse

    form = str(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format")))
    shape = tuple(node.attrs["shape"] if "shape" in node.attrs else node.attrs["h5sparse_shape"])
    kind = sparse.csc_matrix if form.startswith("csc") else sparse.csr_matrix
    return np.asarray(kind((node["data"][()], node["indices"][()], node["indptr"][()]), shape=shape).toarray(), float)


def _column(obs: Any, name: str) -> Matrix:
    """A column of obs as strings; categories are codes beside their names."""
    column = obs[name]
    values = column["categories"][()][column["codes"][()]] if hasattr(column, "keys") else column[()]
    return np.array([value.decode() if isinstance(value, bytes) else str(value) for value in values])


def _whole(raw: Matrix, source: str) -> Matrix:
    counts = np.rint(raw)
    deviation = float((np.abs(raw - counts) / np.maximum(1, counts)).max(initial=0))
    if not deviation <= NEAR or counts.min(initial=0) < 0:
        raise UsageError(
            f"{source} holds numbers that are no counts ({deviation:.1%} off a whole one, the least {counts.min():g}); "
            "name a layer of raw counts."
        )
    return counts.astype(np.int64)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as wrong:
        raise Misconfigured("h5py is not installed, and this file needs it: pip install 'evolog[tasks]'.") from wrong
    return h5py
