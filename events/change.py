"""Facts about changes: scaffolds asked for and proposed, weight updates asked for."""

from typing import ClassVar

from events.fact import Fact


class ScaffoldRequested(Fact, frozen=True, kw_only=True):
    """The Meta-Agent is asked for the first scaffold of a run."""

    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    task: str


class ScaffoldProposed(Fact, frozen=True, kw_only=True):
    """A scaffold, as the digest of its folder, with what was changed against its parent and why."""

    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    scaffold: str
    parent: str
    summary: str
    reason: str


class ProposalFailed(Fact, frozen=True, kw_only=True):
    """The agent was asked for a change and could not give one."""

    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    reason: str


class WeightUpdateRequested(Fact, frozen=True, kw_only=True):
    """The agent ordered a weight update: which algorithm, with what hyper-parameters, in how many rounds of rollouts."""

    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    algorithm: str
    hyper: dict[str, float]
    rounds: int
    resample: str
    """Which train items a later round plays: `all`, or `unsolved` (those without a right answer in this update)."""
    memory: str
    """Which trajectories a round trains on: `round` (on-policy), or `update` (all of this update's so far)."""
    reason: str
    restart: bool = False
    """Whether each round trains from the base model again, and not from the adapter that answered."""
    hints: bool = False
    """Whether items that a round did not solve are played once more with the true answer in sight."""
