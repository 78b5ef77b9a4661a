"""Counts of real cells: those of 700 blood cells that come with scanpy, and files of one's own, such as OpenProblems'
pancreas.

Their true expression is not known, so no run is made of them; `python -m tasks.denoise.table` shows what the scores are
worth on them.
"""

import csv
import gzip
import io
import tempfile
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.io import mmread

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
ZIPPED = (".mtx", ".csv", ".tsv")
KINDS = "an .h5ad, an .npz with an array `counts`, or an .mtx, a .csv or a .tsv, gzipped or not"
LEAST, LEAST_MOLECULES = 20, 1000
"""Cells and genes, and molecules of all of them, from which on scores say anything."""
MOST = 40_000_000
"""Entries of a matrix; a table takes 120 bytes for each, which are 5 GB."""


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
        scaled = np.expm1(_matrix(file["raw.X"]).toarray())
    least = np.array([row[row > 0].min() for row in scaled])
    root.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, counts=_whole(scaled / least[:, None], BLOOD, NEAR))
    return target


def read(
    path: Path, layer: str = "", only: str = "", *, genes_in_rows: bool = False, cells: int | None = None
) -> Matrix:
    """The counts (cells, genes) of a file whose rows are cells, or whose columns are, with `genes_in_rows`.

    An .npz holds an array `counts` or a sparse matrix of scipy, an .h5ad the layer `counts`, a layer that is named, or
    X. An .mtx is a Matrix Market file. A .csv or .tsv has a line for each row, and may have names in its first line
    and column. The last three may be gzipped. `only`, such as "tech=inDrop1", takes the cells of an .h5ad that have
    this value in this column of obs, and `cells` so many at random, by seed 0.

    Cells of under two molecules and genes of none are left out, as OpenProblems does. Raises NotFound, UsageError for
    what holds no counts, or too few or too many of them, Misconfigured without h5py.
    """
    if not path.is_file():
        raise NotFound(f"{path} is not there; expected {KINDS}.")
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind not in ZIPPED and path.suffix not in (".h5ad", ".npz"):
        raise UsageError(f"{path} is no file that counts can be read from; expected {KINDS}.")
    if (layer or only) and kind != ".h5ad":
        raise UsageError(f"{path} has no layers and no obs, which are an .h5ad's: leave --layer and --only away.")
    try:
        raw = _raw(path, kind, layer, only)
        values = sparse.csr_array(raw.T if genes_in_rows else raw, dtype=float)
        if values.ndim != 2:
            raise ValueError(f"{values.ndim} dimensions instead of cells by genes")
    except (OSError, EOFError, LookupError, TypeError, ValueError, csv.Error, zipfile.BadZipFile) as wrong:
        raise UsageError(f"{path} cannot be read as counts ({wrong}); expected {KINDS}.") from wrong
    values.data = _whole(values.data, str(path))
    if only and not values.nnz:
        raise UsageError(f"{path} holds no molecule where {only}; name a value that occurs.")
    values = values[np.flatnonzero(values.sum(axis=1) >= 2)]
    if cells is not None and cells < values.shape[0]:
        values = values[np.sort(np.random.default_rng(0).choice(values.shape[0], max(cells, 0), replace=False))]
    values = values[:, np.flatnonzero(values.sum(axis=0))]
    counted = f"{path} holds {values.shape[0]:,} cells (rows) and {values.shape[1]:,} genes (columns)"
    if genes_in_rows:
        counted = f"{path} holds {values.shape[1]:,} genes (rows) and {values.shape[0]:,} cells (columns)"
    if min(values.shape) < LEAST or values.sum() < LEAST_MOLECULES:
        raise UsageError(
            f"{counted} with {values.sum():,} molecules; expected at least {LEAST} cells, {LEAST} genes and "
            f"{LEAST_MOLECULES:,} molecules. Genes may stand in rows: --genes-in-rows."
        )
    if values.shape[0] * values.shape[1] > MOST:
        fit = MOST // values.shape[1]
        raise UsageError(f"{counted}, more than {MOST:,} entries: take a part of the cells, such as --cells {fit}.")
    whole: Matrix = values.toarray()
    return whole


def _raw(path: Path, kind: str, layer: str, only: str) -> Any:
    """The dense or sparse matrix of numbers that a file holds."""
    match kind:
        case ".npz":
            return _of_npz(path)
        case ".mtx":
            return mmread(path)
        case ".csv" | ".tsv":
            return _of_text(path)
    with _h5py().File(path) as file:
        layers = file.get("layers", {})
        raw = _matrix(layers[layer or "counts"] if layer or "counts" in layers else file["X"])
        return raw[_column(file["obs"], only.partition("=")[0]) == only.partition("=")[2]] if only else raw


def _of_npz(path: Path) -> Any:
    with np.load(path) as arrays:
        if "counts" in arrays:
            return arrays["counts"]
        if "format" not in arrays:
            raise KeyError(f"no array `counts` among {', '.join(arrays)}")
    return sparse.load_npz(path)


def _of_text(path: Path) -> Matrix:
    """The numbers of a .csv or .tsv. Its first line holds names where it is not all numbers; the first column does
    where its first entry is none, and where it has no name.
    """
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as text:
        lines = csv.reader(text, delimiter="\t" if ".tsv" in path.suffixes else ",")
        first = next(lines, [])
        named = not all(map(_is_number, first))
        second = next(lines, []) if named else first
        skip = not second or not _is_number(second[0]) or (named and (not first[0] or len(first) < len(second)))
        rows = []
        for number, line in enumerate(chain([second], lines), 2 if named else 1):
            if len(line) != len(second):
                raise ValueError(f"row {number} has {len(line)} entries, the first row of counts {len(second)}")
            rows.append(np.array(line[skip:], float))
    return np.array(rows)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _matrix(node: Any) -> Any:
    """A dense or sparse matrix as anndata writes it, in its formats before and since 0.7."""
    if hasattr(node, "shape"):
        return np.asarray(node[()], float)
    form = str(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format")))
    shape = tuple(node.attrs["shape"] if "shape" in node.attrs else node.attrs["h5sparse_shape"])
    kind = sparse.csc_matrix if form.startswith("csc") else sparse.csr_matrix
    return kind((node["data"][()], node["indices"][()], node["indptr"][()]), shape=shape).tocsr()


def _column(obs: Any, name: str) -> Matrix:
    """A column of obs as strings; categories are codes beside their names."""
    column = obs[name]
    values = column["categories"][()][column["codes"][()]] if hasattr(column, "keys") else column[()]
    return np.array([value.decode() if isinstance(value, bytes) else str(value) for value in values])


def _whole(raw: Matrix, source: str, near: float = 0.0) -> Matrix:
    """The numbers as counts, each off a whole one by at most the part `near` of it."""
    counts = np.rint(raw)
    for wrong, what in (
        (~np.isfinite(raw), "are not finite"),
        (raw < 0, "are negative"),
        (np.abs(raw - counts) > near * np.maximum(1, counts), "are not whole"),
    ):
        if wrong.any():
            raise UsageError(
                f"{source} holds numbers that {what}, such as {raw[wrong][0]:g}; expected molecules as they were "
                "counted, before any normalisation or logarithm. Of an .h5ad, --layer names those."
            )
    return counts.astype(np.int64)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as wrong:
        raise Misconfigured("h5py is not installed, and this file needs it: pip install 'evolog[tasks]'.") from wrong
    return h5py
