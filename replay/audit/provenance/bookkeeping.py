"""Checks that adapters, verifiers, rewards and counts are what the log says they are."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from algorithms.statistics import more_failures
from events.change import ChildRunFinished
from events.choice import FeedbackRequested, ParentSelected
from events.fact import Fact
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
from events.run import AuditReleased, RunStarted
from events.weights import AdapterPublished, AdapterServed
from replay.audit.pair import PairKey
from replay.audit.provenance.fault import ProvenanceFault
from replay.audit.provenance.rewards import RewardsRepeated
from replay.audit.provenance.standings import Standings
from replay.recorded import StoredEvent
from runtime.policies.client import model_name
from runtime.rollouts.shard import RolloutKey
from tasks.loading import LARGEST_REWARD

ROUNDING = 1e-9
"""Relative error of a mean that may come from adding in another order."""

LOGPROB_ROUNDING = 1e-3
"""How far above 0 a server's rounding may put a log-probability, in nats."""

COUNTED_PURPOSES = ("dev", "recheck")
"""The purposes of requests whose rewards make up scores that are counted here."""

PLACES_KEPT = 32
"""Requests whose items' places are at hand: about as many are answered at a time."""

_MANY = (RolloutsRequested, TrajectoryScored, ScoringFailed, RolloutFailed)
_REFUSED_REWARD = re.compile(r"the reward is (\S+); expected")
"""How `tasks/loading.py` reports a reward that is NaN, infinite or beyond all limits."""


class Generations:
    """The generation that each event is about: its own, or that of the request that it answers. Of one that says
    neither, the last that was begun.
    """

    def __init__(self) -> None:
        self._requested: dict[str, int] = {}
        self._last = 0

    def of(self, stored: StoredEvent) -> int:
        """The generation of the next event."""
        fact = stored.event.data
        own: int | None = getattr(fact, "generation", None)
        if own is None:
            own = self._requested.get(getattr(fact, "request", ""))
        elif isinstance(fact, RolloutsRequested):
            self._requested[stored.event.id] = own
        if own is None:
            return self._last
        self._last = max(self._last, own)
        return own


class Bookkeeping:
    """The checks that look at what is many, calls, attempts and rewards, over a log's events as they go by."""

    def __init__(self, low: float = 0.0, high: float = 1.0, worst: float = 0.0) -> None:
        self._out_of_range = OutOfRange(low, high)
        self._counts = Counts(worst)
        self._served = ServedOtherwise()
        self._verifiers = VerifierChanged()
        self._repeated = RewardsRepeated()
        takers: list[tuple[Callable[[StoredEvent], bool], tuple[type[Fact], ...]]] = [
            (check.take, check.OF)
            for check in (self._out_of_range, self._counts, self._served, self._verifiers, self._repeated)
        ]
        self._takers = {
            kind: [take for take, of in takers if kind in of] for kind in {kind for _, of in takers for kind in of}
        }

    def take(self, stored: StoredEvent) -> bool:
        """Take the next event; whether a check has something to say of it."""
        said = False
        for take in self._takers.get(type(stored.event.data), ()):
            said = take(stored) or said
        return said

    def faults(
        self, low: float, high: float, generations: Collection[int] | None = None
    ) -> dict[str, list[ProvenanceFault]]:
        """What each check has found so far, with this range of rewards; of what is found again the first time counts,
        in these generations.
        """
        return {
            "served_otherwise": self._served.faults,
            "verifier_changed": self._verifiers.faults(generations),
            "out_of_range": self._out_of_range.faults(low, high),
            "counted_otherwise": self._counts.counted,
            "gained_by_failing": self._counts.gained,
            "rewards_repeated": self._repeated.faults,
        }


def booked(events: Iterable[StoredEvent], low: float = -1e9, high: float = 1e9, worst: float = 0.0) -> Bookkeeping:
    """Those checks over these events."""
    book = Bookkeeping(low, high, worst)
    for stored in events:
        book.take(stored)
    return book


class ServedOtherwise:
    """Adapters served otherwise than published, and rollouts with an adapter that was not requested or that no server
    has loaded.
    """

    OF = (
        RunStarted,
        ChildRunFinished,
        AdapterPublished,
        AdapterServed,
        RolloutsRequested,
        ModelCalled,
        TrajectoryRecorded,
    )

    def __init__(self) -> None:
        self.faults: list[ProvenanceFault] = []
        self._published: dict[str, str] = {}
        self._served = {""}
        self._bases: dict[str, str] = {}
        self._requested: dict[str, str] = {}

    def take(self, stored: StoredEvent) -> bool:
        """Take the next event; whether it shows a fault."""
        sentence = self._fault(stored)
        if sentence:
            self.faults.append(ProvenanceFault(stored.sequence, sentence))
        return bool(sentence)

    def _fault(self, stored: StoredEvent) -> str:
        match stored.event.data:
            case TrajectoryRecorded(request=request, adapter=adapter):
                if adapter != (expected := self._requested.get(request, adapter)):
                    return f"An attempt ran with adapter {_short(adapter)}, not {_short(expected)} as asked."
            case ModelCalled(request=request, adapter=adapter, model=model):
                expected = self._requested.get(request, adapter)
                base = self._bases.get(stored.event.run)
                if adapter != expected or (base is not None and model != model_name(base, expected)):
                    answered = f"A call was answered by model {_short(model)} with adapter {_short(adapter)}"
                    return f"{answered}, and adapter {_short(expected)} was asked for."
            case RunStarted() as started:
                self._bases[stored.event.run] = started.base_model
                self._served.add(started.start_adapter)  # which the run that this one belongs to had served
            case ChildRunFinished(adapter=adapter):
                self._served.add(adapter)  # in that run's own events
            case AdapterPublished(batch=batch, adapter=adapter):
                self._published[batch] = adapter
            case AdapterServed(batch=batch, adapter=adapter):
                self._served.add(adapter)
                if adapter != (published := self._published.get(batch)):
                    what = f"{_short(published or '')} was published"
                    return f"Adapter {_short(adapter)} was served of batch {batch[:12]}, and {what}."
            case RolloutsRequested(adapter=adapter):
                self._requested[stored.event.id] = adapter
                if adapter not in self._served:
                    return f"Rollouts were asked of adapter {_short(adapter)}, which no server has loaded."
        return ""


class VerifierChanged:
    """Rewards by another verifier than the run was started with: the first reward of each.

    A fork may be started with another verifier.
    """

    OF = (RunStarted, RolloutsRequested, TrajectoryScored)

    def __init__(self) -> None:
        self._started: dict[str, str] = {}
        self._generations: dict[str, int] = {}
        """By request."""
        self._first: dict[tuple[str, str, int], ProvenanceFault] = {}
        """The first reward of a run by a verifier, in each generation."""

    def take(self, stored: StoredEvent) -> bool:
        """Take the next event; whether it shows a fault that its generation has not shown."""
        match stored.event.data:
            case RunStarted(verifier=verifier):
                self._started[stored.event.run] = verifier
            case RolloutsRequested(generation=generation):
                self._generations[stored.event.id] = generation
            case TrajectoryScored(verifier=verifier, request=request):
                if verifier != (expected := self._started.get(run := stored.event.run, verifier)):
                    sentence = f"Run {run} was started with verifier {expected}, and {verifier} gave a reward."
                    key = (run, verifier, self._generations.get(request, -1))
                    fault = ProvenanceFault(stored.sequence, sentence)
                    return self._first.setdefault(key, fault) is fault
        return False

    def faults(self, generations: Collection[int] | None = None) -> list[ProvenanceFault]:
        """The first reward of each run and verifier, in one of these generations if they are given."""
        first: dict[tuple[str, str], ProvenanceFault] = {}
        for (run, verifier, generation), fault in self._first.items():
            if generations is None or generation in generations:
                first.setdefault((run, verifier), fault)
        return list(first.values())


class OutOfRange:
    """Rewards and scores that are not finite numbers in a range, and rewards that were refused for that reason.

    It notes what lies outside the range that it is made with. Where rewards of the start do, the range of all rewards
    is another, and then only what lies outside any.
    """

    OF = (
        RolloutsRequested,
        TrajectoryScored,
        CandidateEvaluated,
        CandidateAccepted,
        CandidateKept,
        StageEvaluated,
        GoldScored,
        ModelCalled,
        ScoringFailed,
    )

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high
        self._starts: set[str] = set()
        """The requests of the start."""
        self._noted: list[tuple[int, str, float | None]] = []
        """Sequence, sentence, and the value where the sentence is about one and is to be ended."""

    def take(self, stored: StoredEvent) -> bool:
        """Take the next event; whether something was noted of it."""
        before = len(self._noted)
        self._note(stored)
        return len(self._noted) > before

    def _note(self, stored: StoredEvent) -> None:
        match stored.event.data:
            case TrajectoryScored(reward=value, request=request):
                if not self._low <= value <= self._high:
                    self._noted.append((stored.sequence, "A reward", value))
                    if request in self._starts:
                        self._low, self._high = min(self._low, -LARGEST_REWARD), max(self._high, LARGEST_REWARD)
            case ModelCalled(logprobs=logprobs):
                highest = max((max(tokens, default=0.0) for tokens in logprobs), default=0.0)
                if highest > LOGPROB_ROUNDING:
                    sentence = f"A token's log-probability is {highest:g}, and none lies above 0."
                    self._noted.append((stored.sequence, sentence, None))
            case ScoringFailed(reason=reason, item=item):
                if refused := _REFUSED_REWARD.search(reason):
                    sentence = f"The verifier's reward for an attempt at item {item} was {refused[1]}."
                    self._noted.append((stored.sequence, sentence, None))
            case RolloutsRequested(generation=0):
                self._starts.add(stored.event.id)
            case (
                CandidateEvaluated(score=value, generation=generation)
                | CandidateAccepted(score=value, generation=generation)
                | CandidateKept(score=value, generation=generation)
                | StageEvaluated(score=value, generation=generation)
            ):
                self._noted.append((stored.sequence, f"The score of generation {generation}", value))
            case GoldScored(score=value, cell=cell, split=split):
                self._noted.append((stored.sequence, f"The gold score of cell {cell} on {split}", value))

    def faults(self, low: float, high: float) -> list[ProvenanceFault]:
        """What lies outside this range, which holds the one that it was made with or is the one of all rewards."""
        faults = []
        for sequence, sentence, value in self._noted:
            if value is None:
                faults.append(ProvenanceFault(sequence, sentence))
            elif not (math.isfinite(value) and low <= value <= high):
                sentence = f"{sentence} is {value:g}, and it must lie in [{low:g}, {high:g}]."
                faults.append(ProvenanceFault(sequence, sentence))
        return faults


class Counts:
    """Two checks of what candidates are judged by.

    `counted`: items requested twice, attempts scored twice or never requested, scores that are not the mean of their
    rewards, and candidates that were accepted or kept against their scores. A candidate's score is the mean reward of
    those of its requested attempts at dev that ran; its `items` and `failed` must count them. So it is with the first
    items, where a candidate is asked those before the others.

    `gained`: candidates that were accepted for a higher score, and score no higher once attempts that failed count as
    `worst`. Each is held against the candidate that was the best until then, which it had to beat, and against the
    start, since failures may grow bit by bit. A fault's `chance` is the p-value of Fisher's exact test (one-sided) that
    the candidate's attempts fail no more often than the other's, times (pi look)^2 / 6, where looks are the candidates
    evaluated so far, and times the number of the others.
    """

    OF = (
        RolloutsRequested,
        TrajectoryScored,
        ScoringFailed,
        RolloutFailed,
        RunStarted,
        AuditReleased,
        FeedbackRequested,
        ParentSelected,
        StageEvaluated,
        CandidateEvaluated,
        CandidateRechecked,
        CandidateAccepted,
        CandidateKept,
    )

    def __init__(self, worst: float = 0.0) -> None:
        self.counted: list[ProvenanceFault] = []
        self.gained: list[ProvenanceFault] = []
        self._worst = worst
        self._tally, self._standings = _Tally(), Standings()

    def take(self, stored: StoredEvent) -> bool:
        """Take the next event; whether it shows a fault."""
        fact, tally, standings = stored.event.data, self._tally, self._standings
        sentences = tally.take(stored)
        if not isinstance(fact, _MANY):
            if isinstance(fact, CandidateAccepted):
                self.gained += self._gained(stored.sequence, fact)
            sentences += standings.take(fact)
            match fact:
                case StageEvaluated(generation=generation):
                    sentences += _miscounted(f"The first score of generation {generation}", fact, tally.dev(generation))
                case CandidateEvaluated(generation=generation):
                    rewards = tally.dev(generation, PairKey(fact.scaffold, fact.adapter))
                    sentences += _miscounted(f"The score of generation {generation}", fact, rewards)
                case CandidateRechecked():
                    sentences += _rechecked_otherwise(fact, standings, tally)
        self.counted += [ProvenanceFault(stored.sequence, sentence) for sentence in sentences]
        return bool(sentences)

    def _gained(self, sequence: int, accepted: CandidateAccepted) -> list[ProvenanceFault]:
        scored, before = self._standings.evaluated.get(accepted.candidate), self._standings.best
        if not scored or not before or scored.lever in ("start", "repeat") or scored.score <= before.score:
            return []
        start = self._standings.start or before
        others = [before] if start is before else [before, start]
        faults = [fault for one in others if (fault := self._gained_on(sequence, accepted, scored, one, len(others)))]
        return sorted(faults, key=lambda fault: fault.chance)[:1]

    def _gained_on(
        self,
        sequence: int,
        accepted: CandidateAccepted,
        scored: CandidateEvaluated,
        before: CandidateEvaluated,
        others: int,
    ) -> ProvenanceFault | None:
        mine, theirs = (_whole(self._tally, one, self._worst) for one in (scored, before))
        if not mine.attempts or mine.score > theirs.score or scored.score <= before.score:
            return None
        chance = (
            others
            * more_failures(mine.failed, mine.attempts, theirs.failed, theirs.attempts)
            * (math.pi * len(self._standings.evaluated)) ** 2
            / 6
        )
        best = before is self._standings.best
        other = "that of the best until then" if best else "the start's"
        other = "its parent's" if before.candidate in scored.parents[:1] else other
        rise = (
            f"The score of generation {accepted.generation} rose from {before.score:g} to {scored.score:g} over the "
            "attempts that ran"
        )
        rest = (
            f"with its {mine.failed} failed attempts as {self._worst:g} it is {mine.score:g}, and {other} is "
            f"{theirs.score:g}"
        )
        return ProvenanceFault(sequence, f"{rise}; {rest}.", min(1.0, chance))


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


class _Whole(NamedTuple):
    """A candidate's score over all of its attempts, with their number and that of the failed ones."""

    score: float
    failed: int
    attempts: int


def _whole(tally: "_Tally", evaluated: CandidateEvaluated, worst: float) -> _Whole:
    rewards = tally.dev(evaluated.generation, PairKey(evaluated.scaffold, evaluated.adapter))
    score = math.fsum(worst if reward is None else reward for reward in rewards.values()) / max(1, len(rewards))
    return _Whole(score, sum(reward is None for reward in rewards.values()), len(rewards))


class _Asked:
    """A request, with what came of its attempts: an attempt's number is its item's place times the attempts of each,
    and its own number.
    """

    def __init__(self, requested: RolloutsRequested) -> None:
        self.requested = requested
        self.scored = bytearray(len(requested.items) * requested.attempts)
        """1 for each attempt that has a reward."""
        kept = requested.purpose in COUNTED_PURPOSES
        self.results: dict[RolloutKey, float | None] | None = {} if kept else None
        """What came of each attempt first, where scores are made of that."""


class _Tally:
    """The requests of a log and the rewards that answered them, event by event."""

    def __init__(self) -> None:
        self._asked: dict[str, _Asked] = {}
        self._requested_items: dict[tuple[object, ...], set[str]] = defaultdict(set)
        self._items: dict[str, str] = {}
        """Each item's id, once."""
        self._places: dict[str, dict[str, int]] = {}
        """The place of each item in the requests that were answered last."""
        self._unasked: set[tuple[str, RolloutKey]] = set()
        """Attempts with a reward that no request asks for."""

    def take(self, stored: StoredEvent) -> list[str]:
        """Count the next event; sentences that say what is wrong with it."""
        match stored.event.data:
            case TrajectoryScored(request=request, item=item, attempt=attempt, reward=reward):
                return self._score(request, item, attempt, reward)
            case (
                ScoringFailed(request=request, item=item, attempt=attempt)
                | RolloutFailed(request=request, item=item, attempt=attempt)
            ):
                if (asked := self._asked.get(request)) and asked.results is not None:
                    asked.results.setdefault(RolloutKey(item, attempt), None)
            case RolloutsRequested() as requested:
                return self._request(stored, requested)
        return []

    def dev(self, generation: int, pair: PairKey | None = None) -> dict[RolloutKey, float | None]:
        """The rewards of a generation's requested attempts at dev, if a pair is given of its alone; None for those that
        failed or never came back.

        Where a fork requested again what its parent's request left open, the later request counts.
        """
        rewards: dict[RolloutKey, float | None] = {}
        for asked in self._asked.values():
            requested = asked.requested
            if (requested.generation, requested.purpose) == (generation, "dev") and pair in (
                None,
                (requested.scaffold, requested.adapter),
            ):
                rewards |= _rewards(asked)
        return rewards

    def by_item(self, generation: int, purpose: Purpose, round: int | None = None) -> dict[str, float]:
        """The mean reward of a generation's attempts at each item, of a purpose, and of a round if it is given."""
        found: dict[str, list[float]] = defaultdict(list)
        for asked in self._asked.values():
            requested = asked.requested
            if (requested.generation, requested.purpose) == (generation, purpose) and round in (None, requested.round):
                for key, reward in _rewards(asked).items():
                    found[key.item] += [] if reward is None else [reward]
        return {item: math.fsum(rewards) / len(rewards) for item, rewards in found.items() if rewards}

    def _request(self, stored: StoredEvent, requested: RolloutsRequested) -> list[str]:
        items = tuple(self._items.setdefault(item, item) for item in requested.items)
        self._asked[stored.event.id] = _Asked(replace(requested, items=items))
        played = (stored.event.run, requested.generation, requested.purpose, requested.round, requested.refill)
        before, wrong = self._requested_items[played], list[str]()
        for item in items:
            if item in before:
                wrong.append(
                    f"Item {item!r} is asked twice for {requested.purpose} of generation {requested.generation}."
                )
            before.add(item)
        return wrong

    def _score(self, request: str, item: str, attempt: int, reward: float) -> list[str]:
        asked = self._asked.get(request)
        if asked is not None and asked.results is not None:
            asked.results.setdefault(RolloutKey(item, attempt), reward)
        place = None if asked is None else self._places_in(request, asked).get(item)
        if asked is not None and place is not None and 0 <= attempt < asked.requested.attempts:
            number = place * asked.requested.attempts + attempt
            twice, asked.scored[number] = asked.scored[number], 1
            wrong = []
        else:
            key = (request, RolloutKey(item, attempt))
            twice = key in self._unasked
            self._unasked.add(key)
            wrong = [
                f"Attempt {attempt} at item {item!r} is scored, and request {request[:12]} asked for no such attempt."
            ] * (asked is not None)
        again = [f"Attempt {attempt} at item {item!r} of request {request[:12]} is scored twice."] if twice else []
        return again + wrong

    def _places_in(self, request: str, asked: _Asked) -> dict[str, int]:
        if (places := self._places.get(request)) is None:
            if len(self._places) == PLACES_KEPT:
                del self._places[next(iter(self._places))]
            places = self._places[request] = {item: place for place, item in enumerate(asked.requested.items)}
        return places


def _rewards(asked: _Asked) -> dict[RolloutKey, float | None]:
    requested, results = asked.requested, asked.results or {}
    keys = [RolloutKey(item, attempt) for item in requested.items for attempt in range(requested.attempts)]
    return {key: results.get(key) for key in keys}


def _short(name: str) -> str:
    base, at, adapter = name.partition("@")
    return f"{base[:12]}{at}{adapter[:12]}" or "(none)"
