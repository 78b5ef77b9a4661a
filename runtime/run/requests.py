"""Requests for rollouts: how the items that a generation is to play are divided into shards."""

from collections.abc import Sequence
from typing import NamedTuple

from events.fact import derive_seed
from events.kinds import Purpose
from events.rollouts import RolloutsRequested
from events.run import RunStarted
from runtime.log.port import BATCH_LIMIT
from runtime.run.state import Flight, draw_seed


class Rollouts(NamedTuple):
    """What a set of rollouts runs: scaffold, adapter, attempts at each item, and for which purpose."""

    purpose: Purpose
    round: int
    scaffold: str
    adapter: str
    attempts: int
    temperature: float
    refill: int = 0
    first_shard: int = 0


Folds = Sequence[tuple[int, Sequence[str]]]
"""Items by the train fold that they are from; -1 for dev."""


def shard_width(started: RunStarted, attempts: int) -> int:
    """The most items of a shard with so many attempts at each."""
    return BATCH_LIMIT if started.submissions else max(1, started.shard_size // attempts)


def requests(flight: Flight, started: RunStarted, rollouts: Rollouts, folds: Folds) -> list[RolloutsRequested]:
    """The rollouts in shards of at most `shard_size` attempts, each within one fold; where whole submissions are
    judged, a fold is one shard.
    """
    width = shard_width(started, rollouts.attempts)
    parts = [
        (fold, tuple(items[index : index + width])) for fold, items in folds for index in range(0, len(items), width)
    ]
    refill = (rollouts.refill,) if rollouts.refill else ()
    return [
        RolloutsRequested(
            generation=flight.generation,
            purpose=rollouts.purpose,
            round=rollouts.round,
            shard=number,
            scaffold=rollouts.scaffold,
            adapter=rollouts.adapter,
            split="dev" if rollouts.purpose in ("dev", "recheck") else "train",
            fold=fold,
            items=items,
            attempts=rollouts.attempts,
            temperature=rollouts.temperature,
            seed=derive_seed(draw_seed(started), rollouts.purpose, flight.generation, rollouts.round, *refill),
            refill=rollouts.refill,
        )
        for number, (fold, items) in enumerate(parts, rollouts.first_shard)
    ]


def affordable(flight: Flight, rollouts: int) -> bool:
    """Whether a generation may ask for so many more rollouts."""
    return flight.grant is None or flight.rollouts + rollouts <= flight.grant
