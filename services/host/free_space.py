"""Frees the optimiser states that no run of a project directory needs to go on, for `evolog gc`."""

import os
from pathlib import Path

import msgspec

from events.errors import TryAgain, UsageError
from events.run import RunFinished
from replay.optimizer_states import StatesOfRun, states_of_run, unneeded
from runtime.blobs.directory import Blobs
from runtime.broker.store import blobs_in
from runtime.log import lineage
from runtime.log.lineage import FOREVER, Span, firsts, run_starts
from runtime.log.port import Log
from services.host.node import Node
from services.host.sources import find_run, with_logs

BLOCK = 512
"""Bytes of a block as `stat` counts them."""


class FreeableRun(msgspec.Struct, kw_only=True):
    """What can be freed of one run, and what goes with it.

    `states` counts the optimiser states that its rounds left, `needed` those among them that some run needs, `freed`
    those that were freed before. `rounds` and `of_rounds` say which recorded rounds of training, of how many, cannot be
    performed again then: by generation and round. `forks` holds the first and last sequence of each part in which no
    fork can train on. Both include what went before.
    """

    run: str
    states: int
    needed: int
    freed: int
    freeable: int
    bytes: int
    rounds: list[tuple[int, int]]
    of_rounds: int
    forks: list[tuple[int, int]]


class Freeing(msgspec.Struct, kw_only=True):
    """What can be freed, or was: blobs of several runs count once, and `bytes` is what they take on the disk."""

    version: int = 1
    deleted: bool
    blobs: list[str]
    bytes: int
    runs: list[FreeableRun]


def free_states(directory: Path, name: str, *, delete: bool) -> Freeing:
    """Say what can be freed of the run of that name, or of all where it is empty, and free it if `delete`.

    Raises `NotFound` where there is no such run or no log, and `TryAgain` where something is up and `delete` is asked
    for: a trainer could be about to name what is freed.
    """
    node = Node(directory)
    if blobs_in(directory) != "directory":
        raise UsageError(
            f"The blobs of {node.directory} stand in an append-only stream, which nothing is taken out of: export the "
            "runs that matter, and import them into another --dir."
        )
    if delete and node.alive():
        raise _busy(node)

    async def work(log: Log, gold: Log) -> Freeing:
        del gold
        if delete and node.holder() != os.getpid():
            raise _busy(node)
        chosen = await find_run(log, name) if name else ""
        blobs = Blobs(node.blobs)
        runs = await _all_runs(log)
        freeing = _plan(runs, chosen, blobs, delete)
        for digest in freeing.blobs if delete else ():
            blobs.free(digest)
        return freeing

    return with_logs(directory, work)


def _busy(node: Node) -> TryAgain:
    return TryAgain(
        f"evolog is running in {node.directory}, and its trainer may be about to name what would be freed: "
        f"`evolog down --dir {node.directory}`, then free it."
    )


async def _all_runs(log: Log) -> list[StatesOfRun]:
    last = {run: stored.sequence for run, stored in (await firsts(log, RunFinished)).items()}
    runs = []
    for run in await run_starts(log):
        past = await lineage.past(log, run)
        runs.append(states_of_run(run, past, await lineage.messages(log, Span(run, last.get(run, FOREVER)))))
    return runs


def _plan(runs: list[StatesOfRun], chosen: str, blobs: Blobs, delete: bool) -> Freeing:
    not_needed = unneeded(runs)
    gone = {blob for run in runs for blob in run.left if blobs.freed(blob)}
    wanted = {blob for run in runs if chosen in ("", run.run) for blob in run.left}
    freeable = {blob for blob in not_needed & wanted if blobs.path(blob).exists()}
    sizes = {blob: blobs.path(blob).stat().st_blocks * BLOCK for blob in freeable}
    lost = gone | freeable
    return Freeing(
        deleted=delete,
        blobs=sorted(freeable),
        bytes=sum(sizes.values()),
        runs=[
            FreeableRun(
                run=run.run,
                states=len(run.left),
                needed=len(set(run.left) - not_needed),
                freed=len(gone.intersection(run.left)),
                freeable=len(freeable.intersection(run.left)),
                bytes=sum(sizes[blob] for blob in freeable.intersection(run.left)),
                rounds=[(each.generation, each.round) for each in run.lost_rounds(lost)],
                of_rounds=len(run.rounds),
                forks=run.lost_forks(lost),
            )
            for run in runs
            if chosen in ("", run.run) or freeable.intersection(run.left)
        ],
    )
