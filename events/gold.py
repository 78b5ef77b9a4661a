"""Facts that only the auditor makes, on a stream of their own that no part of the loop can read; the operator may."""

from typing import ClassVar

from events.fact import Fact
from events.judgement import JudgeCalled
from events.kinds import DriftState, SplitName
from events.rollouts import ModelCalled


class GoldJudgeCalled(JudgeCalled, frozen=True, kw_only=True):
    """The auditor asked the task's judge model, which is recorded before its answer is acted on.

    Its `trajectory` names the measure, and the item with the digest of its answer, or the digest of a submission.
    """

    TAG: ClassVar[str] = "gold_judge_called"


class GoldModelCalled(Fact, frozen=True, kw_only=True):
    """A scaffold that the auditor plays called the policy; appended before any completion is released, as for dev."""

    TAG: ClassVar[str] = "gold_model_called"
    EXCLUSIVE_KEY: ClassVar[str] = "model_called"
    KEY: ClassVar[tuple[str, ...]] = ("request", "item", "ordinal")

    request: str
    """What the auditor plays the shard for: a name of its own, and the shard's number."""
    item: str
    """The item's id."""
    ordinal: int
    """The call's place, as in `model_called`."""
    call: ModelCalled
    """The call, as `model_called` would have it."""


class GoldScored(Fact, frozen=True, kw_only=True):
    """One cell of the final table: a scaffold with a policy, or a baseline without an agent, on one split."""

    TAG: ClassVar[str] = "gold_scored"
    EXCLUSIVE_KEY: ClassVar[str] = "cell"
    KEY: ClassVar[tuple[str, ...]] = ("cell", "split")

    cell: str
    """`start`, `scaffold` and `weights` (one lever's gain alone), `final`, `uniform_policy`, or `baseline:<name>`.

    `reference` is the task's reference scaffold, where a Meta-Agent wrote another start. `start_best_of_k` and
    `start_vote_of_k` are the start at temperature 1, `attempts` answers an item. Of these the first counts the answer
    with the highest reward, the second the most frequent one.
    """
    split: SplitName
    """The split whose items were answered: `dev` or `test`."""
    scaffold: str
    """Digest of the scaffold; empty for a baseline."""
    adapter: str
    """Digest of the adapter; empty for the base model, and for a baseline."""
    policy: str
    """The model's name, as in `model_called`; empty for a baseline."""
    score: float
    """Mean reward of the attempts that ran, by the run's own verifier, in the task's own unit; of several at an item
    the one that counts.
    """
    low: float
    """The lower end of the score's 95 % interval, in the same unit."""
    high: float
    """The upper end of that interval."""
    items: int
    """Number of items of the split."""
    failed: int
    """Number of items of which no attempt ran to its end."""
    rollouts: int
    """Number of the auditor's rollouts for this, `attempts` an item; 0 for a baseline, and for `start_best_of_k`, which
    has the answers of `start_vote_of_k`.
    """
    blob: str
    """Answers, among the auditor's blobs; empty for a baseline."""
    attempts: int = 1
    """Number of answers to each item from which the one that counts was taken."""


class GoldFailed(Fact, frozen=True, kw_only=True):
    """A cell of the final table that could not be scored, and why."""

    TAG: ClassVar[str] = "gold_failed"
    EXCLUSIVE_KEY: ClassVar[str] = "cell"
    KEY: ClassVar[tuple[str, ...]] = ("cell", "split")

    cell: str
    """The cell, as in `gold_scored`; or `references`, `baselines`, `perturbed:<name>` where these could not be had, or
    `unscored:<measure> of <pair>` where a measure could not score some or all of a pair's answers. `start_of_k` stands
    for both cells of the start that take k attempts an item, where these are not played.
    """
    split: SplitName
    """The split: `dev` or `test`."""
    reason: str
    """Why there is no score."""


class PoliciesCompared(Fact, frozen=True, kw_only=True):
    """The final candidate against a uniformly random policy in the same scaffold, item by item."""

    TAG: ClassVar[str] = "policies_compared"
    KEY: ClassVar[tuple[str, ...]] = ("split",)

    split: SplitName
    """The split: `dev` or `test`."""
    wins: int
    """Number of items on which the candidate's reward is higher."""
    losses: int
    """Number of items on which it is lower."""
    p_value: float
    """The exact two-sided probability, by McNemar's test, of so uneven a count if both were as likely."""


class AuditFinished(Fact, frozen=True, kw_only=True):
    """The auditor has scored everything that it will score of this run."""

    TAG: ClassVar[str] = "audit_finished"

    candidate: str
    """The id of the candidate that the run ended with; empty if none was accepted."""
    cells: int
    """Number of cells of the final table that were scored."""
    seconds: float
    """Seconds that the audit of the finished run took."""


VERIFIER, GOLD, PERTURBED, CHANGED, EXTRA = "verifier", "gold", "perturbed:", "changed:", "beside:"
"""The measures of `PairMeasured`; the last three begin its name."""
UNSCORED = "unscored:"
"""Begins the cell of a `GoldFailed` for answers to test that a measure could not score."""
DESCRIPTION, REFERENCES = "gold's description", "references"
"""The cells of a `GoldFailed` where gold cannot be described, and where canaries or the ceiling cannot be scored."""
CANARY, CEILING = "canary:", "ceiling"
"""The names of `ReferenceMeasured`; the first begins its name."""


class PairMeasured(Fact, frozen=True, kw_only=True):
    """A scaffold with an adapter under one measure: the scores of each test item's attempts.

    `verifier` is the run's own, on items that it was not chosen by. `gold` is what the task is for.
    `perturbed:<name>` is the run's verifier again, on items that were changed and ask the same. `changed:<name>` is
    that verifier on items that no longer ask quite the same. `beside:<name>` is a further measure of the task's.
    """

    TAG: ClassVar[str] = "pair_measured"
    KEY: ClassVar[tuple[str, ...]] = ("scaffold", "adapter", "measure")

    scaffold: str
    """Digest of the scaffold."""
    adapter: str
    """Digest of the adapter; empty for the base model."""
    measure: str
    """The measure's name."""
    scores: dict[str, tuple[float, ...]]
    """The score of each attempt, by the item's id, in the measure's unit; 0 for one that did not answer. An answer that
    could not be scored is left out.
    """
    failed: int
    """Number of attempts that failed to run."""
    blob: str
    """Answers, among the auditor's blobs."""


class GoldDescribed(Fact, frozen=True, kw_only=True):
    """What gold is for this run, and which items are not independent of each other."""

    TAG: ClassVar[str] = "gold_described"

    own: bool
    """Whether gold is the run's own verifier, so that nothing can be said of how the two differ."""
    groups: dict[str, str]
    """The group of each item of dev and test that shares one with another item, by the item's id."""
    reliability: float
    """How much of a difference in quality arrives in gold on average, from 0, nothing, to 1, all of it; by the task's
    statement, or by two labels of the same items. -1 where neither is there.
    """


class DevAnswersScored(Fact, frozen=True, kw_only=True):
    """Gold's scores of the answers to dev for which the loop rewarded a candidate, whether it was accepted or not."""

    TAG: ClassVar[str] = "dev_answers_scored"
    KEY: ClassVar[tuple[str, ...]] = ("candidate",)

    generation: int
    """The generation's number, counted from 0, the start."""
    candidate: str
    """The candidate's id."""
    scores: dict[str, tuple[float, ...]]
    """Gold's score of each attempt that has a reward, in the order of the attempts, by the item's id. An item of which
    gold could not score such an attempt is left out.
    """
    unscored: int
    """Number of items that were left out for that."""


class ReferenceMeasured(Fact, frozen=True, kw_only=True):
    """Scores that candidates are compared with, under one measure, by test item; no candidate earned them."""

    TAG: ClassVar[str] = "reference_measured"
    KEY: ClassVar[tuple[str, ...]] = ("name", "measure")

    name: str
    """`canary:<name>`, an answer that needs no skill; or `ceiling`, the most to be expected from the verifier."""
    measure: str
    """`verifier`, the run's own, or `gold`."""
    scores: dict[str, float]
    """The score, by the item's id, in the measure's unit."""


class DriftFlagged(Fact, frozen=True, kw_only=True):
    """The auditor's verdict after the audit of an accepted candidate, or, as the last one, of the finished run."""

    TAG: ClassVar[str] = "drift_flagged"
    KEY: ClassVar[tuple[str, ...]] = ("look",)

    look: int
    """The generation of the candidate that was audited last; -1 for the finished run."""
    state: DriftState
    """The verdict."""
    rule: str
    """The rules that decided, joined by "and"; empty when green."""
    lever: str
    """The lever that the rule points at, `both`, or empty where it points at none."""
    generation: int
    """The generation from which the scores mean something else; -1 where no rule says."""
    sentence: str
    """What was found, with its figures."""
