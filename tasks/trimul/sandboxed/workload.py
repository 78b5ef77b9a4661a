"""Workloads of TriMul: their inputs from a seed, the result in float64, and how far an output may be from it.

    x = LN(x; w, b)                      l = (x Wl^T) * m * sigm(x Wlg^T)      r = (x Wr^T) * m * sigm(x Wrg^T)
    o_bijd = sum_k l_bikd r_bjkd         y = (LN(o; w', b') * sigm(x Wog^T)) Wout^T

LN normalises the last axis, with epsilon 1e-5. x is (B, N, N, C), the mask m (B, N, N), y (B, N, N, C), and the hidden
axis d is 128 wide. An element of an output is right where |y - true| <= 2e-2 + 2e-2 |true|. (gpu-mode's
reference-kernels f83cb92, problems/bioml/trimul.)

This file is also read inside the sandbox, so it imports nothing of evolog.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

HIDDEN = 128
EPSILON = 1e-5
TOLERANCE = 2e-2
"""Absolute and relative, added."""
Array = NDArray[Any]


class Workload(NamedTuple):
    """The shape and kind of one input."""

    n: int
    bs: int
    dim: int
    mask: str = "none"
    """none (ones, float32), binary (0 or 1, int64), fractional (float32), empty_rows (float32, whole rows of 0)."""
    distribution: str = "normal"
    """normal, cauchy (scale 2), lognormal (sigma 2), constant_rows (all channels of a position are the same)."""

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(B, N, N, C)."""
        return self.bs, self.n, self.n, self.dim

    @property
    def text(self) -> str:
        """As prompts name it: `n 64 bs 1 dim 128 mask none normal`."""
        return f"n {self.n} bs {self.bs} dim {self.dim} mask {self.mask} {self.distribution}"


def shapes(workload: Workload) -> dict[str, tuple[int, ...]]:
    """The shapes of all inputs by name: `x`, `mask`, and the weights under the names that kernels get them by."""
    dim, sides = workload.dim, (workload.bs, workload.n, workload.n)
    into = ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")
    return {
        "x": (*sides, dim),
        "mask": sides,
        "norm.weight": (dim,),
        "norm.bias": (dim,),
        **{f"{name}.weight": (HIDDEN, dim) for name in into},
        "to_out_norm.weight": (HIDDEN,),
        "to_out_norm.bias": (HIDDEN,),
        "to_out.weight": (dim, HIDDEN),
    }


def kinds(workload: Workload) -> dict[str, str]:
    """The element types of all inputs by name: float32, but for a binary mask."""
    return {name: "int64" if name == "mask" and workload.mask == "binary" else "float32" for name in shapes(workload)}


def scale(name: str, dim: int) -> float:
    """What standard normal weights are multiplied by."""
    if name == "to_out.weight":
        return float(dim**-0.5)
    return 1.0 if "norm" in name else float(HIDDEN**-0.5)


def draw(workload: Workload, seed: Sequence[int] | int) -> dict[str, Array]:
    """The inputs of a workload, all of them from the seed: weights too, unlike upstream's."""
    rng, out = np.random.default_rng(seed), {}
    for name, shape in shapes(workload).items():
        if name == "x":
            out[name] = _x(rng, workload, shape)
        elif name == "mask":
            out[name] = _mask(rng, workload.mask, shape)
        else:
            out[name] = rng.standard_normal(shape, np.float32) * np.float32(scale(name, workload.dim))
    return out


def _x(rng: np.random.Generator, workload: Workload, shape: tuple[int, ...]) -> Array:
    match workload.distribution:
        case "normal":
            return rng.standard_normal(shape, np.float32)
        case "cauchy":
            return np.asarray(2 * rng.standard_cauchy(shape), np.float32)
        case "lognormal":
            return np.asarray(np.exp(2 * rng.standard_normal(shape, np.float32)), np.float32)
        case "constant_rows":
            return np.ascontiguousarray(np.broadcast_to(rng.standard_normal((*shape[:-1], 1), np.float32), shape))
    raise ValueError(f"the distribution {workload.distribution!r}; expected normal, cauchy, lognormal or constant_rows")


def _mask(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Array:
    match kind:
        case "none":
            return np.ones(shape, np.float32)
        case "binary":
            return rng.integers(0, 2, shape)
        case "fractional":
            return rng.random(shape, np.float32)
        case "empty_rows":
            mask = rng.integers(0, 2, shape).astype(np.float32)
            mask[:, ::3] = 0
            return mask
    raise ValueError(f"the mask {kind!r}; expected none, binary, fractional or empty_rows")


def reference(inputs: Mapping[str, Array]) -> Array:
    """The result y (B, N, N, C) in float64."""
    wide = {name: array.astype(np.float64) for name, array in inputs.items()}
    x = _normalised(wide["x"], wide["norm.weight"], wide["norm.bias"])
    mask = wide["mask"][..., None]

    def projected(name: str) -> Array:
        return np.asarray(x @ wide[f"{name}.weight"].T)

    left = projected("left_proj") * mask * _sigmoid(projected("left_gate"))
    right = projected("right_proj") * mask * _sigmoid(projected("right_gate"))
    rows, columns = (np.ascontiguousarray(np.moveaxis(side, 3, 1)) for side in (left, right))
    product = np.moveaxis(rows @ columns.swapaxes(2, 3), 1, 3)
    out = _normalised(product, wide["to_out_norm.weight"], wide["to_out_norm.bias"]) * _sigmoid(projected("out_gate"))
    return np.asarray(out @ wide["to_out.weight"].T)


def _normalised(x: Array, weight: Array, bias: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * weight + bias)


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


class Difference(NamedTuple):
    """How an output compares with the true result."""

    wrong: int
    """Elements outside the tolerance; all of them where the shapes differ."""
    margin: float
    """The largest |y - true| / (2e-2 + 2e-2 |true|): up to 1 is right, infinite for nan where there should be none."""


def compare(output: Array, true: Array) -> Difference:
    """An output against the true result: nan and infinities must be where the true result has them."""
    if output.shape != true.shape:
        return Difference(max(1, true.size), float("inf"))
    with np.errstate(invalid="ignore", over="ignore"):
        margins = np.abs(output.astype(np.float64) - true) / (TOLERANCE + TOLERANCE * np.abs(true))
    same = (output == true) | (np.isnan(output) & np.isnan(true))
    margins = np.where(same, 0.0, np.where(np.isnan(margins), np.inf, margins))
    return Difference(int((margins > 1).sum()), float(margins.max(initial=0.0)))
