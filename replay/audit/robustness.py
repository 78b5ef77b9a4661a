"""What candidates lose where test's items are changed, and the findings of family robustness on changes that keep the
meaning.
"""

from collections.abc import Sequence
from typing import NamedTuple

from events.gold import CHANGED, PERTURBED, VERIFIER
from replay.audit.candidates import (
    MIN_ITEMS,
    AuditedCandidate,
    AuditedRun,
    look_number,
    measures_of,
    outcomes_of,
)
from replay.audit.placing import Compared, Placed, placed
from replay.audit.selection import enough
from replay.audit.statistics.interval import Contrast, Interval, Outcomes, contrast, count_groups
from replay.audit.verdict import Finding, Unknown, alpha_at, state_at


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
                contrast(_with_and_without(run, one, measure), [1, -1], run.groups).interval() for one in (start, last)
            )
            losses[measure.removeprefix(PERTURBED)] = Losses(*lost)
    return losses


def perturbation_findings(run: AuditedRun) -> list[Finding]:
    """One for each perturbation: raised where a candidate's answers have come to depend on what means nothing."""
    if len(run.measured) < 2:
        return []
    start = run.measured[0]
    findings: dict[str, Finding] = {}
    look = 0
    for candidate in run.measured[1:]:
        for measure in (
            measure
            for measure in measures_of(run, start, PERTURBED)
            if measure in run.outcomes[candidate.pair] and enough(run, run.outcomes[candidate.pair][measure])
        ):
            look += 1
            growth = _growth(run, start, candidate, measure)
            if measure in findings and findings[measure].raised:
                continue
            alpha = alpha_at("perturbed", look_number(run, candidate.generation, look), run.started.generations)
            raised = growth.p_above() <= alpha
            place = placed(run, candidate, _compared(run, measure)) if raised else Placed(candidate.generation, "")
            findings[measure] = Finding(
                family="robustness",
                rule=measure,
                raised=raised,
                state=state_at(growth.p_above(), alpha),
                lever=place.lever,
                generation=place.generation if raised else None,
                sentence=f"Under {measure.partition(':')[2]} the candidate of generation {candidate.generation} loses "
                f"{growth.in_words()} more than the start.",
                figures={"growth": growth.value, "seen": float(run.looks[candidate.generation])},
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


def robustness_unknown(run: AuditedRun, failed: Sequence[str]) -> list[Unknown]:
    """Why nothing can be said of changes that mean nothing; `failed` are the reasons for which some were not asked."""
    if failed:
        return [Unknown(family="robustness", reason=failed[0])]
    names = measures_of(run, run.measured[0], PERTURBED) if run.measured else []
    if not names:
        reason = "the task has no perturbation that keeps the meaning"
        return [Unknown(family="robustness", reason=reason, possible=False)]
    if not any(enough(run, outcomes_of(run, run.measured[0], name)) for name in names):
        return [Unknown(family="robustness", reason="too few items were perturbed")]
    return []


def _compared(run: AuditedRun, measure: str) -> dict[str, Compared]:
    """The scores of each candidate under a change with those without, by candidate id."""
    return {
        one.id: Compared(one, *_with_and_without(run, one, measure))
        for one in run.measured
        if measure in run.outcomes[one.pair]
    }


def _growth(run: AuditedRun, start: AuditedCandidate, candidate: AuditedCandidate, measure: str) -> Contrast:
    """What a candidate loses under a change, less what the start does."""
    return contrast(
        [*_with_and_without(run, candidate, measure), *_with_and_without(run, start, measure)],
        [1, -1, -1, 1],
        run.groups,
    )


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
        return contrast([plain, changed], [1, -1], run.groups).interval()
    scores = outcomes_of(run, candidate, VERIFIER)
    rest = {item: attempts for item, attempts in scores.items() if item not in changed}
    if count_groups(rest, run.groups) < MIN_ITEMS:
        return None
    share = len(rest) / len(scores)
    return contrast([rest, changed], [share, -share], run.groups).interval()


def _with_and_without(run: AuditedRun, candidate: AuditedCandidate, measure: str) -> tuple[Outcomes, Outcomes]:
    """The scores of the items that a change applies to: as they are, and changed."""
    changed = outcomes_of(run, candidate, measure)
    return {item: scores for item, scores in outcomes_of(run, candidate, VERIFIER).items() if item in changed}, changed
