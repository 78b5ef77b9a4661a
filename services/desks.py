"""What both agents' services need to talk with a language model."""

import os
from collections.abc import Callable

from events import codec
from events.choice import AgentCalled
from events.codec import Event
from events.errors import Misconfigured
from events.fact import Fact
from runtime.agents.dialogue import CALLS, Desk
from runtime.agents.endings import Inspector
from runtime.agents.providers import Model, price, speaker
from runtime.lookup import by_id
from runtime.worker import answer, insist
from services.context import Context, Loaded, scaffold_limits

ALWAYS = "The services read it when they start: `evolog down`, put that right, `evolog up`."


async def open_desk(context: Context, event: Event, agent: str, generation: int, model: Model, seed: int) -> Desk:
    """The desk of one conversation, with what is recorded of it; raises `Misconfigured` where the model cannot be asked from here."""
    ids = [codec.event_id(event.run, AgentCalled, generation, agent, ordinal) for ordinal in range(CALLS)]
    known = await insist(lambda: by_id(context.log, event.run, AgentCalled, ids))
    try:
        speak, cost = speaker(model, os.environ), price(model, os.environ)
    except Misconfigured as wrong:
        raise Misconfigured(f"{wrong} {ALWAYS}") from wrong
    return Desk(
        agent=agent,
        generation=generation,
        model=model,
        speak=speak,
        price=cost,
        blobs=context.blobs,
        scanner=context.scanner,
        seed=seed,
        known={call.ordinal: call for call in known.values()},
        record=recorder(context, event, agent),
    )


def recorder(context: Context, event: Event, agent: str) -> Callable[[Fact], None]:
    """From a thread: append a fact in answer to an event, at once."""
    return lambda fact: context.wait_for(context.record([answer(fact, event, agent)]))


def inspector(context: Context, loaded: Loaded, present: dict[str, str], *, must_change: bool = True) -> Inspector:
    """What proposals for this run are checked against."""
    hidden = (loaded.task.folder, context.node.directory, loaded.task.root)
    return Inspector(
        present,
        loaded.public,
        tuple(folder for folder in hidden if len(folder.parts) > 2),
        context.work / "proposals",
        context.scanner,
        scaffold_limits(),
        loaded.started.sandbox,
        must_change,
    )
