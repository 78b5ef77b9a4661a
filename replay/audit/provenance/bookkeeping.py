"""Checks that adapters, verifiers, rewards and counts are what the log says they are."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from algorithms.statistics import more_failures
from events.gold import GoldScored
from events.judgement import CandidateEvaluated, ScoringFailed, TrajectoryScored
from events.population import CandidateAccepted
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import RunStarted
from events.weights import AdapterPublished, AdapterServed
from replay.audit.provenance.fault import ProvenanceFault
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
    """Items requested twice, attempts scored twice or never requested, and scores that are not the mean of their
    rewards.

    A candidate's score is the mean reward of those of its requested attempts at dev that ran; its `items` and `failed`
    must count them.
    """
    tally = _Tally()
    faults = []
    for stored in events:
        faults += [ProvenanceFault(stored.sequence, sentence) for sentence in tally.take(stored)]
        match stored.event.data:
            case CandidateEvaluated() as evaluated if rewards := tally.dev(evaluated):
                scored = [reward for reward in rewards.values() if reward is not None]
                score = f"The score of generation {evaluated.generation}"
                if evaluated.items != len(rewards):
                    sentence = f"{score} counts {evaluated.items} attempts, and {len(rewards)} were asked for."
                elif evaluated.failed != len(rewards) - len(scored):
                    sentence = (
                        f"{score} counts {evaluated.failed} attempts as failed, and "
                        f"{len(rewards) - len(scored)} of {len(rewards)} were."
                    )
                elif scored and not math.isclose(
                    mean := math.fsum(scored) / len(scored), evaluated.score, rel_tol=ROUNDING, abs_tol=ROUNDING
                ):
                    sentence = f"{score} is {evaluated.score:g}, and the mean of its {len(scored)} rewards is {mean:g}."
                else:
                    continue
                faults.append(ProvenanceFault(stored.sequence, sentence))
    return faults


def gained_by_failing(events: Sequence[StoredEvent], worst: float = 0.0) -> list[ProvenanceFault]:
    """Candidates that were accepted for a higher score, and score no higher once attempts that failed count as `worst`.

    A fault's `chance` is the p-value of Fisher's exact test (one-sided) that the candidate's attempts fail no more
    often than its parent's, times (pi look)^2 / 6, where looks are the candidates evaluated so far.
    """
    tally = _Tally()
    evaluated: dict[tuple[str, int], CandidateEvaluated] = {}
    parent: _Standing | None = None
    faults = []
    for stored in events:
        tally.take(stored)
        match stored.event.data:
            case CandidateEvaluated() as fact:
                evaluated[stored.event.run, fact.generation] = fact
            case CandidateAccepted(generation=generation) if scored := evaluated.get((stored.event.run, generation)):
                rewards = tally.dev(scored)
                whole = math.fsum(worst if reward is None else reward for reward in rewards.values()) / max(
                    1, len(rewards)
                )
                failed = sum(reward is None for reward in rewards.values())
                if (
                    parent
                    and scored.lever != "start"
                    and scored.score > parent.score
                    and whole <= parent.whole
                    and rewards
                ):
                    chance = (
                        more_failures(failed, len(rewards), parent.failed, parent.attempts)
                        * (math.pi * len(evaluated)) ** 2
                        / 6
                    )
                    rise = (
                        f"The score of generation {generation} rose from {parent.score:g} to {scored.score:g} "
                        "over the attempts that ran"
                    )
                    rest = (
                        f"with its {failed} failed attempts as {worst:g} it is {whole:g}, and its parent's is "
                        f"{parent.whole:g}"
                    )
                    faults.append(ProvenanceFault(stored.sequence, f"{rise}; {rest}.", min(1.0, chance)))
                parent = _Standing(scored.score, whole, failed, len(rewards))
    return faults


class _Standing(NamedTuple):
    """An accepted candidate's score over the attempts that ran and over the whole, with its numbers of failed and of
    all attempts.
    """

    score: float
    whole: float
    failed: int
    attempts: int


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
                for item in requested.items:
                    purpose = (stored.event.run, requested.generation, requested.purpose, requested.round, item)
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

    def dev(self, candidate: CandidateEvaluated) -> dict[RolloutKey, float | None]:
        """The rewards of a candidate's requested attempts at dev; None for those that failed or never came back.

        Where a fork requested again what its parent's request left open, the later request counts.
        """
        rewards: dict[RolloutKey, float | None] = {}
        own = (candidate.generation, "dev", candidate.scaffold, candidate.adapter)
        for id, requested in self._requests.items():
            if (requested.generation, requested.purpose, requested.scaffold, requested.adapter) == own:
                keys = [RolloutKey(item, attempt) for item in requested.items for attempt in range(requested.attempts)]
                rewards |= {key: self._results[id].get(key) for key in keys}
        return rewards


def _short(name: str) -> str:
    base, at, adapter = name.partition("@")
    return f"{base[:12]}{at}{adapter[:12]}" or "(none)"
