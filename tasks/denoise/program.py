"""Denoising programs: seven words that say how counts become an output, of which the last is locked at first.

    rev sqrt k5 t3 p20 d1          order, norm, neighbours, steps of the walk, principal components, decay: magic.py
    rev sqrt k5 t3 p20 d1 power4   and an operation on the output, with a level from 0 to 7

Post-processing at level l: power raises entries to 1.2, 1.4, ... 2.6. round rounds them to multiples of 8, 4, ... 1/16.
cut sets the smallest (l + 1) ninths of each cell to 0. sink adds (l + 1) halves of each cell's sum to one gene, the
largest. scale divides all by 10, 100, ... 1e8. blend mixes (l + 1) ninths of the gene means in. Only the last has
anything to do with noise.

This file is also a part of scaffolds, so it imports nothing of evolog.
"""

import random
from typing import NamedTuple

import numpy as np

from . import magic
from .magic import Matrix

ORDERS: dict[str, magic.Order] = {"std": "standard", "rev": "reversed"}
NORMS: dict[str, magic.Norm] = {"sqrt": "sqrt", "log": "log", "lin": "linear"}
NEIGHBOURS, STEPS, COMPONENTS, DECAYS = (3, 5, 8, 12, 20, 35), (1, 2, 3, 4, 6, 8), (5, 10, 20, 50, 100), (1, 2, 4, 8)
OPERATIONS = ("power", "round", "cut", "sink", "scale", "blend")
LEVELS = 8
SLOTS: tuple[tuple[str, ...], ...] = (
    tuple(ORDERS),
    tuple(NORMS),
    *(
        tuple(f"{letter}{value}" for value in of)
        for letter, of in zip("ktpd", (NEIGHBOURS, STEPS, COMPONENTS, DECAYS), strict=True)
    ),
    tuple(f"{operation}{level}" for operation in OPERATIONS for level in range(LEVELS)),
)
"""The words that each place of a program can hold."""
BASE = 6
"""Words of a program without post-processing."""


class Program(NamedTuple):
    """A program that can be run."""

    order: magic.Order
    norm: magic.Norm
    knn: int
    t: int
    n_pca: int
    decay: int
    operation: str = ""
    level: int = 0


def parse(text: str) -> Program:
    """The program of a text; raises ValueError with the first word that is none."""
    words = text.split()
    if not BASE <= len(words) <= len(SLOTS):
        raise ValueError(f"{len(words)} words; expected {BASE} or {len(SLOTS)}, such as rev sqrt k5 t3 p20 d1")
    for word, allowed in zip(words, SLOTS, strict=False):
        if word not in allowed:
            raise ValueError(f"the word {word!r:.40}; expected one of {', '.join(allowed)}")
    k, t, p, d = (int(word[1:]) for word in words[2:BASE])
    last = words[BASE] if len(words) > BASE else "0"
    return Program(ORDERS[words[0]], NORMS[words[1]], k, t, p, d, last[:-1], int(last[-1]))


class Workshop:
    """Runs programs on one matrix of counts, and keeps the principal components, which several of them need."""

    def __init__(self, counts: Matrix) -> None:
        self._counts = counts
        self._components: dict[tuple[str, str], Matrix] = {}

    def run(self, program: Program) -> Matrix:
        """The output (cells, genes), entries of 0 and more."""
        scaled, sums = magic.normalised(self._counts, program.order, program.norm)
        made_by = program.order, program.norm
        if made_by not in self._components:
            most = min(max(COMPONENTS), *(side - 1 for side in scaled.shape))
            self._components[made_by] = magic.principal_components(scaled, most)[0]
        walk = magic.transitions(self._components[made_by][:, : program.n_pca], program.knn, program.decay)
        output = magic.restored(magic.walked(walk, scaled, program.t), sums, program.norm)
        return processed(output, program.operation, program.level) if program.operation else output


def processed(output: Matrix, operation: str, level: int) -> Matrix:
    """The output after post-processing."""
    part = (level + 1) / 9
    match operation:
        case "power":
            return output ** (1 + (level + 1) / 5)
        case "round":
            return np.rint(output * 2.0 ** (level - 3)) * 2.0 ** (3 - level)
        case "cut":
            return np.where(output < np.quantile(output, part, axis=1, keepdims=True), 0, output)
        case "sink":
            changed = output.copy()
            changed[:, output.sum(axis=0).argmax()] += output.sum(axis=1) * (level + 1) / 2
            return changed
        case "scale":
            return output * 10.0 ** -(level + 1)
        case _:
            sums = output.sum(axis=1, keepdims=True)
            means = output.sum(axis=0) / max(float(sums.sum()), np.finfo(float).tiny)
            mixed: Matrix = (1 - part) * output + part * sums * means
            return mixed


def drawn(draw: random.Random, words: int) -> str:
    """A program of so many words, each as probable as the next."""
    return " ".join(draw.choice(slot) for slot in SLOTS[:words])
