"""Looks at a candidate: the first items before the others, and a second look where scores are too close to call."""

from collections.abc import Mapping, Sequence

from algorithms.search.strategy import FAILED_LIMIT
from algorithms.statistics import Estimate, mean_interval
from events.fact import Fact
from events.judgement import CandidateRechecked, StageEvaluated
from events.rollouts import RolloutsRequested
from events.run import RunStarted
from runtime.run.evolve import mean_rewards
from runtime.run.requests import Rollouts, affordable, requests
from runtime.run.state import Candidate, Flight

FEWEST = 6
"""Items, at least, that must differ before a difference is believed: fewer have one sign by chance in more than 1 of 40
cases, whatever an interval of so few says.
"""


def _differences(mine: Mapping[str, float], theirs: Mapping[str, float]) -> list[float]:
    """Item by item, where both were scored."""
    return [reward - theirs[item] for item, reward in mine.items() if item in theirs]


def _mean_difference(differences: Sequence[float]) -> Estimate | None:
    """The mean with its 95 % interval; None of no differences."""
    if not differences:
        return None
    mean, half = mean_interval(differences)
    return Estimate(mean, mean - half, mean + half)


def _tell(differences: Sequence[float]) -> bool:
    return sum(difference != 0 for difference in differences) >= FEWEST


def first_items(flight: Flight, started: RunStarted) -> int:
    """How many dev items are asked first; 0: all at once, as of a candidate that has nothing to be held against."""
    comparable = flight.parent is not None and flight.candidate is not None and flight.candidate.lever != "repeat"
    return started.first_items if comparable and started.first_items < len(started.items.dev) else 0


def asked_items(flight: Flight) -> int:
    """How many dev items the candidate was asked so far, from the first on; a second look is not among them."""
    return sum(len(shard.requested.items) for shard in flight.shards.values() if shard.requested.purpose == "dev")


def stage(flight: Flight, started: RunStarted) -> list[Fact]:
    """The verdict on the first items, once they are played: a candidate goes on unless it did worse than its parent.

    Worse is: at least `FEWEST` items differ, and the 95 % interval of the mean difference, item by item, lies below 0.
    """
    asked = asked_items(flight)
    if asked == len(started.items.dev):
        return []
    assert flight.candidate and flight.parent
    rewards = mean_rewards(flight.shards, "dev")
    failed = asked - len(rewards)
    differences = _differences(rewards, flight.parent.rewards)
    gain = _mean_difference(differences)
    if failed > FAILED_LIMIT * asked:
        passed, reason = False, f"{failed} of the first {asked} attempts failed to run, at most {FAILED_LIMIT:.0%} may"
    elif gain and gain.high < 0 and _tell(differences):
        passed = False
        reason = f"{gain.mean:+.4f} against its parent on the first {asked} items, at most {gain.high:+.4f}"
    else:
        compared = f"{gain.mean:+.4f} against its parent, up to {gain.high:+.4f}" if gain else "nothing to compare with"
        passed, reason = True, f"{compared} on the first {asked} items"
    return [
        StageEvaluated(
            generation=flight.generation,
            candidate=flight.candidate.id,
            score=sum(rewards.values()) / len(rewards) if rewards else 0.0,
            items=asked,
            failed=failed,
            passed=passed,
            reason=reason,
        )
    ]


def recheck(flight: Flight, best: Candidate | None, started: RunStarted) -> list[RolloutsRequested]:
    """The rollouts of a second look at a candidate and at the best so far, if their scores are too close to call; none
    if not ordered, already made or too dear.

    Too close is: fewer than `FEWEST` items differ, or the 95 % interval of the mean difference, item by item, holds 0.
    Both looks ask all dev items; the second asks them at temperature 1.
    """
    candidate = flight.candidate
    cost = 2 * started.recheck * len(started.items.dev)
    if not cost or flight.rechecked or best is None or candidate is None or candidate.lever == "repeat":
        return []
    differences = _differences(mean_rewards(flight.shards, "dev"), best.rewards)
    gain = _mean_difference(differences)
    close = gain is not None and (gain.low <= 0 <= gain.high or not _tell(differences))
    if not close or not affordable(flight, cost):
        return []
    looks = [
        Rollouts("recheck", round, scaffold, adapter, started.recheck, temperature=1.0)
        for round, scaffold, adapter in (
            (1, candidate.scaffold, candidate.adapter),
            (2, best.scaffold, best.adapter),
        )
    ]
    return [request for look in looks for request in requests(flight, started, look, [(-1, started.items.dev)])]


def rechecked(flight: Flight, best: Candidate | None, started: RunStarted) -> CandidateRechecked | None:
    """What both looks say together: the mean difference over items, each the mean of all attempts at it."""
    if not flight.rechecked or best is None or flight.candidate is None:
        return None
    asked = [shard.requested for shard in flight.shards.values() if shard.requested.purpose == "recheck"]
    attempts = max(requested.attempts for requested in asked)  # a fork may order other second looks
    share = 1 / (1 + attempts)
    first = mean_rewards(flight.shards, "dev")
    mine, theirs = (mean_rewards(flight.shards, "recheck", round=number) for number in (1, 2))
    differences = [
        share * (first[item] - best.rewards[item]) + (1 - share) * (mine[item] - theirs[item])
        for item in started.items.dev
        if item in first and item in best.rewards and item in mine and item in theirs
    ]
    gain = _mean_difference(differences)
    if gain is None:
        return None
    return CandidateRechecked(
        generation=flight.generation,
        candidate=flight.candidate.id,
        against=best.id,
        difference=gain.mean,
        low=gain.low,
        high=gain.high,
        items=len(differences),
        attempts=attempts,
    )
