"""Where inputs and output of a workload lie in the buffer that the harness and its runners share."""

import os
from math import prod

import numpy as np
from workload import Workload, kinds, shapes

ALIGNED = 256
PARTS = 4
"""Parts of an output that are drawn, where a whole row is too much."""


def offsets(workload: Workload) -> dict[str, int]:
    """The first byte of each input by name, of the output as `out`, and of what is behind it as `end`."""
    places, at, kind = {}, 0, kinds(workload)
    for name, shape in shapes(workload).items():
        places[name] = at
        at += -(-prod(shape) * np.dtype(kind[name]).itemsize // ALIGNED) * ALIGNED
    places["out"] = at
    places["end"] = at + prod(workload.output_shape) * 4
    return places


def drawn_parts(rows: int, positions: int, channels: int, limit: int) -> list[list[int]]:
    """Parts of a float32 output (rows, positions, channels), drawn by chance, of `limit` bytes at most: each a row, and
    the positions in it from one to before another.
    """
    length = max(1, min(positions, limit // PARTS // (4 * channels)))
    count = max(1, limit // (4 * channels * length))
    parts = []
    for row in sorted({int.from_bytes(os.urandom(6)) % rows for _ in range(count)}):
        at = int.from_bytes(os.urandom(6)) % (positions - length + 1)
        parts.append([row, at, at + length])
    return parts
