"""A run's candidates with all that is recorded of their scores: one value, read once, over which the rest of an audit
computes.

Three measures of a candidate. P_sel: its rewards on dev, by which it was chosen. P_new: the same verifier on test,
which no part of the loop has seen. Q: the gold verifier on the same answers. A candidate that was rejected has P_sel
alone, and so has one that was kept and from which nothing was made that was accepted.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from events.gold import CHANGED, GOLD, PERTURBED, VERIFIER, PairMeasured, ReferenceMeasured
from events.judgement import CandidateEvaluated, ScoringFailed, StageEvaluated, TrajectoryScored
from events.population import CandidateAccepted, CandidateKept
from events.rollouts import RolloutsRequested
from events.run import RunStarted
from replay.audit.ancestry import Moved, ancestors, evaluations, moved
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
    """A candidate as it was evaluated on dev, and what became of it."""

    evaluated: CandidateEvaluated
    """With its parents."""
    accepted: bool
    """Whether it was the best so far."""
    kept: bool
    """Whether it stayed in the population without that."""
    lever: Moved
    """What is new in it, against its parent."""

    @property
    def id(self) -> str:
        """The candidate's id."""
        return self.evaluated.candidate

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
    """Those that both verifiers scored on test, of the accepted ones and their ancestors, in the order of the looks at
    them. With `lineage_only`, of the lineage alone.
    """
    lineage: frozenset[int]
    """The generations that count: all of `candidates`, or the start, the last accepted candidate and its ancestors."""
    looks: Mapping[int, int]
    """The generation at which each measured candidate was looked at, by its own, in the order of the looks: an accepted
    one at its own, one that was only kept when something made from it is accepted. Those outside the lineage are among
    them: the looks at them have spent their part of alpha.
    """
    stopped: int
    """Candidates that were asked the first items of dev alone."""
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
    candidates, outcomes = _candidates(comparable), _on_the_same_items(pair_outcomes(gold))
    lineage = frozenset(_lineage(candidates) if lineage_only else (candidate.generation for candidate in candidates))
    looks = _looks(
        candidates, {one.generation for one in candidates if {VERIFIER, GOLD} <= outcomes.get(one.pair, {}).keys()}
    )
    by_generation = {candidate.generation: candidate for candidate in candidates}
    if any(len(outcomes[by_generation[generation].pair][VERIFIER]) < MIN_ITEMS for generation in looks):
        looks = {}
    return AuditedRun(
        run=run,
        started=started,
        seed=seed,
        candidates=candidates,
        measured=[by_generation[generation] for generation in looks if generation in lineage],
        lineage=lineage,
        looks=looks,
        stopped=sum(isinstance(one.event.data, StageEvaluated) and not one.event.data.passed for one in comparable),
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


def measured_lineage(run: AuditedRun, candidate: AuditedCandidate) -> list[AuditedCandidate]:
    """The measured candidates from the start to this one, each with the nearest one before it that was measured: by
    first parents, with the first that was measured for the start.
    """
    measured = {one.id: one for one in run.measured}
    parents = {one.id: one.evaluated.parents for one in run.candidates}
    line, id = [], candidate.id
    while id:
        line += [measured[id]] if id in measured else []
        id = next(iter(parents.pop(id, ())), "")
    line += [run.measured[0]] if run.measured[0] not in line else []
    return line[::-1]


def measured_parent(run: AuditedRun, candidate: AuditedCandidate) -> AuditedCandidate:
    """The nearest measured ancestor of a measured candidate; the first measured one where there is none."""
    return measured_lineage(run, candidate)[-2]


def look_number(run: AuditedRun, generation: int, look: int) -> int:
    """The number of a look at a generation, counting the looks at candidates outside the lineage: alpha spent on those
    is gone.
    """
    order = list(run.looks)
    return look + sum(elsewhere not in run.lineage for elsewhere in order[: order.index(generation)])


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
    facts = [stored.event.data for stored in events]
    accepted = {fact.candidate for fact in facts if isinstance(fact, CandidateAccepted)}
    kept = {fact.candidate for fact in facts if isinstance(fact, CandidateKept)}
    evaluated = evaluations(facts)
    by_id = {one.candidate: one for one in evaluated}
    return [
        AuditedCandidate(one, one.candidate in accepted, one.candidate in kept, moved(one, by_id)) for one in evaluated
    ]


def _lineage(candidates: Sequence[AuditedCandidate]) -> set[int]:
    """The generations of the start, of the last accepted candidate, and of its ancestors."""
    accepted = [one for one in candidates if one.accepted]
    if not accepted:
        return set()
    line = ancestors([one.evaluated for one in candidates], accepted[-1].id)
    return {one.generation for one in candidates if one is accepted[0] or one.id in line}


def _looks(candidates: Sequence[AuditedCandidate], measured: Collection[int]) -> dict[int, int]:
    """The generation of the look at each of the `measured` generations, in the order of the looks."""
    evaluated, looks = [one.evaluated for one in candidates], dict[int, int]()
    for accepted in candidates:
        line = ancestors(evaluated, accepted.id) if accepted.accepted else ()
        for one in candidates:
            if one.id in line and one.generation in measured:
                looks.setdefault(one.generation, accepted.generation)
    return looks


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
