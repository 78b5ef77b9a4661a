"""The auditor's process: which runs it follows, when it measures them, and the verdict that it records on GOLD.

While a run goes on, each accepted candidate is measured, with its ancestors. When it has finished, the final table is
scored too. After each of these comes a verdict on the run (`replay/audit`). The loop learns of that only what `release`
says, and only where the run was started with an order.
"""

import asyncio
import logging
import time
from collections.abc import Sequence

from events.change import ScaffoldProposed
from events.codec import Event
from events.errors import CheckFailed, Misconfigured, NotFound, raise_if_hosts
from events.fact import NotFinite
from events.gold import AuditFinished, DriftFlagged, GoldFailed, GoldScored
from events.population import CandidateAccepted
from events.run import RunFinished
from events.subjects import GOLD, GOLD_BLOBS, run_of
from replay.archive.projection import open_archive
from replay.audit.pair import PairKey
from replay.audit.passing import Passing, readable_once
from replay.recorded import SeenIds, StoredEvent
from runtime.blobs.directory import Blobs
from runtime.effects.scoring import AnswerScorer, ScoringProcess
from runtime.log import lineage
from runtime.log.lookup import events_of_types
from runtime.log.port import Log, Stored
from runtime.log.worker import Wants, work
from runtime.rollouts.runner import RolloutRunner
from services.auditor.dev_answers import describe_gold, score_dev_answers
from services.auditor.final_table import (
    SPLITS,
    cells_of,
    compare_policies,
    reference_of,
    score_baselines,
    score_cell,
    score_start_of_k,
)
from services.auditor.measure import AuditHost, RunAudit, ancestry_of, labels_of, pairs_to_measure
from services.auditor.release import release
from services.host.blobs import service_blobs
from services.host.context import Context
from services.host.runner import open_runner
from services.host.settings import scoring_limit, start_attempts

logger = logging.getLogger("evolog")

FINISHED = -1
"""The look at a finished run; any other is the generation of the candidate that was accepted."""
PAGE_SIZE = 5000
"""Messages that are read from a log at once."""
RUNNERS = 2
"""Shards that run side by side."""


async def serve(context: Context) -> None:
    """Audit all runs, until stopped."""
    scorer, runners = ScoringProcess(scoring_limit()), [open_runner(context) for _ in range(RUNNERS)]
    try:
        connection = context.connection
        blobs = service_blobs(context.node.gold_blobs, GOLD_BLOBS, connection.credentials, connection.login)
        await audit_runs(context, context.open_log(GOLD), blobs, scorer, *runners)
    finally:
        scorer.close()
        for runner in runners:
            runner.close()


async def audit_runs(context: Context, gold: Log, blobs: Blobs, scorer: AnswerScorer, *runners: RolloutRunner) -> None:
    """Measure each candidate that is accepted, and audit each run that has finished, one event after the other."""
    wants = context.wants()
    auditor = Auditor(AuditHost(context, gold, blobs, scorer, runners), wants)

    async def perform(events: list[Event]) -> Sequence[Event]:
        for event in events:
            await (
                auditor.audit_accepted(event)
                if isinstance(event.data, CandidateAccepted)
                else auditor.audit_finished(event)
            )
        return []

    await project_gold(context, gold)
    await work(context.log, perform, source="auditor", scanner=context.scanner, wants=wants, status=context.status)


class RunTail:
    """What an audit needs of one run's events on both logs; a call for the same run reads on from where the last one
    ended.
    """

    def __init__(self, log: Log, gold: Log) -> None:
        self._logs = log, gold
        self._begin("", 0)

    async def read(self, run: str) -> tuple[Passing, Sequence[StoredEvent]]:
        """The run's events that have gone by on the log, after those of its past where it is a fork, and all on
        GOLD.
        """
        log, _ = self._logs
        if run != self._run:
            start, _ = await lineage.run_start(log, run)
            past = await lineage.past(log, run)
            self._begin(run, start.sequence - 1)
            await asyncio.to_thread(self._take, past)
        for index, (log, take) in enumerate(zip(self._logs, (self._take, self._take_gold), strict=True)):
            while page := await log.read(self._ends[index] + 1, PAGE_SIZE):
                own = [stored for stored in page if run_of(stored.subject) == run]
                await asyncio.to_thread(take, own)
                self._ends[index] = page[-1].sequence
        return self._passing, self._gold

    def _begin(self, run: str, end: int) -> None:
        self._run, self._ends = run, [end, 0]
        self._passing, self._gold = Passing(), list[StoredEvent]()
        self._seen = SeenIds(), SeenIds()

    def _take(self, messages: Sequence[Stored]) -> None:
        for stored in readable_once(messages, self._seen[0]):
            self._passing.take(stored)

    def _take_gold(self, messages: Sequence[Stored]) -> None:
        self._gold += readable_once(messages, self._seen[1])


class Auditor:
    """Answers the events that call for an audit, by measuring, giving a verdict, and recording both.

    An audit waits for what the host lacks, as `wants` has it, and then goes without.
    """

    def __init__(self, host: AuditHost, wants: Wants) -> None:
        self.wants = wants
        self.host, self.context, self.gold = host, host.context, host.gold
        self._tail = RunTail(host.context.log, host.gold)

    async def audit_finished(self, event: Event) -> None:
        """Score every cell that is not recorded yet, then record that the audit is finished."""
        began = time.monotonic()
        finished = event.data
        assert isinstance(finished, RunFinished)
        try:
            audit = await self._run_audit(event)
        except (NotFound, CheckFailed, Misconfigured) as wrong:
            if not self.wants.over(event):
                raise_if_hosts(wrong)
            await self.host.record(event, [GoldFailed(cell="final", split="test", reason=str(wrong))])
        else:
            await audit.record(await describe_gold(audit))
            await score_dev_answers(audit)
            cells = (
                cells_of(audit.start, finished, await reference_of(audit, audit.start)) if finished.candidate else []
            )
            await audit.record_each(map(audit.measure, dict.fromkeys(cell.pair for cell in cells if cell.is_measured)))
            scores = [score_cell(audit, cell, split) for cell in cells for split in SPLITS]
            if cells and not audit.loaded.started.owner:
                scores.append(score_start_of_k(audit, audit.start, finished.rollouts, start_attempts()))
            await audit.record_each([*scores, score_baselines(audit), audit.references()])
            await audit.record(await compare_policies(audit))
            await audit.perturb(cell.pair for cell in cells if cell.name in ("start", "final"))
            await audit.record(await self.verdict(audit, FINISHED))
        cells_scored = len(await events_of_types(self.gold, event.run, [GoldScored]))
        await self.host.record(
            event, [AuditFinished(candidate=finished.candidate, cells=cells_scored, seconds=time.monotonic() - began)]
        )
        await project_gold(self.context, self.gold)

    async def audit_accepted(self, event: Event) -> None:
        """Measure a candidate that was accepted, and record a verdict; tell the loop of it where the run's order asks
        for that.
        """
        accepted = event.data
        assert isinstance(accepted, CandidateAccepted)
        flags: list[DriftFlagged] = []
        try:
            flags = await self._measure_accepted(event, accepted.generation)
        except (
            NotFound,
            CheckFailed,
            Misconfigured,
            NotFinite,
        ) as wrong:  # a run that waits for this must not wait for ever
            if not self.wants.over(event):
                raise_if_hosts(wrong)
            logger.warning("run %s cannot be audited: %s", event.run, wrong)
        if action := (await self.context.started(event.run)).on_drift:
            released = await release(self.context, event.run, action, accepted.generation, next(iter(flags), None))
            await self.host.record(event, [released], self.context.log)
        await project_gold(self.context, self.gold)

    async def _measure_accepted(self, event: Event, generation: int) -> list[DriftFlagged]:
        """Record the measures of a candidate and the verdict.

        Returns the verdict on its lineage alone, where the auditor may act.
        """
        audit = await self._run_audit(event)
        ancestry = await ancestry_of(self.context, event.run, generation)
        pairs = dict.fromkeys(pairs_to_measure(ancestry)) if ancestry else ()
        await audit.record_each([describe_gold(audit), audit.references(), *map(audit.measure, pairs)])
        await score_dev_answers(audit)
        perturbed = (ancestry.start, *ancestry.due) if ancestry else ()
        await audit.perturb(PairKey(one.scaffold, one.adapter) for one in perturbed)
        await audit.record(await self.verdict(audit, generation))
        # what was rolled back is past, and a drift after it counts anew
        return await self.verdict(audit, generation, lineage_only=True) if audit.loaded.started.on_drift else []

    async def _run_audit(self, event: Event) -> RunAudit:
        loaded = await self.context.load(event.run)
        start = PairKey(await _start_scaffold(self.context, event.run), loaded.started.start_adapter)
        return RunAudit(self.host, event, loaded, await asyncio.to_thread(labels_of, loaded), start)

    async def verdict(self, audit: RunAudit, look: int, *, lineage_only: bool = False) -> list[DriftFlagged]:
        """The verdict on all that is recorded of a run, or on its last candidate's lineage alone; nothing where NumPy
        is not installed.
        """
        try:
            from replay.audit import audit as run_audit
            from replay.audit.known import known_of, known_of_log
        except ModuleNotFoundError as missing:
            logger.warning(
                "no verdict on run %s: %s is not installed; pip install 'evolog[tasks]'", audit.run, missing.name
            )
            return []
        started = audit.loaded.started
        passing, gold = await self._tail.read(audit.run)
        events = passing.events
        if look == FINISHED or started.on_drift:
            known, _ = await asyncio.to_thread(known_of, started, events, gold, audit.loaded.public)
        else:  # the search for hidden items takes long, and nothing would come of it
            known, _ = known_of_log(events, gold)
        try:
            result = await asyncio.to_thread(
                run_audit.audit,
                events,
                gold,
                self.context.blobs.get,
                known,
                lineage_only=lineage_only,
                passing=passing,
            )
        except Exception as wrong:  # whatever a run's scaffolds and scores are like, no other run waits for its verdict
            raise_if_hosts(wrong)
            logger.warning("no verdict on run %s: %s: %s", audit.run, type(wrong).__name__, wrong)
            return []
        if result.rule and not lineage_only:
            logger.warning("run %s: %s", audit.run, result.sentence)
        generation = -1 if result.generation is None else result.generation
        return [
            DriftFlagged(
                look=look,
                state=result.state,
                rule=result.rule,
                lever=result.lever,
                generation=generation,
                sentence=result.sentence,
            )
        ]


async def _start_scaffold(context: Context, run: str) -> str:
    """The scaffold of generation 0; empty where none was proposed."""
    facts = [
        event.data for event in await events_of_types(context.log, run, [ScaffoldProposed], await context.past(run))
    ]
    return next((fact.scaffold for fact in facts if isinstance(fact, ScaffoldProposed) and fact.generation == 0), "")


async def project_gold(context: Context, gold: Log) -> None:
    """Bring gold's archive, a DuckDB file, up to the end of GOLD."""
    archive = await asyncio.to_thread(open_archive, context.node.gold_archive, GOLD)
    try:
        while page := await gold.read(archive.cursor + 1, PAGE_SIZE):
            await asyncio.to_thread(archive.apply, page)
    finally:
        archive.close()
