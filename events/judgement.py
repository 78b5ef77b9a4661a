"""Facts about judging: rewards of attempts, scores of candidates."""

from collections.abc import Mapping
from typing import ClassVar

from events.fact import Fact
from events.kinds import CallStatus, CandidateOrigin


class TrajectoryScored(Fact, frozen=True, kw_only=True):
    """The verifier's reward for one attempt."""

    TAG: ClassVar[str] = "trajectory_scored"
    EXCLUSIVE_KEY: ClassVar[str] = "judgement"
    KEY: ClassVar[tuple[str, ...]] = ("trajectory",)

    trajectory: str
    """The id of the `trajectory_recorded`."""
    request: str
    """The id of the `rollouts_requested` that it answers."""
    item: str
    """The item's id."""
    attempt: int
    """The attempt's number among those at this item, counted from 0."""
    reward: float
    """The reward, in the task's own unit; from 1 on the item counts as solved."""
    outcome: str
    """The verifier's word for the answer: one of the task's own, such as `right`, `wrong` or `unparsed`."""
    verifier: str
    """The verifier's name and version."""
    details: str = ""
    """What the verifier says of the answer beyond its word; it may be empty."""
    low: float | None = None
    """The lower end of the reward's 95 % interval, where a noisy verifier measured one."""
    high: float | None = None
    """The upper end of that interval."""
    micro_usd: int = 0
    """What the judgement cost, in millionths of a US dollar."""


class ScoringFailed(Fact, frozen=True, kw_only=True):
    """The verifier could not give a finite reward for one attempt."""

    TAG: ClassVar[str] = "scoring_failed"
    EXCLUSIVE_KEY: ClassVar[str] = "judgement"
    KEY: ClassVar[tuple[str, ...]] = ("trajectory",)

    trajectory: str
    """The id of the `trajectory_recorded`."""
    request: str
    """The id of the `rollouts_requested` that it answers."""
    item: str
    """The item's id."""
    attempt: int
    """The attempt's number among those at this item, counted from 0."""
    reason: str
    """What was wrong, in a sentence."""


class CudaScoringRequested(Fact, frozen=True, kw_only=True):
    """A verifier whose host has no CUDA device was handed an attempt that one with a device must judge.

    Whoever judges it answers the attempt itself, as if it had been handed that.
    """

    TAG: ClassVar[str] = "cuda_scoring_requested"
    KEY: ClassVar[tuple[str, ...]] = ("trajectory",)

    trajectory: str
    """The id of the `trajectory_recorded`."""
    generation: int
    """The generation of the attempt."""


class JudgeCalled(Fact, frozen=True, kw_only=True):
    """A verifier asked the task's judge model, which is recorded before its answer is acted on."""

    TAG: ClassVar[str] = "judge_called"
    KEY: ClassVar[tuple[str, ...]] = ("trajectory", "ordinal")

    trajectory: str
    """The id of the `trajectory_recorded` that is judged; of a submission, of its first."""
    ordinal: int
    """The question's place among those of this judgement, counted from 0."""
    provider: str
    """Whose API the model was reached by: `anthropic` or `openai`."""
    model: str
    """The model's name there."""
    request: str
    """Blob of all that was said to the model, a `ModelRequest` of `runtime/agents/conversation.py`."""
    response: str
    """Blob of its answer, a `ModelTurn` of the same."""
    prompt_tokens: int | None
    """Number of tokens that the model read, in all tries; null where its server does not say."""
    completion_tokens: int | None
    """Number of tokens that it wrote, in all tries; null where its server does not say."""
    micro_usd: int | None
    """What the tries cost, in millionths of a US dollar; null where no price is known, or not what they took."""
    seconds: float
    """Seconds from the first try to the end of the last."""
    attempts: int
    """Number of tries, with those that failed and were repeated."""
    status: CallStatus
    """How the last try ended."""
    generation: int = -1
    """The generation of the trajectory; -1 where that is not known, and outside a run's loop."""


class LabelEstimated(Fact, frozen=True, kw_only=True):
    """The label that a group's own answers elected in place of the true one.

    How often the elected label is true: join `request`, `item` and `answer` with the trajectories' rewards, which this
    took no part in.
    """

    TAG: ClassVar[str] = "label_estimated"
    KEY: ClassVar[tuple[str, ...]] = ("batch", "request", "item")

    generation: int
    """The generation's number, counted from 0, the start."""
    round: int
    """The round of the weight update, counted from 1."""
    batch: str
    """Digest of the sealed batch."""
    request: str
    """The id of the `rollouts_requested` that the group's attempts answer."""
    item: str
    """The item's id."""
    answer: str
    """The label that was elected; empty if nobody answered."""
    votes: int
    """Number of attempts that answered so."""
    answers: int
    """Number of attempts of the group."""


class StageEvaluated(Fact, frozen=True, kw_only=True):
    """A candidate was asked the first dev items, and is asked the others or not.

    Its score, once it has one, is over all items that it was asked, each once.
    """

    TAG: ClassVar[str] = "stage_evaluated"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    """The generation's number, counted from 0, the start."""
    candidate: str
    """The candidate's id."""
    score: float
    """Mean reward of the attempts that ran; 0 where none did."""
    items: int
    """Number of attempts at dev items, one each."""
    failed: int
    """Number of those that failed to run or could not be scored."""
    passed: bool
    """Whether it is asked the other items."""
    reason: str
    """Why, in a sentence."""


class CandidateRechecked(Fact, frozen=True, kw_only=True):
    """A second look at a candidate and the best so far, whose scores were too close to call."""

    TAG: ClassVar[str] = "candidate_rechecked"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    """The generation's number, counted from 0, the start."""
    candidate: str
    """The candidate's id."""
    against: str
    """The id of the best so far."""
    difference: float
    """Mean over the dev items of the candidate's mean reward less the other's, of all attempts of both looks, in the
    task's own unit.
    """
    low: float
    """The lower end of the difference's 95 % interval."""
    high: float
    """The upper end of that interval."""
    items: int
    """Number of items at which both were scored."""
    attempts: int
    """Number of further attempts at each item, by each of the two."""


class CandidateEvaluated(Fact, frozen=True, kw_only=True):
    """A candidate's score on dev with its 95 % interval, and how its attempts at the probe of train items went."""

    TAG: ClassVar[str] = "candidate_evaluated"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)
    SINCE: ClassVar[Mapping[str, int]] = {"parents": 5}

    generation: int
    """The generation's number, counted from 0, the start."""
    candidate: str
    """The candidate's id."""
    scaffold: str
    """Digest of its scaffold."""
    adapter: str
    """Digest of its adapter; empty for the base model."""
    lever: CandidateOrigin
    """What it came from."""
    score: float
    """Mean reward of the dev attempts that ran, in the task's own unit."""
    low: float
    """The lower end of the score's 95 % interval, in the same unit."""
    high: float
    """The upper end of that interval."""
    items: int
    """Number of attempts at dev items, one each."""
    failed: int
    """Number of those that failed to run or could not be scored."""
    pass_at_1: float
    """Mean over the probe's items of the mean reward of an item's attempts."""
    pass_at_k: float
    """Mean over the probe's items of the best reward of an item's attempts."""
    tied_groups: float
    """The share, 0 to 1, of the probe's items whose attempts all have the same reward."""
    rollouts: int
    """Number of rollouts in the run so far."""
    tokens: int
    """Number of tokens in the run so far, read and written by the policy and the agents' language models."""
    micro_usd: int
    """What calls of models have cost in the run so far, in millionths of a US dollar."""
    parents: tuple[str, ...] = ()
    """The ids of the candidates that it was made from, one or two; none for the start."""
