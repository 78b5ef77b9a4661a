"""Has a candidate's kernel checked and timed in the sandbox, and judges what comes back, in this process.

The kernel runs in the sandbox alone (`sandboxed/harness.py`), with a clock that is not its own. Its outputs come back
as files, and are compared here with results in float64; on a GPU another program compares them, in a sandbox in which
no kernel ever ran.
"""

import hashlib
import json
import math
import statistics
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from events.errors import NotHere
from tasks.contract import ProgramRun, Scored, Tools
from tasks.trimul.sandboxed.workload import Difference, Workload, compare, draw, reference

HERE = Path(__file__).parent
SANDBOXED = ("harness.py", "runner.py", "layout.py", "workload.py", "cuda_memory.py", "workload_cuda.py")
CHECKER = ("check_cuda.py", "workload.py", "workload_cuda.py")
ENTRY = "custom_kernel"
"""The function that a kernel must define."""
MEMORY = {"cpu": 6 << 30, "cuda": 96 << 30}
"""Bytes of all processes together."""
PATIENCE = 10
"""A kernel that takes this many times the reference's time is called once more and not again."""
SAMPLED = {"cpu": 1 << 40, "cuda": 40 << 20}
"""Bytes of outputs that are compared, of all repeats together; a CPU's outputs are small, and compared whole."""
BLOCK = 3
"""Repeats of which the least time counts."""
STARTED = "started"
"""What the harness prints before any of the kernel's code runs."""
FLOOR = 0.02
"""The least share of what the clock said that counts as the kernel's own."""
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 97.5 %, by degrees of freedom from 1."""
OUTCOMES = {
    "failed_to_compile": "the answer is no Python program, or its import fails, or it defines no custom_kernel",
    "failed_to_run": "the kernel raised, crashed, returned no tensor of the right shape and type, or passed a limit",
    "wrong": "some element of some output is outside the tolerance",
    "slow": "all outputs are right, and the kernel is not shown to beat what it is held against",
    "fast": "all outputs are right, and the kernel beats what it is held against",
}
LIMITS = {"cpu": 60.0, "cuda": 900.0}
"""Seconds of all calls of a kernel together."""
LOADING = 30.0
"""Seconds that starting Python and torch, and importing a kernel, may take besides."""


class CaseTimes(msgspec.Struct, frozen=True):
    """What came of one workload; times are in microseconds, one for each repeat."""

    workload: Workload
    candidate: tuple[float, ...]
    reference: tuple[float, ...]
    """Where the reference was not timed, what it costs to hand an output over."""
    wrong: int
    """Elements outside the tolerance, over all repeats."""
    compared: int
    margin: float
    clocks: tuple[str, ...] = ()

    @property
    def ratios(self) -> tuple[float, ...]:
        """The reference's least time over the candidate's least, by block of `BLOCK` repeats: noise only adds time."""
        starts = range(0, max(1, len(self.candidate) - BLOCK + 1), BLOCK)
        return tuple(min(self.reference[at : at + BLOCK]) / min(self.candidate[at : at + BLOCK]) for at in starts)


class Measurement(msgspec.Struct, frozen=True):
    """What came of a kernel on several workloads: an outcome where it failed or was wrong, and empty otherwise."""

    outcome: str
    details: str
    cases: tuple[CaseTimes, ...] = ()

    def case(self, workload: Workload) -> CaseTimes:
        """That of one workload."""
        return next(case for case in self.cases if case.workload == workload)


def measure(
    tools: Tools, source: str, workloads: Sequence[Workload], repeats: Sequence[int], device: str = "cpu"
) -> Measurement:
    """A kernel on these workloads, with so many repeats of each; the reference is timed too on a CPU.

    Raises NotHere where this host cannot give the sandbox that it takes.
    """
    plan = {
        "device": device,
        "timed": device == "cpu",
        "workloads": [list(workload) for workload in workloads],
        "repeats": list(repeats),
        "seconds": LIMITS[device],
        "load_seconds": LOADING,
        "patience": PATIENCE,
        "sample": SAMPLED[device] // sum(1 + count for count in repeats),
    }
    files = {name: (HERE / "sandboxed" / name).read_text(encoding="utf-8") for name in SANDBOXED}
    files["reference_kernel.py"] = (HERE / "kernels" / "reference.py").read_text(encoding="utf-8")
    ran = tools.run(
        {**files, "kernel.py": source, "plan.json": json.dumps(plan)},
        ["harness.py"],
        seconds=LIMITS[device] + LOADING,
        memory=MEMORY[device],
        outputs=["outputs.bin"],
        cuda=device == "cuda",
    )
    result = read(ran)
    if result["outcome"]:
        return Measurement(result["outcome"], str(result["details"]))
    outputs = ran.files.get("outputs.bin", b"")
    if hashlib.sha256(outputs).hexdigest() != result["digest"]:
        return Measurement("failed_to_run", "its process wrote in the file of its outputs, or they are too large")
    judge = compared_here if device == "cpu" else lambda cases, bytes_: compared_there(tools, cases, bytes_)
    return judged(result["cases"], judge(result["cases"], outputs))


def read(ran: ProgramRun) -> dict[str, Any]:
    """What the harness printed; where it printed nothing, what failed, as an outcome with details.

    Raises NotHere where the harness could not work before any of the kernel's code ran: that is the host's fault.
    """
    if ran.failure:
        return {"outcome": "failed_to_run", "details": ran.failure}
    if ran.exit_code:
        lines = ran.errors.strip().splitlines()
        if STARTED in lines:
            return {
                "outcome": "failed_to_run",
                "details": f"what times it ended with {ran.exit_code}: {lines[-1]:.200}",
            }
        last = (lines or [f"it ended with {ran.exit_code}"])[-1]
        if last == "unprotected":
            raise NotHere(
                "A kernel cannot be timed under Landlock, where the clock's process cannot be kept from it: install "
                "bubblewrap.",
                code=78,
            )
        raise NotHere(f"The program that times kernels does not run here ({last:.200}).", code=78)
    printed: dict[str, Any] = json.loads(ran.output)
    return printed


def compared_here(cases: Sequence[dict[str, Any]], outputs: bytes) -> list[tuple[Difference, int]]:
    """How the outputs of each repeat compare with results in float64, and how many elements they have."""
    differences, at = [], 0
    for case in cases:
        workload = Workload(*case["workload"])
        for repeat in case["repeats"]:
            output = np.frombuffer(outputs, np.float32, repeat["size"] // 4, at).reshape(workload.output_shape)
            at += repeat["size"]
            differences.append((compare(output, reference(draw(workload, repeat["seed"]))), output.size))
    return differences


def compared_there(tools: Tools, cases: Sequence[dict[str, Any]], outputs: bytes) -> list[tuple[Difference, int]]:
    """The same of a GPU's outputs, by a program on that GPU."""
    files: dict[str, str | bytes] = {name: (HERE / "sandboxed" / name).read_text(encoding="utf-8") for name in CHECKER}
    ran = tools.run(
        {**files, "outputs.bin": outputs, "plan.json": json.dumps({"cases": list(cases)})},
        ["check_cuda.py"],
        seconds=LIMITS["cuda"],
        memory=MEMORY["cuda"],
        cuda=True,
    )
    if ran.failure or ran.exit_code:
        last = (ran.errors.strip().splitlines() or [ran.failure])[-1]
        raise NotHere(f"The program that compares outputs does not run here ({last:.200}).", code=78)
    return [(Difference(int(wrong), float(margin)), int(size)) for wrong, margin, size in json.loads(ran.output)]


def judged(cases: Sequence[dict[str, Any]], differences: Sequence[tuple[Difference, int]]) -> Measurement:
    """The measurement that times and comparisons make; the first repeat of a case warms up and is not timed."""
    results, left = [], iter(differences)
    for case in cases:
        found = [next(left) for _ in case["repeats"]]
        timed = case["repeats"][1:] or case["repeats"]
        null = statistics.median(repeat["null"] for repeat in case["repeats"])
        ours, theirs = (
            tuple(max(repeat[name] - null, FLOOR * repeat[name]) / 1e3 for repeat in timed)
            for name in ("candidate", "reference")
        )
        results.append(
            CaseTimes(
                Workload(*case["workload"]),
                ours,
                theirs,
                sum(difference.wrong for difference, _ in found),
                sum(size for _, size in found),
                max(difference.margin for difference, _ in found),
                tuple(case["clocks"]),
            )
        )
    wrong = [case for case in results if case.wrong]
    details = ""
    if wrong:
        first = wrong[0]
        details = (
            f"{first.wrong:,} of {first.compared:,} elements are outside the tolerance at {first.workload.text}; the "
            f"largest error is {first.margin:.3g} times what is allowed"
        )
    return Measurement("wrong" if wrong else "", details, tuple(results))


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean of logarithms, as a pair of the values' own unit; None for fewer than two."""
    if len(values) < 2:
        return None
    logs = [math.log(value) for value in values]
    t = T975[min(len(values) - 2, len(T975) - 1)]
    mean, half = statistics.fmean(logs), t * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean - half), math.exp(mean + half)


def geometric_mean(values: Sequence[float]) -> float:
    """exp of the mean logarithm."""
    return math.exp(statistics.fmean(map(math.log, values)))


def speedup(measurement: Measurement, cases: Sequence[CaseTimes]) -> Scored:
    """The reward on a CPU: the reference's time over the kernel's, the geometric mean over blocks of repeats and cases.

    It is 0 for what failed or is wrong anywhere.
    """
    if measurement.outcome:
        return Scored(0.0, measurement.outcome, measurement.details)
    ratios = [ratio for case in cases for ratio in case.ratios]
    reward = geometric_mean(ratios)
    margin = max(case.margin for case in measurement.cases)
    micros = geometric_mean([time for case in cases for time in case.candidate])
    details = f"{reward:.2f} times as fast as the reference ({micros:,.0f} us); largest error {margin:.2g} of what is "
    span = interval(ratios)
    return Scored(reward, "fast" if (span[0] if span else reward) > 1 else "slow", f"{details}allowed", span)


class Bench:
    """Measures kernels, and remembers: a verifier is asked of one kernel for several items."""

    def __init__(self, device: str = "cpu", remembered: int = 4096) -> None:
        self._device = device
        self._tools: Tools | None = None
        self._measured = lru_cache(maxsize=remembered)(self._measure)

    def measured(
        self, tools: Tools | None, source: str, workloads: tuple[Workload, ...], repeats: tuple[int, ...]
    ) -> Measurement:
        """As `measure`, once for each kernel and its workloads."""
        if tools is None:
            raise NotHere("Nothing here runs a candidate's kernel: this verifier needs the runtime's tools.")
        self._tools = tools
        return self._measured(source, workloads, repeats)

    def _measure(self, source: str, workloads: tuple[Workload, ...], repeats: tuple[int, ...]) -> Measurement:
        assert self._tools
        return measure(self._tools, source, workloads, repeats, self._device)
