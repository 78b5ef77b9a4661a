"""Whether score and gold have parted since the start (family gap), and since when (family change_point).

Steps go from parent to child, so that what one branch does is not held against another.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

from replay.audit.ancestry import Moved
from replay.audit.candidates import MIN_CHANGE, AuditedRun, measured_lineage
from replay.audit.rows import CandidateRow
from replay.audit.statistics import changepoint
from replay.audit.statistics.interval import Interval
from replay.audit.verdict import ALPHA, Finding

Steps = Mapping[int, float]
"""By generation, how much further score and gold are apart than in what its candidate was made from."""


def gap_finding(run: AuditedRun, rows: Sequence[CandidateRow]) -> Finding:
    """Family gap: raised where the evidence that score and gold have parted has reached 1 / alpha."""
    growths, evidence = _growths(run, rows), {row.generation: row.evidence for row in rows}
    flagged = next((generation for generation in growths if evidence[generation] >= -math.log(ALPHA["gap"])), None)
    if flagged is None:
        most = max((evidence[generation] for generation in growths), default=0.0)
        sentence = (
            f"Score and gold have not parted: the evidence is e^{most:.1f}, e^{-math.log(ALPHA['gap']):.1f} is needed."
        )
        return Finding(family="gap", rule="gap", raised=False, sentence=sentence, figures={"log_e": most})
    parted, steps, levers = _parted(run, evidence, flagged), _steps(run, growths), _levers(run)
    cause, growth = max(_line(run, parted), key=lambda generation: steps[generation]), growths[parted]
    return Finding(
        family="gap",
        rule="gap",
        raised=True,
        lever=levers[cause],
        generation=cause,
        sentence=f"By generation {parted} the score has gained {growth.value:+.3f} [{growth.low:+.3f}, "
        f"{growth.high:+.3f}] "
        f"that gold has not; most of it came with {_named(levers[cause])} in generation {cause}.",
        figures={
            "growth": growth.value,
            "low": growth.low,
            "high": growth.high,
            "log_e": evidence[flagged],
            "seen": run.looks[flagged],
        },
    )


def change_point_finding(run: AuditedRun, rows: Sequence[CandidateRow]) -> Finding:
    """Family change_point: raised where the CUSUM of the gap's changes has passed its threshold on the way from the
    start to a candidate; it names when that began.

    One threshold holds for all branches: a candidate has at most one ancestor at each distance, so that a tree has no
    more stretches of a length than a chain of as many candidates.
    """
    growths = _growths(run, rows)
    if not growths:
        sentence = "No candidate after the start has been measured."
        return Finding(family="change_point", rule="change-point", raised=False, sentence=sentence)
    # in sigmas that were known at the time, and with a threshold for the whole run: a look sees what the last one will
    sigmas = accumulate((max(growth.error, 1e-3) for growth in growths.values()), max)
    changes = {
        generation: (step - max(sigma, MIN_CHANGE) / 2) / sigma
        for (generation, step), sigma in zip(_steps(run, growths).items(), sigmas, strict=True)
    }
    threshold = _threshold(max(len(changes), run.started.generations), ALPHA["change_point"])
    lines = {generation: _line(run, generation) for generation in changes}
    cusums = {
        generation: changepoint.cusum([changes[one] for one in line], slack=0.0, sigma=1.0, threshold=threshold)
        for generation, line in lines.items()
    }
    alarm = next((generation for generation, cusum in cusums.items() if cusum.alarm is not None), None)
    if alarm is None:
        most = max(cusum.path[-1] for cusum in cusums.values())
        sentence = f"The gap grew by no more than {most:.1f} sigma at a stretch, {threshold:.1f} are needed."
        figures = {"cusum": most}
        return Finding(family="change_point", rule="change-point", raised=False, sentence=sentence, figures=figures)
    change, levers = cusums[alarm].change, _levers(run)
    assert change is not None, "an alarm has a change"
    moves = [changepoint.LeverMove(one, levers[one], changes[one]) for one in lines[alarm]]
    move = changepoint.attributed(moves, lines[alarm][change - 1], alarm)
    assert move is not None, "an alarm is a move"
    most = max(max(cusum.path) for generation, cusum in cusums.items() if alarm in lines[generation])
    return Finding(
        family="change_point",
        rule="change-point",
        raised=True,
        lever=move.lever,
        generation=move.generation,
        sentence=f"The gap between score and gold has grown since generation {move.generation}, made by "
        f"{_named(levers[move.generation])} ({most:.1f} sigma, seen at generation {run.looks[alarm]}).",
        figures={"cusum": most, "seen": run.looks[alarm]},
    )


def _growths(run: AuditedRun, rows: Sequence[CandidateRow]) -> dict[int, Interval]:
    """How far the gap has grown since the start by each generation, in the order of the looks."""
    growths = {row.generation: row.growth for row in rows if row.growth is not None}
    return {one.generation: growths[one.generation] for one in run.measured if one.generation in growths}


def _line(run: AuditedRun, generation: int) -> list[int]:
    """The measured generations on the way from the start, which is not among them, to this one."""
    candidate = next(one for one in run.measured if one.generation == generation)
    return [one.generation for one in measured_lineage(run, candidate)[1:]]


def _steps(run: AuditedRun, growths: Mapping[int, Interval]) -> Steps:
    values = {generation: growth.value for generation, growth in growths.items()}
    before = {generation: ([None, *_line(run, generation)])[-2] for generation in values}
    return {
        generation: value - (values[parent] if (parent := before[generation]) is not None else 0.0)
        for generation, value in values.items()
    }


def _parted(run: AuditedRun, evidence: Mapping[int, float], flagged: int) -> int:
    """The generation by which score and gold have parted: the one whose look made the evidence suffice; or, where that
    rests on another branch, the one on which it rests most.
    """
    compared = [one.generation for one in run.measured[1:]]
    sums = [0.0, *(math.exp(evidence[one]) for one in compared[: compared.index(flagged) + 1])]
    own = {one: after - before for one, before, after in zip(compared, sums, sums[1:], strict=False)}
    most = max(own, key=lambda generation: own[generation])
    return flagged if most in _line(run, flagged) else most


def _levers(run: AuditedRun) -> dict[int, Moved]:
    return {one.generation: one.lever for one in run.measured}


def _named(lever: Moved) -> str:
    return "both levers" if lever == "both" else lever


@lru_cache
def _threshold(changes: int, alpha: float) -> float:
    """The change-point's threshold: G_t is measured anew each time, from the one start, so that its changes are
    differences.
    """
    return changepoint.threshold(changes, alpha, differenced=True)
