"""`evolog pause` and `evolog resume`: the operator asks a run to make no further decision, or lets it go on."""

import asyncio
from pathlib import Path

from events import codec
from events.errors import UsageError
from events.run import RunFinished, RunPaused, RunResumed
from events.subjects import LOG
from runtime.log.lookup import of_types
from runtime.log.port import append_once
from runtime.log.worker import now
from services.host.context import operator
from services.host.node import Node
from services.host.sources import find_run


def pause(directory: Path, name: str, reason: str) -> str:
    """Ask the run to pause; its full name. What it has asked for is still done. Raises `UsageError` if it is paused or finished."""
    return asyncio.run(_say(directory, name, reason))


def resume(directory: Path, name: str) -> str:
    """Let a paused run go on; its full name. Raises `UsageError` if it is not paused."""
    return asyncio.run(_say(directory, name, None))


async def _say(directory: Path, name: str, reason: str | None) -> str:
    node = Node(directory)
    node.require_up()
    async with operator(node) as connection:
        log = connection.log(LOG)
        run = await find_run(log, name)
        told = await of_types(log, run, [RunPaused, RunResumed, RunFinished])
        if any(isinstance(event.data, RunFinished) for event in told):
            raise UsageError(f"Run {run} is finished; there is nothing left to decide.")
        pauses = sum(isinstance(event.data, RunPaused) for event in told)
        resumes = sum(isinstance(event.data, RunResumed) for event in told)
        if (reason is not None) == (pauses > resumes):
            raise UsageError(f"Run {run} is {'paused already; `evolog resume` lets it go on' if reason is not None else 'not paused'}.")
        fact = RunResumed(number=resumes + 1) if reason is None else RunPaused(number=pauses + 1, reason=reason)
        event = codec.event(fact, run=run, source="operator", cause="", time=now())
        await append_once(log, [event], connection.scanner)
    return run
