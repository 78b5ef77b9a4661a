"""Facts about choosing: the parent, the lever, and what the agent saw when it chose."""

from typing import ClassVar

import msgspec

from events.fact import Fact
from events.kinds import AgentName, CallStatus, Lever, LeverChoice


class ParentSelected(Fact, frozen=True, kw_only=True):
    """The candidate that the next generation starts from, with the probability of every candidate that
    could have been.
    """

    TAG: ClassVar[str] = "parent_selected"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    candidate: str
    probabilities: dict[str, float]


class FeedbackRequested(Fact, frozen=True, kw_only=True):
    """The Feedback-Agent is asked for the next change to a candidate, with the requests whose trajectories show how it
    fared.
    """

    TAG: ClassVar[str] = "feedback_requested"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    candidate: str
    scaffold: str
    adapter: str
    levers: tuple[Lever, ...]
    rollouts_left: int | None
    generations_left: int
    probe_requests: tuple[str, ...]
    dev_requests: tuple[str, ...]


class ContextAssembled(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that the agent saw before it answered, as one blob."""

    TAG: ClassVar[str] = "context_assembled"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    blob: str
    trajectories: int
    parts: dict[str, str] = msgspec.field(default_factory=dict)
    """The blob of each part by name, for an agent that is a language model."""
    shown: tuple[str, ...] = ()
    """The ids of the trajectories in it. What the agent reads later stands in the requests of its calls."""


class AgentCalled(Fact, frozen=True, kw_only=True):
    """One call of the language model behind an agent, appended before its answer is acted on."""

    TAG: ClassVar[str] = "agent_called"
    KEY: ClassVar[tuple[str, ...]] = ("generation", "agent", "ordinal")

    generation: int
    agent: AgentName
    ordinal: int
    provider: str
    model: str
    request: str
    """Blob of all that was said to the model, a `ModelRequest` of `runtime/agents/conversation.py`."""
    response: str
    """Blob of its answer, or of the reason why there is none."""
    prompt_tokens: int
    completion_tokens: int
    micro_usd: int | None
    """None where no price is known."""
    seconds: float
    attempts: int
    """Tries, with those that failed and were repeated."""
    status: CallStatus


class LeverChosen(Fact, frozen=True, kw_only=True):
    """The agent chose a lever, or to stop, and said why. `diagnosis` holds the figures that it went by."""

    TAG: ClassVar[str] = "lever_chosen"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    lever: LeverChoice
    action: str
    """The edit's name, or the learning algorithm's."""
    reason: str
    propensities: dict[str, float]
    diagnosis: dict[str, float]
