"""A workload's inputs and its true result on a GPU, drawn there from a seed: another process can draw the same."""

import torch
from workload import EPSILON, Workload, kinds, scale, shapes


def draw(workload: Workload, seed: int) -> dict[str, torch.Tensor]:
    """The inputs of a workload by name, all of them from the seed; other numbers than a CPU draws."""
    generator = torch.Generator("cuda")
    generator.manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda", generator=generator)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, device="cuda", generator=generator)

    out = {}
    for name, shape in shapes(workload).items():
        if name == "x":
            match workload.distribution:
                case "normal":
                    out[name] = normal(*shape)
                case "cauchy":
                    out[name] = 2 * torch.tan(torch.pi * (uniform(*shape) - 0.5))
                case "lognormal":
                    out[name] = torch.exp(2 * normal(*shape))
                case _:
                    out[name] = normal(*shape[:-1], 1).expand(shape).contiguous()
        elif name == "mask":
            match workload.mask:
                case "none":
                    out[name] = torch.ones(shape, device="cuda")
                case "fractional":
                    out[name] = uniform(*shape)
                case _:
                    out[name] = torch.randint(0, 2, shape, device="cuda", generator=generator)
                    if workload.mask == "empty_rows":
                        out[name][:, ::3] = 0
            out[name] = out[name].to(getattr(torch, kinds(workload)["mask"]))
        else:
            out[name] = normal(*shape) * scale(name, workload.dim)
    return out


def reference_parts(inputs: dict[str, torch.Tensor], parts: list[list[int]]) -> torch.Tensor:
    """The true result in float64, of these parts of (B N, N, C), a row and the positions in it from one to before
    another each; of all where there are none.
    """
    wide = {name: tensor.double() for name, tensor in inputs.items() if name not in ("x", "mask")}
    bs, n, _, _ = inputs["x"].shape
    chosen = parts or [[row, 0, n] for row in range(bs * n)]
    rights: dict[int, torch.Tensor] = {}
    out = []
    for row, at, to in chosen:
        batch, i = divmod(row, n)
        if batch not in rights:
            blocks = [_side(inputs, wide, "right", batch, slice(first, first + 64)) for first in range(0, n, 64)]
            rights = {batch: torch.cat(blocks)}
        left = _side(inputs, wide, "left", batch, slice(i, i + 1))[0]
        product = torch.einsum("kd,jkd->jd", left, rights[batch][at:to])
        product = _normalised(product, wide["to_out_norm.weight"], wide["to_out_norm.bias"])
        x = _normalised(inputs["x"][batch, i, at:to].double(), wide["norm.weight"], wide["norm.bias"])
        gate = (x @ wide["out_gate.weight"].T).sigmoid()
        out.append((product * gate) @ wide["to_out.weight"].T)
    return torch.cat(out)


def _side(
    inputs: dict[str, torch.Tensor], wide: dict[str, torch.Tensor], side: str, batch: int, rows: slice
) -> torch.Tensor:
    """Left or right of some rows, in float64."""
    x = _normalised(inputs["x"][batch, rows].double(), wide["norm.weight"], wide["norm.bias"])
    mask = inputs["mask"][batch, rows].double().unsqueeze(-1)
    return (x @ wide[f"{side}_proj.weight"].T) * mask * (x @ wide[f"{side}_gate.weight"].T).sigmoid()


def _normalised(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, (x.shape[-1],), weight, bias, EPSILON)
