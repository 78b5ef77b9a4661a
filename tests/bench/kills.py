"""How long a run stands still when processes are killed: `python -m tests.bench.kills [VICTIM ...] [--kills 20]`.

Each kill falls into a toy run, in the midst of the victim's work: up to a tenth of a second after an event that hands
it some, or after any event where it is handed none. A run sees several kills, far enough apart for the run to have gone
on. The stop is the longest time between two neighbouring events of the run and of its audit that ends after the kill
and before the next; undisturbed runs have such a time too. Of the archivist, which appends nothing, it is the time
until SQL is answered again. `row` kills four different victims, half a second apart. Only one process of a service
falls at a time.
"""

import argparse
import math
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from events.catalogue import CONSUMERS, SERVICES
from events.errors import UserError
from events.subjects import run_of, tag_of
from replay.archive.query import query
from runtime.log.port import Stored
from tests.harness.cli import CliHarness, audited_runs, running
from tests.harness.paths import TOY
from tests.harness.polling import INTERVAL, wait_until

ROW = "row"
VICTIMS = (*SERVICES, "nats-server", "supervisor")
TRIGGERS = CONSUMERS | {"auditor": ("run_finished",)}
"""The events after which a victim is killed: the auditor's are those after which nobody else works."""
CALM = 3
"""Undisturbed runs; the first does not count, as its processes are still starting."""
IN_A_ROW, APART = 4, 0.5
GENERATIONS = 12
PER_RUN = 8
"""Kills in one run, at most."""
GOES_ON = 20
"""Events that a run appends after a kill before the next may fall."""


class Followed:
    """A run of the toy task that was just ordered: its events, and those of its audit, as they come."""

    def __init__(self, system: CliHarness, run: str) -> None:
        self.system, self.run = system, run
        self._ends = [len(system.log.read()), len(system.gold.read())]
        self.events: list[Stored] = []
        self.gold: list[Stored] = []
        system.evolog("run", str(TOY), "--name", run, "--generations", str(GENERATIONS), "--detach")

    def read(self) -> list[str]:
        """The tags of the run's new events."""
        tags = []
        for index, (client, events) in enumerate(((self.system.log, self.events), (self.system.gold, self.gold))):
            for stored in client.read(self._ends[index] + 1):
                self._ends[index] = stored.sequence
                if run_of(stored.subject) == self.run:
                    events.append(stored)
                    tags.append(tag_of(stored.subject))
        return tags

    def until(self, tags: Sequence[str], count: int) -> None:
        """Wait for so many events of these types, or of any with "" among them, or for the audit's end."""
        while count > 0 and not self.ended():
            time.sleep(INTERVAL / 2)
            count -= sum(one in tags or "" in tags for one in self.read())

    def ended(self) -> bool:
        """Whether the audit is finished."""
        return self.run in audited_runs(self.gold)

    def finish(self) -> None:
        """Wait for the audit's end."""
        wait_until(lambda: self.ended() or (self.read() and self.ended()), f"{self.run} is audited")

    def longest_gap(self, since: float = 0.0, until: float = math.inf) -> float:
        """The longest time in seconds between two neighbouring events that ends between these times."""
        times = sorted(stored.time / 1e9 for stored in (*self.events, *self.gold))
        return max((later - earlier for earlier, later in pairwise(times) if since < later <= until), default=0.0)

    def seconds(self) -> float:
        """From the first event to the last."""
        times = [stored.time / 1e9 for stored in (*self.events, *self.gold)]
        return max(times) - min(times)


def kill_one(system: CliHarness, victim: str, draw: random.Random) -> None:
    """kill -9 on one process of a service, on the broker, or on the supervisor, which is started again."""
    if victim == "supervisor":
        system.kill(victim)
    elif pids := system.pids(victim):
        os.kill(draw.choice(pids), signal.SIGKILL)


def answers(system: CliHarness) -> bool:
    """Whether SQL is answered."""
    try:
        return bool(query(system.node.directory, "SELECT seq FROM cursor").rows)
    except (UserError, OSError):
        return False


def disturbed(
    system: CliHarness, victim: str, number: int, kills: int, calm: Followed, draw: random.Random
) -> tuple[list[float], float]:
    """The stops of one run with so many kills at most, or rows of them, and the run's seconds."""
    followed = Followed(system, f"{victim}-{number}")
    tags = TRIGGERS.get(victim, ("",))
    handed = sum(tag in tags or "" in tags for tag in (tag_of(one.subject) for one in calm.events))
    times: list[float] = []
    answered: list[float] = []
    for _ in range(min(kills, PER_RUN, max(1, handed // 2))):
        followed.until(("",), GOES_ON if times else 0)
        followed.until(tags, draw.randint(1, max(1, handed // PER_RUN)))
        if followed.ended():
            break
        time.sleep(draw.uniform(0, 0.1))
        times.append(time.time())
        for one in draw.sample(VICTIMS, IN_A_ROW) if victim == ROW else [victim]:
            kill_one(system, one, draw)
            time.sleep(APART if victim == ROW else 0)
        if victim == "archivist":
            wait_until(lambda: answers(system), "SQL is answered")
            answered.append(time.time() - times[-1])
    followed.finish()
    return answered or [followed.longest_gap(*span) for span in pairwise([*times, math.inf])], followed.seconds()


def measure(victims: Sequence[str], kills: int, seed: int) -> Table:
    """The stops of all kills, by victim."""
    table = Table("killed", "kills", "stop, median", "stop, most", "longer by, a kill, median", "most")
    draw = random.Random(seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "node", EVOLOG_EXECUTOR_JITTER="0") as system,
    ):
        calm = []
        for number in range(CALM):
            calm.append(Followed(system, f"calm-{number}"))
            calm[-1].finish()
        gaps, seconds = [one.longest_gap() for one in calm[1:]], [one.seconds() for one in calm[1:]]
        usual = statistics.median(seconds)
        table.add_row(
            "nothing",
            str(len(gaps)),
            *spread(gaps),
            f"0 of {usual:.1f}",
            f"{max(seconds) - usual:.1f}",
            end_section=True,
        )
        for victim in victims:
            stops: list[float] = []
            longer: list[float] = []
            while len(stops) < kills:
                some, took = disturbed(system, victim, len(longer), kills - len(stops), calm[-1], draw)
                stops += some
                longer += [(took - usual) / max(1, len(some))]
                print(victim, [round(stop, 1) for stop in some], round(took - usual, 1), flush=True)
            table.add_row(victim, str(len(stops)), *spread(stops), *spread(longer))
    return table


def spread(of: Sequence[float]) -> tuple[str, str]:
    """Median and most, in seconds."""
    return f"{statistics.median(of):.1f}", f"{max(of):.1f}"


def main() -> None:
    """Kill, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.kills", description=__doc__)
    parser.add_argument("victims", nargs="*", choices=[*VICTIMS, ROW, []], help="all, where none is named")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = measure(options.victims or [*VICTIMS, ROW], options.kills, options.seed)
    print(f"{time.strftime('%d %B %Y')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
