"""TriMul with Triton kernels for gating and for the product over k; operands are float16, sums float32."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch.nn.functional import layer_norm

NAMES = ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")
LENGTH, SIDE, DEPTH = 1024, 64, 32
"""Positions that are gated at once; rows and columns of a tile of the product, and of k at once."""


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def _gate(  # type: ignore[no-untyped-def]  # Triton reads annotations, and knows its own alone
    projected, mask, sides, positions, HIDDEN: tl.constexpr, LENGTH: tl.constexpr
):
    # projected (5 H, positions) holds left, right, their gates, and the output's; sides (2 H, positions)
    channel = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * LENGTH + tl.arange(0, LENGTH)
    inside = at < positions
    value = tl.load(projected + channel * positions + at, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(projected + (channel + 2 * HIDDEN) * positions + at, mask=inside, other=0.0).to(tl.float32)
    kept = tl.load(mask + at % positions, mask=inside, other=0.0).to(tl.float32)
    tl.store(sides + channel * positions + at, (value * kept / (1.0 + tl.exp(-gate))).to(tl.float16), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def _product(  # type: ignore[no-untyped-def]  # Triton reads annotations, and knows its own alone
    left, right, out, n, SIDE: tl.constexpr, DEPTH: tl.constexpr
):
    # left, right, out (H B, n, n): out_ij = sum_k left_ik right_jk
    start = tl.program_id(2).to(tl.int64) * n * n
    i = tl.program_id(0) * SIDE + tl.arange(0, SIDE)
    j = tl.program_id(1) * SIDE + tl.arange(0, SIDE)
    total = tl.zeros((SIDE, SIDE), dtype=tl.float32)
    for begin in range(0, n, DEPTH):
        k = begin + tl.arange(0, DEPTH)
        a = tl.load(left + start + i[:, None] * n + k[None, :], mask=(i[:, None] < n) & (k[None, :] < n), other=0.0)
        b = tl.load(right + start + j[None, :] * n + k[:, None], mask=(j[None, :] < n) & (k[:, None] < n), other=0.0)
        total = tl.dot(a, b, total)
    tl.store(out + start + i[:, None] * n + j[None, :], total, mask=(i[:, None] < n) & (j[None, :] < n))


def custom_kernel(data: Any) -> Any:
    """The result (B, N, N, C) of (x, mask, weights, config)."""
    x, mask, weights, config = data
    bs, n, _, dim = x.shape
    hidden, positions = config["hidden_dim"], bs * n * n
    x = layer_norm(x, (dim,), weights["norm.weight"], weights["norm.bias"]).view(positions, dim)
    stacked = torch.cat([weights[f"{name}.weight"] for name in NAMES])
    projected = stacked.half() @ x.half().T
    sides = torch.empty(2 * hidden, positions, dtype=torch.float16, device=x.device)
    out = torch.empty(hidden, bs, n, n, dtype=torch.float32, device=x.device)
    _gate[(triton.cdiv(positions, LENGTH), 2 * hidden)](projected, mask, sides, positions, hidden, LENGTH)
    tiles = triton.cdiv(n, SIDE)
    _product[(tiles, tiles, hidden * bs)](sides[:hidden], sides[hidden:], out, n, SIDE, DEPTH)
    product = out.permute(1, 2, 3, 0)
    product = layer_norm(product, (hidden,), weights["to_out_norm.weight"], weights["to_out_norm.bias"])
    gate = projected[4 * hidden :].T.view(bs, n, n, hidden).float().sigmoid()
    return ((product * gate).half() @ weights["to_out.weight"].half().T).float()
