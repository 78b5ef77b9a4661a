"""What the pages of the dashboard cost on a log of a million events: `python -m tests.bench.dashboard [DIRECTORY]`.

One run of the log is large, one has many generations, and the others are small. The dashboard is a process of its own,
asked over HTTP as a browser asks it, on a directory in which nothing is up, and then beside its archivist and broker.
The log is made first, which takes longer than all else; in a DIRECTORY it is kept for the next time.
"""

import argparse
import asyncio
import contextlib
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import httpx

from events import codec
from events.gold import DevAnswersScored, DriftFlagged
from events.judgement import CandidateEvaluated
from events.subjects import GOLD, LOG
from replay.archive.projection import Archive
from replay.archive.query import query_file
from replay.archive.rebuild import rebuild
from runtime.log.socket import BulkReader
from services.host.node import Node
from services.host.sources import open_logs
from tests.bench.audits import RUN, audit, make, message
from tests.bench.scale import COMMAND, up
from tests.harness.cli import processes
from tests.harness.generator import Batches, case, dev_items, run_batches, side_by_side

EVENTS = 1_000_000
LARGE_ITEMS, SMALL_ITEMS, MANY_GENERATIONS = 890, 20, 200
TALL = "many-generations"
AT_ONCE = 4
REPEATS, ATTEMPTS = 4, 5
WAITING = "is being compared"
"""In a page of an audit that is not shown yet."""


class Page(NamedTuple):
    """What a page costs: milliseconds of the first time and in the middle of some, the mean of the processors' in all
    processes, and bytes.
    """

    name: str
    first: float
    median: float
    processor: float
    size: int


def processor(directory: Path) -> float:
    """Seconds of the processors' that all processes with a path in a directory have used, with those they ended."""
    ticks = 0
    for pid in processes(directory):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def make_log(node: Node, events: int) -> None:
    """Fill a directory with the log and GOLD, and project both into their archives."""
    evaluated: list[CandidateEvaluated] = []
    names: list[str] = []

    def watched(batches: Batches) -> Batches:
        batch = next(batches)
        while True:
            found = (codec.decode(payload).data for _, payload in batch if b'"candidate_evaluated"' in payload[:400])
            evaluated.extend(one for one in found if isinstance(one, CandidateEvaluated))
            time = yield batch
            try:
                batch = batches.send(time)
            except StopIteration:
                return

    def small() -> Iterator[Batches]:
        for number in range(events):
            names.append(f"run-{number}")
            yield run_batches(names[-1], items=SMALL_ITEMS, generations=12, seed=number)

    def among(large: Batches) -> Batches:
        tall = run_batches(TALL, items=5, generations=MANY_GENERATIONS, seed=0)
        return side_by_side(chain([watched(large), tall], small()), AT_ONCE, events)

    def more_gold() -> Iterator[tuple[str, bytes]]:
        dev = [case(number) for number in range(LARGE_ITEMS, LARGE_ITEMS + dev_items(LARGE_ITEMS))]
        for one in evaluated:
            scores: dict[str, tuple[float, ...]] = {item: (one.score,) for item in dev}
            yield message(
                DevAnswersScored(generation=one.generation, candidate=one.candidate, scores=scores, unscored=0)
            )
        for name in (RUN, TALL, *names):
            for look in range(3):
                sentence = f"The {look}th look found nothing."
                flagged = DriftFlagged(look=look, state="green", rule="", lever="", generation=-1, sentence=sentence)
                yield message(flagged, name)

    make(node.directory, LARGE_ITEMS, among=among, more_gold=more_gold)
    asyncio.run(_project(node))


async def _project(node: Node) -> None:
    async with open_logs(node) as connection:
        bulk, end = BulkReader(connection.credentials, LOG), await connection.log(LOG).end()
        try:
            await asyncio.to_thread(rebuild, bulk.read, node.archive, end=end)
        finally:
            bulk.close()
        gold = Archive(node.gold_archive, GOLD)
        while page := await connection.log(GOLD).read(gold.cursor + 1, 1000):
            gold.apply(page)
        gold.close()


def addresses(node: Node) -> dict[str, str]:
    """The pages that are asked for, by what they are."""

    def one(sql: str) -> str:
        return str(query_file(node.archive, sql).rows[0][0])

    base = f"/runs/{RUN}"
    attempt = one(f"SELECT max(seq) FROM trajectories WHERE run = '{RUN}' AND outcome IS NOT NULL")
    item = one(f"SELECT max(item) FROM trajectories WHERE run = '{RUN}' AND purpose = 'dev'")
    late = one(f"SELECT quantile_disc(seq, 0.9) FROM events WHERE run = '{RUN}'")
    cause = one(f"SELECT mode(cause) FROM events WHERE run = '{RUN}'")
    return {
        "runs": "/",
        "runs, by cost": "/?order=cost",
        "runs, filtered": "/?filter=run-1",
        "runs, the last": "/?after=100",
        "comparison of three": f"/compare?run={RUN}&run={TALL}&run=run-1",
        "overview": base,
        "overview of 200 generations": f"/runs/{TALL}",
        "lineage": f"{base}/lineage",
        "lineage of 200 generations": f"/runs/{TALL}/lineage",
        "candidate": f"{base}/candidates/4",
        "trajectories": f"{base}/trajectories",
        "trajectories, 200 generations": f"/runs/{TALL}/trajectories",
        "one item's answers": f"{base}/trajectories?purpose=dev&item={item}",
        "attempt": f"{base}/trajectories/{attempt}",
        "audit": f"{base}/audit",
        "training": f"{base}/training",
        "training of 200 generations": f"/runs/{TALL}/training",
        "history": f"{base}/history",
        "history, at nine tenths": f"{base}/history?after={late}",
        "history, JSON": f"{base}/history?form=json&after={late}",
        "history, one type": f"{base}/history?type=trajectory_scored&after={late}",
        "history, a cause": f"{base}/history?cause={cause}",
        "SQL": "/sql",
        "SQL, a table": "/sql?q=FROM+trajectories",
    }


@contextlib.contextmanager
def dashboard(directory: Path) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """A client with the token, and the process that it asks."""
    command = [*COMMAND, "ui", "--dir", str(directory), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout
        address = process.stdout.readline().strip()
        base = address.partition("/?")[0]
        with httpx.Client(base_url=base, timeout=60, follow_redirects=True) as client:
            client.get(address).raise_for_status()
            yield client, process
    finally:
        process.terminate()
        process.wait()


def timed(client: httpx.Client, address: str) -> tuple[float, httpx.Response]:
    """Milliseconds that a page takes, and the answer."""
    began = time.perf_counter()
    answer = client.get(address)
    taken = (time.perf_counter() - began) * 1e3
    assert answer.status_code == 200, (address, answer.status_code, answer.text[-300:])
    return taken, answer


def measure(directory: Path, pages: dict[str, str]) -> tuple[list[Page], dict[str, float]]:
    """What each page costs, and the MiB of memory at most: of the dashboard, and of its largest query's process."""
    found = []
    with dashboard(directory) as (client, process):
        for name, address in pages.items():
            first, answer = timed(client, address)
            while WAITING in answer.text:  # the first comparison of a kept audit
                time.sleep(0.5)
                answer = client.get(address)
            before = processor(directory)
            times = [timed(client, address)[0] for _ in range(REPEATS)]
            used = (processor(directory) - before) * 1e3 / REPEATS
            found.append(Page(name, first, statistics.median(times), used, len(answer.content)))
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+)", status)
        assert peak
        process.terminate()
        _, _, ended = os.wait4(process.pid, 0)
        process.returncode = 0
    return found, {"the dashboard": int(peak[1]) / 1024, "its largest process": ended.ru_maxrss / 1024}


def show(pages: list[Page], memory: dict[str, float]) -> None:
    """Print the figures as a table."""
    print("| page | first, ms | median, ms | processor, ms | KB |\n|---|---|---|---|---|")
    for page in pages:
        print(f"| {page.name} | {page.first:.0f} | {page.median:.0f} | {page.processor:.0f} | {page.size / 1e3:.0f} |")
    print("; ".join(f"{name}: {figure:.0f} MiB at most" for name, figure in memory.items()), flush=True)


def main() -> None:
    """Make the log where it is missing, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.dashboard", description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--events", type=int, default=EVENTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        node = Node((options.directory or Path(folder)) / "project")
        if not node.gold_archive.exists():
            make_log(node, options.events)
        for _ in range(ATTEMPTS):  # it is kept for as long as the code is what it is
            with contextlib.suppress(AssertionError):  # on a busy machine the broker may come up too late
                audit(node.directory)
                break
        pages = addresses(node)
        print(f"{time.strftime('%d %B %Y')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        print("\nNothing else is up:\n")
        show(*measure(node.directory, pages))
        with up(node.directory, "--only", "archivist"):
            print("\nBeside the archivist and the broker:\n")
            show(*measure(node.directory, pages))


if __name__ == "__main__":
    main()
