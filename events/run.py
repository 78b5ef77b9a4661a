"""Facts about a run as a whole, and about the decisions that drive it."""

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from events.fact import Fact
from events.kinds import AuditAction, AuditLever, Lever, OnDrift, Schedule


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a run may spend; null is no limit."""

    rollouts: int | None = None
    """Number of rollouts that the loop may ask for; the auditor's own are not among them."""
    tokens: int | None = None
    """Number of tokens, read and written by policy and language models, after which no generation begins."""
    micro_usd: int | None = None
    """What their calls cost, in millionths of a US dollar, after which no generation begins."""
    seconds: float | None = None
    """Seconds that the run may be driven for, after which it ends with what it has."""


class Items(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of the items that a run may use."""

    dev: tuple[str, ...]
    """The items of dev."""
    folds: tuple[tuple[str, ...], ...]
    """The items of train, by cross-validation fold."""
    probe: tuple[tuple[str, ...], ...]
    """The train items of the probe, by fold; the folds that it takes none from are empty."""


class RunStarted(Fact, frozen=True, kw_only=True):
    """A run was started. All that its decisions depend on from outside is in here."""

    TAG: ClassVar[str] = "run_started"
    SINCE: ClassVar[Mapping[str, int]] = {"examples": 7}

    task: str
    """The task's name, or the path of its folder."""
    seed: int
    """What the splits and every seed of the run are derived from."""
    levers: tuple[Lever, ...]
    """The levers that the run may pull."""
    generations: int
    """Number of generations after the start, at most."""
    budget: Budget
    """What the run may spend."""
    items: Items
    """The items that it may use."""
    splits: dict[str, str]
    """SHA-256 of each split as loaded."""
    verifier: str
    """The verifier's name and version, such as `lawbench/exact-match-1`."""
    policy: str
    """The kind of policy: `text-scorer`, `tiny-lm`, or `hf:` and a model of transformers."""
    base_model: str
    """SHA-256 of the base model's folder."""
    strategy: str = "chain"
    """The search strategy: `chain`, `dgm` or `best_of_k`."""
    agent: str = "rules"
    """What is behind both agents: `rules`, or a language model such as `anthropic:MODEL`."""
    sandbox: str = "child-process"
    """The sandbox that scaffolds run in: its profile, with versions; `none` without one."""
    max_tokens: int = 64
    """The longest completion that a scaffold's call of the policy gives, in tokens."""
    group_size: int = 8
    """Number of attempts at each item of the probe and of a training round."""
    shard_size: int = 400
    """Number of attempts that one request for rollouts asks for, at most."""
    parent_run: str = ""
    """The run that this one was forked from, whose events up to `parent_sequence` are its past; empty for no fork."""
    parent_sequence: int = 0
    """The sequence, on the log, of the last event of that past."""
    parent_digest: str = ""
    """SHA-256 over that past."""
    algorithm: str = ""
    """The learning algorithm of every weight update, in place of the agent's choice; empty: the agent chooses."""
    verifier_code: str = ""
    """Blob of the text of a verifier that is used in place of the task's own; empty: the task's own."""
    on_drift: OnDrift = ""
    """What the auditor may do when it finds drift."""
    judge: str = ""
    """The language model that the verifier asks, such as `anthropic:MODEL`; empty for a verifier that asks none."""
    solved: float | None = 1.0
    """The reward from which a train item counts as solved; null: none ever does."""
    submissions: bool = False
    """Whether the verifier judges whole submissions: then no shard divides the items of a split or a fold."""
    private_prompts: bool = False
    """Whether the items' prompts are not to be shown: exports leave out what the policy was asked, and agents read
    digests.
    """
    shared_state: bool = False
    """Whether attempts share what they leave in the scaffold's globals and work folder, as the task may want it."""
    width: int = 1
    """Number of candidates that may be under way at once."""
    first_items: int = 0
    """Number of dev items that a candidate is asked first; one that does worse on them than its parent is not asked the
    others. 0: all at once.
    """
    recheck: int = 0
    """Number of further attempts at each dev item, by a candidate and by the best so far, where their scores are too
    close to call; 0: none.
    """
    refills: int = 0
    """How often, at most, the groups of a training round that tie are played again."""
    max_lag: int = 0
    """How many versions, at most, the adapter that plays a training round's rollouts may be behind the one that they
    train; 0: no rollouts are made for the next round while this one is trained.
    """
    schedule: Schedule = "agent"
    """Who chooses the lever."""
    owner: str = ""
    """The run that this one belongs to, and is ended with; empty for a run of its own."""
    owner_generation: int = 0
    """The generation of the owner's candidate that this run is to find."""
    start_scaffold: str = ""
    """Digest of the scaffold that the run starts from; empty: the Meta-Agent is asked for one."""
    start_adapter: str = ""
    """Digest of the adapter that it starts from; empty for the base model."""
    start_state: str = ""
    """Blob of what the training of that adapter left for the next."""
    examples: int = 4
    """Most descriptions of other tasks that the Meta-Agent is shown."""
    draw_seed: int | None = None
    """What the run's draws are derived from, in a run that belongs to another and has its splits; null: `seed`."""


class DecisionMade(Fact, frozen=True, kw_only=True):
    """The head of a decision's batch: which input it answers, and the digest of all that was folded since the last."""

    TAG: ClassVar[str] = "decision_made"
    KEY: ClassVar[tuple[str, ...]] = ("number",)

    number: int
    """The decision's number within the run, counted from 1."""
    input: str
    """The id of the event that it answers."""
    decider: int
    """The decider's version."""
    digest: str
    """SHA-256 chained over the previous decision's digest and every event folded since."""
    outputs: int
    """Number of events that were decided: those that follow this one in its batch."""


class RunPaused(Fact, frozen=True, kw_only=True):
    """The run makes no further decision until it is resumed: the operator asked for it, or a service cannot go on
    before the operator has put something right.
    """

    TAG: ClassVar[str] = "run_paused"
    KEY: ClassVar[tuple[str, ...]] = ("number",)

    number: int
    """The pause's number within the run, counted from 1."""
    reason: str
    """Why, in the words of who paused it; it may be empty."""
    by: str = ""
    """The service that paused it, such as `feedback_agent`; empty for the operator."""


class RunResumed(Fact, frozen=True, kw_only=True):
    """The operator let a paused run go on."""

    TAG: ClassVar[str] = "run_resumed"
    KEY: ClassVar[tuple[str, ...]] = ("number",)

    number: int
    """The number of the pause that ends, counted from 1."""


class RunCancelled(Fact, frozen=True, kw_only=True):
    """The run is to end with what it has: the operator asked for it, or the run that it belongs to has ended."""

    TAG: ClassVar[str] = "run_cancelled"

    reason: str
    """Why, in a sentence; it may be empty."""


class TimeSpent(Fact, frozen=True, kw_only=True):
    """A controller has driven the run for some seconds more. It is recorded where the budget limits time."""

    TAG: ClassVar[str] = "time_spent"
    KEY: ClassVar[tuple[str, ...]] = ("number",)

    number: int
    """The fact's number within the run, counted from 1."""
    seconds: float
    """Seconds for which the run was driven so far: its pauses, and the time without a controller, are not among
    them.
    """


class AuditReleased(Fact, frozen=True, kw_only=True):
    """The auditor has looked at an accepted candidate, in a run that lets it act. It is all that the loop ever learns
    of an audit.

    After `rollback`, the candidate of `generation` and all that was made from it leave the population, and the run goes
    on from the others. What is under way is finished first.
    """

    TAG: ClassVar[str] = "audit_released"
    KEY: ClassVar[tuple[str, ...]] = ("look",)

    look: int
    """The generation of the candidate that was audited."""
    action: AuditAction
    """What the loop is told to do."""
    lever: AuditLever
    """The lever that the action is about."""
    generation: int
    """The generation from which the scores mean something else; -1 for `none`."""
    bits: float
    """All that the looks of this run have told the loop so far, in bits: one for each look, drift or not, and more for
    what was named.
    """


class RunFinished(Fact, frozen=True, kw_only=True):
    """The run has nothing more to decide; the auditor may look at test."""

    TAG: ClassVar[str] = "run_finished"

    reason: str
    """Why the run ends, in a sentence."""
    candidate: str
    """The id of the candidate that it ends with; empty if none was accepted."""
    scaffold: str
    """Digest of that candidate's scaffold."""
    adapter: str
    """Digest of that candidate's adapter; empty for the base model."""
    score: float
    """That candidate's mean reward on dev; 0 if none was accepted."""
    generations: int
    """The number of the last generation, counted from 0, the start."""
    rollouts: int
    """Number of rollouts that the loop asked for."""
    tokens: int
    """Number of tokens that the policy and the agents' language models read and wrote."""
    micro_usd: int
    """What the calls of models cost, in millionths of a US dollar, as far as prices are known."""


class EventSetAside(Fact, frozen=True, kw_only=True):
    """A message on the log could not be read: where it stands, why, and its bytes."""

    TAG: ClassVar[str] = "event_set_aside"
    KEY: ClassVar[tuple[str, ...]] = ("sequence",)

    sequence: int
    """The message's sequence on the log."""
    subject: str
    """The subject that it stands on."""
    reason: str
    """Why it could not be read, in a sentence."""
    size: int
    """Its size in bytes."""
    bytes: str
    """Its first 64 KiB, in base64."""
