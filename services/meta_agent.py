"""Proposes the first scaffold of a run: the task's reference scaffold as it is, or what a language model makes of it."""

import asyncio
from collections.abc import Sequence

from events.change import ProposalFailed, ScaffoldProposed, ScaffoldRequested
from events.codec import Event
from events.errors import TryAgain, Unavailable, why
from events.fact import Fact
from events.kinds import AgentName
from runtime.agents.providers import model_of
from runtime.blobs.directory import Blobs
from runtime.log.worker import answer, work
from runtime.run.loading import Loaded
from services.host.context import Context

AGENT: AgentName = "meta_agent"


async def serve(context: Context) -> None:
    """Answer requests for first scaffolds."""

    async def perform(events: list[Event]) -> Sequence[Event]:
        outputs: list[Event] = []
        for event in events:
            assert isinstance(event.data, ScaffoldRequested)
            try:
                facts = await first(context, event, event.data)
            except (Unavailable, TryAgain):
                raise  # this is handed out again
            except Exception as wrong:  # the task's own code, or what an SDK did not foresee: again would be paid for again
                facts = [ProposalFailed(generation=event.data.generation, reason=why(wrong))]
            outputs += [answer(fact, event, AGENT) for fact in facts]
        return outputs

    await work(context.log, perform, source=AGENT, scanner=context.scanner)


async def first(context: Context, event: Event, requested: ScaffoldRequested) -> list[Fact]:
    """The first scaffold, by the agent that the run was ordered with."""
    loaded = await context.load(event.run)
    model = model_of(loaded.started.agent)
    if model is None:
        return [reference(context.blobs, loaded, requested)]
    from runtime.agents.context import task_text  # for runs that have a model
    from runtime.agents.meta import write_first
    from services.desks import inspector, open_session, recorder

    desk = await open_session(context, event, AGENT, requested.generation, model, loaded.started)
    task = task_text(loaded.task.description, loaded.public, loaded.started.policy)
    present = loaded.task.scaffold()
    checks = inspector(context, loaded, present, must_change=False)
    return await asyncio.to_thread(write_first, desk, task, present, checks, recorder(context, event, AGENT))


def reference(blobs: Blobs, loaded: Loaded, requested: ScaffoldRequested) -> ScaffoldProposed:
    """The task's reference scaffold as it is."""
    return ScaffoldProposed(
        generation=requested.generation,
        scaffold=blobs.put_tree({path: text.encode() for path, text in loaded.task.scaffold().items()}),
        parent="",
        summary="the task's reference scaffold",
        reason="a run of the rules agent starts from the reference",
    )
