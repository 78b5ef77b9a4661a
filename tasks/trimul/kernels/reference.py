"""TriMul in plain torch, as its equations read: what candidates are timed against on a CPU."""

from typing import Any

import torch
from torch.nn.functional import layer_norm


def custom_kernel(data: Any) -> Any:
    """The result (B, N, N, C) of (x, mask, weights, config)."""
    x, mask, weights, config = data
    x = layer_norm(x, (config["dim"],), weights["norm.weight"], weights["norm.bias"])
    mask = mask.unsqueeze(-1)
    left = (x @ weights["left_proj.weight"].T) * mask * (x @ weights["left_gate.weight"].T).sigmoid()
    right = (x @ weights["right_proj.weight"].T) * mask * (x @ weights["right_gate.weight"].T).sigmoid()
    gate = (x @ weights["out_gate.weight"].T).sigmoid()
    out = torch.einsum("bikd,bjkd->bijd", left, right)
    hidden = (config["hidden_dim"],)
    out = layer_norm(out, hidden, weights["to_out_norm.weight"], weights["to_out_norm.bias"])
    return (out * gate) @ weights["to_out.weight"].T
