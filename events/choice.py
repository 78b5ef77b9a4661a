"""Facts about choosing: the parent, the lever, and what the agent saw when it chose."""

from typing import ClassVar

from events.fact import Fact


class ParentSelected(Fact, frozen=True, kw_only=True):
    """The candidate that the next generation starts from, with the probability of every candidate that could have been."""

    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    candidate: str
    probabilities: dict[str, float]


class FeedbackRequested(Fact, frozen=True, kw_only=True):
    """The Feedback-Agent is asked for the next change to a candidate, with the requests whose trajectories show how it fared."""

    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    candidate: str
    scaffold: str
    adapter: str
    levers: tuple[str, ...]
    rollouts_left: int | None
    generations_left: int
    probe_requests: tuple[str, ...]
    dev_requests: tuple[str, ...]


class ContextAssembled(Fact, frozen=True, kw_only=True):
    """The digest of everything that the agent saw before it answered, kept as one blob."""

    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    blob: str
    trajectories: int


class LeverChosen(Fact, frozen=True, kw_only=True):
    """The agent chose a lever, or to stop, and said why. `diagnosis` holds the figures that it went by."""

    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    lever: str
    """`scaffold`, `weights` or `stop`."""
    action: str
    """The edit's name, or the learning algorithm's."""
    reason: str
    propensities: dict[str, float]
    diagnosis: dict[str, float]
