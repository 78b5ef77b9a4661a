"""What grows with executors, and what with the log: `python -m tests.bench.scale executors` and `... scale log`.

`executors`: runs of the toy task with a policy that only waits, by 1, 2, 4 and 8 executors on this host; rollouts a
second, and the processor's seconds of each service for a second of the clock. `log`: everything up on a log of many
finished runs; start-up, what commands take, how long a decision takes there and on an empty log, the archive's growth
and each process's memory. The log is made first, which takes longer than all else; in a DIRECTORY it is kept.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from rich.console import Console
from rich.table import Table

from events.run import RunFinished
from events.subjects import LOG, run_of
from runtime.sandbox.limits import tree
from services.host.node import Node
from tests.harness.cli import OperatorClient, processes
from tests.harness.generator import fill, run_batches, side_by_side
from tests.harness.paths import TOY

COMMAND = (sys.executable, "-P", "-m", "services.cli")
SERVICES = ("archivist", "auditor", "controller", "executor", "feedback_agent", "meta_agent", "trainer", "verifier")
"""Those that `evolog up` starts where the policy is our own."""
RUNS, ITEMS, GENERATIONS, AT_ONCE = 300, 26, 12, 4
"""Of the log: 300 runs of about 6,700 events, of a task that nobody has."""
ON_LOG = ",".join({*SERVICES, "policy"} - {"auditor"})
"""The services on that log: all but the auditor, which would look for the runs' task."""
LATENCY = """SELECT epoch(d.time::TIMESTAMPTZ) - epoch(c.time::TIMESTAMPTZ) AS seconds
FROM events d JOIN events c ON c.run = d.run AND c.id = d.cause WHERE d.run = '{}' AND d.tag = 'decision_made'"""


SETTLING = 10.0
"""Seconds in which services that load much when they start, such as the trainer, are done with it."""


class Usage(NamedTuple):
    """What the processes of one service have used: seconds of the processor, and MiB of memory at most, together."""

    seconds: float
    memory: float


def usage(directory: Path) -> dict[str, Usage]:
    """What each service's processes in a directory have used so far; those in a sandbox are an executor's."""
    seconds: defaultdict[str, float] = defaultdict(float)
    memory: defaultdict[str, float] = defaultdict(float)
    for pid, command in processes(directory).items():
        named = [part for part in command if part in (*SERVICES, "policy")]
        name = named[0] if named else "nats-server" if "nats-server" in command[0] else "evolog"
        for member in tree(pid) if name == "executor" else [pid]:  # scaffolds name no path
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
                peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{member}/status").read_text())
                seconds[name] += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
                memory[name] += int(peak[1]) / 1024 if peak else 0.0
    return {name: Usage(seconds[name], memory[name]) for name in sorted(seconds)}


@contextlib.contextmanager
def up(directory: Path, *flags: str) -> Iterator[None]:
    """All up that these flags say, with a broker and an archivist that answer."""
    command = [*COMMAND, "up", "--dir", str(directory), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        node = Node(directory)
        while not (node.alive() and (directory / "query.sock").exists()):
            assert process.poll() is None, "evolog did not come up"
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def evolog(*arguments: str) -> str:
    """What a command prints."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 5):
        raise SystemExit(f"evolog {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def sql(directory: Path, question: str) -> list[dict[str, Any]]:
    """The answer's rows."""
    rows: list[dict[str, Any]] = json.loads(evolog("sql", question, "--json", "--dir", str(directory)))
    return rows


def ordered(directory: Path, name: str, *flags: str) -> None:
    """A run of the toy task by the scaffold alone, to its end, whatever the auditor still does."""
    order = ("run", str(TOY), "--levers", "scaffold", "--name", name, "--dir", str(directory), "--no-preflight")
    evolog(*order, *flags, "--detach")
    wait_until_finished(Node(directory), name)


def wait_until_finished(node: Node, name: str) -> None:
    """Return once a run is finished."""
    log, at = OperatorClient(node, LOG), 0
    while True:
        for stored in log.read(at + 1):
            at = stored.sequence
            if run_of(stored.subject) == name and stored.subject.endswith(f".{RunFinished.tag()}"):
                return
        time.sleep(0.2)


def waiting_policy(directory: str, seconds: float) -> None:
    """The policy's service, whose models wait before they answer."""
    import services.policy
    from services.host.main import main

    sample = services.policy.ReportedModels.sample

    def waits(self: Any, name: str, requests: Sequence[Any]) -> Any:
        time.sleep(seconds)
        return sample(self, name, requests)

    sys.argv = ["policy", "policy", "--dir", directory]
    with mock.patch.object(services.policy.ReportedModels, "sample", waits):
        main()


def by_executors(counts: Sequence[int], rollouts: int, seconds: float) -> Table:
    """The table of the first question."""
    table = Table("executors", "rollouts a second", "over one", "processor, s a second of the clock, by service")
    first = 0.0
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / "evolog"
            with up(directory, "--executors", str(count), "--only", ",".join(SERVICES)):
                own = [sys.executable, "-P", "-m", "tests.bench.scale", "policy", str(directory), str(seconds)]
                policy = subprocess.Popen(own, stderr=subprocess.DEVNULL)
                try:
                    ordered(directory, "warm", "--generations", "0")
                    time.sleep(SETTLING)
                    before, began = usage(directory), time.monotonic()
                    search = ("--strategy", "best_of_k", "--width", str(2 * count))
                    ordered(directory, "measured", *search, "--budget", f"rollouts={rollouts}")
                    taken, after = time.monotonic() - began, usage(directory)
                    (row,) = sql(directory, "SELECT rollouts, seconds FROM runs WHERE run = 'measured'")
                finally:
                    policy.terminate()
                    policy.wait()
        rate = row["rollouts"] / row["seconds"]
        first = first or rate
        used = {name: (after[name].seconds - before[name].seconds) / taken for name in before.keys() & after.keys()}
        words = ", ".join(f"{name} {share:.2f}" for name, share in sorted(used.items(), key=lambda one: -one[1]))
        table.add_row(str(count), f"{rate:.1f}", f"{rate / first:.2f}", words)
        print(table.row_count, rate, words, file=sys.stderr)
    return table


def make_log(node: Node, runs: int) -> int:
    """A log of so many finished runs."""
    node.make()
    courses = (run_batches(f"run-{seed}", items=ITEMS, generations=GENERATIONS, seed=seed) for seed in range(runs))
    return fill(node.directory, side_by_side(courses, AT_ONCE))


def timed(*arguments: str) -> str:
    """Median seconds of a command of three."""
    times = []
    for _ in range(3):
        began = time.monotonic()
        evolog(*arguments)
        times.append(time.monotonic() - began)
    return f"{statistics.median(times):.2f} s"


def latencies(directory: Path, name: str) -> str:
    """Median and largest time from a decision's cause to the decision, of a run that is made now."""
    ordered(directory, name, "--generations", "1")
    found = [row["seconds"] for row in sql(directory, LATENCY.format(name))]
    return f"{statistics.median(found) * 1e3:.0f} ms, {max(found) * 1e3:.0f} ms"


def by_log(directory: Path, runs: int) -> Table:
    """The table of the second question."""
    node = Node(directory)
    if not (directory / "nats").exists():
        make_log(node, runs)
    table = Table("what", "figure")
    where = ("--dir", str(directory))
    began = time.monotonic()
    with up(directory, "--only", ON_LOG):
        table.add_row("from `evolog up` to a broker and an archivist that answer", f"{time.monotonic() - began:.1f} s")
        events, last = 0, -1
        while events != last:
            events, last = int(sql(directory, "SELECT count(*) AS n FROM events")[0]["n"]), events
            time.sleep(2)
        grown = time.monotonic() - began
        size = sum(path.stat().st_size for path in node.directory.glob("archive.duckdb*"))
        table.add_row("events", f"{events:,}")
        if grown > 10:
            table.add_row("to an archive with all of them", f"{grown:.0f} s, {events / grown:,.0f} a second")
        table.add_row("archive", f"{size / 1e9:.2f} GB, {size / events:.0f} bytes an event")
        middle = f"run-{runs // 2}"
        table.add_row("ls", timed("ls", *where))
        table.add_row(f"show {middle}", timed("show", middle, *where))
        table.add_row(f"replay {middle}", timed("replay", middle, *where))
        table.add_row("a decision's latency, median and largest", latencies(directory, f"new-{time.time_ns()}"))
        for name, used in usage(directory).items():
            table.add_row(f"{name}: memory at most", f"{used.memory:.0f} MiB")
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "evolog"
        with up(empty, "--only", ON_LOG):
            table.add_row("a decision's latency on an empty log", latencies(empty, "new"))
            for name, used in usage(empty).items():
                table.add_row(f"{name}: memory at most, empty log", f"{used.memory:.0f} MiB")
    return table


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    of = parser.add_subparsers(dest="part", required=True)
    executors = of.add_parser("executors")
    executors.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8])
    executors.add_argument("--rollouts", type=int, default=4000)
    executors.add_argument("--wait", type=float, default=0.25, help="seconds that a call of the policy takes")
    log = of.add_parser("log")
    log.add_argument("directory", type=Path, nargs="?")
    log.add_argument("--runs", type=int, default=RUNS)
    policy = of.add_parser("policy")
    policy.add_argument("directory")
    policy.add_argument("seconds", type=float)
    options = parser.parse_args()
    if options.part == "policy":
        return waiting_policy(options.directory, options.seconds)
    print(f"{time.strftime('%d %B %Y')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        table = (
            by_executors(options.counts, options.rollouts, options.wait)
            if options.part == "executors"
            else by_log((options.directory or Path(folder)) / "project", options.runs)
        )
    return Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
