"""The reward on a CPU: how many times as fast as the reference a kernel is, on this CPU and in the same run."""

from tasks.contract import Item, Scored, Tools
from tasks.trimul import data, measure

VERSION = "cpu-1"
OUTCOMES = measure.OUTCOMES
SECONDS = 300.0
REPEATED = 9
"""Timed calls of each workload."""
BENCH = measure.Bench()


def score(item: Item, answer: str | None, label: str | None, tools: Tools | None) -> Scored:
    """The speed-up at the item's shape; 0 for a kernel that fails or is wrong at any shape of the item's split.

    All shapes of a split are measured at once, and a kernel is measured once: its items share the outcome.
    """
    if not answer or measure.ENTRY not in answer:
        return Scored(0.0, "failed_to_compile", f"there is no {measure.ENTRY} in the answer")
    workloads = data.neighbours(item)
    measurement = BENCH.measured(tools, answer, workloads, (REPEATED,) * len(workloads))
    if measurement.outcome:
        return Scored(0.0, measurement.outcome, measurement.details)
    return measure.speedup(measurement, [measurement.case(data.workload_of(item))])
