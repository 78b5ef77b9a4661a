"""What an update of recorded answers takes, by model and back end: `python -m tests.bench.updates CASE BACK_END`.

It prints the peak of resident memory, the seconds, those of the processor, the share of time before the first step,
and, where the case is small, what share of the processor's rate in matrix products it reaches. `whole` is the native
loop as it was when it held the logits of all rows at once, computed each rollout's prompt for itself and looked at the
base in any case.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from algorithms.learning import algorithm
from algorithms.learning.batch import Rollout
from algorithms.learning.update import Outputs, UpdateResult, update
from algorithms.models import kernels
from algorithms.models.causal_lm import CausalTrainee, linear_layers, pad
from tests.bench.gpu import SHAPES, PlainTokens, Shape, trainee


class Case(NamedTuple):
    """An update: a model's shape, groups of so many answers, and the tokens of a prompt and of an answer."""

    what: str
    shape: Shape
    groups: int
    prompt: int
    answer: int
    size: int = 8
    counted: bool = False
    """Whether its floating-point operations are counted too, by a second update."""


VOCABULARY = Shape("", 64, 2, 2, 1, 128, 151_936)
CASES = {
    "vocabulary": Case("16 answers of 100 tokens, vocabulary 151,936, a tiny body", VOCABULARY, 2, 32, 100),
    "many": Case("512 answers of 100 tokens, vocabulary 151,936, a tiny body", VOCABULARY, 64, 32, 100),
    "prompts": Case(
        "16 answers of 64 tokens to 2 prompts of 256, a body of 12 M", Shape("", 384, 6, 6, 2, 1536, 4096), 2, 256, 64
    ),
    "answers": Case(
        "16 answers of 64 tokens to 2 prompts of 16, a body of 12 M",
        Shape("", 384, 6, 6, 2, 1536, 4096),
        2,
        16,
        64,
        counted=True,
    ),
    "half": Case("8 answers of 1,000 tokens, 0.5 B", SHAPES[0], 1, 100, 1000),
    "pair": Case("2 answers of 1,000 tokens, 0.5 B", SHAPES[0], 1, 100, 1000, 2),
}
BACK_ENDS = ("whole", "native", "trl")
GEMM, REPEATS = (1024, 384, 1536), 9
"""The matrix product that says what the processor can do, and how often it is made."""


class WholeTrainee(CausalTrainee):
    """As `CausalTrainee` was: all logits of all rows at once."""

    at_base = False

    @contextmanager
    def prompts_read_once(self) -> Iterator[None]:
        """No prompt is read by itself."""
        yield

    def split(self, rollouts: Sequence[Rollout], tokens: int, width: int = 1) -> list[list[int]]:
        """One forward of all rows."""
        return [list(range(len(rollouts)))]

    def outputs(self, rollouts: Sequence[Rollout], *, base: bool = False, dropout: float = 0.0) -> Outputs:
        """The same outputs, from logits (B, T, vocabulary)."""
        prompts = [self.encode(rollout.prompt) for rollout in rollouts]
        ids = pad([prompt + rollout.tokens for prompt, rollout in zip(prompts, rollouts, strict=True)])
        target = pad([rollout.tokens for rollout in rollouts])
        mask = pad([(1,) * len(rollout.tokens) for rollout in rollouts])
        places = torch.tensor([[len(prompt) - 1] for prompt in prompts]) + torch.arange(target.shape[1])
        rows, places = torch.arange(len(ids))[:, None], places.clamp(max=ids.shape[1] - 2)
        self.set_mode()
        model = self.model.get_base_model()
        hook = model.get_output_embeddings().register_forward_pre_hook(lambda module, inputs: inputs[0][rows, places])
        with self.model.disable_adapter() if base else nullcontext():
            logits = model(ids[:, :-1], use_cache=False).logits
        hook.remove()
        logp, entropy, _ = (
            each.view(target.shape) for each in kernels.joint(logits.flatten(0, 1), None, target.flatten())
        )
        return Outputs(logp * mask, entropy * mask, torch.zeros_like(logp))


def model_of(case: Case, back_end: str) -> CausalTrainee:
    """A model of the case's shape with random weights under a fresh adapter."""
    made = trainee(case.shape, "cpu")
    if back_end == "whole":
        inner = made.model.unload()
        return WholeTrainee(PlainTokens(), inner, linear_layers(inner), None, 0)
    return made


def batch_of(case: Case) -> list[Rollout]:
    """Random answers to random prompts, as likely as random weights find them; every other one earns something."""
    draw = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(case.shape.vocabulary, (count,), generator=draw).tolist())

    likely = (-float(torch.tensor(case.shape.vocabulary).log()),) * case.answer
    prompts = [" ".join(map(str, tokens(case.prompt))) for _ in range(case.groups)]
    return [
        Rollout(
            group=f"g{number}",
            item=f"i{number}",
            prompt=prompt,
            tokens=tokens(case.answer),
            logprobs=likely,
            reward=float(n % 2),
        )
        for number, prompt in enumerate(prompts)
        for n in range(case.size)
    ]


def update_by(case: Case, back_end: str) -> Callable[[], UpdateResult]:
    """An update of one epoch by GRPO that is ready to be made."""
    by: Any = update
    if back_end == "trl":
        from runtime.policies import trl_backend

        by = trl_backend.update
    model, batch = model_of(case, back_end), batch_of(case)

    def made() -> UpdateResult:
        done = by(model, algorithm("grpo"), batch, {"epochs": 1, "mismatch": 1e6}, seed=0, parent="")
        assert isinstance(done, UpdateResult)
        return done

    return made


def measure(case: Case, back_end: str) -> dict[str, float]:
    """MiB at the peak and above what was held before, seconds by the clock and of the processor, the share before the
    first step, and that of the rate of matrix products, of an update that is the first of its process.
    """
    made = update_by(case, back_end)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is resident: proc(5)
    held, began, busy = resident("VmRSS"), time.perf_counter(), time.process_time()
    done = made()
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    peak = resident("VmHWM")
    found = {
        "peak": peak,
        "above": peak - held,
        "seconds": seconds,
        "cpu": busy,
        "before": 1 - sum(step.seconds for step in done.steps) / seconds,
    }
    if case.counted:
        times = []
        for _ in range(3):
            began = time.process_time()
            made()
            times.append(time.process_time() - began)
        with FlopCounterMode(display=False) as counter:
            made()
        found["rate"] = counter.get_total_flops() / statistics.median(times) / gemm_rate()
    return found


def gemm_rate() -> float:
    """Floating-point operations of one matrix product in a second of the processor, on one thread, as updates are."""
    rows, inner, columns = GEMM
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        torch.mm(left, right)
        times.append(time.process_time() - began)
    return 2 * rows * inner * columns / statistics.median(times)


def resident(field: str) -> float:
    """MiB by this name in /proc/self/status (proc(5))."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 2**10


def in_process(case: str, back_end: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.updates", case, back_end]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def update_rows() -> list[tuple[str, str]]:
    """The rows of `make bench`: the smaller cases by each back end."""
    rows = []
    for name in ("vocabulary", "prompts", "answers"):
        found = {back_end: in_process(name, back_end) for back_end in BACK_ENDS}
        rows += [
            (f"{CASES[name].what}: {words} of a GRPO update, {', '.join(BACK_ENDS)}", _listed(found, key, form))
            for key, words, form in (
                ("above", "peak MiB above what is held", "{:,.0f}"),
                ("cpu", "seconds of the processor", "{:.1f}"),
                ("before", "share of time before the first step", "{:.0%}"),
                ("rate", "share of the rate of matrix products", "{:.0%}"),
            )
            if key in found["native"]
        ]
    return rows


def _listed(found: dict[str, dict[str, float]], key: str, form: str) -> str:
    return ", ".join(form.format(found[back_end][key]) for back_end in BACK_ENDS)


if __name__ == "__main__":
    print(json.dumps(measure(CASES[sys.argv[1]], sys.argv[2])))
