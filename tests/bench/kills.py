"""How long a run stands still when processes are killed: `python -m tests.bench.kills [VICTIM ...] [--kills 20]`, with
`--width 4 --strategy dgm` where several generations are to be under way.

Each kill falls into a toy run, in the midst of the victim's work: up to a tenth of a second after an event that hands
it some, or after any event where it is handed none. A run sees kills of different victims, far enough apart for the
run to have gone on. The stop is the longest time between two neighbouring events of the run and of its audit that
ends after the kill and before the next; undisturbed runs have such a time too. Of the archivist, which appends
nothing, it is the time until SQL is answered again. `row` kills four different victims, half a second apart. Only one
process of a service falls at a time.
"""

import argparse
import math
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from algorithms.search.catalogue import STRATEGIES
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
PHASES = {"meta_agent": "start", "auditor": "end"}
"""Of those that work once in a run, when."""
CALM = 3
"""Undisturbed runs; the first does not count, as its processes are still starting."""
IN_A_ROW, APART = 4, 0.5
GENERATIONS = 12
GOES_ON, SECONDS_ON = 200, 2.0
"""Events that a run appends, and seconds that pass, after a kill before another victim's may fall."""


class Followed:
    """A run of the toy task that was just ordered: its events, and those of its audit, as they come."""

    def __init__(
        self, system: CliHarness, run: str, earlier: "Followed | None" = None, flags: Sequence[str] = ()
    ) -> None:
        self.system, self.run = system, run
        self._ends = [0, 0]
        if earlier:
            earlier.read()
            self._ends = list(earlier._ends)
        self.events: list[Stored] = []
        self.gold: list[Stored] = []
        self._waited = 0
        """Events of the run that were waited for."""
        system.evolog("run", str(TOY), "--name", run, "--generations", str(GENERATIONS), *flags, "--detach")

    def read(self) -> bool:
        """Read on; whether there was something new."""
        before = len(self.events) + len(self.gold)
        for index, (client, events) in enumerate(((self.system.log, self.events), (self.system.gold, self.gold))):
            for stored in client.read(self._ends[index] + 1):
                self._ends[index] = stored.sequence
                if run_of(stored.subject) == self.run:
                    events.append(stored)
        return len(self.events) + len(self.gold) > before

    def until(self, tags: Sequence[str], count: int) -> None:
        """Wait for so many events more of these types, or of any with "" among them, or for the audit's end."""
        while count > 0 and not self.ended():
            count -= sum(map(_in(tags), (tag_of(stored.subject) for stored in self.events[self._waited :])))
            self._waited = len(self.events)
            time.sleep(INTERVAL / 2)
            self.read()

    def ended(self) -> bool:
        """Whether the audit is finished."""
        return self.run in audited_runs(self.gold)

    def decided(self) -> bool:
        """Whether the run has come to its end, and only its audit is left."""
        self.read()
        return any(tag_of(stored.subject) == "run_finished" for stored in self.events)

    def finished(self) -> bool:
        """Whether the audit is finished too."""
        return self.decided() and self.ended()

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


def disturb(followed: Followed, queue: list[str], calm: Followed, draw: random.Random) -> dict[str, list[float]]:
    """The stops of one run, by victim: as many of the queue are killed as fall in it, and the auditor at the run's end.

    The killed ones leave the queue.
    """
    usual = [tag_of(one.subject) for one in calm.events]
    times: list[tuple[float, str]] = []
    answered: list[float] = []
    while not followed.finished():
        phase = "end" if followed.decided() else "middle" if times else "start"
        waiting = [victim for victim in queue if PHASES.get(victim, "middle") == phase] or [
            victim for victim in queue if phase == "start" and victim not in PHASES
        ]
        if not waiting:
            followed.until(("run_finished",), 1)
            if "auditor" not in queue:
                break
            continue
        victim = waiting[0]
        tags = TRIGGERS.get(victim, ("",))
        followed.until(tags, 0 if victim == "auditor" else draw.randint(1, max(1, sum(map(_in(tags), usual)) // 8)))
        if followed.decided() != (victim == "auditor"):
            continue
        time.sleep(draw.uniform(0, 0.1))
        times.append((time.time(), victim))
        queue.remove(victim)
        for one in draw.sample(VICTIMS, IN_A_ROW) if victim == ROW else [victim]:
            kill_one(followed.system, one, draw)
            time.sleep(APART if victim == ROW else 0)
        if victim == "archivist":
            wait_until(lambda: answers(followed.system), "SQL is answered")
            answered.append(time.time() - times[-1][0])
        if victim == "auditor":
            break
        followed.until(("",), GOES_ON)
        time.sleep(SECONDS_ON * (IN_A_ROW if victim == ROW else 1))
    followed.finish()
    stops: dict[str, list[float]] = {"archivist": answered} if answered else {}
    for (began, victim), (ended, _) in pairwise([*times, (math.inf, "")]):
        if victim != "archivist":
            stops.setdefault(victim, []).append(followed.longest_gap(began, ended))
    return stops


def measure(victims: Sequence[str], kills: int, seed: int, flags: Sequence[str] = ()) -> Table:
    """The stops of all kills, by victim; `flags` are those that the runs are ordered with."""
    table = Table("killed", "kills", "stop, median", "stop, most")
    draw = random.Random(seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "node", EVOLOG_EXECUTOR_JITTER="0") as system,
    ):
        calm = [Followed(system, "calm-0", flags=flags)]
        calm[0].finish()
        for number in range(1, CALM):
            calm.append(Followed(system, f"calm-{number}", calm[-1], flags))
            calm[-1].finish()
        gaps, seconds = [one.longest_gap() for one in calm[1:]], [one.seconds() for one in calm[1:]]
        table.add_row("nothing", str(len(gaps)), *spread(gaps), end_section=True)
        print(f"an undisturbed run takes {statistics.median(seconds):.1f} s", flush=True)
        queue = [victim for _ in range(kills) for victim in draw.sample(victims, len(victims))]
        stops: dict[str, list[float]] = {victim: [] for victim in victims}
        followed = calm[-1]
        while queue:
            followed = Followed(system, f"disturbed-{len(queue)}", followed, flags)
            for victim, some in disturb(followed, queue, calm[-1], draw).items():
                stops[victim] += some
                print(victim, [round(stop, 1) for stop in some], f"{followed.seconds():.1f}", len(queue), flush=True)
        for victim, some in stops.items():
            table.add_row(victim, str(len(some)), *spread(some))
    return table


def _in(tags: Sequence[str]) -> Callable[[str], bool]:
    return lambda tag: tag in tags or "" in tags


def spread(of: Sequence[float]) -> tuple[str, str]:
    """Median and most, in seconds."""
    return f"{statistics.median(of):.1f}", f"{max(of):.1f}"


def main() -> None:
    """Kill, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.kills", description=__doc__)
    parser.add_argument("victims", nargs="*", choices=[*VICTIMS, ROW, []], help="all, where none is named")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategy", choices=[*STRATEGIES], default="chain")
    parser.add_argument("--width", type=int, default=1)
    options = parser.parse_args()
    flags = ("--strategy", options.strategy, "--width", str(options.width))
    table = measure(options.victims or [*VICTIMS, ROW], options.kills, options.seed, flags)
    print(f"{time.strftime('%d %B %Y')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
