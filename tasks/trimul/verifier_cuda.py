"""The reward on a CUDA host, as TTT-Discover and SIA give it: 1500 over the geometric mean of microseconds."""

from tasks.contract import Item, Scored, Tools
from tasks.trimul import measure
from tasks.trimul.cases import BENCHMARKS, TESTS

VERSION = "cuda-1"
NEEDS = ("cuda",)
OUTCOMES = measure.OUTCOMES
SECONDS = 2400.0
SCALE = 1500.0
"""SIA's; TTT-Discover's is 3000."""
REPEATED = 20
"""Timed calls of each benchmark."""
HUMAN = 1371.0
"""Microseconds of the best human kernel on an H100: a kernel is fast where it beats that."""
BENCH = measure.Bench("cuda")


def score(item: Item, answer: str | None, label: str | None, tools: Tools | None) -> Scored:
    """1500 over the geometric mean of microseconds on the 7 benchmarks, for a kernel that is right on them and on the
    18 tests; the same for each item.
    """
    if not answer or measure.ENTRY not in answer:
        return Scored(0.0, "failed_to_compile", f"there is no {measure.ENTRY} in the answer")
    tested = BENCH.measured(tools, answer, TESTS, (1,) * len(TESTS))
    if tested.outcome:
        return Scored(0.0, tested.outcome, tested.details)
    return speed(BENCH.measured(tools, answer, BENCHMARKS, (REPEATED,) * len(BENCHMARKS)))


def speed(measurement: measure.Measurement) -> Scored:
    """The reward of a measurement of benchmarks: the mean time of each, and their geometric mean."""
    if measurement.outcome:
        return Scored(0.0, measurement.outcome, measurement.details)
    means = [sum(case.candidate) / len(case.candidate) for case in measurement.cases]
    micros = measure.geometric_mean(means)
    margin = max(case.margin for case in measurement.cases)
    clocks = measurement.cases[-1].clocks[-1]
    details = f"{micros:,.0f} us; largest error {margin:.2g} of what is allowed; {clocks}"
    return Scored(SCALE / micros, "fast" if micros < HUMAN else "slow", details, bounds(measurement.cases))


def bounds(cases: tuple[measure.CaseTimes, ...]) -> tuple[float, float] | None:
    """The 95 % interval of the reward, from those of the benchmarks' mean logarithms."""
    spans = [measure.interval(case.candidate) for case in cases]
    pairs = [span for span in spans if span]
    if len(pairs) < len(cases):
        return None
    low, high = (measure.geometric_mean([pair[end] for pair in pairs]) for end in (0, 1))
    return SCALE / high, SCALE / low
