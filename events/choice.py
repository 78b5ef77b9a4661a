"""Facts about choosing: the parent, the lever, and what the agent saw when it chose."""

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from events.fact import Fact
from events.kinds import AgentName, CallStatus, Change, Lever, LeverChoice


class ParentSelected(Fact, frozen=True, kw_only=True):
    """The candidate that the next generation starts from, with the probability of every candidate that
    could have been.
    """

    TAG: ClassVar[str] = "parent_selected"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)
    SINCE: ClassVar[Mapping[str, int]] = {"second": 5, "change": 5}

    generation: int
    """The generation's number, counted from 0, the start."""
    candidate: str
    """The id of the candidate that was selected."""
    probabilities: dict[str, float]
    """The probability of each candidate that could have been, by id; they add up to 1."""
    second: str = ""
    """The id of a second parent, which lends its ideas; empty for none."""
    change: Change = "agent"
    """How the candidate comes of its parent."""


class FeedbackRequested(Fact, frozen=True, kw_only=True):
    """The Feedback-Agent is asked for the next change to a candidate, with the requests whose trajectories show how it
    fared.
    """

    TAG: ClassVar[str] = "feedback_requested"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)
    SINCE: ClassVar[Mapping[str, int]] = {"settled": 5, "beside": 5, "second_scaffold": 5, "propensities": 5}

    generation: int
    """The generation's number, counted from 0, the start."""
    candidate: str
    """The id of the candidate that is to be changed."""
    scaffold: str
    """Digest of its scaffold."""
    adapter: str
    """Digest of its adapter; empty for the base model."""
    levers: tuple[Lever, ...]
    """The levers that may be pulled."""
    rollouts_left: int | None
    """Number of rollouts that the budget leaves once the changed candidate is evaluated; null without a limit."""
    generations_left: int
    """Number of generations left, this one included."""
    probe_requests: tuple[str, ...]
    """The ids of the `rollouts_requested` of the candidate's probe."""
    dev_requests: tuple[str, ...]
    """The ids of the `rollouts_requested` of its dev score."""
    settled: int = -1
    """The last generation of which the agent may know what came of it: what is under way beside this one may end
    earlier or later. -1 for the one before this.
    """
    beside: tuple[int, ...] = ()
    """The generations under way that change the same candidate."""
    second_scaffold: str = ""
    """Digest of the scaffold of a second parent, which lends its ideas; empty for none."""
    propensities: dict[str, float] = msgspec.field(default_factory=dict)
    """The probability with which the run's schedule offers each lever, by lever; empty where the agent chooses it."""

    @property
    def known(self) -> int:
        """The last generation of which the agent may know what came of it, in logs of every age."""
        return self.settled if self.settled >= 0 else self.generation - 1


class ContextAssembled(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that the agent saw before it answered, as one blob."""

    TAG: ClassVar[str] = "context_assembled"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    """The generation's number, counted from 0, the start."""
    blob: str
    """Blob of all of it: JSON, for a language model the digest of each part."""
    trajectories: int
    """Number of attempts that are described in it."""
    parts: dict[str, str] = msgspec.field(default_factory=dict)
    """The blob of each part by name, for an agent that is a language model."""
    shown: tuple[str, ...] = ()
    """For a language model the ids of those attempts. What it reads later stands in the requests of its calls."""


class AgentCalled(Fact, frozen=True, kw_only=True):
    """One call of the language model behind an agent, appended before its answer is acted on."""

    TAG: ClassVar[str] = "agent_called"
    KEY: ClassVar[tuple[str, ...]] = ("generation", "agent", "ordinal")

    generation: int
    """The generation's number, counted from 0, the start."""
    agent: AgentName
    """The agent that called."""
    ordinal: int
    """The call's place in the agent's conversation, counted from 0."""
    provider: str
    """Whose API the model was reached by: `anthropic` or `openai`."""
    model: str
    """The model's name there."""
    request: str
    """Blob of all that was said to the model, a `ModelRequest` of `runtime/agents/conversation.py`."""
    response: str
    """Blob of its answer, or of the reason why there is none."""
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
    cached_tokens: int = 0
    """Number of the tokens read that its server held in a cache, as far as it says."""


class TrialFinished(Fact, frozen=True, kw_only=True):
    """An agent tried something out in the middle of its conversation, and what came of it: a scaffold on train items,
    or a question to the policy. Its rollouts and tokens count in the run's budget; none of its attempts is an attempt
    of the run.
    """

    TAG: ClassVar[str] = "trial_finished"
    KEY: ClassVar[tuple[str, ...]] = ("generation", "trial")

    generation: int
    """The generation's number, counted from 0, the start."""
    trial: str
    """What the trial is called in the conversation; it follows from what was tried."""
    agent: AgentName
    """The agent that tried."""
    scaffold: str
    """Digest of the scaffold that was tried; empty for a question to the policy."""
    adapter: str
    """Digest of the adapter; empty for the base model."""
    rollouts: int
    """Number of attempts that were made."""
    mean_reward: float | None
    """Their mean reward, of those that were scored; null where none was."""
    prompt_tokens: int
    """Number of tokens that the policy read."""
    completion_tokens: int
    """Number of tokens that it wrote."""
    micro_usd: int
    """What its calls cost, in millionths of a US dollar."""
    seconds: float
    """Seconds that the trial took."""
    result: str
    """Blob of the text that the agent was shown of it."""


class LeverChosen(Fact, frozen=True, kw_only=True):
    """The agent chose a lever, or to stop, and said why."""

    TAG: ClassVar[str] = "lever_chosen"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    """The generation's number, counted from 0, the start."""
    lever: LeverChoice
    """What was chosen."""
    action: str
    """The name of the edit, the learning algorithm, or the tool that a language model called; empty for `stop`."""
    reason: str
    """Why, in the agent's words."""
    propensities: dict[str, float]
    """The probability with which each lever would have been chosen, by lever. Under a schedule it is the schedule's;
    without one it is empty for a language model.
    """
    diagnosis: dict[str, float]
    """The figures that the agent went by, by name: the fields of `Evidence` in `tasks/contract.py`, in their units."""
