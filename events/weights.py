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
    """The generation's number, counted from 0, the start."""
    round: int
    """The round of the weight update, counted from 1."""
    algorithm: str
    """The learning algorithm's name."""
    hyper: dict[str, float]
    """Hyper-parameters in place of the algorithm's defaults, by name; units: `algorithms/learning/batch.py`."""
    parent_adapter: str
    """Digest of the adapter that training starts from; empty for the base model."""
    training_seed: int
    """The seed of the round's shuffles, of dropout and of a fresh adapter."""
    requests: tuple[str, ...]
    """The ids of the `rollouts_requested` whose attempts are trained on, in order."""
    trajectories: int
    """Number of scored attempts."""
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
    """The generation's number, counted from 0, the start."""
    round: int
    """The round of the weight update, counted from 1."""
    parent_adapter: str
    """Digest of the adapter that training started from; empty for the base model."""
    batch: str
    """Digest of the sealed batch."""
    step: int
    """The step's number within the round, counted from 0."""
    loss: float
    """The algorithm's loss, in its own unit."""
    kl_to_base: float
    """KL divergence from the base model, in nats a token: the k3 estimate on the tokens that the policy sampled."""
    entropy: float
    """Mean entropy of the tokens' distributions, in nats a token."""
    clip_share: float
    """The share, 0 to 1, of tokens whose ratio to the parent adapter lies outside the clip range."""
    ratio_mean: float
    """Mean ratio of a token's probability to that when it was sampled."""
    ratio_max: float
    """The largest of these ratios."""
    grad_norm: float
    """The gradient's L2 norm before it is scaled down to the algorithm's largest."""
    tied_groups: float
    """The share, 0 to 1, of groups that nothing can be learned from, such as those of equal rewards."""
    tokens: int
    """Number of tokens that the loss is taken over."""
    seconds: float
    """Seconds that the step took."""


class Canary(msgspec.Struct, frozen=True):
    """A prompt and the trainer's log-probabilities of its completions, by which a server shows that it loaded the right
    weights.
    """

    prompt: str
    """The prompt."""
    logprobs: tuple[float, ...]
    """The log-probabilities after it, in nats."""
    tokens: tuple[int, ...] = ()
    """The tokens that the log-probabilities are of, one after the other; empty where they are of every first token."""


class AdapterPublished(Fact, frozen=True, kw_only=True):
    """A LoRA adapter, as the digest of an ordinary peft folder."""

    TAG: ClassVar[str] = "adapter_published"
    KEY: ClassVar[tuple[str, ...]] = ("parent_adapter", "batch")

    generation: int
    """The generation's number, counted from 0, the start."""
    round: int
    """The round of the weight update, counted from 1."""
    adapter: str
    """Digest of the adapter's folder."""
    parent_adapter: str
    """Digest of the adapter that training started from; empty for the base model."""
    base_model: str
    """Digest of the base model's folder."""
    batch: str
    """Digest of the sealed batch."""
    algorithm: str
    """The learning algorithm's name."""
    canary: tuple[Canary, ...]
    """What shows a server that it loaded the right weights."""
    trained_on: int
    """Number of sequences that carried a gradient."""
    left_out: int = 0
    """Number of sequences that were left out since their adapters are too many versions from the parent."""
    back_end: BackEnd = "native"
    """Whose trainer did the gradient work."""
    processes: int = 1
    """Number of processes, each with a device of its own, that shared the gradient work."""
    state: str = ""
    """Blob of the state for the next training: the optimiser's moments, the critic, the weight of KL."""
    masked_tokens: int = 0
    """Number of tokens left out of the loss, since their recorded log-probabilities are far from the trainer's."""
    repeated: int = 0
    """Number of completions in the batch that repeat an earlier one against all chance, as `model_called` counts them.
    """


class AdapterServed(Fact, frozen=True, kw_only=True):
    """A policy server loaded the adapter, and its canary log-probabilities match the trainer's."""

    TAG: ClassVar[str] = "adapter_served"
    EXCLUSIVE_KEY: ClassVar[str] = "serving"
    KEY: ClassVar[tuple[str, ...]] = ("adapter", "batch")

    generation: int
    """The generation's number, counted from 0, the start."""
    round: int
    """The round of the weight update, counted from 1."""
    adapter: str
    """Digest of the adapter's folder."""
    batch: str
    """Digest of the sealed batch."""
    error: float
    """Largest absolute difference of a canary's log-probabilities, in nats; for a canary of several tokens, their mean.
    """


class AdapterRejected(Fact, frozen=True, kw_only=True):
    """A policy server refused the adapter: damaged, made for another base model, or its canary disagrees."""

    TAG: ClassVar[str] = "adapter_rejected"
    EXCLUSIVE_KEY: ClassVar[str] = "serving"
    KEY: ClassVar[tuple[str, ...]] = ("adapter", "batch")

    generation: int
    """The generation's number, counted from 0, the start."""
    round: int
    """The round of the weight update, counted from 1."""
    adapter: str
    """Digest of the adapter's folder."""
    batch: str
    """Digest of the sealed batch."""
    reason: str
    """What was wrong with it, in a sentence."""


class WeightUpdateFinished(Fact, frozen=True, kw_only=True):
    """All rounds of a weight update are done."""

    TAG: ClassVar[str] = "weight_update_finished"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    """The generation's number, counted from 0, the start."""
    adapter: str
    """Digest of the adapter that they arrived at; the parent's where they changed nothing."""
    rounds: int
    """Number of rounds that were played."""
    rollouts: int
    """Number of rollouts that they asked for."""
    solved: int
    """Number of train items for which a right answer was found."""
    reason: str
    """Why there is no further round."""


class WeightUpdateFailed(Fact, frozen=True, kw_only=True):
    """A training round changed nothing, and why."""

    TAG: ClassVar[str] = "weight_update_failed"
    KEY: ClassVar[tuple[str, ...]] = ("generation", "round")

    generation: int
    """The generation's number, counted from 0, the start."""
    round: int
    """The round of the weight update, counted from 1."""
    batch: str
    """Digest of the sealed batch."""
    kind: WeightUpdateFailure
    """The kind of failure."""
    reason: str
    """What happened, in a sentence."""
