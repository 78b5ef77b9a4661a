"""Facts about changes: scaffolds asked for and proposed, weight updates asked for."""

from typing import ClassVar

from events.fact import Fact
from events.kinds import Lever, Memory, Resample


class ScaffoldRequested(Fact, frozen=True, kw_only=True):
    """The Meta-Agent is asked for the first scaffold of a run."""

    TAG: ClassVar[str] = "scaffold_requested"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    """The generation's number, counted from 0, the start."""
    task: str
    """The task, as in `run_started`."""


class ScaffoldProposed(Fact, frozen=True, kw_only=True):
    """A scaffold, as the digest of its folder, with what was changed against its parent and why."""

    TAG: ClassVar[str] = "scaffold_proposed"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    """The generation's number, counted from 0, the start."""
    scaffold: str
    """Digest of the scaffold's folder."""
    parent: str
    """Digest of the scaffold that it was made from; empty for the first."""
    summary: str
    """What was changed, in a sentence."""
    reason: str
    """Why, in the agent's words."""


class ProposalFailed(Fact, frozen=True, kw_only=True):
    """The agent was asked for a change and could not give one."""

    TAG: ClassVar[str] = "proposal_failed"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    """The generation's number, counted from 0, the start."""
    reason: str
    """Why there is none, in a sentence."""


class WeightUpdateRequested(Fact, frozen=True, kw_only=True):
    """The agent ordered a weight update: which algorithm, with what hyper-parameters, in how many rounds of
    rollouts.
    """

    TAG: ClassVar[str] = "weight_update_requested"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    """The generation's number, counted from 0, the start."""
    algorithm: str
    """The learning algorithm's name."""
    hyper: dict[str, float]
    """Hyper-parameters in place of the algorithm's defaults, by name; units: `algorithms/learning/batch.py`."""
    rounds: int
    """Number of rounds of rollouts and training, at most."""
    resample: Resample
    """The train items of later rounds."""
    memory: Memory
    """The trajectories that a round trains on."""
    reason: str
    """Why, in the agent's words."""
    restart: bool = False
    """Whether each round trains from the base model again, and not from the adapter that answered."""
    hints: bool = False
    """Whether items that a round did not solve are asked once more with the true answer in sight."""


class ChildRunRequested(Fact, frozen=True, kw_only=True):
    """The agent asked for a run of its own that starts from its candidate: what that run ends with is the change."""

    TAG: ClassVar[str] = "child_run_requested"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    """The generation's number, counted from 0, the start."""
    levers: tuple[Lever, ...]
    """The levers that the child may pull."""
    generations: int
    """Number of generations of the child, at most."""
    rollouts: int | None
    """Number of rollouts that it may ask for; null: what the budget leaves this candidate."""
    reason: str
    """Why, in the agent's words."""


class ChildRunOrdered(Fact, frozen=True, kw_only=True):
    """A run that belongs to this one is to be started, under this name. In what is not said here it is as this one."""

    TAG: ClassVar[str] = "child_run_ordered"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    """The generation's number, counted from 0, the start."""
    child: str
    """The child's name, which follows from this run's and the generation."""
    seed: int
    """What the child's draws are derived from; its splits are this run's."""
    levers: tuple[Lever, ...]
    """The levers that it may pull."""
    generations: int
    """Number of generations, at most."""
    rollouts: int | None
    """Number of rollouts that it may ask for; null without a limit."""
    tokens: int | None
    """Number of tokens after which it begins no generation: what was left when its owner's generation began, as far as
    it was settled; null without a limit.
    """
    micro_usd: int | None
    """What calls of models may cost before it begins none, in millionths of a US dollar: likewise."""
    scaffold: str
    """Digest of the scaffold that it starts from."""
    adapter: str
    """Digest of the adapter that it starts from; empty for the base model."""
    state: str
    """Blob of what the training of that adapter left for the next; empty for none."""


class ChildRunFinished(Fact, frozen=True, kw_only=True):
    """A run that belongs to this one has ended, with what is read of it."""

    TAG: ClassVar[str] = "child_run_finished"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    """The generation's number, counted from 0, the start."""
    child: str
    """The child's name."""
    reason: str
    """Why it ended, in a sentence."""
    scaffold: str
    """Digest of the scaffold that it ended with; empty where it ended with no candidate."""
    adapter: str
    """Digest of the adapter that it ended with; empty for the base model."""
    rollouts: int
    """Number of rollouts that it asked for; they count in this run's budget too."""
    tokens: int
    """Number of tokens that its models read and wrote; they count here too."""
    micro_usd: int
    """What its calls of models cost, in millionths of a US dollar; it counts here too."""
