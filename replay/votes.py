"""The vote of a run over the attempts of its start: what the model says most often, without a verifier's help.

It is the baseline that a run with levers has to beat at equal rollouts (`algorithms/search/best_of_k.py`).
"""

from collections.abc import Iterable

import msgspec

from algorithms.statistics import majority, mean_reward
from events.codec import Event
from events.judgement import CandidateEvaluated, TrajectoryScored
from events.rollouts import TrajectoryRecorded
from events.subjects import tag_of
from runtime.log.lineage import Span, messages, past
from runtime.log.port import Log, readable

KINDS = (TrajectoryRecorded, TrajectoryScored, CandidateEvaluated)


class DevVote(msgspec.Struct, frozen=True, kw_only=True):
    """What the most frequent answers score on dev, with the 95 % interval."""

    score: float
    low: float
    high: float
    items: int
    attempts: int
    """Number of attempts that voted."""


async def read_vote(log: Log, run: str) -> DevVote | None:
    """The vote of a run on a log; None while no attempt is scored."""
    tags = {kind.tag() for kind in KINDS}
    stored = [*await past(log, run), *await messages(log, Span(run))]
    return vote(readable(one for one in stored if tag_of(one.subject) in tags))


def vote(events: Iterable[Event]) -> DevVote | None:
    """The vote over all attempts at dev of the start and of its repeats, that were evaluated.

    Attempts count in the order of their generations, and within one of their numbers, whichever was recorded first.
    An item's answer is the most frequent one, of several the one that was given first. Its reward is that of the first
    scored attempt that gave it. An attempt without an answer votes only where no other has one.
    """
    attempts: dict[str, TrajectoryRecorded] = {}
    rewards: dict[str, float] = {}
    repeats: set[int] = set()
    for event in events:
        match event.data:
            case TrajectoryRecorded(purpose="dev") as recorded:
                attempts[event.id] = recorded
            case TrajectoryScored(trajectory=trajectory, reward=reward):
                rewards[trajectory] = reward
            case CandidateEvaluated(lever="start" | "repeat", generation=generation):
                repeats.add(generation)
    votes: dict[str, list[str]] = {}
    known: dict[tuple[str, str], float] = {}
    for id, recorded in sorted(attempts.items(), key=lambda entry: (entry[1].generation, entry[1].attempt)):
        if recorded.generation in repeats and id in rewards:
            answer = recorded.answer or ""
            votes.setdefault(recorded.item, []).append(answer)
            known.setdefault((recorded.item, answer), rewards[id])
    elected = {item: majority(answers)[0] for item, answers in votes.items()}
    if not elected:
        return None
    estimate = mean_reward([known[item, answer] for item, answer in elected.items()])
    return DevVote(
        score=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        items=len(elected),
        attempts=sum(map(len, votes.values())),
    )
