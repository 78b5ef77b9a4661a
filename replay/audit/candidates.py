"""A run's candidates with all that is recorded of their scores: one value, read once, over which the rest of an audit
computes.

Three measures of a candidate. P_sel: its rewards on dev, by which it was chosen. P_new: the same verifier on test,
which no part of the loop has seen. Q: the gold verifier on the same answers. A candidate that was rejected has P_sel
alone.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from events.choice import ParentSelected
from events.gold import CHANGED, GOLD, PERTURBED, VERIFIER, PairMeasured, ReferenceMeasured
from events.judgement import CandidateEvaluated, ScoringFailed, TrajectoryScored
from events.population import CandidateAccepted
from events.rollouts import RolloutsRequested
from events.run import RunStarted
from replay.audit.pair import PairKey
from replay.audit.statistics.interval import Outcomes
from replay.recorded import StoredEvent
from runtime.run.fork import comparable_from

DRAWS = 2000
"""Bootstrap draws for each interval of an audit: fewer than by default, since a run is audited many times."""
MIN_ITEMS = 2
"""Fewer items than this have no interval."""
MIN_CHANGE = 0.06
"""The least change, in score units, that counts: of the gap in one generation, and of a canary's gold below the
start's.
"""


class AuditedCandidate(NamedTuple):
    """A candidate as it was evaluated on dev, and whether it was accepted."""

    evaluated: CandidateEvaluated
    accepted: bool

    @property
    def generation(self) -> int:
        """The generation that made it."""
        return self.evaluated.generation

    @property
    def pair(self) -> PairKey:
        """Its scaffold and adapter."""
        return PairKey(self.evaluated.scaffold, self.evaluated.adapter)


class AuditedRun(NamedTuple):
    """What an audit computes from: a run's candidates, and what dev and the auditor measured of them.

    Scores are cut to [0, 1].
    """

    run: str
    started: RunStarted
    seed: int
    """Of all bootstraps."""
    candidates: Sequence[AuditedCandidate]
    """All whose scores are comparable with the last, by generation."""
    measured: Sequence[AuditedCandidate]
    """Those that were accepted and that both verifiers scored on test; with `lineage_only`, of the lineage alone."""
    lineage: frozenset[int]
    """The generations that count: all of `candidates`, or the start, the last accepted candidate and its ancestors."""
    measured_elsewhere: Sequence[int]
    """The generations of measured candidates outside the lineage: the looks at them have spent their part of alpha."""
    parents: Mapping[int, str]
    """The candidate that each generation was made from, where that is recorded."""
    dev: Mapping[int, Outcomes]
    """P_sel by generation, attempt by attempt; an attempt that did not run is 0, one that could not be scored is left
    out.
    """
    outcomes: Mapping[PairKey, Mapping[str, Outcomes]]
    """What the auditor measured of each pair, by measure (`events/gold.py`)."""
    subsets: Mapping[PairKey, frozenset[str]]
    """The measures of each pair that took a part of test from the same answers, instead of playing changed items."""
    references: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Scores of canaries and of the ceiling by item, by measure and by name."""


def audited_run(
    events: Sequence[StoredEvent], gold: Sequence[StoredEvent], seed: int, *, lineage_only: bool
) -> AuditedRun:
    """Read a run's events, with those of its past, and its events on GOLD.

    With `lineage_only` what was rolled back is left out: only the last accepted candidate and its ancestors count.
    """
    run = events[-1].event.run
    started = next(
        stored.event.data for stored in events if isinstance(stored.event.data, RunStarted) and stored.event.run == run
    )
    assert isinstance(started, RunStarted)
    comparable = events[comparable_from(stored.event.data for stored in events) :]
    candidates, parents, outcomes = _candidates(comparable), _parents(events), _on_the_same_items(pair_outcomes(gold))
    lineage = frozenset(
        _lineage(candidates, parents) if lineage_only else (candidate.generation for candidate in candidates)
    )
    measured = [
        candidate
        for candidate in candidates
        if candidate.accepted and {VERIFIER, GOLD} <= outcomes.get(candidate.pair, {}).keys()
    ]
    if any(len(outcomes[candidate.pair][VERIFIER]) < MIN_ITEMS for candidate in measured):
        measured = []
    return AuditedRun(
        run=run,
        started=started,
        seed=seed,
        candidates=candidates,
        measured=[candidate for candidate in measured if candidate.generation in lineage],
        lineage=lineage,
        measured_elsewhere=[candidate.generation for candidate in measured if candidate.generation not in lineage],
        parents=parents,
        dev=_dev_outcomes(comparable),
        outcomes=outcomes,
        subsets=_subsets(gold),
        references=_references(gold),
    )


def outcomes_of(run: AuditedRun, candidate: AuditedCandidate, measure: str) -> Outcomes:
    """The scores of a candidate under a measure. Raises KeyError where it was not measured so."""
    return run.outcomes[candidate.pair][measure]


def measures_of(run: AuditedRun, candidate: AuditedCandidate, prefix: str) -> list[str]:
    """The measures of a candidate whose names begin so, sorted."""
    return sorted(measure for measure in run.outcomes.get(candidate.pair, {}) if measure.startswith(prefix))


def measured_parent(run: AuditedRun, generation: int) -> AuditedCandidate:
    """The measured candidate that a generation was made from; the one measured before it where that is not known."""
    parent = next((one for one in run.measured if one.evaluated.candidate == run.parents.get(generation)), None)
    return parent or [one for one in run.measured if one.generation < generation][-1]


def look_number(run: AuditedRun, generation: int, look: int) -> int:
    """The number of a look at a generation, counting the looks at candidates outside the lineage: alpha spent on those
    is gone.
    """
    return look + sum(elsewhere < generation for elsewhere in run.measured_elsewhere)


def pair_outcomes(gold: Sequence[StoredEvent]) -> dict[PairKey, dict[str, Outcomes]]:
    """What the auditor measured of each pair, by measure; perturbations of fewer than `MIN_ITEMS` items are
    left out.
    """
    measured: dict[PairKey, dict[str, Outcomes]] = {}
    for fact in _pairs_measured(gold):
        if len(fact.scores) >= MIN_ITEMS or not fact.measure.startswith((PERTURBED, CHANGED)):
            outcomes = {item: [_cut(score) for score in scores] for item, scores in fact.scores.items() if scores}
            measured.setdefault(PairKey(fact.scaffold, fact.adapter), {})[fact.measure] = outcomes
    return measured


def _on_the_same_items(measured: Mapping[PairKey, Mapping[str, Outcomes]]) -> dict[PairKey, dict[str, Outcomes]]:
    """The outcomes without those of items that a measure could not score for every pair that it took; the run's
    verifier and gold count as one measure, since they are compared item by item.
    """
    sharing: dict[str, list[Outcomes]] = {}
    for own in measured.values():
        for measure, outcomes in own.items():
            sharing.setdefault(VERIFIER if measure == GOLD else measure, []).append(outcomes)
    common = {measure: set.intersection(*map(set, outcomes)) for measure, outcomes in sharing.items()}
    common[GOLD] = common.get(VERIFIER, set())
    return {
        pair: {
            measure: {item: scores for item, scores in outcomes.items() if item in common[measure]}
            for measure, outcomes in own.items()
        }
        for pair, own in measured.items()
    }


def _subsets(gold: Sequence[StoredEvent]) -> dict[PairKey, frozenset[str]]:
    blobs: dict[PairKey, dict[str, str]] = {}
    for fact in _pairs_measured(gold):
        blobs.setdefault(PairKey(fact.scaffold, fact.adapter), {})[fact.measure] = fact.blob
    return {
        pair: frozenset(
            measure for measure, blob in own.items() if measure.startswith(CHANGED) and blob == own.get(VERIFIER)
        )
        for pair, own in blobs.items()
    }


def _references(gold: Sequence[StoredEvent]) -> dict[str, dict[str, dict[str, float]]]:
    references: dict[str, dict[str, dict[str, float]]] = {VERIFIER: {}, GOLD: {}}
    for stored in gold:
        if isinstance(fact := stored.event.data, ReferenceMeasured):
            references.setdefault(fact.measure, {})[fact.name] = {
                item: _cut(score) for item, score in fact.scores.items()
            }
    return references


def _pairs_measured(gold: Sequence[StoredEvent]) -> list[PairMeasured]:
    return [stored.event.data for stored in gold if isinstance(stored.event.data, PairMeasured)]


def _candidates(events: Sequence[StoredEvent]) -> list[AuditedCandidate]:
    accepted = {stored.event.data.candidate for stored in events if isinstance(stored.event.data, CandidateAccepted)}
    evaluated = [stored.event.data for stored in events if isinstance(stored.event.data, CandidateEvaluated)]
    return [
        AuditedCandidate(fact, fact.candidate in accepted)
        for fact in sorted(evaluated, key=lambda fact: fact.generation)
    ]


def _parents(events: Sequence[StoredEvent]) -> dict[int, str]:
    return {
        stored.event.data.generation: stored.event.data.candidate
        for stored in events
        if isinstance(stored.event.data, ParentSelected)
    }


def _lineage(candidates: Sequence[AuditedCandidate], parents: Mapping[int, str]) -> set[int]:
    """The generations of the start, of the last accepted candidate, and of its ancestors."""
    accepted = [one.evaluated for one in candidates if one.accepted]
    generations = {one.generation for one in accepted[:1]}
    ancestor = accepted[-1].candidate if accepted else ""
    for predecessor, one in zip(reversed([None, *accepted[:-1]]), reversed(accepted), strict=True):
        if one.candidate == ancestor:
            generations.add(one.generation)
            ancestor = parents.get(one.generation, predecessor.candidate if predecessor else "")
    return generations


def _dev_outcomes(events: Sequence[StoredEvent]) -> dict[int, dict[str, list[float]]]:
    requests: dict[str, RolloutsRequested] = {}
    outcomes: dict[int, dict[str, list[float | None]]] = {}
    for stored in events:
        fact = stored.event.data
        if isinstance(fact, RolloutsRequested) and fact.purpose == "dev":
            requests[stored.event.id] = fact
            outcomes.setdefault(fact.generation, {}).update({item: [0.0] * fact.attempts for item in fact.items})
        elif isinstance(fact, TrajectoryScored | ScoringFailed) and fact.request in requests:
            attempts = outcomes[requests[fact.request].generation].get(fact.item, [])
            if fact.attempt < len(attempts):  # an attempt that was never requested is `counted_otherwise`'s to report
                attempts[fact.attempt] = _cut(fact.reward) if isinstance(fact, TrajectoryScored) else None
    return {generation: _known(attempts_by_item) for generation, attempts_by_item in outcomes.items()}


def _known(attempts_by_item: Mapping[str, Sequence[float | None]]) -> dict[str, list[float]]:
    known = {item: [one for one in attempts if one is not None] for item, attempts in attempts_by_item.items()}
    return {item: attempts for item, attempts in known.items() if attempts}


def _cut(score: float) -> float:
    return min(max(score, 0.0), 1.0)
