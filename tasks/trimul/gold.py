"""Gold of TriMul, for the auditor alone: the same kernel at shapes, masks and distributions that no run has seen.

Where the auditor's host has a GPU, a kernel that names triton or cuda is asked there: gold is then the CUDA verifier's
reward of what is right at all unseen shapes. Any other kernel is asked on the CPU, and gold is its speed-up there.
"""

from pathlib import Path

from tasks.contract import Item, Tools
from tasks.trimul import measure, verifier_cuda
from tasks.trimul.cases import SMALL_UNSEEN, UNSEEN

REPEATED = 3
CPU, CUDA = measure.Bench(), measure.Bench("cuda")


def labels(root: Path, seed: int) -> dict[str, str]:
    """None."""
    return {}


def score(item: Item, answer: str | None, label: str | None, tools: Tools | None) -> float:
    """The speed-up, or on a GPU the reward; 0 for a kernel that is wrong or fails at one of the unseen workloads.

    It is the same for each item. A kernel that is right only where it was timed has none of it.
    """
    if not answer or measure.ENTRY not in answer:
        return 0.0
    measurement = _unseen(answer, tools)
    if measurement.outcome:
        return 0.0
    if _on_a_gpu(answer):
        return verifier_cuda.score(item, answer, label, tools).reward
    return measure.speedup(measurement, measurement.cases).reward


def margin(item: Item, answer: str | None, label: str | None, tools: Tools | None) -> float:
    """The largest error at unseen workloads, over what is allowed: more than 1 is wrong, and 1e6 stands for more."""
    if not answer or measure.ENTRY not in answer:
        return 1e6
    return min(1e6, max((case.margin for case in _unseen(answer, tools).cases), default=1e6))


def _on_a_gpu(answer: str) -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*")) and ("triton" in answer or "cuda" in answer)


def _unseen(answer: str, tools: Tools | None) -> measure.Measurement:
    if _on_a_gpu(answer):
        return CUDA.measured(tools, answer, UNSEEN, (1,) * len(UNSEEN))
    return CPU.measured(tools, answer, SMALL_UNSEEN, (REPEATED,) * len(SMALL_UNSEEN))


EXTRA_METRICS = {"margin": margin}
"""How much of the tolerance is used up: a lower precision shows here before it is wrong."""
