"""Facts about rollouts: requests for them, model calls, trajectories, and attempts that failed to run."""

from collections.abc import Mapping
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
    SINCE: ClassVar[Mapping[str, int]] = {"refill": 5}

    generation: int
    """The generation's number, counted from 0, the start."""
    purpose: Purpose
    """What the rollouts are made for."""
    round: int
    """The round of the weight update, counted from 1; 1 for `dev` and `probe`.

    For `recheck` it is 1 for the candidate and 2 for the best so far.
    """
    shard: int
    """The shard's number among those of its purpose and round, counted from 0."""
    scaffold: str
    """Digest of the scaffold's folder."""
    adapter: str
    """Digest of the adapter's folder; empty for the base model."""
    split: SplitName
    """The split that the items are from."""
    fold: int
    """The train fold that the items are from and that the scaffold's data lacks; -1 for items outside train."""
    items: tuple[str, ...]
    """The ids of the items."""
    attempts: int
    """Number of attempts at each item."""
    temperature: float
    """Sampling temperature, a factor without a unit; at 0 the most probable completion is taken."""
    seed: int
    """What the sampling seeds of this shard are derived from."""
    refill: int = 0
    """How often the groups of this round that tie had been played again, with this time; 0 for the round itself."""


class CallUse(msgspec.Struct, frozen=True, array_like=True):
    """Which completion of which recorded model call an attempt was given."""

    call: str
    """The id of the `model_called`; for a fork it may stand in its past."""
    completion: int
    """The completion's place in it, counted from 0."""


class ModelCalled(Fact, frozen=True, kw_only=True):
    """One call of the policy, with all its completions; appended before any of them is released."""

    TAG: ClassVar[str] = "model_called"
    KEY: ClassVar[tuple[str, ...]] = ("request", "item", "ordinal")

    request: str
    """The id of the `rollouts_requested` that it was made for."""
    item: str
    """The item's id."""
    ordinal: int
    """The call's place among the different calls that the scaffold made for this item, counted from 0.

    Over a bridge, where threads race, it is a number from `2**48` on. That follows from the attempt, the call's
    content, and how often the attempt made that call before.
    """
    provider: str
    """Where the completions came from: `embedded`, the run's own policy."""
    model: str
    """The model's name: the base model's digest, with `@` and the adapter's where there is one."""
    adapter: str
    """Digest of the adapter that was asked for; empty for the base model."""
    body: str
    """Blob that holds the sampling requests of a group commit, as a JSON list."""
    index: int
    """This call's place in that list, counted from 0."""
    sampling_seed: int
    """The seed that the completions were drawn by."""
    temperature: float
    """Sampling temperature, a factor without a unit."""
    texts: tuple[str, ...]
    """The text of each completion."""
    tokens: tuple[tuple[int, ...], ...]
    """The token ids of each completion."""
    logprobs: tuple[tuple[float, ...], ...]
    """The log-probability of each of these tokens in nats, at temperature 1 among the choices on offer."""
    prompt_tokens: int
    """Number of tokens of the prompt; of bytes where embeddings were asked for."""
    completion_tokens: int
    """Number of tokens of all completions."""
    micro_usd: int
    """What the call cost, in millionths of a US dollar; 0 for the run's own policy."""
    seconds: float
    """Seconds that it took to sample: an equal part for each call that was sampled at once."""
    sampling: dict[str, float] = msgspec.field(default_factory=dict)
    """Settings of sampling beside the temperature that were in force, by name, such as `top_p`.

    Empty: completions are of the whole distribution.
    """
    cut: tuple[bool, ...] = ()
    """Of each completion, whether it ended because it reached its limit. Empty in older logs, which do not say."""
    repeated: int = 0
    """Completions that say token by token what an earlier one says, which chance would not have given.

    They are compared with those of this call, and of earlier calls of the same prompt for the same request.
    """


class TrajectoryRecorded(Fact, frozen=True, kw_only=True):
    """One attempt at one item: what was called, and what the scaffold answered."""

    TAG: ClassVar[str] = "trajectory_recorded"
    EXCLUSIVE_KEY: ClassVar[str] = "attempt"
    KEY: ClassVar[tuple[str, ...]] = ("request", "item", "attempt")

    request: str
    """The id of the `rollouts_requested` that it answers."""
    item: str
    """The item's id."""
    attempt: int
    """The attempt's number among those at this item, counted from 0."""
    purpose: Purpose
    """What it was made for."""
    split: SplitName
    """The split that the item is from."""
    generation: int
    """The generation's number, counted from 0, the start."""
    scaffold: str
    """Digest of the scaffold that ran."""
    adapter: str
    """Digest of the adapter as served; empty for the base model."""
    answer: str | None
    """What the scaffold answered; null: it said nothing."""
    calls: tuple[CallUse, ...]
    """The completions that it was given, in order."""
    seconds: float
    """Seconds from its start to its answer; of a program that answers all items at once, an equal part for each."""


class RolloutFailed(Fact, frozen=True, kw_only=True):
    """An attempt that did not run to its end. It is not a score of 0; it has no score."""

    TAG: ClassVar[str] = "rollout_failed"
    EXCLUSIVE_KEY: ClassVar[str] = "attempt"
    KEY: ClassVar[tuple[str, ...]] = ("request", "item", "attempt")

    request: str
    """The id of the `rollouts_requested` that it answers."""
    item: str
    """The item's id."""
    attempt: int
    """The attempt's number among those at this item, counted from 0."""
    purpose: Purpose
    """What it was made for."""
    kind: RolloutFailure
    """The kind of failure."""
    reason: str
    """What happened, in a sentence."""
