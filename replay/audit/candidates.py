"""A run's candidates with all that is recorded of their scores: one value, read once, over which the rest of an audit
computes.

Four measures of a candidate. P_sel: its rewards on dev, by which it was chosen. Q_sel: gold on the same answers. P_new:
the run's verifier on test, which no part of the loop has seen. Q: gold on those answers. A candidate that was rejected
has the first two alone, and so has one that was kept and from which nothing was made that was accepted.

Scores are as they were given. Where some lie outside [0, 1], score and gold are compared by ranks (`Scale`).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from events.gold import (
    CHANGED,
    GOLD,
    VERIFIER,
    DevAnswersScored,
    GoldDescribed,
    PairMeasured,
    ReferenceMeasured,
)
from events.judgement import CandidateEvaluated, ScoringFailed, StageEvaluated, TrajectoryScored
from events.population import CandidateAccepted, CandidateKept
from events.rollouts import RolloutsRequested
from events.run import RunStarted
from replay.audit.ancestry import Moved, ancestors, evaluations, moved
from replay.audit.pair import PairKey
from replay.audit.statistics.interval import NO_GROUPS, Groups, Outcomes, count_groups
from replay.recorded import StoredEvent
from runtime.run.fork import comparable_from

MIN_ITEMS = 2
"""Fewer independent items than this have no interval."""
MIN_GROUPS = 20
"""Of fewer independent groups of items no statistics is asserted."""


class Scale(NamedTuple):
    """What scores are compared as: themselves, or their place among all `values` of the same measure, from 0 to 1."""

    values: Sequence[float] = ()
    """All scores of a measure in the run, sorted; empty where scores are taken as they are."""

    def scaled(self, outcomes: Outcomes) -> Outcomes:
        """The outcomes on this scale; of equal scores each has the middle of their places."""
        if not self.values:
            return outcomes
        return {item: [self._place(score) for score in attempts] for item, attempts in outcomes.items()}

    def _place(self, score: float) -> float:
        return (bisect_left(self.values, score) + bisect_right(self.values, score)) / 2 / len(self.values)


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


class ScoredAnswers(NamedTuple):
    """The rewards of a candidate's answers, and gold of the same attempts."""

    rewards: Outcomes
    gold: Outcomes


class AuditedRun(NamedTuple):
    """What an audit computes from: a run's candidates, and what dev and the auditor measured of them."""

    run: str
    started: RunStarted
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
    inherited: int
    """How many candidates dev had chosen among before those, whose scores mean something else."""
    stopped: Sequence[int]
    """The generations whose candidates were asked the first items of dev alone."""
    dev: Mapping[int, Outcomes]
    """P_sel by generation, attempt by attempt. An attempt that did not run counts as 0, or as the lowest reward of the
    run where that is less; one that could not be scored is left out.
    """
    dev_answers: Mapping[int, ScoredAnswers]
    """By generation, where gold has scored them."""
    dev_unscored: Mapping[int, int]
    """How many items of dev have answers that gold could not score, by generation, where there are some."""
    outcomes: Mapping[PairKey, Mapping[str, Outcomes]]
    """What the auditor measured of each pair, by measure (`events/gold.py`)."""
    subsets: Mapping[PairKey, frozenset[str]]
    """The measures of each pair that took a part of test from the same answers, instead of playing changed items."""
    references: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Scores of canaries and of the ceiling by item, by measure and by name."""
    gold: GoldDescribed | None
    """What gold is; None in an older log, which does not say."""
    scales: tuple[Scale, Scale]
    """On which score and gold are compared."""

    @property
    def groups(self) -> Groups:
        """The groups of items that are not independent."""
        return self.gold.groups if self.gold else {}

    @property
    def ranked(self) -> bool:
        """Whether score and gold are compared by ranks, so that only how they grow can be."""
        return any(scale.values for scale in self.scales)


def audited_run(events: Sequence[StoredEvent], gold: Sequence[StoredEvent], *, lineage_only: bool) -> AuditedRun:
    """Read a run's events, with those of its past, and its events on GOLD.

    With `lineage_only` what was rolled back is left out: only the last accepted candidate and its ancestors count.
    """
    run = events[-1].event.run
    started = next(
        stored.event.data for stored in events if isinstance(stored.event.data, RunStarted) and stored.event.run == run
    )
    assert isinstance(started, RunStarted)
    first = comparable_from(stored.event.data for stored in events)
    comparable = events[first:]
    description = next((one.event.data for one in gold if isinstance(one.event.data, GoldDescribed)), None)
    groups = description.groups if description else NO_GROUPS
    candidates, outcomes = _candidates(comparable), _on_the_same_items(pair_outcomes(gold), groups)
    lineage = frozenset(_lineage(candidates) if lineage_only else (candidate.generation for candidate in candidates))
    looks = _looks(
        candidates, {one.generation for one in candidates if {VERIFIER, GOLD} <= outcomes.get(one.pair, {}).keys()}
    )
    by_generation = {candidate.generation: candidate for candidate in candidates}
    if any(
        count_groups(outcomes[by_generation[generation].pair][VERIFIER], groups) < MIN_ITEMS for generation in looks
    ):
        looks = {}
    dev, rewards = _dev_outcomes(comparable)
    dev_answers = _dev_answers(rewards, gold, groups)
    return AuditedRun(
        run=run,
        started=started,
        candidates=candidates,
        measured=[by_generation[generation] for generation in looks if generation in lineage],
        lineage=lineage,
        looks=looks,
        inherited=sum(isinstance(one.event.data, CandidateEvaluated) for one in events[:first]),
        stopped=[
            one.event.data.generation
            for one in comparable
            if isinstance(one.event.data, StageEvaluated) and not one.event.data.passed
        ],
        dev=dev,
        dev_answers=dev_answers,
        dev_unscored={
            one.event.data.generation: one.event.data.unscored
            for one in gold
            if isinstance(one.event.data, DevAnswersScored) and one.event.data.unscored
        },
        outcomes=outcomes,
        subsets=_subsets(gold),
        references=_references(gold),
        gold=description,
        scales=_scales(dev_answers, dev, outcomes),
    )


def outcomes_of(run: AuditedRun, candidate: AuditedCandidate, measure: str) -> Outcomes:
    """The scores of a candidate under a measure. Raises KeyError where it was not measured so."""
    return run.outcomes[candidate.pair][measure]


def scaled(run: AuditedRun, candidate: AuditedCandidate, measure: str) -> Outcomes:
    """The scores of a candidate under `VERIFIER` or `GOLD`, on the scale on which the two are compared."""
    return run.scales[measure == GOLD].scaled(run.outcomes[candidate.pair][measure])


def measures_of(run: AuditedRun, candidate: AuditedCandidate, prefix: str) -> list[str]:
    """The measures of a candidate whose names begin so, sorted."""
    return sorted(measure for measure in run.outcomes.get(candidate.pair, {}) if measure.startswith(prefix))


def line_to(run: AuditedRun, candidate: AuditedCandidate) -> list[AuditedCandidate]:
    """The candidates from the first to this one, each with what it was made from before it, by first parents."""
    by_id = {one.id: one for one in run.candidates}
    line: list[AuditedCandidate] = []
    one: AuditedCandidate | None = candidate
    while one and one not in line:
        line.append(one)
        one = by_id.get(next(iter(one.evaluated.parents), ""))
    return line[::-1]


def measured_lineage(run: AuditedRun, candidate: AuditedCandidate) -> list[AuditedCandidate]:
    """The measured candidates from the start to this one, each with the nearest one before it that was measured: by
    first parents, with the first that was measured for the start.
    """
    measured = {one.id for one in run.measured}
    line = [one for one in line_to(run, candidate) if one.id in measured]
    return line if run.measured[0] in line else [run.measured[0], *line]


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
    """What the auditor measured of each pair, by measure."""
    measured: dict[PairKey, dict[str, Outcomes]] = {}
    for fact in _pairs_measured(gold):
        outcomes = {item: scores for item, scores in fact.scores.items() if scores}
        measured.setdefault(PairKey(fact.scaffold, fact.adapter), {})[fact.measure] = outcomes
    return measured


def _on_the_same_items(
    measured: Mapping[PairKey, Mapping[str, Outcomes]], groups: Groups
) -> dict[PairKey, dict[str, Outcomes]]:
    """The outcomes without those of items that a measure could not score for every pair that it took; the run's
    verifier and gold count as one measure, since they are compared item by item. Of any other measure, that is left out
    of which too few items remain for an interval.
    """
    sharing: dict[str, list[Outcomes]] = {}
    for own in measured.values():
        for measure, outcomes in own.items():
            sharing.setdefault(VERIFIER if measure == GOLD else measure, []).append(outcomes)
    common = {measure: set.intersection(*map(set, outcomes)) for measure, outcomes in sharing.items()}
    common[GOLD] = common.get(VERIFIER, set())
    known = {
        measure for measure, items in common.items() if count_groups(dict.fromkeys(items), groups) >= MIN_ITEMS
    } | {VERIFIER, GOLD}
    return {
        pair: {
            measure: {item: scores for item, scores in outcomes.items() if item in common[measure]}
            for measure, outcomes in own.items()
            if measure in known
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
            references.setdefault(fact.measure, {})[fact.name] = dict(fact.scores)
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


Rewards = Mapping[int, Mapping[str, Sequence[float | None]]]
"""By generation and item, in the order of the attempts; None without a reward."""


def _dev_outcomes(events: Sequence[StoredEvent]) -> tuple[dict[int, dict[str, list[float]]], Rewards]:
    """P_sel of each generation, with what did not run; and the rewards themselves."""
    requests: dict[str, RolloutsRequested] = {}
    rewards: dict[int, dict[str, list[float | None]]] = {}
    unscored: set[tuple[int, str, int]] = set()
    for stored in events:
        fact = stored.event.data
        if isinstance(fact, RolloutsRequested) and fact.purpose == "dev":
            requests[stored.event.id] = fact
            rewards.setdefault(fact.generation, {}).update({item: [None] * fact.attempts for item in fact.items})
        elif isinstance(fact, TrajectoryScored | ScoringFailed) and fact.request in requests:
            generation = requests[fact.request].generation
            attempts = rewards[generation].get(fact.item, [])
            if fact.attempt < len(attempts):  # an attempt that was never requested is `counted_otherwise`'s to report
                if isinstance(fact, TrajectoryScored):
                    attempts[fact.attempt] = fact.reward
                else:
                    unscored.add((generation, fact.item, fact.attempt))
    known = (one for items in rewards.values() for attempts in items.values() for one in attempts if one is not None)
    lowest = min(0.0, min(known, default=0.0))
    outcomes = {
        generation: {
            item: [
                lowest if one is None else one
                for attempt, one in enumerate(attempts)
                if one is not None or (generation, item, attempt) not in unscored
            ]
            for item, attempts in items.items()
        }
        for generation, items in rewards.items()
    }
    some = {generation: {item: one for item, one in own.items() if one} for generation, own in outcomes.items()}
    return some, rewards


def _dev_answers(rewards: Rewards, gold: Sequence[StoredEvent], groups: Groups) -> dict[int, ScoredAnswers]:
    """Gold of dev with the rewards of the same attempts; nothing of a generation with too few of them."""
    answers = {}
    for stored in gold:
        if isinstance(fact := stored.event.data, DevAnswersScored):
            attempts = {
                item: [reward for reward in each if reward is not None]
                for item, each in rewards.get(fact.generation, {}).items()
            }
            items = [
                item for item, scores in fact.scores.items() if scores and len(attempts.get(item, ())) == len(scores)
            ]
            if count_groups(dict.fromkeys(items), groups) >= MIN_ITEMS:
                answers[fact.generation] = ScoredAnswers(
                    {item: attempts[item] for item in items}, {item: fact.scores[item] for item in items}
                )
    return answers


def _scales(
    dev_answers: Mapping[int, ScoredAnswers],
    dev: Mapping[int, Outcomes],
    outcomes: Mapping[PairKey, Mapping[str, Outcomes]],
) -> tuple[Scale, Scale]:
    """The scales of score and gold: as they are where all lie in [0, 1], and otherwise by ranks."""
    by_verifier, by_gold = (
        [own[measure] for own in outcomes.values() if measure in own] for measure in (VERIFIER, GOLD)
    )
    values = [
        sorted(score for one in each for attempts in one.values() for score in attempts)
        for each in ([*by_verifier, *dev.values()], [*by_gold, *(one.gold for one in dev_answers.values())])
    ]
    if all(0 <= end <= 1 for each in values for end in each[:1] + each[-1:]):
        return Scale(), Scale()
    return Scale(values[0]), Scale(values[1])
