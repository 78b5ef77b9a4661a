"""The best answer that a run met: the one with the highest reward, in whatever generation and for whatever purpose.

A run with graded rewards is after one good answer, such as a fast kernel, and the mean over its attempts hides it. The
view `best_answers` of the archive says which it is; of an export, the events are read.
"""

from collections.abc import Iterable, Sequence

import msgspec

from events.codec import Event
from events.judgement import TrajectoryScored
from events.rollouts import TrajectoryRecorded

COLUMNS = ("purpose", "split", "generation", "item", "attempt", "trajectory", "answer", "reward")
"""The columns of the view `best_answers` that make a `BestAnswer`."""


class BestAnswer(msgspec.Struct, kw_only=True):
    """An answer with its reward, and where it was met."""

    purpose: str
    """What the attempt was made for, such as `dev`."""
    split: str
    generation: int
    item: str
    attempt: int
    trajectory: str
    """The id of the `trajectory_recorded` that has the answer."""
    answer: str | None
    reward: float
    by_gold: float | None = None
    """Gold's score of it; None where gold was not asked."""


def best_answers(events: Iterable[Event]) -> list[BestAnswer]:
    """The best answer of each purpose among a run's events, the first of equals."""
    recorded: dict[str, TrajectoryRecorded] = {}
    best: dict[str, BestAnswer] = {}
    for event in events:
        match event.data:
            case TrajectoryRecorded() as trajectory:
                recorded[event.id] = trajectory
            case TrajectoryScored(trajectory=id, reward=reward) if id in recorded:
                one = recorded[id]
                if one.purpose in best and best[one.purpose].reward >= reward:
                    continue
                best[one.purpose] = BestAnswer(
                    purpose=one.purpose,
                    split=one.split,
                    generation=one.generation,
                    item=one.item,
                    attempt=one.attempt,
                    trajectory=id,
                    answer=one.answer,
                    reward=reward,
                )
    return list(best.values())


def to_show(answers: Sequence[BestAnswer]) -> list[BestAnswer]:
    """The best of all, and the best to dev where that is another: gold scores only answers to dev."""
    if not answers:
        return []
    best = max(answers, key=lambda one: one.reward)
    on_dev = [one for one in answers if one.purpose == "dev" and one is not best]
    return [best, *on_dev]
