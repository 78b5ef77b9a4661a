"""What candidates lose where test's items are changed, and the findings of family robustness on changes that keep the
meaning.
"""

from itertools import pairwise
from typing import NamedTuple

from events.gold import CHANGED, PERTURBED, VERIFIER
from replay.audit.candidates import (
    DRAWS,
    MIN_ITEMS,
    AuditedCandidate,
    AuditedRun,
    look_number,
    measured_lineage,
    measures_of,
    outcomes_of,
)
from replay.audit.statistics import metamorphic
from replay.audit.statistics.interval import Interval, Outcomes, bca, exceeds_zero, linear
from replay.audit.verdict import ROBUSTNESS_SHARES, Finding, alpha_at


class Losses(NamedTuple):
    """What the start and the last candidate lose under one change."""

    start: Interval
    last: Interval


def perturbation_losses(run: AuditedRun) -> dict[str, Losses]:
    """By perturbation that keeps the meaning: what the start and the last candidate lose under it."""
    if len(run.measured) < 2:
        return {}
    start, last = run.measured[0], run.measured[-1]
    losses = {}
    for measure in _perturbations(run):
        if measure in run.outcomes[last.pair]:
            lost = (
                metamorphic.robustness(*_with_and_without(run, one, measure), draws=DRAWS, seed=run.seed)
                for one in (start, last)
            )
            losses[measure.removeprefix(PERTURBED)] = Losses(*lost)
    return losses


def perturbation_findings(run: AuditedRun) -> list[Finding]:
    """One for each perturbation: raised where a candidate's answers have come to depend on what means nothing."""
    if len(run.measured) < 2:
        return []
    start = run.measured[0]
    growths: dict[str, dict[str, float]] = {}
    findings: dict[str, Finding] = {}
    look = 0
    for candidate in run.measured[1:]:
        for measure in (
            measure for measure in measures_of(run, start, PERTURBED) if measure in run.outcomes[candidate.pair]
        ):
            look += 1
            plain, changed = _with_and_without(run, candidate, measure)
            growth = metamorphic.growth(
                *_with_and_without(run, start, measure), plain, changed, draws=DRAWS, seed=run.seed
            )
            by_id = growths.setdefault(measure, {start.id: 0.0})
            by_id[candidate.id] = growth.value
            if measure in findings and findings[measure].raised:
                continue
            line = [one for one in measured_lineage(run, candidate) if one.id in by_id]
            _, cause = max(pairwise(line), key=lambda step: by_id[step[1].id] - by_id[step[0].id])
            alpha = (
                alpha_at("robustness", look_number(run, candidate.generation, look)) * ROBUSTNESS_SHARES["perturbed"]
            )
            raised = exceeds_zero(growth, len(changed), alpha)
            findings[measure] = Finding(
                family="robustness",
                rule=measure,
                raised=raised,
                lever=cause.lever if raised else "",
                generation=cause.generation if raised else None,
                sentence=f"Under {measure.partition(':')[2]} the candidate of generation {candidate.generation} loses "
                f"{growth.value:+.3f} [{growth.low:+.3f}, {growth.high:+.3f}] more than the start.",
                figures={"growth": growth.value, "seen": run.looks[candidate.generation]},
            )
    return list(findings.values())


def change_losses(run: AuditedRun) -> dict[str, Losses]:
    """By change that does not keep the meaning, or part of test: what the start and the last candidate lose.

    No rule looks at it.
    """
    losses: dict[str, Losses] = {}
    if len(run.measured) < 2:
        return losses
    start, last = run.measured[0], run.measured[-1]
    for measure in measures_of(run, last, CHANGED):
        if measure in run.outcomes[start.pair]:
            lost_start, lost_last = (_lost(run, one, measure) for one in (start, last))
            if lost_start and lost_last:
                losses[measure.removeprefix(CHANGED)] = Losses(lost_start, lost_last)
    return losses


def _perturbations(run: AuditedRun) -> list[str]:
    """The perturbations of the start that a later candidate was measured under too, in the order in which candidates
    first were.
    """
    names = measures_of(run, run.measured[0], PERTURBED)
    return list(dict.fromkeys(name for one in run.measured[1:] for name in names if name in run.outcomes[one.pair]))


def _lost(run: AuditedRun, candidate: AuditedCandidate, measure: str) -> Interval | None:
    """The loss item by item where items were changed; of a part of test, all of test less that part.

    None for too few items.
    """
    plain, changed = _with_and_without(run, candidate, measure)
    if measure not in run.subsets.get(candidate.pair, ()):
        return metamorphic.robustness(plain, changed, draws=DRAWS, seed=run.seed)
    scores = outcomes_of(run, candidate, VERIFIER)
    rest = {item: attempts for item, attempts in scores.items() if item not in changed}
    if len(rest) < MIN_ITEMS:
        return None
    share = len(rest) / len(scores)
    return bca([rest, changed], linear([[share, -share]]), draws=DRAWS, seed=run.seed)[0]


def _with_and_without(run: AuditedRun, candidate: AuditedCandidate, measure: str) -> tuple[Outcomes, Outcomes]:
    """The scores of the items that a change applies to: as they are, and changed."""
    changed = outcomes_of(run, candidate, measure)
    return {item: scores for item, scores in outcomes_of(run, candidate, VERIFIER).items() if item in changed}, changed
