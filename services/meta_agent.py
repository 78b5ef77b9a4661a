"""Proposes the first scaffold of a run."""

import asyncio
from collections.abc import Sequence

from events.change import ProposalFailed, ScaffoldRequested
from events.codec import Event
from events.errors import raise_if_hosts, why
from events.fact import Fact
from events.kinds import AgentName
from runtime.agents.providers import LanguageModel, model_of
from runtime.agents.session import Halted
from runtime.effects.propose import reference_instead, reference_scaffold, scaffold_by_model
from runtime.log.worker import answer, work
from runtime.run.loading import LoadedRun
from runtime.run.state import evaluation_cost
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

AGENT: AgentName = "meta_agent"


async def serve(context: Context) -> None:
    """Answer requests for first scaffolds."""

    async def perform(events: list[Event]) -> Sequence[Event]:
        outputs: list[Event] = []
        for event in events:
            assert isinstance(event.data, ScaffoldRequested)
            try:
                loaded = await context.load(event.run)
                model = model_of(loaded.started.agent)
                facts: Sequence[Fact] = (
                    [reference_scaffold(context.blobs, loaded, event.data)]
                    if model is None
                    else await _by_model(context, event, event.data, loaded, model)
                )
            except Halted as halted:
                raise await halt(context, event, AGENT, str(halted)) from halted
            except Exception as wrong:
                raise_if_hosts(wrong)
                # the task's own code, or what an SDK did not foresee: again would be paid for again
                facts = [ProposalFailed(generation=event.data.generation, reason=why(wrong))]
            facts = without_secrets(facts, event.data.generation, context.scanner)
            outputs += [answer(fact, event, AGENT) for fact in facts]
        return outputs

    await work(
        context.log, perform, source=AGENT, scanner=context.scanner, wants=context.wants(), status=context.status
    )


async def _by_model(
    context: Context, event: Event, requested: ScaffoldRequested, loaded: LoadedRun, model: LanguageModel
) -> list[Fact]:
    """What the model proposed; the reference where that came to nothing, so that the run has a start."""
    await require_unhalted(context, event.run)
    from replay.archive.agent_copy import RunTables  # with duckdb, for runs that have a model

    session = await open_session(context, event, AGENT, requested.generation, model, loaded.started, known=-1)
    checks = inspector(context, event.run, loaded, loaded.task.scaffold(), must_change=False)
    past = await context.past(event.run)
    archive = open_asking(context)
    tables = RunTables(archive_query(archive), event.run, past, event.id, loaded.shown_public.train, -1)
    record = recorder(context, event, AGENT)

    def write() -> list[Fact]:
        budget = loaded.started.budget.rollouts
        left = None if budget is None else budget - evaluation_cost(loaded.started)
        with open_workbench(context, event.run, requested.generation, loaded, "", left) as workbench:
            return scaffold_by_model(session, loaded, checks, tables.query, workbench, record)

    facts: list[Fact]
    try:
        facts = await asyncio.to_thread(write)
    except Exception as wrong:
        if isinstance(wrong, Halted):
            raise
        raise_if_hosts(wrong)
        facts = [ProposalFailed(generation=requested.generation, reason=why(wrong))]
    finally:
        tables.close()
        archive.close()
    (fact,) = without_secrets(facts, requested.generation, context.scanner)
    if isinstance(fact, ProposalFailed):
        return [reference_instead(context.blobs, loaded, requested, fact.reason)]
    return [fact]
