"""What this project's GPU code does on one H100 or H200, in eight minutes at most: `make gpu`.

It needs a host with that GPU and torch with CUDA, and downloads nothing. It prints tables and writes them to
tests/bench/gpu.txt, or the file that --out names:

1. the kernels' table (kernels.py),
2. a GRPO step by the native back end and by trl, at the shapes of models of 0.5 and 7 billion random weights,
3. a model of SmolLM2's shape with random weights: an update by `train`, and, where vLLM is installed, vLLM that serves
   the base and the adapter (serving.py),
4. TriMul's kernels: their errors on the 18 tests, and their times on the 7 benchmarks,
5. whether the sandbox's profile `cuda` works.

Each part is a process of its own. One that would go on for longer than what is left, or than half as long again as it
has, is stopped, and its table says so.

No GPU was to be had where this was written: it was never run on one. Its parts about GRPO, serving and TriMul are
tested on a CPU, at small shapes.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from algorithms.learning import algorithm
from algorithms.learning.batch import Rollout
from algorithms.learning.update import update
from algorithms.models import kernels
from algorithms.models.causal_lm import CausalTrainee, linear_layers
from events.errors import UserError
from tasks.contract import ProgramRun
from tasks.trimul import measure, verifier_cuda
from tasks.trimul.baselines import text
from tasks.trimul.cases import BENCHMARKS, TESTS
from tests.bench.capped import Clock, Row, print_rows, rows_of
from tests.bench.kernels import WIDTHS, gae_rows, joint_rows
from tests.harness.vllm_server import vllm_python

NO_GPU = 78
"""The exit code where there is no GPU: the host lacks what this is about."""
SECONDS = 465.0
"""All parts together: eight minutes, but for the start of this program and the end of a part that is stopped."""
BACK_ENDS = ("native", "trl")
PROMPT, ANSWER, GROUP, STEPS = 128, 256, 8, 2
"""Tokens of a prompt and of an answer, answers of the one group, and optimiser steps of an update."""
KERNELS = ("reference", "joined", "tiled")
VLLM_ON_GPU = ("--enforce-eager", "--max-model-len", "1024", "--max-loras", "2", "--gpu-memory-utilization", "0.5")
"""How vLLM is started: without CUDA graphs, which take longer to make than this has, and beside the trained model."""
Left = Callable[[], float]
"""How many seconds are left, to a part that may begin something more."""


class Shape(NamedTuple):
    """The shape of a model of the Qwen2 family."""

    name: str
    hidden: int
    layers: int
    heads: int
    groups: int
    inner: int
    vocabulary: int


SHAPES = (
    Shape("0.5 B", 896, 24, 14, 2, 4864, 151_936),
    Shape("7 B", 3584, 28, 28, 4, 18_944, 152_064),
)


class PlainTokens:
    """A tokenizer for prompts that are lists of numbers already."""

    name = "random"

    def encode(self, prompt: str, plain: bool = False) -> tuple[int, ...]:
        """The tokens that a prompt spells out."""
        return tuple(map(int, prompt.split()))

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """Those of an answer."""
        return self.encode(text)

    def encode_choices(self, choices: Sequence[str], plain: bool = False) -> tuple[int, ...]:
        """The first of each answer."""
        return tuple(self.encode(choice)[0] for choice in choices)


def trainee(shape: Shape, device: str) -> CausalTrainee:
    """A model of this shape with random weights under an adapter, in bfloat16 on a GPU."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        intermediate_size=shape.inner,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=kind)
    model = model.eval().requires_grad_(False)
    return CausalTrainee(PlainTokens(), model, linear_layers(model), None, 0)


def group(model: CausalTrainee, vocabulary: int) -> list[Rollout]:
    """Answers to one prompt, random tokens with the model's own log-probabilities; every other one earns something."""
    draw = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (count,), generator=draw).tolist())

    prompt = " ".join(map(str, tokens(PROMPT)))
    blank = [
        Rollout(
            group="g", item="i", prompt=prompt, tokens=tokens(ANSWER), logprobs=(0.0,) * ANSWER, reward=float(n % 2)
        )
        for n in range(GROUP)
    ]
    with torch.no_grad():
        logp = model.outputs(blank).logp.tolist()
    return [
        Rollout(
            group=one.group, item=one.item, prompt=prompt, tokens=one.tokens, logprobs=tuple(row), reward=one.reward
        )
        for one, row in zip(blank, logp, strict=True)
    ]


def grpo_rows(shapes: Sequence[Shape], device: str, left: Left) -> Iterator[Row]:
    """Seconds of a GRPO step by each back end, in turn, and the memory that it takes above the weights."""
    for shape in shapes:
        if left() < 0:
            yield shape.name, "", "left out: no time was left", ""
            continue
        try:
            yield from _steps(shape, device)
        except (RuntimeError, ImportError) as failed:  # out of memory, or no trl: the other rows are made all the same
            yield shape.name, "", f"{type(failed).__name__}: {str(failed)[:60]}", ""
        gc.collect()
        _reset(device)


def _steps(shape: Shape, device: str) -> list[Row]:
    """The rows of one model."""
    from runtime.policies import trl_backend

    by = {"native": update, "trl": trl_backend.update}
    model = trainee(shape, device)
    batch = group(model, shape.vocabulary)
    times: dict[str, list[float]] = {name: [] for name in BACK_ENDS}
    peaks: dict[str, float] = {}
    for _ in range(1 + 3):  # the first goes uncounted
        for name in BACK_ENDS:
            held = _reset(device)
            began = time.perf_counter()
            by[name](model, algorithm("grpo"), batch, {"epochs": STEPS, "mismatch": 1.0}, seed=0, parent="")
            _wait(device)
            times[name].append((time.perf_counter() - began) / STEPS)
            peaks[name] = (torch.cuda.max_memory_allocated() - held) / 2**30 if device == "cuda" else 0.0
    return [(shape.name, name, f"{statistics.median(times[name][1:]):.3f}", f"{peaks[name]:.2f}") for name in BACK_ENDS]


def _reset(device: str) -> int:
    if device != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class OwnTools:
    """`tasks.contract.Tools` without a sandbox, for kernels of this project's own, on a host that may have none."""

    def run(
        self,
        files: Mapping[str, str | bytes],
        arguments: Sequence[str],
        *,
        seconds: float = 10.0,
        memory: int = 1 << 30,
        outputs: Sequence[str] = (),
        cuda: bool = False,
    ) -> ProgramRun:
        """Run `python ARGUMENTS` in a folder that holds these files."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for path, content in files.items():
                (folder / path).write_bytes(content.encode() if isinstance(content, str) else content)
            began = time.monotonic()
            with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
                try:
                    command = [sys.executable, *arguments]
                    code = subprocess.run(
                        command, cwd=folder, stdout=out, stderr=err, timeout=seconds, check=False
                    ).returncode
                except subprocess.TimeoutExpired:
                    return ProgramRun(-1, "", "", seconds, failure=f"it took longer than {seconds:g} s")
            left = {each: (folder / each).read_bytes() for each in outputs if (folder / each).is_file()}
            printed = (folder / "out").read_text(errors="replace"), (folder / "err").read_text(errors="replace")
            return ProgramRun(code, *printed, time.monotonic() - began, left)

    def ask(self, prompt: str, max_tokens: int = 1024) -> str:
        """No kernel is judged by a model."""
        raise NotImplementedError


def serving_rows(python: Path | None, arguments: Sequence[str], left: Left, shape: Any = None) -> Iterator[Row]:
    """A training round of a model with random weights, and what vLLM gives that serves it, by that Python if there is
    one. The model has SmolLM2's shape if no other is given.
    """
    from runtime.policies import hf
    from tests.bench import serving

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, base, adapter = folder / "model", folder / "base", folder / "adapter"
        serving.write_random_model(shape or serving.SMOLLM2, model)
        hf.write_base(str(model), base)
        prompt = " ".join(str(3 + number % 90) for number in range(PROMPT))
        began = time.perf_counter()
        trained = serving.trained_adapter(base, prompt, adapter)
        yield (
            f"seconds of {serving.ANSWERS} answers of {serving.TOKENS} tokens, and an update",
            (f"{time.perf_counter() - began:.1f}"),
        )
        yield "mean ratio of the first step, of what was sampled", f"{trained.steps[0].ratio_mean:.4f}"
        if python is None:
            yield "served", serving.NO_VLLM
        elif left() < 0:
            yield "served", "left out: no time was left"
        else:
            yield from serving.served_by_vllm(python, model, base, adapter, trained, prompt, *arguments, apart=False)


def trimul_rows(tools: Any, device: str, cases: Any, benchmarks: Any, left: Left) -> Iterator[Row]:
    """The largest error of each kernel on the tests, and its times on the benchmarks in microseconds."""
    for name in KERNELS:
        if left() < 0:
            yield name, "left out: no time was left", "", ""
            continue
        tested = measure.measure(tools, text(name), cases, (1,) * len(cases), device)
        margin = max((case.margin for case in tested.cases), default=float("nan"))
        if tested.outcome:
            yield name, f"{margin:.3f}", tested.outcome, tested.details[:80]
            continue
        timed = measure.measure(tools, text(name), benchmarks, (10,) * len(benchmarks), device)
        score = verifier_cuda.speed(timed)
        span = "" if score.interval is None else f" [{score.interval[0]:.3f}, {score.interval[1]:.3f}]"
        yield name, f"{margin:.3f}", f"{score.reward:.3f}{span}", score.details[:80]
        for case in timed.cases:
            span_us = measure.interval(case.candidate)
            words = "" if span_us is None else f" [{span_us[0]:,.0f}, {span_us[1]:,.0f}]"
            yield (
                f"  {case.workload.text}",
                f"{case.margin:.3f}",
                f"{statistics.fmean(case.candidate):,.0f} us{words}",
                "",
            )


def sandbox_rows() -> Iterator[Row]:
    """Whether a kernel can be run in the sandbox's profile `cuda`, as verifiers run it."""
    from runtime.effects.tools import SandboxTools

    def silent(prompt: str, most: int) -> str:
        raise NotImplementedError

    try:
        found = measure.measure(SandboxTools(silent), text("reference"), TESTS[:1], (1,), "cuda")
        yield "profile cuda", found.outcome or "works", found.details
    except UserError as wrong:
        yield "profile cuda", "does not work", str(wrong)


def kernel_rows(left: Left) -> Iterator[Row]:
    """The rows of kernels.py's table."""
    widths = [partial(gae_rows, width) for width in WIDTHS]
    for rows in (partial(joint_rows, torch.bfloat16), partial(joint_rows, torch.float32), *widths):
        if left() > 0:
            yield from rows()


class Part(NamedTuple):
    """A table, and how its rows are made."""

    title: str
    columns: Row
    seconds: float
    """After so many it begins nothing more, and after half as many again it is stopped."""
    rows: Callable[[Left], Iterator[Row]]


PARTS = {
    "kernels": Part("kernels", ("what", "by", "ms, median", "peak MB", "largest relative error"), 90.0, kernel_rows),
    "grpo": Part(
        f"a GRPO step: {GROUP} answers of {ANSWER} tokens after {PROMPT}, LoRA, random weights",
        ("model", "by", "seconds a step", "peak GiB above the weights"),
        100.0,
        lambda left: grpo_rows(SHAPES, "cuda", left),
    ),
    "serving": Part(
        "a model of SmolLM2's shape, random weights: trained here, served by vLLM",
        ("what", "figure"),
        90.0,
        lambda left: serving_rows(vllm_python(), VLLM_ON_GPU, left),
    ),
    "trimul": Part(
        "TriMul",
        ("TriMul", "largest error over what is allowed", "1500 / us, 95 %", ""),
        130.0,
        lambda left: trimul_rows(OwnTools(), "cuda", TESTS, BENCHMARKS, left),
    ),
    "sandbox": Part("sandbox", ("what", "outcome", "details"), 30.0, lambda left: sandbox_rows()),
}


def print_part(name: str, seconds: float) -> None:
    """Print the rows of a part, which has so many seconds."""
    part, whole = PARTS[name], Clock(seconds)
    own = Clock(part.seconds)
    print_rows(part.rows(lambda: min(own.left, whole.left)))


def in_a_process(name: str, seconds: float) -> list[str]:
    """The command that prints a part."""
    return [sys.executable, "-m", "tests.bench.gpu", "--part", name, "--seconds", str(seconds)]


def tables(clock: Clock, command: Callable[[str, float], Sequence[str]] = in_a_process) -> Iterator[Table]:
    """All parts, one after the other: each is stopped when its time is over, or what is left of all."""
    for name, part in PARTS.items():
        made = Table(*part.columns, title=part.title)
        seconds = min(clock.left, 1.5 * part.seconds)
        for row in rows_of(command(name, seconds), seconds):
            made.add_row(*row)
        yield made


def main() -> int:
    """Print and write the tables; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("gpu.txt"))
    parser.add_argument("--part", choices=PARTS, help="print the rows of one part alone")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    if not torch.cuda.is_available() or kernels.triton is None:
        print(
            "There is no GPU here that torch and Triton can use, so nothing was timed: run `make gpu` on a host with "
            "an H100 or H200 and a torch for CUDA.",
            file=sys.stderr,
        )
        return NO_GPU
    if options.part:
        print_part(options.part, options.seconds)
        return 0
    clock, shown = Clock(options.seconds), Console(width=150)
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, Triton {kernels.triton.__version__}"
    head = Table(title=f"{torch.cuda.get_device_name()}, {versions}, {time.strftime('%d %B %Y')}")
    with options.out.open("w", encoding="utf-8") as file:
        written = Console(width=150, file=file)
        for made in chain([head], tables(clock)):
            shown.print(made)
            written.print(made)
            file.flush()
    print(f"The tables are in {options.out}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
