"""The table of all types of event: their streams, who may publish them, and who is handed them as work.

The accounts' rights are generated from it, and so are this folder's README.md, schema.json and asyncapi.json
(`python -m events.pages`).
"""

from typing import Literal, NamedTuple

from events import change, choice, gold, judgement, population, rollouts, run, weights
from events.fact import Fact
from events.subjects import GOLD, LOG

SERVICES = (
    "controller",
    "meta_agent",
    "feedback_agent",
    "executor",
    "verifier",
    "policy",
    "trainer",
    "auditor",
    "archivist",
)
CONSUMERS: dict[str, tuple[str, ...]] = {
    "meta_agent": ("scaffold_requested",),
    "feedback_agent": ("feedback_requested",),
    "executor": ("rollouts_requested",),
    "verifier": ("trajectory_recorded",),
    "policy": ("adapter_published",),
    "trainer": ("training_batch_sealed",),
    "auditor": ("candidate_accepted", "run_finished"),
}
"""The tags that a service is handed as work, by the durable pull consumer of its name."""


class CapableConsumer(NamedTuple):
    """Work that only some hosts can do: the service whose processes there are handed it, what such a host has, and the
    tags.
    """

    service: str
    capability: Literal["cuda"]
    tags: tuple[str, ...]


CAPABLE_CONSUMERS: dict[str, CapableConsumer] = {
    "verifier_cuda": CapableConsumer("verifier", "cuda", ("cuda_scoring_requested",))
}
"""By the name of the durable pull consumer. A consumer filters by subject alone, so such work has a tag of its own."""
DURABLES: dict[str, tuple[str, ...]] = CONSUMERS | {name: one.tags for name, one in CAPABLE_CONSUMERS.items()}
"""All durable consumers that hand out work, with their tags."""


def durables_of(service: str) -> tuple[str, ...]:
    """The durable consumers that a service may take work from."""
    capable = (name for name, one in CAPABLE_CONSUMERS.items() if one.service == service)
    return (*((service,) if service in CONSUMERS else ()), *capable)


class Entry(NamedTuple):
    """One type of event: its struct, its family, the stream that it is on, and the accounts that may publish it."""

    fact: type[Fact]
    family: str
    stream: str
    publishers: tuple[str, ...]


def _entries(family: str, stream: str, *rows: tuple[type[Fact], tuple[str, ...]]) -> list[Entry]:
    return [Entry(fact, family, stream, publishers) for fact, publishers in rows]


_CONTROLLER = ("controller",)
_AGENTS = ("meta_agent", "feedback_agent")

ENTRIES: tuple[Entry, ...] = (
    *_entries(
        "run",
        LOG,
        (run.RunStarted, ("operator", "controller")),
        (run.RunPaused, ("operator", *_AGENTS)),
        (run.RunResumed, ("operator",)),
        (run.RunCancelled, ("operator", "controller")),
        (run.TimeSpent, _CONTROLLER),
        (run.AuditReleased, ("auditor",)),
        (run.DecisionMade, _CONTROLLER),
        (run.RunFinished, _CONTROLLER),
        (run.EventSetAside, tuple(name for name in SERVICES if name not in ("archivist", "auditor"))),
    ),
    *_entries(
        "choice",
        LOG,
        (choice.ParentSelected, _CONTROLLER),
        (choice.FeedbackRequested, _CONTROLLER),
        (choice.ContextAssembled, _AGENTS),
        (choice.AgentCalled, _AGENTS),
        (choice.TrialFinished, _AGENTS),
        (choice.LeverChosen, ("feedback_agent",)),
    ),
    *_entries(
        "change",
        LOG,
        (change.ScaffoldRequested, _CONTROLLER),
        (change.ScaffoldProposed, (*_AGENTS, "controller")),
        (change.ProposalFailed, _AGENTS),
        (change.WeightUpdateRequested, ("feedback_agent",)),
        (change.ChildRunRequested, ("feedback_agent",)),
        (change.ChildRunOrdered, _CONTROLLER),
        (change.ChildRunFinished, _CONTROLLER),
    ),
    *_entries(
        "rollouts",
        LOG,
        (rollouts.RolloutsRequested, _CONTROLLER),
        (rollouts.ModelCalled, ("executor",)),
        (rollouts.TrajectoryRecorded, ("executor",)),
        (rollouts.RolloutFailed, ("executor",)),
    ),
    *_entries(
        "judgement",
        LOG,
        (judgement.TrajectoryScored, ("verifier",)),
        (judgement.ScoringFailed, ("verifier",)),
        (judgement.CudaScoringRequested, ("verifier",)),
        (judgement.JudgeCalled, ("verifier",)),
        (judgement.LabelEstimated, ("trainer",)),
        (judgement.StageEvaluated, _CONTROLLER),
        (judgement.CandidateRechecked, _CONTROLLER),
        (judgement.CandidateEvaluated, _CONTROLLER),
    ),
    *_entries(
        "weights",
        LOG,
        (weights.TrainingBatchSealed, _CONTROLLER),
        (weights.OptimizerStepApplied, ("trainer",)),
        (weights.AdapterPublished, ("trainer",)),
        (weights.AdapterServed, ("policy",)),
        (weights.AdapterRejected, ("policy",)),
        (weights.WeightUpdateFinished, _CONTROLLER),
        (weights.WeightUpdateFailed, ("trainer",)),
    ),
    *_entries(
        "population",
        LOG,
        (population.CandidateAccepted, _CONTROLLER),
        (population.CandidateKept, _CONTROLLER),
        (population.CandidateRejected, _CONTROLLER),
        (population.ArtefactPublished, _AGENTS),
    ),
    *_entries(
        "gold",
        GOLD,
        (gold.GoldScored, ("auditor",)),
        (gold.GoldFailed, ("auditor",)),
        (gold.GoldJudgeCalled, ("auditor",)),
        (gold.GoldModelCalled, ("auditor",)),
        (gold.PoliciesCompared, ("auditor",)),
        (gold.PairMeasured, ("auditor",)),
        (gold.ReferenceMeasured, ("auditor",)),
        (gold.GoldDescribed, ("auditor",)),
        (gold.DevAnswersScored, ("auditor",)),
        (gold.DriftFlagged, ("auditor",)),
        (gold.AuditFinished, ("auditor",)),
    ),
)

BY_TAG: dict[str, Entry] = {entry.fact.tag(): entry for entry in ENTRIES}
BY_FACT: dict[type[Fact], Entry] = {entry.fact: entry for entry in ENTRIES}


def published_by(service: str) -> list[tuple[str, str]]:
    """The (stream, tag) pairs that an account may append."""
    return [(entry.stream, tag) for tag, entry in BY_TAG.items() if service in entry.publishers]
