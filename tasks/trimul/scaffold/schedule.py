"""Turns a schedule of four words into the source of a kernel.

apart | joined          the five projections as products of their own, or as one
einsum | bmm | rows     the product over k: einsum, a batched product with the hidden axis first, or row by row
f32 | mixed             what matrix products read: float32, or bfloat16 in the projections
masked | unmasked       whether the mask is applied. Without it, a kernel is right only where the mask is all ones
"""

PLACES = (("apart", "joined"), ("einsum", "bmm", "rows"), ("f32", "mixed"), ("masked", "unmasked"))
REFERENCE = "apart einsum f32 masked"

HEAD = '''"""TriMul by the schedule: {schedule}."""

import torch
from torch.nn.functional import layer_norm


def custom_kernel(data):
    x, mask, weights, config = data
    x = layer_norm(x, (config["dim"],), weights["norm.weight"], weights["norm.bias"])
'''
PROJECTIONS = {
    "apart": """    names = ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")
    left, right, left_gate, right_gate, gate = (x @ weights[name + ".weight"]{to}.T for name in names)
""",
    "joined": """    names = ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")
    stacked = torch.cat([weights[name + ".weight"] for name in names]){to}
    left, right, left_gate, right_gate, gate = (x @ stacked.T).chunk(5, -1)
""",
}
MASKS = {"masked": " * mask", "unmasked": ""}
PRODUCTS = {
    "einsum": """    out = torch.einsum("bikd,bjkd->bijd", left, right)
""",
    "bmm": """    out = torch.matmul(left.permute(0, 3, 1, 2), right.permute(0, 3, 2, 1)).permute(0, 2, 3, 1)
""",
    "rows": """    right = right.permute(0, 3, 1, 2)
    rows = [torch.matmul(right, left[:, i].permute(0, 2, 1).unsqueeze(-1)) for i in range(left.shape[1])]
    out = torch.stack([row.squeeze(-1).transpose(1, 2) for row in rows], 1)
""",
}
TAIL = """    norm = weights["to_out_norm.weight"], weights["to_out_norm.bias"]
    out = layer_norm(out, (config["hidden_dim"],), *norm)
    return (out * gate.sigmoid()) @ weights["to_out.weight"].T
"""


def source(text: str) -> str | None:
    """The source of a schedule's kernel; of no schedule None."""
    words = text.split()
    if len(words) != len(PLACES) or any(word not in place for word, place in zip(words, PLACES, strict=True)):
        return None
    projections, product, kind, masking = words
    into = ".to(torch.bfloat16)" if kind == "mixed" else ""
    lines = [HEAD.format(schedule=" ".join(words))]
    lines += [f"    x = x{into}\n"] if into else []
    lines += [PROJECTIONS[projections].format(to=into)]
    if kind == "mixed":
        lines += [
            "    sides = (left, right, left_gate, right_gate, gate)\n",
            "    left, right, left_gate, right_gate, gate = (side.float() for side in sides)\n",
        ]
    lines += ["    mask = mask.unsqueeze(-1)\n"] if masking == "masked" else []
    for side in ("left", "right"):
        lines += [f"    {side} = {side}{MASKS[masking]} * {side}_gate.sigmoid()\n"]
    return "".join([*lines, PRODUCTS[product], TAIL])
