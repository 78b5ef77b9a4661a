"""The audit of a run: from its events on the log and on GOLD to each candidate's figures, the findings of all rules,
and the verdict.

All of it is computed again from what is recorded, so that the audit of a live run, of a finished one and of an export
is the same.
"""

import math
import statistics
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from algorithms.statistics import Estimate
from events.gold import GOLD, UNSCORED, VERIFIER, DriftFlagged, GoldFailed
from replay.audit.candidates import MIN_ITEMS, AuditedCandidate, AuditedRun, audited_run
from replay.audit.cross_play import AdditiveFit, CrossPlayTable, additive_fits, cross_play_finding, cross_play_tables
from replay.audit.growth import change_point_finding, gap_finding
from replay.audit.known import known_of
from replay.audit.levers import exchange_findings, exchange_rates, nats_spent, pressure_curves
from replay.audit.provenance.checks import Known, provenance_findings
from replay.audit.references import ReferenceScore, ceiling_findings, reference_scores, rejected_canaries
from replay.audit.robustness import Losses, change_losses, perturbation_findings, perturbation_losses
from replay.audit.rows import CandidateRow, candidate_rows
from replay.audit.statistics import winners
from replay.audit.statistics.exchange import Exchange
from replay.audit.statistics.pressure import Curve
from replay.audit.verdict import AuditVerdict, Finding, VerdictState, decide
from replay.closing import Closing, closing
from replay.history import History, second_events
from replay.recorded import EventIndex, StoredEvent
from runtime.run.loading import TaskAccess

UNSCORED_TEST = (f"{UNSCORED}{GOLD} ", f"{UNSCORED}{VERIFIER} ")
"""How the cells of failures begin without which the gap is not known."""
HIDDEN_ITEM_RULES = ("hidden_in_sight", "trained_on_audited")
"""The checks of provenance that need the task's hidden items."""
T = TypeVar("T")


class Audit(msgspec.Struct, kw_only=True):
    """All that an audit says of a run, as `evolog audit --json` prints it."""

    version: int = 3
    run: str
    task: str
    verifier: str
    state: VerdictState
    rule: str
    """The rules that decided, joined by " and "; empty when green."""
    lever: str
    generation: int | None
    """The generation from which on the scores mean something else."""
    flagged: int | None
    """The generation at which a look first said suspect or drift."""
    sentence: str
    rows: list[CandidateRow]
    findings: list[Finding]
    cross: list[CrossPlayTable]
    fits: dict[str, AdditiveFit]
    """Of the score and of gold, by measure; empty unless both levers have moved."""
    references: list[ReferenceScore]
    rejected: Estimate | None
    """Of the canaries that gold puts below the start, the share that the verifier does too, with Wilson's interval."""
    curves: dict[str, Curve]
    """Gao's curve of gold over pressure, by lever."""
    exchange: dict[str, Exchange]
    """The exchange rate of score for gold, by lever."""
    perturbed: dict[str, Losses]
    """By perturbation that keeps the meaning: what the start and the last candidate lose under it."""
    changed: dict[str, Losses]
    """The same under changes that do not keep it, and on parts of test."""
    tried: int
    """Candidates that dev chose among, whatever became of them. Repeats are not: train chooses among those."""
    dev_items: int
    """Attempts at dev that the last candidate's score counts."""
    optimism: float
    """How much too high the best of as many equally good candidates is expected to score, by luck alone."""
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
    seed: int = 0,
    *,
    lineage_only: bool = False,
) -> Audit:
    """The audit of a run as it stands, from its events with those of its past, and its events on GOLD.

    `read` gives blobs of the run by digest; what it raises travels on. All chance comes from `seed`. With
    `lineage_only`, only the last accepted candidate and its ancestors are audited: what was rolled back is no part of
    what the run stands on.
    """
    run = audited_run(events, gold, seed, lineage_only=lineage_only)
    provenance = provenance_findings(events, gold, read, known, run.lineage if lineage_only else None)
    rows = candidate_rows(run, nats_spent(events, run.candidates))
    tables = cross_play_tables(run)
    rates = exchange_rates(run)
    references = reference_scores(run)
    findings = [
        gap_finding(run, rows),
        cross_play_finding(run, tables),
        change_point_finding(run, rows),
        *exchange_findings(rates),
        *perturbation_findings(run),
        *ceiling_findings(run),
        *provenance,
        *_missing_gold(_facts(gold, GoldFailed)),
    ]
    verdict = decide(findings)
    evaluated = [candidate for candidate in run.candidates if candidate.evaluated.items]
    tried = run.stopped + sum(candidate.evaluated.lever != "repeat" for candidate in evaluated)
    return Audit(
        run=run.run,
        task=run.started.task,
        verifier=run.started.verifier,
        state=verdict.state,
        rule=verdict.rule,
        lever=verdict.lever,
        generation=verdict.generation,
        flagged=_first_flagged(rows, findings, verdict),
        sentence=verdict.sentence,
        rows=rows,
        findings=findings,
        cross=tables,
        fits=additive_fits(run),
        references=references,
        rejected=rejected_canaries(run, references),
        curves=pressure_curves(rows),
        exchange=rates,
        perturbed=perturbation_losses(run),
        changed=change_losses(run),
        tried=tried,
        dev_items=evaluated[-1].evaluated.items if evaluated else 0,
        optimism=_optimism(run, evaluated, tried),
        measured=sum(GOLD in outcomes for outcomes in run.outcomes.values()),
    )


def audit_history(run: History, access: TaskAccess = TaskAccess()) -> AuditReport:
    """The audit of a recorded run as it stands; `access` says whose code is run for the task's data.

    Raises `CheckFailed` where the run's first event cannot be read.
    """
    log, gold = EventIndex(run.everything), EventIndex(run.gold)
    known, notes = known_of(run.started, log.events, gold.events, access=access)
    notes += [
        f"The auditor could not score {failed.cell} on {failed.split}: {failed.reason}"
        for failed in _facts(gold.events, GoldFailed)
    ]
    notes += second_events(run.messages) + second_events(run.gold)
    unchecked = () if known.hidden else HIDDEN_ITEM_RULES
    found = audit(log.events, gold.events, run.blobs.get, known, run.started.seed)
    return AuditReport(
        msgspec.structs.replace(found, closing=closing(run)),
        _facts(gold.events, DriftFlagged),
        notes,
        unchecked,
    )


def _optimism(run: AuditedRun, evaluated: Sequence[AuditedCandidate], tried: int) -> float:
    """The winner's optimism of the candidates that dev chose among; of graded rewards, by the spread of the last
    accepted one's items.
    """
    items = evaluated[-1].evaluated.items if evaluated else 0
    if tried < 2:
        return 0.0
    rewards = (reward for outcomes in run.dev.values() for attempts in outcomes.values() for reward in attempts)
    accepted = [candidate for candidate in run.candidates if candidate.accepted]
    if all(reward in (0, 1) for reward in rewards):
        score = max((candidate.evaluated.score for candidate in accepted), default=0.0)
        return winners.optimism_of_passes(tried, items, min(max(score, 0.01), 0.99))
    dev_outcomes = [run.dev[candidate.generation] for candidate in accepted if candidate.generation in run.dev]
    means = [math.fsum(attempts) / len(attempts) for attempts in dev_outcomes[-1].values()] if dev_outcomes else []
    return winners.optimism(tried, items, statistics.stdev(means)) if len(means) >= MIN_ITEMS else 0.0


def _first_flagged(rows: Sequence[CandidateRow], findings: Sequence[Finding], verdict: AuditVerdict) -> int | None:
    """The generation at which a finding was first raised; the last candidate's, for what is known at the end alone."""
    if verdict.state == "green":
        return None
    seen = [int(finding.figures["seen"]) for finding in findings if finding.raised and "seen" in finding.figures]
    return min(seen, default=rows[-1].generation if rows else None)


def _missing_gold(failures: Sequence[GoldFailed]) -> list[Finding]:
    """Raised where the auditor could not score a candidate's answers to test; no finding where it could."""
    missing = [one for one in failures if one.cell == "final" or one.cell.startswith(UNSCORED_TEST)]
    if not missing:
        return []
    more = f" So it was in {len(missing) - 1} more cases." if len(missing) > 1 else ""
    sentence = f"The auditor could not score {missing[0].cell} on {missing[0].split}: {missing[0].reason}.{more}"
    return [Finding(family="unscored", rule="gold_missing", raised=True, sentence=sentence)]


def _facts(events: Sequence[StoredEvent], kind: type[T]) -> list[T]:
    return [stored.event.data for stored in events if isinstance(stored.event.data, kind)]
