"""Counts as text, so that an item's prompt can hold them: "CELLS GENES " and base64 of the deflated 16-bit integers.

This file is also a part of scaffolds, so it imports nothing of evolog.
"""

import base64
import zlib
from typing import Any

import numpy as np

Matrix = np.ndarray[Any, np.dtype[Any]]
LARGEST = 65535


def written(counts: Matrix) -> str:
    """The text of counts of up to 65,535; raises ValueError for others."""
    if counts.min() < 0 or counts.max() > LARGEST:
        raise ValueError(f"counts from {counts.min()} to {counts.max()}; expected 0 to {LARGEST}")
    packed = zlib.compress(counts.astype("<u2").tobytes(), 1)
    return f"{counts.shape[0]} {counts.shape[1]} {base64.b64encode(packed).decode()}"


def read(text: str) -> Matrix:
    """The counts (cells, genes) of a text; raises ValueError if it is none."""
    cells, genes, packed = text.split(" ")
    try:
        return np.frombuffer(zlib.decompress(base64.b64decode(packed)), "<u2").reshape(int(cells), int(genes))
    except zlib.error as wrong:
        raise ValueError(f"the counts cannot be unpacked ({wrong})") from wrong
