"""Gives each trajectory its reward. It alone, of all that serve the loop, reads the labels of dev."""

import asyncio
import time
from collections.abc import Sequence

from events.codec import Event
from events.errors import Misconfigured
from events.fact import Fact
from events.rollouts import TrajectoryRecorded
from runtime.effects.score import score, scoring_failed
from runtime.log.worker import answer, work
from services.host.context import Context

BATCH_SIZE = 400


YIELD_EVERY = 0.5
"""Seconds of scoring between two chances for anything else."""


async def serve(context: Context) -> None:
    """Share the trajectories with the other verifiers."""
    labels: dict[str, dict[str, str]] = {}

    async def judge(event: Event) -> Fact:
        assert isinstance(event.data, TrajectoryRecorded)
        try:
            loaded = await context.load(event.run)
            if event.run not in labels:
                labels[event.run] = await asyncio.to_thread(loaded.task.labels, loaded.started.seed)
        except Misconfigured as wrong:  # the task's; where only this host lacks the data, another one may have it
            return scoring_failed(event.id, event.data, str(wrong))
        return score(event.id, event.data, loaded, labels[event.run])

    async def perform(events: list[Event]) -> Sequence[Event]:
        outputs = []
        last_yield = time.monotonic()
        for event in events:
            outputs.append(answer(await judge(event), event, "verifier"))
            if time.monotonic() - last_yield > YIELD_EVERY:
                await asyncio.sleep(0)  # so that a slow verifier still asks for more time
                last_yield = time.monotonic()
        return outputs

    await work(context.log, perform, source="verifier", scanner=context.scanner, limit=BATCH_SIZE)
