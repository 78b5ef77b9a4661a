"""What a service was handed, in words and figures: for its status and its log."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from events.change import ScaffoldRequested
from events.choice import FeedbackRequested
from events.codec import Event
from events.judgement import CudaScoringRequested
from events.population import CandidateAccepted
from events.rollouts import RolloutsRequested, TrajectoryRecorded
from events.run import RunFinished
from events.weights import AdapterPublished, TrainingBatchSealed


class Work(NamedTuple):
    """Work in hand: what is done, for which run, and the figures of it, by name."""

    doing: str
    run: str
    fields: dict[str, object]


def describe(events: Sequence[Event], pending: int = 0) -> Work:
    """What it is to answer these events, of which there is at least one; `pending` more wait behind them."""
    first = events[0]
    runs = list(dict.fromkeys(event.run for event in events))
    generation: int | None = getattr(first.data, "generation", None)
    fields: dict[str, object] = {"event": first.tag, "generation": generation, "items": len(events)}
    match first.data:
        case ScaffoldRequested():
            doing = "writes the first scaffold"
        case FeedbackRequested():
            doing = f"chooses the change of generation {generation}"
        case RolloutsRequested(purpose=purpose, items=items, attempts=attempts, shard=shard):
            doing = f"runs {len(items) * attempts} rollouts of generation {generation} ({purpose})"
            fields |= {"items": len(items), "attempts": attempts, "purpose": purpose, "shard": shard}
        case TrajectoryRecorded():
            doing = f"scores {len(events)} answers of generation {generation}"
        case CudaScoringRequested():
            doing = f"scores {len(events)} answers of generation {generation} on CUDA"
        case AdapterPublished(round=number):
            doing = f"checks the adapter of generation {generation}, round {number}"
            fields["round"] = number
        case TrainingBatchSealed(round=number, trajectories=trajectories):
            doing = f"trains on {trajectories} rollouts, generation {generation}, round {number}"
            fields |= {"round": number, "items": trajectories}
        case CandidateAccepted():
            doing = f"measures generation {generation}"
        case RunFinished():
            doing = "scores the final table"
        case _:
            doing = f"answers {len(events)} {first.tag}"
    if len(runs) > 1:
        doing += f", and of {len(runs) - 1} other runs"
    if pending:
        doing += f"; {pending:,} more wait"
        fields["pending"] = pending
    return Work(doing, first.run, fields)


def counts(events: Sequence[Event]) -> str:
    """The types of some events and how many there are of each, such as `trajectory_scored:3`; empty for none."""
    return ",".join(f"{tag}:{count}" for tag, count in Counter(event.tag for event in events).items())
