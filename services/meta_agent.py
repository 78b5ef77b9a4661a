"""Proposes the first scaffold of a run: the task's reference scaffold as it is, or what a language model makes of it."""

import asyncio
from collections.abc import Sequence

from events.change import ProposalFailed, ScaffoldProposed, ScaffoldRequested
from events.codec import Event
from events.errors import TryAgain, Unavailable, UserError
from events.fact import Fact
from runtime.agents.providers import model_of
from runtime.worker import answer, work
from services.context import Context

AGENT = "meta_agent"


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
                why = str(wrong) if isinstance(wrong, UserError) else f"{type(wrong).__name__}: {wrong}"
                facts = [ProposalFailed(generation=event.data.generation, reason=why)]
            outputs += [answer(fact, event, AGENT) for fact in facts]
        return outputs

    await work(context.log, perform, source=AGENT, scanner=context.scanner)


async def first(context: Context, event: Event, requested: ScaffoldRequested) -> list[Fact]:
    """The first scaffold, by the agent that the run was ordered with."""
    loaded = await context.load(event.run)
    reference = loaded.task.scaffold()
    model = model_of(loaded.started.agent)
    if model is None:
        return [
            ScaffoldProposed(
                generation=requested.generation,
                scaffold=context.blobs.put_tree({path: text.encode() for path, text in reference.items()}),
                parent="",
                summary="the task's reference scaffold",
                reason="a run of the rules agent starts from the reference",
            )
        ]
    from runtime.agents.context import task_text  # for runs that have a model
    from runtime.agents.meta import write_first
    from services.desks import inspector, open_desk, recorder

    desk = await open_desk(context, event, AGENT, requested.generation, model, loaded.started)
    task = task_text(loaded.task.description, loaded.public, loaded.started.policy)
    checks = inspector(context, loaded, reference, must_change=False)
    return await asyncio.to_thread(write_first, desk, task, reference, checks, recorder(context, event, AGENT))
