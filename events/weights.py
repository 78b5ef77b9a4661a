"""Facts about the weights: batches sealed, steps applied, adapters published and served."""

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from events.fact import Fact
from events.kinds import BackEnd, WeightUpdateFailure


class TrainingBatchSealed(Fact, frozen=True, kw_only=True):
    """The rollouts of a training round, fixed before they are used: the requests that they answered, and
    their digest.
    """

    TAG: ClassVar[str] = "training_batch_sealed"
    KEY: ClassVar[tuple[str, ...]] = ("generation", "round")
    SINCE: ClassVar[Mapping[str, int]] = {"parent_state": 2}

    generation: int
    round: int
    algorithm: str
    hyper: dict[str, float]
    parent_adapter: str
    """Digest of the adapter that training starts from; empty for the base model."""
    training_seed: int
    requests: tuple[str, ...]
    trajectories: int
    digest: str
    """SHA-256 over the ids and rewards of the trajectories, in the order of requests, items and attempts."""
    parent_state: str = ""
    """Blob of the parent training's state: the optimiser's moments, the critic, the weight of KL.

    Empty for a fresh start.
    """


class OptimizerStepApplied(Fact, frozen=True, kw_only=True):
    """One optimiser step of a training round, as its algorithm reports it."""

    TAG: ClassVar[str] = "optimizer_step_applied"
    KEY: ClassVar[tuple[str, ...]] = ("parent_adapter", "batch", "step")

    generation: int
    round: int
    parent_adapter: str
    batch: str
    step: int
    loss: float
    kl_to_base: float
    entropy: float
    clip_share: float
    ratio_mean: float
    ratio_max: float
    grad_norm: float
    tied_groups: float
    tokens: int
    seconds: float


class Canary(msgspec.Struct, frozen=True):
    """A prompt and the trainer's log-probabilities of its completions, by which a server shows that it loaded the right
    weights.
    """

    prompt: str
    logprobs: tuple[float, ...]
    tokens: tuple[int, ...] = ()
    """The tokens that the log-probabilities are of, one after the other; empty where they are of every first token."""


class AdapterPublished(Fact, frozen=True, kw_only=True):
    """A LoRA adapter, as the digest of an ordinary peft folder."""

    TAG: ClassVar[str] = "adapter_published"
    KEY: ClassVar[tuple[str, ...]] = ("parent_adapter", "batch")

    generation: int
    round: int
    adapter: str
    parent_adapter: str
    base_model: str
    batch: str
    algorithm: str
    canary: tuple[Canary, ...]
    trained_on: int
    """Sequences that carried a gradient."""
    left_out: int = 0
    """Sequences of older adapters that were left out as stale."""
    back_end: BackEnd = "native"
    """Whose trainer did the gradient work."""
    processes: int = 1
    """How many processes, each with a device of its own, shared the gradient work."""
    state: str = ""
    """Blob of the state for the next training: the optimiser's moments, the critic, the weight of KL."""


class AdapterServed(Fact, frozen=True, kw_only=True):
    """A policy server loaded the adapter, and its canary log-probabilities match the trainer's."""

    TAG: ClassVar[str] = "adapter_served"
    SLOT: ClassVar[str] = "serving"
    KEY: ClassVar[tuple[str, ...]] = ("adapter", "batch")

    generation: int
    round: int
    adapter: str
    batch: str
    error: float
    """Largest absolute difference of a canary's log-probabilities, in nats; for a canary of several tokens, their mean.
    """


class AdapterRejected(Fact, frozen=True, kw_only=True):
    """A policy server refused the adapter: damaged, made for another base model, or its canary disagrees."""

    TAG: ClassVar[str] = "adapter_rejected"
    SLOT: ClassVar[str] = "serving"
    KEY: ClassVar[tuple[str, ...]] = ("adapter", "batch")

    generation: int
    round: int
    adapter: str
    batch: str
    reason: str


class WeightUpdateFinished(Fact, frozen=True, kw_only=True):
    """All rounds of a weight update are done; `adapter` is what they arrived at."""

    TAG: ClassVar[str] = "weight_update_finished"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    adapter: str
    rounds: int
    rollouts: int
    solved: int
    """Train items for which a right answer was found."""
    reason: str
    """Why there is no further round."""


class WeightUpdateFailed(Fact, frozen=True, kw_only=True):
    """A training round changed nothing, and why."""

    TAG: ClassVar[str] = "weight_update_failed"
    KEY: ClassVar[tuple[str, ...]] = ("generation", "round")

    generation: int
    round: int
    batch: str
    kind: WeightUpdateFailure
    reason: str
