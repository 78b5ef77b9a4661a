"""Facts about a run as a whole, and about the decisions that drive it."""

from typing import ClassVar

import msgspec

from events.fact import Fact
from events.kinds import AuditAction, AuditLever, Lever, OnDrift


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a run may spend; None is no limit. `micro_usd` is millionths of a US dollar."""

    rollouts: int | None = None
    tokens: int | None = None
    micro_usd: int | None = None


class Items(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of the items that a run may use: dev, train by cross-validation fold, and the train items of the probe,
    by fold too.
    """

    dev: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    probe: tuple[tuple[str, ...], ...]


class RunStarted(Fact, frozen=True, kw_only=True):
    """A run was started. All that its decisions depend on from outside is in here."""

    TAG: ClassVar[str] = "run_started"

    task: str
    seed: int
    levers: tuple[Lever, ...]
    generations: int
    budget: Budget
    items: Items
    splits: dict[str, str]
    """SHA-256 of each split as loaded."""
    verifier: str
    policy: str
    base_model: str
    """SHA-256 of the base model's folder."""
    strategy: str = "chain"
    agent: str = "rules"
    sandbox: str = "child-process"
    max_tokens: int = 64
    """The longest completion that a scaffold's call of the policy gives."""
    group_size: int = 8
    shard_size: int = 400
    parent_run: str = ""
    """The run that this one was forked from, whose events up to `parent_sequence` are its past."""
    parent_sequence: int = 0
    parent_digest: str = ""
    """SHA-256 over that past."""
    algorithm: str = ""
    """The learning algorithm of every weight update, in place of the agent's choice; empty: the agent chooses."""
    verifier_code: str = ""
    """Blob of the text of a verifier that is used in place of the task's own; empty: the task's own."""
    on_drift: OnDrift = ""
    """What the auditor may do when it finds drift."""


class DecisionMade(Fact, frozen=True, kw_only=True):
    """The head of a decision's batch: which input it answers, and the digest of all that was folded since the last."""

    TAG: ClassVar[str] = "decision_made"
    KEY: ClassVar[tuple[str, ...]] = ("number",)

    number: int
    input: str
    decider: int
    """The decider's version."""
    digest: str
    """SHA-256 chained over the previous decision's digest and every event folded since."""
    outputs: int


class RunPaused(Fact, frozen=True, kw_only=True):
    """The operator asked the run to make no further decision."""

    TAG: ClassVar[str] = "run_paused"
    KEY: ClassVar[tuple[str, ...]] = ("number",)

    number: int
    reason: str


class RunResumed(Fact, frozen=True, kw_only=True):
    """The operator let a paused run go on."""

    TAG: ClassVar[str] = "run_resumed"
    KEY: ClassVar[tuple[str, ...]] = ("number",)

    number: int


class AuditReleased(Fact, frozen=True, kw_only=True):
    """The auditor has looked at an accepted candidate, in a run that lets it act. It is all that the loop ever learns
    of an audit.

    After `rollback`, the run goes on from the last candidate that was accepted before `generation`. What is under way
    is finished first.
    """

    TAG: ClassVar[str] = "audit_released"
    KEY: ClassVar[tuple[str, ...]] = ("look",)

    look: int
    """The generation of the candidate that was audited."""
    action: AuditAction
    lever: AuditLever
    generation: int
    """From which the scores mean something else; -1 for `none`."""
    bits: float
    """All that the looks of this run have told the loop so far, in bits: one for each look, drift or not, and more for
    what was named.
    """


class RunFinished(Fact, frozen=True, kw_only=True):
    """The run has nothing more to decide; the auditor may look at test."""

    TAG: ClassVar[str] = "run_finished"

    reason: str
    candidate: str
    scaffold: str
    adapter: str
    score: float
    generations: int
    rollouts: int
    tokens: int
    micro_usd: int


class EventSetAside(Fact, frozen=True, kw_only=True):
    """A message on the log could not be read: where it stands, why, and its bytes (base64, the first 64 KiB)."""

    TAG: ClassVar[str] = "event_set_aside"
    KEY: ClassVar[tuple[str, ...]] = ("sequence",)

    sequence: int
    subject: str
    reason: str
    size: int
    bytes: str
