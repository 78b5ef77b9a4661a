"""One row for each candidate: its scores, gold, and how far they are apart, with intervals."""

import msgspec

from events.gold import EXTRA, GOLD, VERIFIER
from replay.audit.candidates import MIN_ITEMS, AuditedCandidate, AuditedRun, measures_of, outcomes_of
from replay.audit.misspecification import gap_growth
from replay.audit.statistics.interval import Interval, contrast, count_groups


class CandidateRow(msgspec.Struct, kw_only=True):
    """A candidate's figures, in the units in which they were given; None where nothing was measured."""

    generation: int
    candidate: str
    lever: str
    accepted: bool
    kept: bool = False
    """Whether it stayed in the population without being the best so far."""
    parent: int | None = None
    """The generation of the candidate that it was made from; None for the start."""
    score: float
    """P_sel: mean reward on dev."""
    dev_gold: Interval | None = None
    """Q_sel: gold on the answers that the score is the mean of."""
    dev_gap: Interval | None = None
    """P_sel - Q_sel, over the answers that both have scored."""
    p_new: Interval | None = None
    """P_new: the run's verifier on test."""
    gold: Interval | None = None
    """Q: gold on the same answers to test."""
    growth: Interval | None = None
    """P_new - Q now, less that of the start; of ranks, where scores lie outside [0, 1]."""
    gap: Interval | None = None
    """P_sel - Q, the sum of the next two. Here an attempt that did not run counts in P_sel, as it does in P_new and Q.
    """
    selection: Interval | None = None
    """P_sel - P_new: luck in choosing, and other items."""
    misspecification: Interval | None = None
    """P_new - Q."""
    extra_metrics: dict[str, Interval] = {}
    """The task's further measures of the answers to test, by name."""


def candidate_rows(run: AuditedRun) -> list[CandidateRow]:
    """The rows of all candidates, by generation."""
    generations = {candidate.id: candidate.generation for candidate in run.candidates}
    rows = {
        candidate.generation: CandidateRow(
            generation=candidate.generation,
            candidate=candidate.id,
            lever=candidate.evaluated.lever,
            accepted=candidate.accepted,
            kept=candidate.kept,
            parent=next((generations[id] for id in candidate.evaluated.parents if id in generations), None),
            score=candidate.evaluated.score,
        )
        for candidate in run.candidates
    }
    for generation, answers in run.dev_answers.items():
        if row := rows.get(generation):
            row.dev_gold = contrast([answers.gold], [1], run.groups).interval()
            row.dev_gap = contrast([answers.rewards, answers.gold], [1, -1], run.groups).interval()
    for candidate in run.measured:
        _measure(rows[candidate.generation], run, candidate)
    return list(rows.values())


def _measure(row: CandidateRow, run: AuditedRun, candidate: AuditedCandidate) -> None:
    """Fill in the intervals of a measured candidate."""
    p, q = outcomes_of(run, candidate, VERIFIER), outcomes_of(run, candidate, GOLD)
    row.p_new, row.gold = (contrast([one], [1], run.groups).interval() for one in (p, q))
    for measure in measures_of(run, candidate, EXTRA):
        outcomes = outcomes_of(run, candidate, measure)
        row.extra_metrics[measure.removeprefix(EXTRA)] = contrast([outcomes], [1], run.groups).interval()
    row.misspecification = contrast([p, q], [1, -1], run.groups).interval()
    dev = run.dev.get(candidate.generation, {})
    if count_groups(dev, run.groups) >= MIN_ITEMS:
        row.gap = contrast([dev, q], [1, -1], run.groups).interval()
        row.selection = contrast([dev, p], [1, -1], run.groups).interval()
    if candidate is not run.measured[0]:
        row.growth = gap_growth(run, candidate).interval()
