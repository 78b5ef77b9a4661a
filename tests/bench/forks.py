"""How long a fork of a long run takes until it decides: `python -m tests.bench.forks [--items 1020] [--tries 5]`.

The run is made up and finished, and lies on the disk of a directory. A controller serves it, as in a directory whose
services are up. Then forks at its end are ordered one by one. The time is from the order's append to the fork's first
decision in the log, with what the past takes to be read and folded. The processor time beside it is this process's
own, without the server's.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

import msgspec

from events import codec
from events.run import RunStarted
from events.secret import Scanner
from events.subjects import LOG, subject
from runtime.broker.accounts import OPERATOR
from runtime.log import lineage
from runtime.log.port import Stored, append_once
from runtime.run.controller import Controller
from runtime.run.decide import DECIDER
from tests.harness.broker import account, broker
from tests.harness.generator import fill, run_batches

PARENT = "run-0"
GENERATIONS = 12
PAGE = 20_000
SWEPT = 20.0
"""Seconds after which a controller has looked for what cannot be read in all of the log."""


async def measure(directory: Path, tries: int) -> list[tuple[float, float]]:
    """The seconds until each fork's first decision, and of them the processor's."""
    seconds = []
    async with broker(directory) as server, account(server, "controller") as mine, account(server, OPERATOR) as theirs:
        log = theirs.log(LOG)
        past: list[Stored] = []
        while len(past) < await log.end():
            past += await log.read(len(past) + 1, PAGE)
        started = codec.decode(past[0].data).data
        assert isinstance(started, RunStarted)
        fork = msgspec.structs.replace(
            started, parent_run=PARENT, parent_sequence=len(past), parent_digest=lineage.past_digest(past)
        )
        serving = asyncio.create_task(Controller(mine.log(LOG), DECIDER, Scanner([])).serve())
        await asyncio.sleep(SWEPT)
        for number in range(tries):
            run = f"fork-{number}"
            event = codec.event(fork, run=run, source=OPERATOR, cause="", time="2026-01-01T00:00:00.000000Z")
            began, busy = time.perf_counter(), time.process_time()
            await append_once(log, [event], Scanner([]))
            while not await log.last([subject(LOG, run, "head", "decision_made")]):
                await asyncio.sleep(0.02)
            seconds.append((time.perf_counter() - began, time.process_time() - busy))
        serving.cancel()
    return seconds


def main() -> None:
    """Make a run, fork it, and print the times."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.forks", description=__doc__)
    parser.add_argument("--items", type=int, default=1020)
    parser.add_argument("--tries", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        events = fill(directory, run_batches(PARENT, items=options.items, generations=GENERATIONS, seed=0))
        print(f"{events:,} events of the past", flush=True)
        seconds = asyncio.run(measure(directory, options.tries))
    shown = ", ".join(f"{one:.2f} ({busy:.2f})" for one, busy in seconds)
    print(f"{time.strftime('%d %B %Y')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end")
    median = statistics.median(one for one, _ in seconds)
    print(f"seconds (of the processor) until a fork decides: {shown}; median {median:.2f}, most {max(seconds)[0]:.2f}")


if __name__ == "__main__":
    main()
