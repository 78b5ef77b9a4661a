"""The audit of a run: from its events on the log and on GOLD to each candidate's figures, the findings of all rules,
and the verdict.

All of it is computed again from what is recorded, so that the audit of a live run, of a finished one and of an export
is the same.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from algorithms.statistics import Estimate
from events.gold import (
    DESCRIPTION,
    GOLD,
    PERTURBED,
    REFERENCES,
    UNSCORED,
    VERIFIER,
    AuditFinished,
    DriftFlagged,
    GoldFailed,
)
from events.kinds import DriftState
from events.run import RunFinished, RunStarted
from replay.audit.candidates import AuditedRun, audited_run
from replay.audit.cross_play import (
    AdditiveFit,
    CrossPlayTable,
    additive_fits,
    cross_play_finding,
    cross_play_tables,
    cross_play_unknown,
)
from replay.audit.known import known_of
from replay.audit.levers import exchange_findings, exchange_rates
from replay.audit.misspecification import misspecification_findings, misspecification_unknown, smallest_gap
from replay.audit.moves import CandidateMove, LeverGain, candidate_moves, lever_gains
from replay.audit.passing import Passing, passed
from replay.audit.provenance.checks import STATISTICS, Known, provenance_findings
from replay.audit.references import ReferenceScore, ceiling_findings, reference_scores, rejected_canaries
from replay.audit.robustness import (
    Losses,
    change_losses,
    perturbation_findings,
    perturbation_losses,
    robustness_unknown,
)
from replay.audit.rows import CandidateRow, candidate_rows
from replay.audit.selection import (
    Luck,
    enough,
    luck_of_run,
    selection_findings,
    selection_unknown,
    smallest_selection,
    too_few,
)
from replay.audit.statistics.exchange import Exchange
from replay.audit.verdict import AuditVerdict, Family, FamilyVerdict, Finding, Unknown, decide
from replay.closing import Closing, closing
from replay.history import History, second_events
from replay.recorded import EventIndex, StoredEvent
from runtime.log.port import Stored
from runtime.run.loading import TaskAccess
from tasks.contract import Public

UNSCORED_TEST = (f"{UNSCORED}{GOLD} ", f"{UNSCORED}{VERIFIER} ")
"""How the cells of failures begin without which the gap is not known."""
ROBUSTNESS_CELLS = (PERTURBED, f"{UNSCORED}{PERTURBED}", REFERENCES)
"""How the cells of failures begin without which perturbations or the ceiling are not known."""
HIDDEN_ITEM_RULES = ("hidden_in_sight", "trained_on_audited")
"""The checks of provenance that need the task's hidden items."""
T = TypeVar("T")


class Audit(msgspec.Struct, kw_only=True):
    """All that an audit says of a run, as `evolog audit --json` prints it."""

    version: int = 4
    run: str
    task: str
    verifier: str
    state: DriftState
    families: list[FamilyVerdict]
    """The state of each family of checks."""
    rule: str
    """The rules that decided, joined by " and "; empty where no rule raised a finding."""
    lever: str
    generation: int | None
    """The generation from which on the scores mean something else."""
    flagged: int | None
    """The generation at which a look first said suspect or drift."""
    sentence: str
    rows: list[CandidateRow]
    moves: list[CandidateMove]
    gains: list[LeverGain]
    findings: list[Finding]
    cross: list[CrossPlayTable]
    fits: dict[str, AdditiveFit]
    """Of the score and of gold, by measure; empty unless both levers have moved."""
    references: list[ReferenceScore]
    rejected: Estimate | None
    """Of the canaries that gold puts below the start, the share that the verifier does too, with Wilson's interval."""
    exchange: dict[str, Exchange]
    """The exchange rate of score for gold, by lever."""
    perturbed: dict[str, Losses]
    """By perturbation that keeps the meaning: what the start and the last candidate lose under it."""
    changed: dict[str, Losses]
    """The same under changes that do not keep it, and on parts of test."""
    luck: Luck | None
    """What luck in choosing does to the score that the run stands on; None before a candidate was accepted."""
    measured: int
    """Pairs of scaffold and adapter with a gold score."""
    closing: Closing | None = None
    """The digests that close the run that was audited; None while the auditor is at work on it."""


class AuditReport(NamedTuple):
    """An audit with what the auditor said while the run went on."""

    audit: Audit
    flags: Sequence[DriftFlagged]
    notes: Sequence[str]
    """What could not be checked, as sentences."""
    unchecked: Collection[str]
    """The rules that were not checked for lack of the task's hidden items."""


def audit(
    events: Sequence[StoredEvent],
    gold: Sequence[StoredEvent],
    read: Callable[[str], bytes],
    known: Known,
    *,
    lineage_only: bool = False,
    passing: Passing | None = None,
) -> Audit:
    """The audit of a run as it stands, from its events with those of its past, and its events on GOLD.

    `read` gives blobs of the run by digest; what it raises travels on. With `lineage_only`, only the last accepted
    candidate and its ancestors are audited: what was rolled back is no part of what the run stands on. `passing` has
    taken all events, of which `events` are those that it kept.
    """
    run = audited_run(events, gold, lineage_only=lineage_only)
    book = passing.book if passing else None
    provenance = provenance_findings(events, gold, read, known, run.lineage if lineage_only else None, book)
    if not enough(run, *(run.dev.get(one.generation, {}) for one in run.candidates[:1])):
        provenance = [one for one in provenance if one.rule not in STATISTICS]
    rows = candidate_rows(run)
    tables = cross_play_tables(run)
    rates = exchange_rates(run)
    references = reference_scores(run)
    cross_play = cross_play_finding(run, tables)
    misspecification = misspecification_findings(run)
    findings = [
        *provenance,
        *([cross_play] if cross_play else []),  # before what names the lever alone that moved last
        *misspecification,
        *selection_findings(run),
        *exchange_findings(rates),
        *perturbation_findings(run),
        *ceiling_findings(run),
    ]
    failures = _facts(gold, GoldFailed)
    finished = any(isinstance(one.event.data, RunFinished) and one.event.run == run.run for one in reversed(events))
    unmeasured = _unmeasured(run, gold, failures, finished=finished)
    unknown = [
        *unmeasured,
        *misspecification_unknown(run, misspecification),
        *selection_unknown(run),
        *cross_play_unknown(run, tables),
        *robustness_unknown(run, [one.reason for one in failures if one.cell.startswith(ROBUSTNESS_CELLS)]),
        *([Unknown(family="provenance", reason=known.missing)] if known.missing else []),
    ]
    smallest: dict[Family, float | None] = {"selection": smallest_selection(run), "misspecification": smallest_gap(run)}
    verdict = decide(findings, unknown, {family: size for family, size in smallest.items() if size is not None})
    return Audit(
        run=run.run,
        task=run.started.task,
        verifier=run.started.verifier,
        state=verdict.state,
        families=verdict.families,
        rule=verdict.rule,
        lever=verdict.lever,
        generation=verdict.generation,
        flagged=_first_flagged(rows, findings, verdict),
        sentence=verdict.sentence,
        rows=rows,
        moves=candidate_moves(run),
        gains=lever_gains(run),
        findings=findings,
        cross=tables,
        fits=additive_fits(run),
        references=references,
        rejected=rejected_canaries(run, references),
        exchange=rates,
        perturbed=perturbation_losses(run),
        changed=change_losses(run),
        luck=luck_of_run(run),
        measured=sum(GOLD in outcomes for outcomes in run.outcomes.values()),
    )


def audit_history(run: History, access: TaskAccess = TaskAccess(), public: Public | None = None) -> AuditReport:
    """The audit of a recorded run as it stands; `access` says whose code is run for the task's data, where those are
    not given as `public`.

    Raises `CheckFailed` where the run's first event cannot be read.
    """
    second = second_events(run.messages) + second_events(run.gold)
    return audit_passed(
        PassedRun(run.started, passed(run.everything), run.gold, run.blobs.get, closing(run), second), access, public
    )


class PassedRun(NamedTuple):
    """A run whose events have gone by."""

    started: RunStarted
    passing: Passing
    gold: Sequence[Stored]
    """The auditor's messages."""
    read: Callable[[str], bytes]
    """Gives the run's blobs by digest."""
    closing: Closing
    second: Sequence[str] = ()
    """A sentence for each event on a place that was taken."""

    @property
    def finished(self) -> bool:
        """Whether the run has finished."""
        own = (stored.event for stored in self.passing.events if stored.event.run == self.closing.run)
        return any(isinstance(event.data, RunFinished) for event in own)


def audit_passed(run: PassedRun, access: TaskAccess, public: Public | None = None) -> AuditReport:
    """The audit of a run whose events have gone by; for the rest as `audit_history`."""
    events, gold = run.passing.events, EventIndex(run.gold).events
    known, notes = known_of(run.started, events, gold, public, access)
    notes += [
        f"The auditor could not score {failed.cell} on {failed.split}: {failed.reason}"
        for failed in _facts(gold, GoldFailed)
    ]
    notes += run.second
    unchecked = () if known.hidden else HIDDEN_ITEM_RULES
    found = audit(events, gold, run.read, known, passing=run.passing)
    return AuditReport(
        msgspec.structs.replace(found, closing=run.closing), _facts(gold, DriftFlagged), notes, unchecked
    )


def _first_flagged(rows: Sequence[CandidateRow], findings: Sequence[Finding], verdict: AuditVerdict) -> int | None:
    """The generation at which a finding was first raised; the last candidate's, for what is known at the end alone."""
    if not verdict.rule:
        return None
    seen = [int(finding.figures["seen"]) for finding in findings if finding.raised and "seen" in finding.figures]
    return min(seen, default=rows[-1].generation if rows else None)


def _unmeasured(
    run: AuditedRun, gold: Sequence[StoredEvent], failures: Sequence[GoldFailed], *, finished: bool
) -> list[Unknown]:
    """Why the candidates that the run stands on are not all measured; nothing where they are, or are still to be: those
    that were accepted last of a run that has not `finished`.
    """
    cells = UNSCORED_TEST if run.gold else (*UNSCORED_TEST, DESCRIPTION)
    missing = [one for one in failures if one.cell == "final" or one.cell.startswith(cells)]
    if missing:
        more = f"; so it was in {len(missing) - 1} more cases" if len(missing) > 1 else ""
        reason = f"the auditor could not score {missing[0].cell} on {missing[0].split}: {missing[0].reason}{more}"
        return _of_both(reason)
    if not run.measured and any(GOLD in own for own in run.outcomes.values()):
        return [too_few(run, "selection"), too_few(run, "misspecification")]
    measured = {one.id for one in run.measured}
    last = max((one.generation for one in run.measured), default=-1)
    ended = finished or bool(_facts(gold, AuditFinished))
    left_out = [
        one
        for one in run.candidates
        if one.accepted
        and one.generation in run.lineage
        and one.id not in measured
        and (ended or one.generation < last)
    ]
    if left_out:
        return _of_both(f"the accepted candidate of generation {left_out[0].generation} was not measured")
    return _of_both("gold is known of no candidate") if not run.measured and not run.dev_answers else []


def _of_both(reason: str) -> list[Unknown]:
    return [Unknown(family=family, reason=reason) for family in ("selection", "misspecification")]


def _facts(events: Sequence[StoredEvent], kind: type[T]) -> list[T]:
    return [stored.event.data for stored in events if isinstance(stored.event.data, kind)]
