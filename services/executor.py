"""Plays shards of rollouts: runs the scaffold, asks the policy, records every call before its answer is released."""

import asyncio
import functools
import os
import random
from collections.abc import Sequence

from events.codec import Event
from events.errors import Misconfigured
from events.rollouts import ModelCalled, RolloutsRequested
from runtime.log.worker import answer, work
from runtime.policies.client import PolicyClient, model_name
from runtime.rollouts.runner import RolloutRunner, failures
from runtime.run.loading import Loaded
from services.host.context import Context
from services.host.settings import scaffold_limits

JITTER = "EVOLOG_EXECUTOR_JITTER"
"""Fault injection: the most seconds that an executor sleeps before and after a shard, drawn anew each time."""


async def serve(context: Context) -> None:
    """Share the shards with the other executors."""
    policy = PolicyClient(context.node.policy_url(), context.policy_token())
    player = RolloutRunner(context.blobs, context.work, policy, context.scanner, scaffold_limits())
    try:
        await run_shards(context, player)
    finally:
        player.close()


async def run_shards(context: Context, player: RolloutRunner) -> None:
    """Play one shard after the other."""
    jitter = float(os.environ.get(JITTER, "0"))

    async def perform(events: list[Event]) -> Sequence[Event]:
        (event,) = events
        await asyncio.sleep(random.uniform(0, jitter))
        requested = event.data
        assert isinstance(requested, RolloutsRequested)
        try:
            loaded = await context.load(event.run)
            hints = hints_of(loaded, requested)
        except Misconfigured as wrong:  # the task's; where only this host lacks the data, another one may have it
            return [answer(fact, event, "executor") for fact in failures(event.id, requested, "unloadable", str(wrong))]

        def recorded(ids: Sequence[str]) -> dict[str, ModelCalled]:
            return context.wait_for(context.recorded_calls(event.run, ids))

        def record(calls: Sequence[ModelCalled]) -> bool:
            return context.wait_for(context.record([answer(call, event, "executor") for call in calls]))

        model = model_name(loaded.started.base_model, requested.adapter)
        play = functools.partial(player.play, hints=hints, sandbox=loaded.started.sandbox, max_tokens=loaded.started.max_tokens)
        facts = await asyncio.to_thread(play, event.run, event.id, requested, loaded.public, model, recorded, record)
        await asyncio.sleep(random.uniform(0, jitter))
        return [answer(fact, event, "executor") for fact in facts]

    await work(context.log, perform, source="executor", scanner=context.scanner)


def hints_of(loaded: Loaded, requested: RolloutsRequested) -> dict[str, str]:
    """What shows the model the true answers, by item, where the request wants that; raises Misconfigured where the task's code fails."""
    if requested.purpose != "hint":
        return {}
    return {one.id: loaded.task.hint(one.label) for one in loaded.public.train if one.id in requested.items}
