"""The judge model of a run, as the services that score ask it."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Literal

from events import codec
from events.codec import Event
from events.errors import Misconfigured, NotHere
from events.judgement import JudgeCalled
from events.run import Budget
from runtime.agents.providers import ask_with_retries, model_client, model_of
from runtime.blobs.directory import Blobs
from runtime.effects.judge import Judge
from runtime.log.lookup import facts_by_id
from runtime.log.port import Log
from runtime.log.worker import now, retry_until_available
from runtime.run.loading import LoadedRun
from services.host.agent_session import RESTART, required_price
from services.host.context import Context


def open_judge(
    context: Context,
    event: Event,
    loaded: LoadedRun,
    source: Literal["verifier", "auditor"],
    kind: type[JudgeCalled],
    log: Log,
    blobs: Blobs,
    budget: Budget = Budget(),
    generations: Mapping[str, int] = {},
) -> Judge:
    """The judge model of a task that has one, for threads; its calls are found on `log`, and recorded there as `kind`,
    with the generation of the trajectory that they are about.

    Raises `NotHere` where it cannot be asked from here, or a budget in dollars cannot be kept.
    """
    try:
        model = model_of(loaded.task.judge_model)
        assert model is not None
        client, price = model_client(model, os.environ), required_price(model, budget)
    except Misconfigured as wrong:
        raise NotHere(f"{wrong} {RESTART}", code=wrong.code) from wrong

    async def find(id: str) -> JudgeCalled | None:
        return (await retry_until_available(lambda: facts_by_id(log, event.run, kind, [id]))).get(id)

    async def record(called: JudgeCalled) -> JudgeCalled | None:
        output = codec.event(called, run=event.run, source=source, cause=event.id, time=now())
        return await find(output.id) if await context.record([output], log) else None

    return Judge(
        run=event.run,
        model=model,
        client=client,
        price=price,
        blobs=blobs,
        scanner=context.scanner,
        seed=loaded.started.seed,
        kind=kind,
        generations=generations,
        ask_model=partial(
            ask_with_retries, waits=context.status.waits(event.run), named=f"the judge {model.provider}:{model.name}"
        ),
        find=lambda id: context.wait_for(find(id)),
        record=lambda called: context.wait_for(record(called)),
    )
