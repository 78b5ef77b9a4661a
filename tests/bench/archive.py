"""What it takes to fill the archive, in processor time, and what the typical questions take then.

python -m tests.bench.archive 1000000             # a log is generated first, which takes longer than all else
python -m tests.bench.archive 1000000 DIRECTORY   # generated there, or found there from before
"""

import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from events.subjects import LOG
from replay.archive.query import query_file
from replay.archive.rebuild import rebuild
from runtime.log.socket import BulkReader
from services.host.node import Node
from services.host.sources import open_logs
from tests.bench.bench import QUESTIONS
from tests.harness.generator import fill, log_batches

Row = tuple[str, float]


@contextmanager
def measured(name: str, rows: list[Row]) -> Iterator[None]:
    """Add the seconds, and those of the processor in this process and in the server, which has ended then."""
    began = time.perf_counter(), *map(_processor, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    yield
    ended = time.perf_counter(), *map(_processor, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    for what, before, after in zip(("seconds", "processor", "server's processor"), began, ended, strict=True):
        rows.append((f"{name}: {what}", after - before))


def _processor(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


async def through_the_server(node: Node, into: Path) -> None:
    """Fill an archive as `evolog replay --into` does."""
    into.unlink(missing_ok=True)
    async with open_logs(node) as connection:
        bulk, end = BulkReader(connection.credentials, LOG), await connection.log(LOG).end()
        try:
            result = await asyncio.to_thread(rebuild, bulk.read, into, end=end)
        finally:
            bulk.close()
    assert result.events == end and not result.broken and not result.gap, result


def milliseconds(work: Callable[[], object]) -> tuple[float, float]:
    """The median of five: in all, and of the processor in the query's own process."""
    times = []
    for _ in range(5):
        began, used = time.perf_counter(), _processor(resource.RUSAGE_CHILDREN)
        work()
        times.append(((time.perf_counter() - began) * 1e3, (_processor(resource.RUSAGE_CHILDREN) - used) * 1e3))
    whole, processor = zip(*times, strict=True)
    return statistics.median(whole), statistics.median(processor)


def main(events: int, directory: Path) -> None:
    node, into = Node(directory), directory / "filled.duckdb"
    if not node.nats_dir.is_dir():
        fill(directory, log_batches(events))
    rows: list[Row] = []
    with measured("filled", rows):
        asyncio.run(through_the_server(node, into))
    rows.append(("memory at most, MB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    rows.append(("the file, MB", into.stat().st_size / 1e6))
    for name, figure in rows:
        print(f"{figure:10.1f}  {name}")
    for name, sql in QUESTIONS.items():
        whole, processor = milliseconds(partial(query_file, into, sql))
        print(f"{whole:10.1f}  milliseconds, {processor:.1f} of the processor: {name}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(int(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else folder))
