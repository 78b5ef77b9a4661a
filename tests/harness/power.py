"""The auditor audited: false alarms on null runs, planted cases and their twins, power, and the coverage of intervals.

python -m tests.harness.power [NULLS [SEEDS [TRIALS [TASKS]]]]    # the tables of replay/audit/RESULTS.md

NULLS null runs of each kind, SEEDS runs of each planted case, TRIALS samples for each interval, TASKS seeds of each
planted task.
"""

import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple, TypeVar

from algorithms.statistics import mean_reward
from replay.audit.audit import Audit
from replay.audit.verdict import FAMILIES
from tests.harness import planted_tasks
from tests.harness.interval_coverage import DISTRIBUTIONS, FIGURES, KAPPA, SIZES, Coverage, coverage, coverage_of_kappa
from tests.harness.null_runs import LONG, NULLS, NullResult, null_result
from tests.harness.planted_cases import BEGINS, CASES, RAISED, CaseResult, Hack, PlantedCase, case_result, hacked_run
from tests.harness.simulated import Setting

T = TypeVar("T")
Run = Callable[[Callable[..., T], Sequence[Sequence[object]]], Iterable[T]]
DEFAULTS = (40, 10, 400, 1)
GAPS: Sequence[tuple[str, dict[str, float], str, Sequence[tuple[float, int, int]]]] = (
    ("score and gold", {"trick": 1.0}, "weights", [(g, n, n) for n in (60, 200) for g in (0.1, 0.2, 0.4)]),
    ("dev and test", {"knows": 1.0}, "scaffold", [(g, n, n) for n in (60, 200) for g in (0.5, 1.0)]),
)
"""What parts, the part that does it at 1, its lever, and by how much over how many items of dev and of test."""


class Gap(NamedTuple):
    """What the audit of a run said whose scores part by so much."""

    state: str
    lever: bool
    late: int | None


def detected(of: int, size: float, dev: int, items: int, seed: int) -> Gap:
    """The audit of a run in which what `GAPS` names part by `size`."""
    _, part, lever, _ = GAPS[of]
    hack = Hack(lever, {name: size * one for name, one in part.items()})
    found: Audit = hacked_run(hack, Setting(seed=seed, items=items, dev=dev)).audit()
    begins = BEGINS if lever == "weights" else BEGINS + 1
    return Gap(found.state, found.lever == lever, None if found.flagged is None else found.flagged - begins)


def null_tables(run: Run[NullResult], number: int) -> Iterator[str]:
    """How often null runs of each kind came to each state, and in how many each family raised a finding."""
    kinds = [(kind, seed) for kind in NULLS for seed in range(max(1, number // 10) if kind == LONG else number)]
    results: dict[str, list[NullResult]] = {kind: [] for kind in NULLS}
    for (kind, _), result in zip(kinds, run(null_result, kinds), strict=True):
        results[kind].append(result)
    everything = [one for each in results.values() for one in each]
    yield "| null runs | runs | flagged | 95 % | drift | attenuated | unknown |\n|---|---|---|---|---|---|---|"
    for kind, each in [*results.items(), ("all", everything)]:
        states = Counter(one.state for one in each)
        flagged = states["suspect"] + states["drift"]
        counts = f"{states['drift']} | {states['attenuated']} | {states['unknown']}"
        yield f"| {kind} | {len(each)} | {_rate(flagged, len(each))} | {counts} |"
    yield "\n| family | flagged | 95 % | drift | rules |\n|---|---|---|---|---|"
    for family in FAMILIES:
        raised = [
            [(rule, state) for of, rule, state in one.rules if of == family and state != "attenuated"]
            for one in everything
        ]
        drift = sum(any(state == "drift" for _, state in each) for each in raised)
        rules = _each(rule for each in raised for rule in dict(each))
        yield f"| {family} | {_rate(sum(map(bool, raised)), len(raised))} | {drift} | {rules} |"


def case_table(run: Run[CaseResult], seeds: int) -> Iterator[str]:
    """What was said of each planted case and of its twin."""
    asked = [
        (number, seed, planted) for number in range(len(CASES)) for planted in (True, False) for seed in range(seeds)
    ]
    results = iter(run(case_result, asked))
    yield (
        "| planted case | family, as it should be | found | verdicts | rules | lever | generation | "
        "generations late: median, most | twin flagged |\n|---|---|---|---|---|---|---|---|---|"
    )
    for case in CASES:
        yield _case_row(case, *([next(results) for _ in range(seeds)] for _ in range(2)))


def _case_row(case: PlantedCase, own: Sequence[CaseResult], twins: Sequence[CaseResult]) -> str:
    late = [one.delay for one in own if one.delay is not None and one.flagged]
    cells = (
        case.name,
        f"{case.family}: {' or '.join(case.states)}",
        f"{sum(one.found for one in own)}",
        _each(one.state for one in own),
        _each(one.rule for one in own),
        "-" if case.lever is None else f"{sum(one.lever for one in own)}",
        "-" if case.generation is None else f"{sum(one.generation for one in own)}",
        f"{statistics.median(late):g}, {max(late)}" if late and case.generation is not None else "-",
        f"{sum(one.flagged for one in twins)}",
    )
    return f"| {' | '.join(cells)} |"


def power_table(run: Run[Gap], seeds: int) -> Iterator[str]:
    """How often gaps of known size are found, by the number of items."""
    yield (
        "| what parts | by | items of dev and of test | flagged | drift | generations late: median, most | lever |"
        "\n|---|---|---|---|---|---|---|"
    )
    rows = [(number, *one) for number, gap in enumerate(GAPS) for one in gap[3]]
    results = iter(run(detected, [(*row, seed) for row in rows for seed in range(seeds)]))
    for number, size, dev, items in rows:
        found = [next(results) for _ in range(seeds)]
        late = [one.late for one in found if one.late is not None and one.state in RAISED]
        cells = (
            GAPS[number][0],
            f"{size:g}" if number == 0 else f"{size:.0%} of dev known",
            f"{dev}, {items}",
            f"{sum(one.state in RAISED for one in found)} of {seeds}",
            f"{sum(one.state == 'drift' for one in found)}",
            f"{statistics.median(late):g}, {max(late)}" if late else "-",
            f"{sum(one.lever for one in found if one.state in RAISED)}",
        )
        yield f"| {' | '.join(cells)} |"


def coverage_table(run: Run[Coverage], run_kappa: Run[float], trials: int) -> Iterator[str]:
    """How often 95 % intervals hold the true value."""
    yield f"| figure | distribution | {' | '.join(f'n = {size}' for size in SIZES)} |\n|---|---|---|---|---|"
    rows = [(figure, name) for figure in FIGURES for name in DISTRIBUTIONS]
    found = iter(run(coverage, [(*row, size, trials) for row in rows for size in SIZES]))
    for row in rows:
        cells = [f"{held:.3f} ({rejected:.3f})" for held, rejected in (next(found) for _ in SIZES)]
        yield f"| {' | '.join((*row, *cells))} |"
    kappas = iter(run_kappa(coverage_of_kappa, [(errors, size, trials) for errors in KAPPA for size in SIZES]))
    for errors in KAPPA:
        yield f"| kappa | {errors} | {' | '.join(f'{next(kappas):.3f}' for _ in SIZES)} |"


def main(nulls: int, seeds: int, trials: int, tasks: int) -> None:
    """Print all tables."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:

        def run(function: Callable[..., T], arguments: Sequence[Sequence[object]]) -> Iterable[T]:
            return pool.map(partial(_spread, function), arguments, chunksize=4)

        for title, lines in (
            ("False alarms", null_tables(run, nulls)),
            (f"Planted cases, {seeds} seeds each", case_table(run, seeds)),
            (f"Power, {2 * seeds} seeds each", power_table(run, 2 * seeds)),
            (f"Coverage, {trials} samples each", coverage_table(run, run, trials)),
        ):
            print(f"\n## {title}\n")
            for line in lines:
                print(line, flush=True)
    print(f"\n## Through real processes\n\n{planted_tasks.table(range(tasks))}")


def _spread(function: Callable[..., T], arguments: Sequence[object]) -> T:
    return function(*arguments)


def _rate(count: int, of: int) -> str:
    estimate = mean_reward([1.0] * count + [0.0] * (of - count))
    return f"{count} ({count / of:.1%}) | [{estimate.low:.1%}, {estimate.high:.1%}]"


def _each(words: Iterable[str]) -> str:
    return ", ".join(f"{word}: {count}" for word, count in Counter(one for one in words if one).most_common()) or "-"


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*given, *DEFAULTS[len(given) :])
