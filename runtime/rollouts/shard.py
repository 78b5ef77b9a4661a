"""A shard of rollouts as a value: what is to be run together, what came of each attempt, and the facts that a request
gets for it.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from events.fact import Fact
from events.kinds import RolloutFailure
from events.rollouts import CallUse, RolloutFailed, RolloutsRequested, TrajectoryRecorded


class RolloutKey(NamedTuple):
    """One rollout: an attempt at an item, counted from 0."""

    item: str
    attempt: int


class RolloutShard(msgspec.Struct, frozen=True, kw_only=True):
    """Some attempts at each of some items, by one scaffold and one adapter."""

    run: str
    id: str
    """What asks for the shard: calls are recorded as this request's, and their ids follow from it."""
    past_requests: Mapping[str, str] = {}
    """The requests of a fork's past that asked for the very same: the run of each by its id."""
    scaffold: str
    """Digest of the scaffold's folder."""
    adapter: str = ""
    """Digest of the adapter's folder; empty for the base model."""
    model: str
    """The name by which the policy offers the base model with that adapter."""
    items: tuple[str, ...]
    attempts: int = 1
    fold: int | None = None
    """The train fold that the items are from, which the scaffold's data lacks; None for items outside train."""
    temperature: float
    seed: int
    """What the sampling seeds of the calls are derived from."""
    draw: str = ""
    """For which seed, generation, purpose and round the items are played: the names that the scaffold sees follow from
    it.
    """
    hints: Mapping[str, str] = {}
    """What shows the model the true answer, by item."""
    max_tokens: int = 64
    """The longest completion that `model.complete` gives."""
    sandbox: str = ""
    """The sandbox's profile, as the run recorded it; empty for whichever this host has."""
    shared_state: bool = False
    """Whether an attempt sees what those before it have left in the scaffold's globals and work folder."""


class AttemptResult(msgspec.Struct, frozen=True):
    """What came of one attempt: an answer (None: the scaffold gave none), or a failure with its `kind` and `reason`."""

    item: str
    attempt: int
    answer: str | None = None
    uses: tuple[CallUse, ...] = ()
    """The completions of recorded calls that the attempt was given."""
    seconds: float = 0.0
    kind: RolloutFailure | Literal[""] = ""
    """The kind of failure, as `RolloutFailed` names them; empty where there is none."""
    reason: str = ""


def failed_attempts(items: Sequence[str], attempts: int, kind: RolloutFailure, reason: str) -> list[AttemptResult]:
    """The failure of every attempt of a shard, for one reason."""
    return [AttemptResult(item, attempt, kind=kind, reason=reason) for item in items for attempt in range(attempts)]


def facts_of(request: str, requested: RolloutsRequested, results: Sequence[AttemptResult]) -> list[Fact]:
    """A `TrajectoryRecorded` or a `RolloutFailed` for each result, in answer to the request whose event id is
    `request`.
    """
    return [
        RolloutFailed(
            request=request,
            item=result.item,
            attempt=result.attempt,
            purpose=requested.purpose,
            kind=result.kind,
            reason=result.reason,
        )
        if result.kind
        else TrajectoryRecorded(
            request=request,
            item=result.item,
            attempt=result.attempt,
            purpose=requested.purpose,
            split=requested.split,
            generation=requested.generation,
            scaffold=requested.scaffold,
            adapter=requested.adapter,
            answer=result.answer,
            calls=result.uses,
            seconds=result.seconds,
        )
        for result in results
    ]
