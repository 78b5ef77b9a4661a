"""Checks that adapters, verifiers, rewards and counts are what the log says they are."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from algorithms.statistics import more_failures
from events.change import ChildRunFinished
from events.gold import GoldScored
from events.judgement import (
    CandidateEvaluated,
    CandidateRechecked,
    ScoringFailed,
    StageEvaluated,
    TrajectoryScored,
)
from events.kinds import Purpose
from events.population import CandidateAccepted, CandidateKept
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import RunStarted
from events.weights import AdapterPublished, AdapterServed
from replay.audit.pair import PairKey
from replay.audit.provenance.fault import ProvenanceFault
from replay.audit.provenance.standings import Standings
from replay.recorded import StoredEvent
from runtime.policies.client import model_name
from runtime.rollouts.shard import RolloutKey

ROUNDING = 1e-9
"""Relative error of a mean that may come from adding in another order."""

LOGPROB_ROUNDING = 1e-3
"""How far above 0 a server's rounding may put a log-probability, in nats."""

_REFUSED_REWARD = re.compile(r"the reward is (\S+); expected")
"""How `tasks/loading.py` reports a reward that is NaN, infinite or beyond all limits."""


def served_otherwise(events: Sequence[StoredEvent]) -> list[ProvenanceFault]:
    """Adapters served otherwise than published, and rollouts with an adapter that was not requested or that no server
    has loaded.
    """
    published: dict[str, str] = {}
    served = {""}
    bases: dict[str, str] = {}
    requested: dict[str, str] = {}
    faults = []
    for stored in events:
        match stored.event.data:
            case RunStarted() as started:
                bases[stored.event.run] = started.base_model
                served.add(started.start_adapter)  # which the run that this one belongs to had served
            case ChildRunFinished(adapter=adapter):
                served.add(adapter)  # in that run's own events
            case AdapterPublished(batch=batch, adapter=adapter):
                published[batch] = adapter
            case AdapterServed(batch=batch, adapter=adapter):
                served.add(adapter)
                if adapter != published.get(batch):
                    published_text = f"{_short(published.get(batch, ''))} was published"
                    faults.append(
                        ProvenanceFault(
                            stored.sequence,
                            f"Adapter {_short(adapter)} was served of batch {batch[:12]}, and {published_text}.",
                        )
                    )
            case RolloutsRequested(adapter=adapter):
                requested[stored.event.id] = adapter
                if adapter not in served:
                    faults.append(
                        ProvenanceFault(
                            stored.sequence,
                            f"Rollouts were asked of adapter {_short(adapter)}, which no server has loaded.",
                        )
                    )
            case ModelCalled(request=request, adapter=adapter, model=model):
                expected = requested.get(request, adapter)
                base = bases.get(stored.event.run)
                if adapter != expected or (base is not None and model != model_name(base, expected)):
                    answered = f"A call was answered by model {_short(model)} with adapter {_short(adapter)}"
                    faults.append(
                        ProvenanceFault(stored.sequence, f"{answered}, and adapter {_short(expected)} was asked for.")
                    )
            case TrajectoryRecorded(request=request, adapter=adapter) if adapter != (
                expected := requested.get(request, adapter)
            ):
                faults.append(
                    ProvenanceFault(
                        stored.sequence,
                        f"An attempt ran with adapter {_short(adapter)}, not {_short(expected)} as asked.",
                    )
                )
    return faults


def verifier_changed(events: Sequence[StoredEvent]) -> list[ProvenanceFault]:
    """Rewards by another verifier than the run was started with: the first reward of each.

    A fork may be started with another verifier.
    """
    started: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    faults = []
    for stored in events:
        match stored.event.data:
            case RunStarted(verifier=verifier):
                started[stored.event.run] = verifier
            case TrajectoryScored(verifier=verifier) if verifier != (
                expected := started.get(stored.event.run, verifier)
            ):
                if (stored.event.run, verifier) not in seen:
                    seen.add((stored.event.run, verifier))
                    sentence = (
                        f"Run {stored.event.run} was started with verifier {expected}, and {verifier} gave a reward."
                    )
                    faults.append(ProvenanceFault(stored.sequence, sentence))
    return faults


def out_of_range(events: Sequence[StoredEvent], low: float = -1e9, high: float = 1e9) -> list[ProvenanceFault]:
    """Rewards and scores that are not finite numbers from `low` to `high`, and rewards that were refused for that
    reason.
    """
    faults = []
    for stored in events:
        match stored.event.data:
            case TrajectoryScored(reward=value):
                subject = "A reward"
            case (
                CandidateEvaluated(score=value, generation=generation)
                | CandidateAccepted(score=value, generation=generation)
                | CandidateKept(score=value, generation=generation)
                | StageEvaluated(score=value, generation=generation)
            ):
                subject = f"The score of generation {generation}"
            case GoldScored(score=value, cell=cell, split=split):
                subject = f"The gold score of cell {cell} on {split}"
            case ModelCalled(logprobs=logprobs) if (
                highest := max((max(tokens, default=0.0) for tokens in logprobs), default=0.0)
            ) > LOGPROB_ROUNDING:
                sentence = f"A token's log-probability is {highest:g}, and none lies above 0."
                faults.append(ProvenanceFault(stored.sequence, sentence))
                continue
            case ScoringFailed(reason=reason, item=item) if refused := _REFUSED_REWARD.search(reason):
                faults.append(
                    ProvenanceFault(
                        stored.sequence, f"The verifier's reward for an attempt at item {item} was {refused[1]}."
                    )
                )
                continue
            case _:
                continue
        if not (math.isfinite(value) and low <= value <= high):
            faults.append(
                ProvenanceFault(stored.sequence, f"{subject} is {value:g}, and it must lie in [{low:g}, {high:g}].")
            )
    return faults


def counted_otherwise(events: Sequence[StoredEvent]) -> list[ProvenanceFault]:
    """Items requested twice, attempts scored twice or never requested, scores that are not the mean of their rewards,
    and candidates that were accepted or kept against their scores.

    A candidate's score is the mean reward of those of its requested attempts at dev that ran; its `items` and `failed`
    must count them. So it is with the first items, where a candidate is asked those before the others.
    """
    tally, standings = _Tally(), Standings(stored.event.data for stored in events)
    faults = []
    for stored in events:
        fact = stored.event.data
        sentences = tally.take(stored) + standings.take(fact)
        match fact:
            case StageEvaluated(generation=generation):
                sentences += _miscounted(f"The first score of generation {generation}", fact, tally.dev(generation))
            case CandidateEvaluated(generation=generation):
                rewards = tally.dev(generation, PairKey(fact.scaffold, fact.adapter))
                sentences += _miscounted(f"The score of generation {generation}", fact, rewards)
            case CandidateRechecked():
                sentences += _rechecked_otherwise(fact, standings, tally)
        faults += [ProvenanceFault(stored.sequence, sentence) for sentence in sentences]
    return faults


def _miscounted(
    score: str, evaluated: CandidateEvaluated | StageEvaluated, rewards: Mapping[RolloutKey, float | None]
) -> list[str]:
    """How a score differs from what its attempts at dev say; nothing where none of them is recorded."""
    if not rewards:
        return []
    scored = [reward for reward in rewards.values() if reward is not None]
    lost = len(rewards) - len(scored)
    if evaluated.items != len(rewards):
        return [f"{score} counts {evaluated.items} attempts, and {len(rewards)} were asked for."]
    if evaluated.failed != lost:
        return [f"{score} counts {evaluated.failed} attempts as failed, and {lost} of {len(rewards)} were."]
    if scored and not _close(mean := math.fsum(scored) / len(scored), evaluated.score):
        return [f"{score} is {evaluated.score:g}, and the mean of its {len(scored)} rewards is {mean:g}."]
    return []


def _rechecked_otherwise(rechecked: CandidateRechecked, standings: Standings, tally: "_Tally") -> list[str]:
    """How a second look differs from what the attempts of both looks say; nothing where none is recorded."""
    against = standings.evaluated.get(rechecked.against)
    again = [tally.by_item(rechecked.generation, "recheck", number) for number in (1, 2)]
    if against is None or not all(again):
        return []
    first = [tally.by_item(generation, "dev") for generation in (rechecked.generation, against.generation)]
    mine, theirs = (
        {
            item: (one[item] + rechecked.attempts * other[item]) / (1 + rechecked.attempts)
            for item in one.keys() & other.keys()
        }
        for one, other in zip(first, again, strict=True)
    )
    items = mine.keys() & theirs.keys()
    difference = math.fsum(mine[item] - theirs[item] for item in items) / max(1, len(items))
    if rechecked.items == len(items) and _close(difference, rechecked.difference):
        return []
    return [
        f"The second look at generation {rechecked.generation} says {rechecked.difference:+g} over {rechecked.items} "
        f"items, and its attempts say {difference:+g} over {len(items)}."
    ]


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING)


def gained_by_failing(events: Sequence[StoredEvent], worst: float = 0.0) -> list[ProvenanceFault]:
    """Candidates that were accepted for a higher score, and score no higher once attempts that failed count as `worst`.

    Each is held against the candidate that was the best until then, which it had to beat. A fault's `chance` is the
    p-value of Fisher's exact test (one-sided) that the candidate's attempts fail no more often than the other's, times
    (pi look)^2 / 6, where looks are the candidates evaluated so far.
    """
    tally, standings = _Tally(), Standings(stored.event.data for stored in events)
    faults = []
    for stored in events:
        tally.take(stored)
        fact = stored.event.data
        if isinstance(fact, CandidateAccepted) and (scored := standings.evaluated.get(fact.candidate)):
            before = standings.best
            if before and scored.lever not in ("start", "repeat") and scored.score > before.score:
                mine, theirs = (_whole(tally, one, worst) for one in (scored, before))
                if mine.attempts and mine.score <= theirs.score:
                    chance = (
                        more_failures(mine.failed, mine.attempts, theirs.failed, theirs.attempts)
                        * (math.pi * len(standings.evaluated)) ** 2
                        / 6
                    )
                    other = "its parent's" if before.candidate in scored.parents[:1] else "that of the best until then"
                    rise = (
                        f"The score of generation {fact.generation} rose from {before.score:g} to {scored.score:g} "
                        "over the attempts that ran"
                    )
                    rest = (
                        f"with its {mine.failed} failed attempts as {worst:g} it is {mine.score:g}, and {other} is "
                        f"{theirs.score:g}"
                    )
                    faults.append(ProvenanceFault(stored.sequence, f"{rise}; {rest}.", min(1.0, chance)))
        standings.take(fact)
    return faults


class _Whole(NamedTuple):
    """A candidate's score over all of its attempts, with their number and that of the failed ones."""

    score: float
    failed: int
    attempts: int


def _whole(tally: "_Tally", evaluated: CandidateEvaluated, worst: float) -> _Whole:
    rewards = tally.dev(evaluated.generation, PairKey(evaluated.scaffold, evaluated.adapter))
    score = math.fsum(worst if reward is None else reward for reward in rewards.values()) / max(1, len(rewards))
    return _Whole(score, sum(reward is None for reward in rewards.values()), len(rewards))


class _Tally:
    """The requests of a log and the rewards that answered them, event by event."""

    def __init__(self) -> None:
        self._requests: dict[str, RolloutsRequested] = {}
        self._requested_items: set[tuple[object, ...]] = set()
        self._results: dict[str, dict[RolloutKey, float | None]] = defaultdict(dict)
        self._scored: set[tuple[str, RolloutKey]] = set()

    def take(self, stored: StoredEvent) -> list[str]:
        """Count the next event; sentences that say what is wrong with it."""
        wrong: list[str] = []
        match stored.event.data:
            case RolloutsRequested() as requested:
                self._requests[stored.event.id] = requested
                played = (stored.event.run, requested.generation, requested.purpose, requested.round, requested.refill)
                for item in requested.items:
                    purpose = (*played, item)
                    if purpose in self._requested_items:
                        wrong.append(
                            f"Item {item!r} is asked twice for {requested.purpose} of generation "
                            f"{requested.generation}."
                        )
                    self._requested_items.add(purpose)
            case TrajectoryScored(request=request, item=item, attempt=attempt, reward=reward):
                key = RolloutKey(item, attempt)
                if (request, key) in self._scored:
                    wrong.append(f"Attempt {attempt} at item {item!r} of request {request[:12]} is scored twice.")
                self._scored.add((request, key))
                self._results[request].setdefault(key, reward)
                answered = self._requests.get(request)
                if answered is not None and (item not in answered.items or not 0 <= attempt < answered.attempts):
                    wrong.append(
                        f"Attempt {attempt} at item {item!r} is scored, and request {request[:12]} asked for no such "
                        "attempt."
                    )
            case (
                ScoringFailed(request=request, item=item, attempt=attempt)
                | RolloutFailed(request=request, item=item, attempt=attempt)
            ):
                self._results[request].setdefault(RolloutKey(item, attempt), None)
        return wrong

    def dev(self, generation: int, pair: PairKey | None = None) -> dict[RolloutKey, float | None]:
        """The rewards of a generation's requested attempts at dev, if a pair is given of its alone; None for those that
        failed or never came back.

        Where a fork requested again what its parent's request left open, the later request counts.
        """
        rewards: dict[RolloutKey, float | None] = {}
        for id, requested in self._requests.items():
            if (requested.generation, requested.purpose) == (generation, "dev") and pair in (
                None,
                (requested.scaffold, requested.adapter),
            ):
                rewards |= self._rewards(id, requested)
        return rewards

    def by_item(self, generation: int, purpose: Purpose, round: int | None = None) -> dict[str, float]:
        """The mean reward of a generation's attempts at each item, of a purpose, and of a round if it is given."""
        found: dict[str, list[float]] = defaultdict(list)
        for id, requested in self._requests.items():
            if (requested.generation, requested.purpose) == (generation, purpose) and round in (None, requested.round):
                for key, reward in self._rewards(id, requested).items():
                    found[key.item] += [] if reward is None else [reward]
        return {item: math.fsum(rewards) / len(rewards) for item, rewards in found.items() if rewards}

    def _rewards(self, id: str, requested: RolloutsRequested) -> dict[RolloutKey, float | None]:
        keys = [RolloutKey(item, attempt) for item in requested.items for attempt in range(requested.attempts)]
        return {key: self._results[id].get(key) for key in keys}


def _short(name: str) -> str:
    base, at, adapter = name.partition("@")
    return f"{base[:12]}{at}{adapter[:12]}" or "(none)"
