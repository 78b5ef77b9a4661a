"""Reads what a candidate's trajectories show, and chooses the next lever."""

import asyncio
from collections.abc import Sequence

from events.change import ProposalFailed
from events.choice import FeedbackRequested
from events.codec import Event
from events.errors import raise_if_hosts, why
from events.fact import Fact
from events.kinds import AgentName
from runtime.agents import feedback
from runtime.agents.providers import LanguageModel, model_of
from runtime.agents.session import Halted
from runtime.effects.choose import (
    HISTORY_TYPES,
    ChoiceHost,
    ProbeRecord,
    choose_by_model,
    choose_by_rules,
    diagnosis,
    evidence,
    probe_attempts,
)
from runtime.log.lineage import Span
from runtime.log.lookup import attempts_by_id, attempts_of_request, events_of_types, failures_of_request
from runtime.log.worker import answer, work
from runtime.rollouts.attempt import RecordedAttempt
from runtime.run.loading import LoadedRun
from services.host.agent_session import (
    archive_query,
    halt,
    inspector,
    open_session,
    recorder,
    require_unhalted,
    without_secrets,
)
from services.host.context import Context
from services.host.runner import open_asking
from services.host.workbench import open_workbench

AGENT: AgentName = "feedback_agent"


async def serve(context: Context) -> None:
    """Answer requests for feedback."""

    async def perform(events: list[Event]) -> Sequence[Event]:
        outputs = []
        for event in events:
            requested = event.data
            assert isinstance(requested, FeedbackRequested)
            loaded = await context.load(event.run)
            try:
                past = await context.past(event.run)
                history = await events_of_types(context.log, event.run, HISTORY_TYPES, past)
                probe = [
                    one
                    for request in requested.probe_requests
                    for one in await attempts_of_request(context.log, event.run, request, past)
                ]
                model = model_of(loaded.started.agent)
                if model is None:
                    facts = await asyncio.to_thread(choose_by_rules, context.blobs, history, probe, loaded, requested)
                else:
                    facts = await _by_model(context, event, requested, loaded, model, history, probe)
            except Halted as halted:
                raise await halt(context, event, AGENT, str(halted)) from halted
            except Exception as wrong:  # an edit is the task's own code
                raise_if_hosts(wrong)
                facts = [ProposalFailed(generation=requested.generation, reason=why(wrong))]
            facts = without_secrets(facts, requested.generation, context.scanner)
            outputs += [answer(fact, event, AGENT) for fact in facts]
        return outputs

    await work(
        context.log, perform, source=AGENT, scanner=context.scanner, wants=context.wants(), status=context.status
    )


async def _by_model(
    context: Context,
    event: Event,
    requested: FeedbackRequested,
    loaded: LoadedRun,
    model: LanguageModel,
    history: Sequence[Event],
    probe: Sequence[RecordedAttempt],
) -> list[Fact]:
    await require_unhalted(context, event.run)
    from replay.archive.agent_copy import RunTables  # with duckdb, for runs that have a model

    scored = probe_attempts(context.blobs, probe, loaded)
    figures = diagnosis(evidence(scored, history, loaded, requested)) if scored else {}
    session = await open_session(
        context, event, AGENT, requested.generation, model, loaded.started, known=requested.known
    )
    log, run, past = context.log, event.run, await context.past(event.run)
    failed = {
        id: one
        for request in requested.probe_requests
        for id, one in (await failures_of_request(log, run, request, past)).items()
    }
    earlier = [
        one
        for one in await events_of_types(log, run, feedback.HISTORY_TYPES, past)
        if isinstance(one.data, feedback.HISTORY_TYPES) and feedback.may_know(requested, one.data)
    ]
    files = {path: data.decode() for path, data in context.blobs.get_tree(requested.scaffold).items()}
    archive = open_asking(context)
    tables = RunTables(
        archive_query(archive),
        run,
        past,
        event.id,
        loaded.shown_public.train,
        requested.known,
    )

    def find(id: str) -> RecordedAttempt | None:
        return next(
            (one for span in (Span(run), *past) for one in context.wait_for(attempts_by_id(log, span, [id], past))),
            None,
        )

    recorded = ProbeRecord(earlier, figures, probe, failed)
    checks, record = inspector(context, run, loaded, files), recorder(context, event, AGENT)

    def choose() -> list[Fact]:
        number, left = requested.generation, requested.rollouts_left
        with open_workbench(context, run, number, loaded, requested.adapter, left) as workbench:
            host = ChoiceHost(find, tables.query, checks, record, workbench)
            return choose_by_model(session, requested, loaded, recorded, host)

    try:
        return await asyncio.to_thread(choose)
    finally:
        tables.close()
        archive.close()
