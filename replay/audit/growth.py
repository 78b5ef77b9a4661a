"""Whether score and gold have parted since the start (family gap), and since when (family change_point)."""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from replay.audit.candidates import MIN_CHANGE, AuditedRun, measured_parent
from replay.audit.rows import CandidateRow
from replay.audit.statistics import changepoint
from replay.audit.verdict import ALPHA, Finding


def gap_finding(run: AuditedRun, rows: Sequence[CandidateRow]) -> Finding:
    """Family gap: raised where the evidence that score and gold have parted has reached 1 / alpha."""
    compared = [row for row in rows if row.growth is not None]
    flagged = next((row for row in compared if row.evidence >= -math.log(ALPHA["gap"])), None)
    if not flagged:
        most = max((row.evidence for row in compared), default=0.0)
        sentence = (
            f"Score and gold have not parted: the evidence is e^{most:.1f}, e^{-math.log(ALPHA['gap']):.1f} is needed."
        )
        return Finding(family="gap", rule="gap", raised=False, sentence=sentence, figures={"log_e": most})
    so_far = compared[: compared.index(flagged) + 1]
    steps = _steps(run, so_far)
    cause, growth = so_far[steps.index(max(steps))], flagged.growth
    assert growth is not None
    return Finding(
        family="gap",
        rule="gap",
        raised=True,
        lever=cause.lever,
        generation=cause.generation,
        sentence=f"By generation {flagged.generation} the score has gained {growth.value:+.3f} [{growth.low:+.3f}, "
        f"{growth.high:+.3f}] "
        f"that gold has not; most of it came with {cause.lever} in generation {cause.generation}.",
        figures={
            "growth": growth.value,
            "low": growth.low,
            "high": growth.high,
            "log_e": flagged.evidence,
            "seen": flagged.generation,
        },
    )


def change_point_finding(run: AuditedRun, rows: Sequence[CandidateRow]) -> Finding:
    """Family change_point: raised where the CUSUM of the gap's changes has passed its threshold; it names when that
    began.
    """
    compared = [row for row in rows if row.growth is not None]
    if not compared:
        sentence = "No candidate after the start has been measured."
        return Finding(family="change_point", rule="change-point", raised=False, sentence=sentence)
    errors = [row.growth.error for row in compared if row.growth]
    # in sigmas that were known at the time, and with a threshold for the whole run: a look sees what the last one will
    sigmas = accumulate((max(error, 1e-3) for error in errors), max)
    changes = [
        (step - max(sigma, MIN_CHANGE) / 2) / sigma for step, sigma in zip(_steps(run, compared), sigmas, strict=True)
    ]
    threshold = _threshold(max(len(changes), run.started.generations), ALPHA["change_point"])
    cusum = changepoint.cusum(changes, slack=0.0, sigma=1.0, threshold=threshold)
    if cusum.alarm is None or cusum.change is None:
        sentence = f"The gap grew by no more than {max(cusum.path):.1f} sigma at a stretch, {threshold:.1f} are needed."
        figures = {"cusum": max(cusum.path)}
        return Finding(family="change_point", rule="change-point", raised=False, sentence=sentence, figures=figures)
    alarm = compared[cusum.alarm - 1].generation
    moves = [
        changepoint.LeverMove(row.generation, row.lever, growth) for row, growth in zip(compared, changes, strict=True)
    ]
    move = changepoint.attributed(moves, compared[cusum.change - 1].generation, alarm)
    assert move is not None, "an alarm is a move"
    return Finding(
        family="change_point",
        rule="change-point",
        raised=True,
        lever=move.lever,
        generation=move.generation,
        sentence=f"The gap between score and gold has grown since generation {move.generation}, made by {move.lever} "
        f"({max(cusum.path):.1f} sigma, seen at generation {alarm}).",
        figures={"cusum": max(cusum.path), "seen": alarm},
    )


def _steps(run: AuditedRun, rows: Sequence[CandidateRow]) -> list[float]:
    """How much further score and gold are apart than in what each candidate was made from."""
    growth = {row.generation: row.growth.value for row in rows if row.growth}
    return [
        growth[row.generation] - growth.get(measured_parent(run, row.generation).generation, 0.0)
        for row in rows
        if row.growth
    ]


@lru_cache
def _threshold(changes: int, alpha: float) -> float:
    """The change-point's threshold: G_t is measured anew each time, from the one start, so that its changes are
    differences.
    """
    return changepoint.threshold(changes, alpha, differenced=True)
