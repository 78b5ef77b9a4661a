"""Facts about rollouts: requests for them, model calls, trajectories, and attempts that failed to run."""

from typing import ClassVar

import msgspec

from events.fact import Fact
from events.kinds import Purpose, RolloutFailure, SplitName


class RolloutsRequested(Fact, frozen=True, kw_only=True):
    """A request for one shard of rollouts: `attempts` at each item by one scaffold and one adapter.

    Its outputs fit one batch.
    """

    TAG: ClassVar[str] = "rollouts_requested"
    KEY: ClassVar[tuple[str, ...]] = ("generation", "purpose", "round", "shard")

    generation: int
    purpose: Purpose
    round: int
    shard: int
    scaffold: str
    adapter: str
    """Digest of the adapter's folder; empty for the base model."""
    split: SplitName
    fold: int
    """The train fold that the items are from and that the scaffold's data lacks; -1 for items outside train."""
    items: tuple[str, ...]
    attempts: int
    temperature: float
    seed: int
    """What the sampling seeds of this shard are derived from."""


class CallUse(msgspec.Struct, frozen=True, array_like=True):
    """Which completion of which recorded model call an attempt was given."""

    call: str
    completion: int


class ModelCalled(Fact, frozen=True, kw_only=True):
    """One call of the policy, with all its completions; appended before any of them is released."""

    TAG: ClassVar[str] = "model_called"
    KEY: ClassVar[tuple[str, ...]] = ("request", "item", "ordinal")

    request: str
    item: str
    ordinal: int
    """The call's place among the different calls that the scaffold made for this item; over a bridge, where threads
    race, a number from 2**48 on that follows from the attempt, the call's content, and how often the attempt made that
    call before.
    """
    provider: str
    model: str
    adapter: str
    body: str
    """Blob that holds the sampling requests of a group commit, as a JSON list."""
    index: int
    """This call's place in that list."""
    sampling_seed: int
    temperature: float
    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    completion_tokens: int
    micro_usd: int
    seconds: float


class TrajectoryRecorded(Fact, frozen=True, kw_only=True):
    """One attempt at one item: what was called, and what the scaffold answered (None: it said nothing)."""

    TAG: ClassVar[str] = "trajectory_recorded"
    SLOT: ClassVar[str] = "attempt"
    KEY: ClassVar[tuple[str, ...]] = ("request", "item", "attempt")

    request: str
    item: str
    attempt: int
    purpose: Purpose
    split: SplitName
    generation: int
    scaffold: str
    adapter: str
    """As served."""
    answer: str | None
    calls: tuple[CallUse, ...]
    seconds: float


class RolloutFailed(Fact, frozen=True, kw_only=True):
    """An attempt that did not run to its end. It is not a score of 0; it has no score."""

    TAG: ClassVar[str] = "rollout_failed"
    SLOT: ClassVar[str] = "attempt"
    KEY: ClassVar[tuple[str, ...]] = ("request", "item", "attempt")

    request: str
    item: str
    attempt: int
    purpose: Purpose
    kind: RolloutFailure
    reason: str
