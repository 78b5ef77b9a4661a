"""The whole system, killed: kill -9 on every service, on the broker and on the supervisor, and the same decisions at
the end.

EVOLOG_KILL_SEED=7 python -m pytest tests/system/test_resume.py    # another order of blows
"""

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from events.catalogue import CONSUMERS, SERVICES
from events.codec import Event
from events.subjects import tag_of
from replay.archive.projection import Archive
from runtime.log.port import Stored
from services.host.node import Node
from tests.harness.cli import RUN, CliHarness, audited_runs, processes, running
from tests.harness.invariants import check_all, same_tables
from tests.harness.ledger import LEDGER, Ledger, none_lost
from tests.harness.polling import PATIENCE, wait_until

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("EVOLOG_KILL_SEED", "0"))
RESUMED = PATIENCE
"""Seconds within which a run must make its next progress, whatever was killed."""
EXTRA = 2
"""Blows beyond one for each victim."""
VICTIMS = (*SERVICES, "supervisor", "nats-server")


class Blow(NamedTuple):
    """Kill -9 on a victim, so many seconds after the run's event of that number; with a tag, the one of that number of
    its type.
    """

    victim: str
    tag: str
    number: int
    later: float


class Standstill:
    """The longest time without progress, in seconds of the test's clock: what came while the test was busy counts from
    when it looked.
    """

    def __init__(self, now: float) -> None:
        self.longest, self._moved = 0.0, now

    def look(self, moved: bool, now: float, blows: Sequence[Blow]) -> None:
        """Whether there was progress since the last look; fails where it came too late, or has not come for
        too long.
        """
        self.longest = max(self.longest, now - self._moved)
        if moved:
            self._moved = now
        assert self.longest < RESUMED, (
            f"for {self.longest:.0f} s nothing has happened, expected progress within {RESUMED:.0f} s; still to "
            f"come: {blows}; "
            f"the machine's load: {', '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} processors"
        )


class Outcome(NamedTuple):
    """What came of a run under blows. The standstill is the longest between two events of the run, in seconds."""

    stored: list[Stored]
    gold: list[Stored]
    blows: list[Blow]
    acknowledged: int
    standstill: float
    seconds: float


class Calm(NamedTuple):
    """A run that nothing happened to: the flags that it was ordered with, and its events."""

    flags: tuple[str, ...]
    events: list[Event]


ORDERS = {
    "chain": (),
    "dgm, width 4": ("--strategy", "dgm", "--width", "4"),
    "best_of_k, width 4": ("--strategy", "best_of_k", "--width", "4", "--generations", "5"),
}
LONG = ("best_of_k, width 4",)
"""Orders whose runs are made by hand: their services do a part of what those of the others do."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(flags, id=name, marks=[pytest.mark.long] * (name in LONG)) for name, flags in ORDERS.items()],
)
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A run with one generation under way at a time, and two with four."""
    with running(tmp_path_factory.mktemp("calm")) as system:
        system.order(*request.param)
        return Calm(request.param, system.finished_events())


def drawn(seed: int, calm: Sequence[Event]) -> list[Blow]:
    """Blows at random points: services at one of the events that hand them work, or anywhere; the others anywhere."""
    draw = random.Random(seed)
    counts = Counter(event.tag for event in calm)
    blows = []
    for victim in (*VICTIMS, *draw.sample(VICTIMS, EXTRA)):
        work = [tag for tag in CONSUMERS.get(victim, ()) if counts[tag]]
        tag = draw.choice((*work, "" if victim != "auditor" else "run_finished"))
        number = draw.randint(1, counts[tag] if tag else len(calm) - 1)
        blows.append(Blow(victim, tag, number, round(draw.uniform(0.0, 0.2), 3)))
    return blows


def beaten(system: CliHarness, seed: int, calm: Calm) -> Outcome:
    """A whole run under blows, with a client that appends all the while; fails where it stands still, or where anything
    is lost.
    """
    blows = drawn(seed, calm.events)
    waiting, counts = list(blows), Counter[str]()
    seen: list[Stored] = []
    gold: list[Stored] = []
    system.order(*calm.flags)
    ledger = Ledger(system.node)
    ledger.start()
    began = time.monotonic()
    standstill = Standstill(began)
    while waiting or RUN not in audited_runs(gold):
        new = system.log.read(len(seen) + 1)
        scored = system.gold.read(len(gold) + 1)
        seen += new
        gold += scored
        tags = [tag for stored in new if (tag := tag_of(stored.subject)) != LEDGER]
        counts.update(tags)
        standstill.look(bool(tags or scored), time.monotonic(), waiting)
        for blow in [blow for blow in waiting if (counts[blow.tag] if blow.tag else counts.total()) >= blow.number]:
            waiting.remove(blow)
            time.sleep(blow.later)
            system.kill(blow.victim)
        time.sleep(0.01)
    ledger.end()
    stored = system.log.read()
    assert stored[: len(seen)] == seen, "what was read before is there no more, or is another"
    none_lost(stored, ledger.acknowledged)
    return Outcome(
        stored, system.gold.read(), blows, len(ledger.acknowledged), standstill.longest, time.monotonic() - began
    )


def check(seed: int, calm: Calm, folder: Path) -> Outcome:
    """A run under the blows of a seed, and all that must hold of it."""
    again = f"EVOLOG_KILL_SEED={seed} python -m pytest tests/system/test_resume.py -k every_part"
    try:
        with running(folder / "node") as system:
            outcome = beaten(system, seed, calm)
        check_all(outcome.stored, outcome.gold, calm.events)
        grown, rebuilt = Archive(system.node.archive), Archive(folder / "rebuilt.duckdb")
        with contextlib.closing(grown), contextlib.closing(rebuilt):
            for archive in (grown, rebuilt):
                archive.apply(outcome.stored)
            same_tables(grown, rebuilt)
    except AssertionError as wrong:
        raise AssertionError(f"{wrong}\nblows: {drawn(seed, calm.events)}\nagain: {again}") from wrong
    return outcome


def test_progress_that_comes_too_late_a_dead_client_and_a_lost_end_are_failures(tmp_path: Path) -> None:
    standstill = Standstill(0.0)
    standstill.look(True, RESUMED - 1, [])
    with pytest.raises(AssertionError, match=rf"for {RESUMED + 41:.0f} s nothing has happened, .* the machine's load"):
        standstill.look(True, 2 * RESUMED + 40, [])
    with pytest.raises(AssertionError, match="has died, after 0 events"):
        Ledger(Node(tmp_path)).end()
    with pytest.raises(AssertionError, match="sequence 2 is lost; the log ends at 1"):
        none_lost([Stored(1, 1, "", b"1")], {1: b"1", 2: b"2"})


def test_an_undisturbed_run_uses_both_levers_or_asks_its_start_again(undisturbed: Calm) -> None:
    tags = Counter(event.tag for event in undisturbed.events)
    assert tags["run_finished"] == 1
    if "best_of_k" in undisturbed.flags:
        assert tags["candidate_evaluated"] == 6 and not tags["feedback_requested"]
    else:
        assert tags["adapter_published"] >= 1 and tags["scaffold_proposed"] >= 2


def test_every_part_is_killed_at_least_once_and_some_are_twice(undisturbed: Calm) -> None:
    victims = Counter(blow.victim for blow in drawn(SEED, undisturbed.events))
    assert set(victims) == set(VICTIMS) and sorted(victims.values())[-EXTRA:] == [2] * EXTRA


def test_every_part_killed_at_random_leaves_the_same_run_and_loses_nothing(undisturbed: Calm, tmp_path: Path) -> None:
    outcome = check(SEED, undisturbed, tmp_path)
    assert outcome.acknowledged > 20


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_orders_of_blows_leave_the_same_run(seed: int, undisturbed: Calm, tmp_path: Path) -> None:
    outcome = check(seed, undisturbed, tmp_path)
    print(
        f"\nseed {seed}: {len(outcome.blows)} kills in {outcome.seconds:.0f} s, {len(outcome.stored):,} events, "
        f"{outcome.acknowledged} acknowledged to the client and none lost, longest standstill "
        f"{outcome.standstill:.1f} s"
    )


def test_a_killed_supervisor_leaves_no_process(tmp_path: Path) -> None:
    with running(tmp_path / "node") as system:
        assert processes(system.node.directory)
        system.kill_supervisor()
        wait_until(lambda: not processes(system.node.directory), "every process is gone")
