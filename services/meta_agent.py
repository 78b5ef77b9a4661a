"""Proposes the first scaffold of a run."""

import asyncio
from collections.abc import Sequence

from events.change import ProposalFailed, ScaffoldRequested
from events.codec import Event
from events.errors import raise_if_hosts, why
from events.fact import Fact
from events.kinds import AgentName
from runtime.agents.providers import LanguageModel, model_of
from runtime.effects.propose import reference_scaffold, scaffold_by_model
from runtime.log.worker import answer, work
from runtime.run.loading import LoadedRun
from services.host.agent_session import inspector, open_session, recorder, without_secrets
from services.host.context import Context

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
            except Exception as wrong:
                raise_if_hosts(wrong)
                # the task's own code, or what an SDK did not foresee: again would be paid for again
                facts = [ProposalFailed(generation=event.data.generation, reason=why(wrong))]
            facts = without_secrets(facts, event.data.generation, context.scanner)
            outputs += [answer(fact, event, AGENT) for fact in facts]
        return outputs

    await work(context.log, perform, source=AGENT, scanner=context.scanner, wants=context.wants())


async def _by_model(
    context: Context, event: Event, requested: ScaffoldRequested, loaded: LoadedRun, model: LanguageModel
) -> list[Fact]:
    session = await open_session(context, event, AGENT, requested.generation, model, loaded.started, known=-1)
    checks = inspector(context, loaded, loaded.task.scaffold(), must_change=False)
    return await asyncio.to_thread(scaffold_by_model, session, loaded, checks, recorder(context, event, AGENT))
