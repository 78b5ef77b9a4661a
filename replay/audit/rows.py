"""One row for each candidate: its score, gold and the gap between them, with intervals and the evidence so far."""

import math
from collections.abc import Mapping, Sequence

import msgspec

from events.gold import EXTRA, GOLD, VERIFIER
from replay.audit.candidates import (
    DRAWS,
    MIN_ITEMS,
    AuditedCandidate,
    AuditedRun,
    look_number,
    measures_of,
    outcomes_of,
)
from replay.audit.statistics import exchange, gap
from replay.audit.statistics.eprocess import EProcess
from replay.audit.statistics.interval import Interval, Outcomes, bca, linear

TAU_WINDOW = 5
"""Measured candidates over which Kendall's tau compares the order by score with that by gold."""
SCORE_WIDTH = 2.0
"""The largest difference of two gaps whose scores lie in [0, 1]."""
LOWEST_EVIDENCE = -700.0
"""The logarithm that stands for no evidence at all."""


class CandidateRow(msgspec.Struct, kw_only=True):
    """A candidate's figures. Score is not cut to [0, 1]; figures are None where nothing was measured."""

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
    p_new: Interval | None = None
    """P_new: the run's verifier on test."""
    gold: Interval | None = None
    """Q: the gold verifier on the same answers."""
    growth: Interval | None = None
    """G_t - G_0, misspecification alone: P_new - Q now, less that of the start."""
    gap: Interval | None = None
    """G = P_sel - Q, the sum of the next two. Here P_sel counts an attempt that did not run as 0, as P_new and Q do."""
    selection: Interval | None = None
    """P_sel - P_new: luck in choosing, and other items."""
    misspecification: Interval | None = None
    """P_new - Q."""
    evidence: float = 0.0
    """ln of the evidence that score and gold part, with the look at this candidate and all before it; at ln(1 / alpha)
    it suffices.
    """
    extra_metrics: dict[str, Interval] = {}
    """The task's further measures of the answers to test, by name."""
    tau: float | None = None
    """Kendall's tau_b of P_new and Q over the last `TAU_WINDOW` measured candidates, or fewer; None where one of them
    is all ties.
    """
    nats: dict[str, float] = {}
    """What each lever had spent by then, in nats (`levers.nats_spent`)."""


def candidate_rows(run: AuditedRun, nats: Mapping[int, dict[str, float]]) -> list[CandidateRow]:
    """The rows of all candidates, by generation. `nats` is what each lever had spent, by generation and lever."""
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
            nats=nats[candidate.generation],
        )
        for candidate in run.candidates
    }
    evidence = 0.0
    for look, candidate in enumerate(run.measured):
        row = rows[candidate.generation]
        _measure(row, run, candidate)
        if look:
            evidence += _evidence(run, candidate) * _look_weight(
                look_number(run, candidate.generation, look), run.started.generations
            )
            row.evidence = max(math.log(evidence) if evidence > 0 else -math.inf, LOWEST_EVIDENCE)
    _rank([row for row in rows.values() if row.p_new])
    return list(rows.values())


def _measure(row: CandidateRow, run: AuditedRun, candidate: AuditedCandidate) -> None:
    """Fill in the intervals of a measured candidate."""
    p, q = outcomes_of(run, candidate, VERIFIER), outcomes_of(run, candidate, GOLD)
    row.p_new, row.gold = bca([p, q], linear([[1, 0], [0, 1]]), inside=True, draws=DRAWS, seed=run.seed)
    for measure in measures_of(run, candidate, EXTRA):
        outcomes = outcomes_of(run, candidate, measure)
        (interval,) = bca([outcomes], linear([[1]]), inside=True, draws=DRAWS, seed=run.seed)
        row.extra_metrics[measure.removeprefix(EXTRA)] = interval
    dev = run.dev.get(candidate.generation, {})
    if len(dev) >= MIN_ITEMS:
        row.gap, row.selection, row.misspecification = gap.split(dev, p, q, draws=DRAWS, seed=run.seed)
    if candidate is not run.measured[0]:
        row.growth = gap.growth(*_start(run), p, q, draws=DRAWS, seed=run.seed)


def _start(run: AuditedRun) -> tuple[Outcomes, Outcomes]:
    """P_new and Q of the first measured candidate."""
    return outcomes_of(run, run.measured[0], VERIFIER), outcomes_of(run, run.measured[0], GOLD)


def _evidence(run: AuditedRun, candidate: AuditedCandidate) -> float:
    """One look's e-value that the gap has grown: items are drawn, and candidates have not seen them.

    Looks share items and are not independent, so their e-values are not multiplied. Their weighted sum, with weights
    that add up to 1, exceeds 1 / alpha at any time with probability alpha at most (Markov), whatever they share.
    """
    p, q = outcomes_of(run, candidate, VERIFIER), outcomes_of(run, candidate, GOLD)
    return math.exp(min(EProcess().advanced(gap.growth_pairs(*_start(run), p, q, SCORE_WIDTH)).log_e, 700.0))


def _look_weight(look: int, planned: int) -> float:
    """The weight of a look's evidence: one half is spread evenly over the planned looks, one half over any number of
    looks.
    """
    return (look <= planned) / (2 * max(1, planned)) + 3 / (math.pi * look) ** 2


def _rank(rows: Sequence[CandidateRow]) -> None:
    """Fill in whether score and gold order the last candidates alike."""
    for end in range(2, len(rows) + 1):
        last = rows[max(0, end - TAU_WINDOW) : end]
        scores = [row.p_new.value for row in last if row.p_new]
        golds = [row.gold.value for row in last if row.gold]
        rows[end - 1].tau = exchange.tau(scores, golds)
