"""The Triton kernels against torch under Triton's interpreter, their compilation for a GPU, and the torch path by hand.

Run as a script, this file prints the kernels' errors as JSON: the interpreter has to be chosen before Triton is
imported.
"""

import json
import math
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")

from algorithms.learning import credit
from algorithms.models import kernels
from tests.harness.paths import ROOT

EXACT = 2e-5
"""What float32 may lose against float64: exp and log each miss by some 1e-7 of logits up to 40; the worst seen is 6e-6,
of dK.
"""
HALF = 2**-7
"""What a gradient in bf16 may lose of its largest entry: 8 bits are kept, and the interpreter cuts the others off,
where a GPU rounds.
"""
TARGETS = ("logp", "entropy", "kl", "all")
MASKS = {
    "random masks": (7, 100),
    "rows that begin and end with masked tokens": (4, 70),
    "all masked": (3, 40),
    "one token": (3, 1),
    "one block exactly": (2, 32),
    "a gap longer than a block": (2, 130),
}
FACTORS = ((1.0, 1.0), (0.9, 0.9), (0.9, 1.0), (1.0, 0.0), (0.0, 0.9))


def mask_of(case: str) -> torch.Tensor:
    mask = (torch.rand(MASKS[case]) < 0.7).float()
    match case:
        case "rows that begin and end with masked tokens":
            mask[:, :5] = mask[:, -5:] = 0
        case "all masked":
            mask[:] = 0
        case "a gap longer than a block":
            mask[:, 20:100] = 0
    return mask


def scan_errors() -> Iterator[tuple[str, float]]:
    for case in MASKS:
        mask = mask_of(case)
        rewards, values = torch.randn(2, *mask.shape)
        values = values.masked_fill(mask == 0, math.nan)  # what stands there is nobody's business
        yield (
            case,
            max(apart(kernels.gae(rewards, values, mask, *f), credit.gae(rewards, values, mask, *f)) for f in FACTORS),
        )


def apart(ours: torch.Tensor, true: torch.Tensor) -> float:
    """The largest difference, over the largest true value or 1."""
    return float((ours.double() - true.double()).abs().max() / max(1.0, float(true.double().abs().max())))


def logits_of(
    rows: int, vocabulary: int, kind: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits = 3 * torch.randn(rows, vocabulary) + 20
    base = logits + torch.randn(rows, vocabulary)
    return logits.to(kind), base.to(kind), torch.randint(vocabulary, (rows,))


def joint_errors(
    logits: torch.Tensor, base: torch.Tensor | None, tokens: torch.Tensor, temperature: float = 1.0
) -> Iterator[tuple[str, float]]:
    """Each output's error and, relative to its largest entry, that of the gradient of each and of a sum, against
    float64 torch.
    """
    ours, true = logits.clone().requires_grad_(), logits.double().requires_grad_()
    got = kernels.joint(ours, base, tokens, temperature)
    expected = kernels.joint_torch(true, None if base is None else base.double(), tokens, temperature)
    for target, mine, right in zip(TARGETS, got, expected, strict=False):
        yield target, apart(mine.detach(), right.detach())
    weights = torch.randn(3, len(tokens))
    for target, weight in zip(TARGETS, (*torch.eye(3), torch.ones(3)), strict=True):
        if base is None and target == "kl":
            continue
        (mine,) = torch.autograd.grad(weighted(got, weight, weights), ours, retain_graph=True)
        (right,) = torch.autograd.grad(weighted(expected, weight, weights), true, retain_graph=True)
        assert mine.dtype == logits.dtype
        yield f"d {target}", float((mine.double() - right).abs().max() / right.abs().max())


def weighted(outputs: tuple[torch.Tensor, ...], which: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    parts = [(weight * output).sum() for keep, weight, output in zip(which, weights, outputs, strict=True) if keep]
    return torch.stack([part for part in parts if part.requires_grad]).sum()


def measured() -> dict[str, dict[str, float]]:
    assert kernels.available(torch.zeros(1))
    torch.manual_seed(0)
    kernels.TOKENS = 32  # the interpreter scans one token at a time
    found = {"gae": dict(scan_errors())}
    for rows, vocabulary in ((6, 5), (3, 1000), (2, 200_003)):
        found[f"V = {vocabulary}"] = dict(joint_errors(*logits_of(rows, vocabulary)))
    found["bf16"] = dict(joint_errors(*logits_of(2, 5000, torch.bfloat16)))
    logits, base, tokens = logits_of(3, 5000)
    found["without base"] = dict(joint_errors(logits, None, tokens))
    found["temperature 0.7"] = dict(joint_errors(logits, base, tokens, 0.7))
    found["not contiguous"] = dict(joint_errors(logits.t().contiguous().t(), base, tokens))
    logits[:, 4097:] = base[:, 4097:] = -math.inf
    found["a tile of -inf"] = dict(joint_errors(logits, base, tokens % 4097))
    logits, base = logits.flip(1), base.flip(1)
    found["a first tile of -inf"] = dict(joint_errors(logits, base, 4999 - tokens % 4097))
    empty = kernels.joint(logits[:0], base[:0], tokens[:0])
    outside = kernels.joint(logits, base, torch.tensor([-1, 5000, 4999]))[0]
    found["edges"] = {"rows of none": float(sum(map(len, empty))), "tokens outside": float(outside.isnan().sum())}
    return found


@pytest.fixture(scope="module")
def errors() -> dict[str, dict[str, float]]:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    found: dict[str, dict[str, float]] = json.loads(said.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", MASKS)
def test_the_scan_gives_the_loops_advantages(errors: dict[str, dict[str, float]], case: str) -> None:
    assert errors["gae"][case] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["V = 5", "V = 1000", "V = 200003", "without base", "temperature 0.7", "not contiguous"]
)
def test_the_kernel_gives_what_float64_gives(errors: dict[str, dict[str, float]], case: str) -> None:
    assert len(errors[case]) == (6 if case == "without base" else 7)
    assert all(error < EXACT for error in errors[case].values()), errors[case]


@pytest.mark.slow
def test_half_precision_loses_only_what_rounding_takes(errors: dict[str, dict[str, float]]) -> None:
    assert all(error < (HALF if target.startswith("d ") else EXACT) for target, error in errors["bf16"].items()), (
        errors["bf16"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", ["a tile of -inf", "a first tile of -inf"])
def test_a_logit_of_minus_infinity_is_a_token_that_never_comes(errors: dict[str, dict[str, float]], case: str) -> None:
    assert all(error < EXACT for error in errors[case].values()), errors[case]


@pytest.mark.slow
def test_no_rows_give_no_results_and_a_token_outside_the_vocabulary_gives_nan(
    errors: dict[str, dict[str, float]],
) -> None:
    assert errors["edges"] == {"rows of none": 0, "tokens outside": 2}


def test_maps_compose_in_any_grouping_as_a_parallel_scan_needs() -> None:
    pytest.importorskip("triton")
    then = kernels._compose.fn
    first, second, third = torch.randn(3, 2).tolist()
    assert then(*then(*first, *second), *third) == pytest.approx(then(*first, *then(*second, *third)))


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter accepts what the compiler refuses, and the compiler needs no GPU."""
    triton = pytest.importorskip("triton")
    if kernels.INTERPRETED:
        pytest.skip("TRITON_INTERPRET is set")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    halves = {"rewards", "values", "advantages", "logits", "base_logits", "to_logits"}
    others = {"tokens": "*i64", "mask": "*i1", "width": "i32", "vocabulary": "i32"} | dict.fromkeys(
        ("gamma", "gamma_lam", "scale"), "fp32"
    )
    for kernel, block in (
        (kernels._gae, kernels.TOKENS),
        (kernels._forward, kernels.TILE),
        (kernels._backward, kernels.TILE),
    ):
        kinds = {name: "*bf16" if name in halves else others.get(name, "*fp32") for name in kernel.arg_names}
        known = {name: value for name, value in (("HAS_BASE", True), ("BLOCK", block)) if name in kinds}
        source = ASTSource(kernel, kinds | dict.fromkeys(known, "constexpr"), known)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=kernels.LAUNCH)
        assert ".entry" in compiled.asm["ptx"]


def test_without_triton_the_torch_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setitem(sys.modules, "triton.language", None)
    bare = runpy.run_path(str(kernels.__file__))
    logits, base, tokens = logits_of(2, 7)
    assert not bare["available"](logits)
    assert all(map(torch.equal, bare["joint"](logits, base, tokens), kernels.joint_torch(logits, base, tokens)))
    rewards, values, mask = torch.randn(2, 3), torch.randn(2, 3), torch.ones(2, 3)
    assert torch.equal(bare["gae"](rewards, values, mask, 0.9, 0.8), credit.gae(rewards, values, mask, 0.9, 0.8))


def test_log_probability_entropy_and_divergence_of_three_tokens() -> None:
    p, q = torch.tensor([[1.0, 2.0, 5.0]]) / 8, torch.tensor([[2.0, 1.0, 1.0]]) / 4
    logp, entropy, kl = kernels.joint_torch(p.log() + 7, q.log() - 2, torch.tensor([1]))
    assert float(logp) == pytest.approx(math.log(1 / 4))
    assert float(entropy) == pytest.approx(math.log(8) / 8 + math.log(4) / 4 + 5 / 8 * math.log(8 / 5))
    assert float(kl) == pytest.approx(math.log(1 / 4) / 8 + 5 / 8 * math.log(5 / 2))


def test_a_temperature_of_one_half_squares_the_probabilities_of_both_models() -> None:
    p, q = torch.tensor([[1.0, 2.0, 2.0]]).log(), torch.tensor([[1.0, 1.0, 1.0]]).log()
    logp, entropy, kl = kernels.joint_torch(p, q, torch.tensor([0]), temperature=0.5)
    assert float(logp) == pytest.approx(math.log(1 / 9))
    assert float(kl) == pytest.approx(math.log(3) - float(entropy))


def test_torchs_gradients_are_those_of_differences() -> None:
    logits, base, tokens = logits_of(4, 6, torch.float64)
    assert torch.autograd.gradcheck(lambda z: kernels.joint_torch(z, base, tokens, 0.8), logits.requires_grad_())


def test_the_base_gets_no_gradient() -> None:
    logits, base, tokens = logits_of(2, 6)
    kernels.joint_torch(logits.requires_grad_(), base.requires_grad_(), tokens)[2].sum().backward()
    assert logits.grad is not None and base.grad is None


def test_shapes_that_do_not_fit_and_a_temperature_of_0_are_refused() -> None:
    logits, base, tokens = logits_of(2, 6)
    with pytest.raises(ValueError, match=r"\(2, 6\), \(2, 5\) and \(2,\); expected \(N, V\)"):
        kernels.joint(logits, base[:, :5], tokens)
    with pytest.raises(ValueError, match="temperature is 0; expected one above 0"):
        kernels.joint(logits, base, tokens, 0)


if __name__ == "__main__":
    print(json.dumps(measured()))
