"""Functions to minimise, whose lowest value is known to those who drew them.

    f(x) = lowest + scale log10(1 + g(R (x - place)))        x in [-5, 5]^D, R a rotation, place in [-4, 4]^D

    sphere     g(z) = sum z_i^2
    ellipsoid  g(z) = sum 1000^((i - 1) / (D - 1)) z_i^2
    rastrigin  g(z) = sum (z_i^2 + 10 - 10 cos(2 pi z_i))
    valley     g(z) = sum (100 (w_i^2 - w_(i+1))^2 + (w_i - 1)^2)        w = z + 1, Rosenbrock's

Each g is 0 at 0 and nowhere less, so that f has its lowest value, `lowest`, at `place`. The logarithm brings the kinds
to one scale and changes no order of values. Rotations, shifts and kinds are those of BBOB (Hansen et al. 2009,
"Real-parameter black-box optimization benchmarking", noiseless functions f1, f10, f15 and f9), without its further
distortions.

This file is also a part of scaffolds, so it imports nothing of evolog.
"""

import math
from typing import Any, NamedTuple

import numpy as np

KINDS = ("sphere", "ellipsoid", "rastrigin", "valley")
DIMENSIONS = (2, 5)
BOX, PLACES = 5.0, 4.0
"""Half the width of the box that is searched, and of the one that optima lie in."""
CONDITION = 1000.0

Array = np.ndarray[Any, np.dtype[np.float64]]


class Function(NamedTuple):
    """A function with its optimum."""

    kind: str
    place: Array
    """Where the optimum is, (D,)."""
    rotation: Array
    """(D, D)."""
    scale: float
    lowest: float

    def values(self, points: Array) -> Array:
        """The values (n,) of points (n, D)."""
        values: Array = self.lowest + self.scale * np.log10(
            1 + _raw(self.kind, (points - self.place) @ self.rotation.T)
        )
        return values


def drawn(draw: np.random.Generator, kind: str, dimension: int) -> Function:
    """A function of a kind, from a generator's next numbers."""
    rotation, triangle = np.linalg.qr(draw.normal(size=(dimension, dimension)))
    return Function(
        kind,
        draw.uniform(-PLACES, PLACES, dimension),
        rotation * np.sign(np.diag(triangle)),
        math.exp(draw.uniform(math.log(0.5), math.log(5))),
        float(draw.uniform(-100, 100)),
    )


def _raw(kind: str, z: Array) -> Array:
    match kind:
        case "sphere":
            raw = (z**2).sum(1)
        case "ellipsoid":
            raw = (CONDITION ** np.linspace(0, 1, z.shape[1]) * z**2).sum(1)
        case "rastrigin":
            raw = (z**2 + 10 - 10 * np.cos(2 * math.pi * z)).sum(1)
        case "valley":
            w = z + 1
            raw = (100 * (w[:, :-1] ** 2 - w[:, 1:]) ** 2 + (w[:, :-1] - 1) ** 2).sum(1)
        case _:
            raise ValueError(f"the kind {kind!r}; expected one of {', '.join(KINDS)}")
    result: Array = raw
    return result
