"""Runs shards of rollouts as they are requested: one shard after the other, shared with the other executors.

The shard of an executor that died is handed out again (`runtime/log/worker.py`), and its recorded calls of the model
are found (`runtime/rollouts/calls.py`).
"""

import asyncio
import os
import random
from collections.abc import Mapping, Sequence

from events.codec import Event
from events.errors import Misconfigured
from events.rollouts import ModelCalled, RolloutsRequested
from runtime.log.lookup import same_requests
from runtime.log.worker import answer, retry_until_available, work
from runtime.policies.client import model_name
from runtime.rollouts.calls import CallLog
from runtime.rollouts.runner import RolloutRunner
from runtime.rollouts.shard import RolloutShard, facts_of, failed_attempts
from runtime.run.loading import LoadedRun
from runtime.run.state import draw_seed
from services.host.context import Context
from services.host.runner import open_runner

JITTER = "EVOLOG_EXECUTOR_JITTER"
"""Fault injection: the most seconds that an executor sleeps before and after a shard, drawn anew each time."""


async def serve(context: Context) -> None:
    """Share the shards with the other executors."""
    runner = open_runner(context)
    try:
        await run_shards(context, runner)
    finally:
        runner.close()


async def run_shards(context: Context, runner: RolloutRunner) -> None:
    """Run one requested shard after the other."""
    jitter = float(os.environ.get(JITTER, "0"))

    async def perform(events: list[Event]) -> Sequence[Event]:
        (event,) = events
        await asyncio.sleep(random.uniform(0, jitter))
        requested = event.data
        assert isinstance(requested, RolloutsRequested)

        past = await context.past(event.run)
        past_requests = await retry_until_available(lambda: same_requests(context.log, requested, past))

        def find(ids: Sequence[str]) -> dict[str, ModelCalled]:
            return context.wait_for(context.recorded_calls(event.run, ids, past if past_requests else ()))

        def record(calls: Sequence[ModelCalled]) -> bool:
            return context.wait_for(context.record([answer(call, event, "executor") for call in calls]))

        loaded = await context.load(event.run)
        try:
            shard = requested_shard(event, requested, loaded, past_requests)
        except Misconfigured as wrong:  # the task's code for hints
            results = failed_attempts(requested.items, requested.attempts, "unloadable", str(wrong))
        else:
            results = await asyncio.to_thread(runner.run, shard, loaded.public, CallLog(find, record))
            await asyncio.sleep(random.uniform(0, jitter))
        return [answer(fact, event, "executor") for fact in facts_of(event.id, requested, results)]

    await work(
        context.log, perform, source="executor", scanner=context.scanner, wants=context.wants(), status=context.status
    )


def requested_shard(
    event: Event, requested: RolloutsRequested, loaded: LoadedRun, past_requests: Mapping[str, str] = {}
) -> RolloutShard:
    """The shard that an event requests of its run; raises Misconfigured where the task's code for hints fails."""
    drawn = (
        requested.generation,
        requested.purpose,
        requested.round,
        *([requested.refill] if requested.refill else []),
    )
    return RolloutShard(
        run=event.run,
        id=event.id,
        past_requests=past_requests,
        scaffold=requested.scaffold,
        adapter=requested.adapter,
        model=model_name(loaded.started.base_model, requested.adapter),
        items=requested.items,
        attempts=requested.attempts,
        fold=requested.fold if requested.fold >= 0 else None,
        temperature=requested.temperature,
        seed=requested.seed,
        draw=" ".join(map(str, (draw_seed(loaded.started), *drawn))),
        hints=hints_of(loaded, requested),
        max_tokens=loaded.started.max_tokens,
        sandbox=loaded.started.sandbox,
        shared_state=loaded.started.shared_state,
    )


def hints_of(loaded: LoadedRun, requested: RolloutsRequested) -> dict[str, str]:
    """The text that shows the model the true answer, by item, where the request's purpose is `hint`; else nothing.

    Raises Misconfigured where the task's code fails.
    """
    if requested.purpose != "hint":
        return {}
    return {
        example.id: loaded.task.hint(example.label)
        for example in loaded.public.train
        if example.id in requested.items and example.label is not None
    }
