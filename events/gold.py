"""Facts that only the auditor makes, on a stream of their own that no part of the loop can read; the operator may."""

from typing import ClassVar

from events.fact import Fact
from events.kinds import DriftState, SplitName


class GoldScored(Fact, frozen=True, kw_only=True):
    """One cell of the final table: a scaffold with a policy, or a baseline without an agent, on one split."""

    TAG: ClassVar[str] = "gold_scored"
    SLOT: ClassVar[str] = "cell"
    KEY: ClassVar[tuple[str, ...]] = ("cell", "split")

    cell: str
    """`start`, `scaffold` and `weights` (one lever's gain alone), `final`, `uniform_policy`, or `baseline:<name>`."""
    split: SplitName
    scaffold: str
    adapter: str
    policy: str
    score: float
    low: float
    high: float
    items: int
    failed: int
    rollouts: int
    blob: str
    """Answers and model calls, among the auditor's blobs; empty for a baseline."""


class GoldFailed(Fact, frozen=True, kw_only=True):
    """A cell of the final table that could not be scored, and why."""

    TAG: ClassVar[str] = "gold_failed"
    SLOT: ClassVar[str] = "cell"
    KEY: ClassVar[tuple[str, ...]] = ("cell", "split")

    cell: str
    split: SplitName
    reason: str


class PoliciesCompared(Fact, frozen=True, kw_only=True):
    """The final candidate against a uniformly random policy in the same scaffold, item by item.

    `wins` counts the items on which the candidate's reward is higher, `losses` those on which it is lower; `p_value` is
    the exact two-sided one of McNemar's test that both are as likely.
    """

    TAG: ClassVar[str] = "policies_compared"
    KEY: ClassVar[tuple[str, ...]] = ("split",)

    split: SplitName
    wins: int
    losses: int
    p_value: float


class AuditFinished(Fact, frozen=True, kw_only=True):
    """The auditor has scored everything that it will score of this run."""

    TAG: ClassVar[str] = "audit_finished"

    candidate: str
    cells: int
    seconds: float


VERIFIER, GOLD, PERTURBED, CHANGED, EXTRA = "verifier", "gold", "perturbed:", "changed:", "beside:"
"""The measures of `PairMeasured`; the last three begin its name."""
CANARY, CEILING = "canary:", "ceiling"
"""The names of `ReferenceMeasured`; the first begins its name."""


class PairMeasured(Fact, frozen=True, kw_only=True):
    """A scaffold with an adapter under one measure: the scores of each test item's attempts. What did not answer scores
    0.

    `measure` is `verifier` (the run's own, on items that it was not chosen by), `gold` (what the task is for),
    `perturbed:<name>` (the run's verifier again, on items that were changed so and ask the same), `changed:<name>`
    (that no longer ask quite the same), or `beside:<name>` (a further measure of the task's).
    """

    TAG: ClassVar[str] = "pair_measured"
    KEY: ClassVar[tuple[str, ...]] = ("scaffold", "adapter", "measure")

    scaffold: str
    adapter: str
    measure: str
    scores: dict[str, tuple[float, ...]]
    failed: int
    blob: str
    """Answers and model calls, among the auditor's blobs."""


class ReferenceMeasured(Fact, frozen=True, kw_only=True):
    """Scores that candidates are compared with, under one measure, by test item; no candidate earned them.

    `name` is `canary:<name>`, an answer that needs no skill, under `verifier` (the run's own) and under `gold`;
    or `ceiling`, the most that an answer can be expected to earn from the verifier.
    """

    TAG: ClassVar[str] = "reference_measured"
    KEY: ClassVar[tuple[str, ...]] = ("name", "measure")

    name: str
    measure: str
    scores: dict[str, float]


class DriftFlagged(Fact, frozen=True, kw_only=True):
    """The auditor's verdict after the audit of an accepted candidate, or, as the last one, of the finished run."""

    TAG: ClassVar[str] = "drift_flagged"
    KEY: ClassVar[tuple[str, ...]] = ("look",)

    look: int
    """The generation of the candidate that was audited last; -1 for the finished run."""
    state: DriftState
    rule: str
    lever: str
    """The lever that the rule points at, `both`, or empty where it points at none."""
    generation: int
    """From which the scores mean something else; -1 where no rule says."""
    sentence: str
