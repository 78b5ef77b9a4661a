"""What the Triton kernels cost on this GPU against torch, torch.compile and TRL: `python -m tests.bench.kernels` prints
one table.
"""

import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from algorithms.learning import credit
from algorithms.models import kernels

DEVICE = "cuda"
ROWS, VOCABULARY, CHECKED = 4096, 201_088, 64
"""Tokens, the vocabulary of gpt-oss, and how many of the tokens float64 checks."""
HIDDEN, CHUNK = 64, 32_768
"""TRL's chunked kernel starts from hidden states: so narrow a head leaves it, and ours beside it, as little matrix work
as may be.
"""
SEQUENCES, WIDTHS = 64, (4096, 20_480)
GAMMA, LAMBDA = 0.99, 0.95
TIMES, WARM_UP = 20, 3

Outputs = tuple[torch.Tensor, ...]
Contender = tuple[str, torch.Tensor, Callable[[], Outputs]]
Row = tuple[str, str, str, str, str]


def milliseconds(work: Callable[[], object], learned: torch.Tensor, times: int = TIMES) -> tuple[float, float]:
    """The median time by CUDA's events, and the peak of memory in MB above what was held before, gradients counted."""
    taken, peaks = [], []
    for _ in range(WARM_UP + times):
        learned.grad = None
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        work()
        ended.record()
        torch.cuda.synchronize()
        taken.append(began.elapsed_time(ended))
        peaks.append((torch.cuda.max_memory_allocated() - held) / 1e6)
    return statistics.median(taken[WARM_UP:]), max(peaks[WARM_UP:])


def error(ours: Outputs, true: Outputs) -> float:
    """The largest difference of any output, over that output's largest value."""
    return max(
        float((mine.double() - right).abs().max() / right.abs().max()) for mine, right in zip(ours, true, strict=True)
    )


def contenders(
    logits: torch.Tensor, base: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor, tokens: torch.Tensor
) -> Iterator[Contender]:
    """Who is timed, and the tensor that each learns. TRL's kernels give no KL, so ours are timed without it too."""
    compiled = torch.compile(kernels.joint_torch)
    yield "eager torch", logits, lambda: kernels.joint_torch(logits, base, tokens)
    yield "torch.compile", logits, lambda: compiled(logits, base, tokens)
    yield "ours", logits, lambda: kernels.joint(logits, base, tokens)
    yield "eager torch, no KL", logits, lambda: kernels.joint_torch(logits, None, tokens)[:2]
    yield "torch.compile, no KL", logits, lambda: compiled(logits, None, tokens)[:2]
    yield "ours, no KL", logits, lambda: kernels.joint(logits, None, tokens)[:2]
    yield "ours after the head, no KL", hidden, lambda: kernels.joint(hidden @ weight.T, None, tokens)[:2]
    try:
        from trl.kernels import ChunkedLogProbFunction, selective_log_softmax_and_entropy
    except ImportError:
        return
    yield "TRL, no KL", logits, lambda: selective_log_softmax_and_entropy(logits, tokens)
    arguments = (None, tokens, 1.0, CHUNK, None, 1.0, ("entropy",))
    yield (
        "TRL chunked with the head, no KL",
        hidden,
        lambda: ChunkedLogProbFunction.apply(hidden, weight, *arguments)[:2],
    )


def joint_rows(kind: torch.dtype) -> Iterator[Row]:
    weight = torch.randn(VOCABULARY, HIDDEN, device=DEVICE, dtype=kind) * 0.5
    hidden = torch.randn(ROWS, HIDDEN, device=DEVICE, dtype=kind)
    tokens = torch.randint(VOCABULARY, (ROWS,), device=DEVICE)
    logits = hidden @ weight.T
    base = logits + torch.randn_like(logits) * 0.1
    exact = logits[:CHECKED].double().requires_grad_()
    expected = kernels.joint_torch(exact, base[:CHECKED].double(), tokens[:CHECKED])
    for backward in (False, True):
        for name, learned, run in contenders(logits, base, hidden, weight, tokens):
            learned.requires_grad_(backward)

            def work(run: Callable[[], Outputs] = run, backward: bool = backward) -> Outputs:
                outputs = run()
                if backward:
                    torch.stack([each.sum() for each in outputs]).sum().backward()
                return outputs

            what = f"joint, {str(kind).removeprefix('torch.')}, {'forward and backward' if backward else 'forward'}"
            try:
                outputs = work()
                right = expected[: len(outputs)]
                worst = error(
                    tuple(each[:CHECKED].detach() for each in outputs), tuple(each.detach() for each in right)
                )
                if backward:
                    assert learned.grad is not None
                    (towards,) = torch.autograd.grad(
                        torch.stack([each.sum() for each in right]).sum(), exact, retain_graph=True
                    )
                    towards = towards if learned is logits else towards @ weight.double()
                    worst = max(worst, error((learned.grad[:CHECKED],), (towards,)))
                del outputs
                yield what, name, *written(*milliseconds(work, learned), worst)
            except (
                RuntimeError
            ) as failed:  # out of memory, or what a compiler refuses: the others are timed all the same
                yield what, name, "", "", f"{type(failed).__name__}: {str(failed)[:60]}"
            learned.grad = None
            learned.requires_grad_(False)
            torch.cuda.empty_cache()


def gae_rows(width: int) -> Iterator[Row]:
    rewards, values = torch.randn(2, SEQUENCES, width, device=DEVICE)
    mask = (torch.rand(SEQUENCES, width, device=DEVICE) < 0.8).float()
    expected = credit.gae(rewards.double().cpu(), values.double().cpu(), mask.cpu(), GAMMA, LAMBDA).to(DEVICE)
    for name, scan in (("Python loop over tokens", credit.gae), ("ours", kernels.gae)):
        worst = error((scan(rewards, values, mask, GAMMA, LAMBDA),), (expected,))
        took = milliseconds(partial(scan, rewards, values, mask, GAMMA, LAMBDA), values)
        yield f"GAE, B = {SEQUENCES}, T = {width:,}", name, *written(*took, worst)


def written(took: float, peak: float, worst: float) -> tuple[str, str, str]:
    return f"{took:,.3f}", f"{peak:,.1f}", f"{worst:.1e}"


def main() -> None:
    console = Console(width=150)
    if not torch.cuda.is_available() or kernels.triton is None:
        console.print("There is no GPU here that Triton can use, so nothing was timed.")
        return
    torch.manual_seed(0)
    versions = f"torch {torch.__version__}, Triton {kernels.triton.__version__}"
    table = Table(
        title=f"{torch.cuda.get_device_name()}, {versions}; joint: N = {ROWS:,}, V = {VOCABULARY:,}, head {HIDDEN} wide"
    )
    for column in ("what", "by"):
        table.add_column(column)
    for column in ("ms, median", "peak MB", "largest relative error"):
        table.add_column(column, justify="right")
    for rows in (joint_rows(torch.bfloat16), joint_rows(torch.float32), *map(gae_rows, WIDTHS)):
        for row in rows:
            table.add_row(*row)
        table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
