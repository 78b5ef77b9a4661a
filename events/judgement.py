"""Facts about judging: rewards of attempts, scores of candidates."""

from typing import ClassVar

from events.fact import Fact
from events.kinds import CandidateOrigin


class TrajectoryScored(Fact, frozen=True, kw_only=True):
    """The verifier's reward for one attempt. `outcome` is its word for how the answer fared."""

    TAG: ClassVar[str] = "trajectory_scored"
    SLOT: ClassVar[str] = "judgement"
    KEY: ClassVar[tuple[str, ...]] = ("trajectory",)

    trajectory: str
    request: str
    item: str
    attempt: int
    reward: float
    outcome: str
    verifier: str


class ScoringFailed(Fact, frozen=True, kw_only=True):
    """The verifier could not give a finite reward for one attempt."""

    TAG: ClassVar[str] = "scoring_failed"
    SLOT: ClassVar[str] = "judgement"
    KEY: ClassVar[tuple[str, ...]] = ("trajectory",)

    trajectory: str
    request: str
    item: str
    attempt: int
    reason: str


class LabelEstimated(Fact, frozen=True, kw_only=True):
    """The label that a group's own answers elected in place of the true one: `votes` of `answers` were for it; empty if
    nobody answered.

    How often the elected label is true: join `request`, `item` and `answer` with the trajectories' rewards, which this
    took no part in.
    """

    TAG: ClassVar[str] = "label_estimated"
    KEY: ClassVar[tuple[str, ...]] = ("batch", "request", "item")

    generation: int
    round: int
    batch: str
    request: str
    item: str
    answer: str
    votes: int
    answers: int


class CandidateEvaluated(Fact, frozen=True, kw_only=True):
    """A candidate's score on dev with its 95 % interval, and how its attempts at the probe of train items went.

    `score` is the mean reward of the attempts that ran; `failed` counts those that did not.
    """

    TAG: ClassVar[str] = "candidate_evaluated"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    candidate: str
    scaffold: str
    adapter: str
    lever: CandidateOrigin
    score: float
    low: float
    high: float
    items: int
    failed: int
    pass_at_1: float
    pass_at_k: float
    tied_groups: float
    rollouts: int
    """Rollouts in the run so far."""
    tokens: int
    micro_usd: int
