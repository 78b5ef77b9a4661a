"""The whole system in one process under a seed: all services on the log in memory, in virtual time, with everything
going wrong.

`simulate(seed)` is one run of it and raises `Broken` with what does not hold. The run itself is one of some thirty
settings, and the seed draws which, what goes wrong and when, and in which order things happen. What runs is the
services' own code; stand-ins are the broker, the blobs' disk, the clocks, the scaffold's process, the policy and the
gradient work.
`make sim SEEDS=10000` runs many.
"""

import argparse
import asyncio
import contextlib
import contextvars
import functools
import hashlib
import logging
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import msgspec
from rich.console import Console
from rich.progress import track

import runtime.effects.train
import runtime.log.worker
import runtime.rollouts.calls
import runtime.rollouts.runner
import services.archivist
import services.auditor.service
import services.controller
import services.executor
import services.feedback_agent
import services.meta_agent
import services.policy
import services.trainer
import services.verifier
from events import codec
from events.catalogue import CONSUMERS
from events.codec import Event
from events.errors import TryAgain, Unavailable
from events.rollouts import ModelCalled, TrajectoryRecorded
from events.run import Items, RunCancelled, RunFinished, RunPaused, RunResumed, RunStarted
from events.secret import Scanner
from events.subjects import GOLD, LOG, run_of, tag_of
from replay.archive.projection import Archive
from runtime.effects.choose import choose_by_rules
from runtime.effects.scoring import in_process
from runtime.log.memory import MemoryLog
from runtime.log.port import Message, Stored, append_once, readable
from runtime.log.worker import Wants
from runtime.rollouts.runner import RolloutRunner
from runtime.run.controller import Controller
from runtime.sandbox.choose import Profile
from runtime.status import StatusReporter
from services.host.context import Context
from tasks.contract import FOLDS
from tasks.loading import load
from tests.harness import invariants
from tests.harness.faulty import LIFE, Clock, FaultyBlobs, FaultyLog, Killed, Life, World
from tests.harness.paths import TASKS
from tests.harness.stand_ins import (
    SETTINGS,
    InProcessScaffold,
    PolicyStandIn,
    ServedModelsStandIn,
    Setting,
    choose,
    train,
)

TINY = TASKS / "tiny"
PATIENCE = 900.0
"""Virtual seconds in which a run must be over once nothing goes wrong any more."""
QUIET = 15.0
"""Virtual seconds for which things go on after the last audit, so that late deliveries do what harm they can, and then
settle.
"""
LIMIT = 120.0
"""Real seconds that a seed may take; it takes less than one."""
TOGETHER = 10
"""So many seeds' logs are projected into DuckDB one behind the other, since a projection takes as long as all the rest
of a seed.
"""
NEVER_RESUMED = 1000
"""The number of a pause that nobody ends; those that are drawn have lower ones."""
VIEWED = 10
"""Every so many seeds one is projected alone, and the views are looked at too."""

_GIVEN_UP: list[
    asyncio.Task[Any]
] = []  # tasks of runs that did not end: kept, since collecting them would go on with them without a loop
_decode_at = functools.lru_cache(8192)(codec.decode_at)


class Broken(AssertionError):
    """Invariants that do not hold, as sentences, and what happened."""

    def __init__(self, seed: int, sentences: Sequence[str], incidents: Sequence[str]) -> None:
        super().__init__(seed, sentences, incidents)  # as a pickle gives them back
        self.seed, self.sentences, self.incidents = seed, sentences, incidents

    def __str__(self) -> str:
        """The sentences, and how to see it again."""
        return "\n".join([*self.sentences, f"Once more, with what happened: make sim SEED={self.seed} SEEDS=1"])


class Endless(KeyboardInterrupt):
    """A seed takes too long. Of this kind, it ends the loop, whichever task it is raised in."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise `Endless` in what takes longer than `LIMIT`, and again if that goes on."""

    def ring(*_: object) -> None:
        raise Endless(
            f"it did not end within {LIMIT} s, though its time is virtual: something goes round and never waits"
        )

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LIMIT, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


class System:
    """All services with their supervisor and operator, over one world."""

    def __init__(
        self,
        setting: Setting,
        seed: int | None,
        folder: Path,
        rates: Mapping[str, float] | None = None,
        delays: int = 0,
    ) -> None:
        self.setting, self.folder = setting, folder
        self.world = World(seed, rates, delays)
        self.loop, self.draw, self.chaos = self.world.loop, self.world.draw, self.world.chaos
        self.lives: dict[tuple[str, int], Life] = {}
        self.trouble: list[str] = []
        """What services ended of, though nobody killed them."""
        self.over = False

    def log(self, stream: str = LOG) -> list[Stored]:
        """What stands in a stream."""
        return self.world.streams[stream].messages

    def run(self) -> None:
        """Run to the end."""
        with self._stand_ins():
            try:
                self.loop.run_until_complete(self._live())
            except BaseException:
                _GIVEN_UP.extend(asyncio.all_tasks(self.loop))
                raise
            finally:
                self.loop.close()

    async def _live(self) -> None:
        services_of = {name: 1 for name in (*CONSUMERS, "controller", "archivist")} | {"executor": 2}
        if self.chaos.on:
            services_of = {name: count + (self.draw.random() < 0.3) for name, count in services_of.items()} | {
                "archivist": 1,
                "auditor": 1,
            }
        keeping = [
            self.loop.create_task(self._keep(name, index))
            for name, count in services_of.items()
            for index in range(count)
        ]
        others = [self.loop.create_task(work) for work in (self._operate(), self._end_early(), self._strike())]
        while not self._audited() and self.loop.time() < self.chaos.ends_at + PATIENCE:
            self.chaos.on = self.chaos.on and self.loop.time() < self.chaos.ends_at
            await asyncio.sleep(1.0)
        if self._audited():
            await asyncio.sleep(QUIET)
            self.chaos.on = False
            await asyncio.sleep(QUIET)
        self.over = True
        for life in self.lives.values():
            life.kill()
        await asyncio.wait(keeping)
        for task in (*others, *self.world.late):
            task.cancel()
        await asyncio.gather(*others, *self.world.late, return_exceptions=True)

    def _audited(self) -> bool:
        """Whether all runs are, those that belong to a candidate of another too."""
        runs = {run_of(stored.subject) for stored in self.log() if tag_of(stored.subject) == RunStarted.tag()}
        ended = {run_of(stored.subject) for stored in self.log(GOLD) if tag_of(stored.subject) == "audit_finished"}
        return ended >= {*runs, *self.setting.runs}

    async def _operate(self) -> None:
        """Order the runs, and where things go wrong, pause and resume them, and put in what nobody can read."""
        log = MemoryLog(self.world.streams[LOG])
        for run in self.setting.runs:
            started = self._started(sorted(self.setting.runs).index(run))
            await append_once(log, [self._said(run, started)], Scanner([]))
        if not self.chaos.on:
            return
        for number in range(1, self.draw.randint(0, 3)):
            await asyncio.sleep(self.draw.uniform(0.0, 20.0))
            run = self.draw.choice(self.setting.runs)
            if not self._has_ended(run):
                self.world.note("pause", f"run {run} is paused")
                await append_once(log, [self._said(run, RunPaused(number=number, reason="to see"))], Scanner([]))
                await asyncio.sleep(self.draw.uniform(0.0, 20.0))
                await append_once(log, [self._said(run, RunResumed(number=number))], Scanner([]))
                self.world.note("resume", f"run {run} is resumed")
        if self.draw.random() < 0.3:
            tag = self.draw.choice(("trajectory_recorded", "rollouts_requested", "trajectory_scored"))
            await log.append([Message(f"evolog.{self.setting.runs[0]}.{self.draw.randrange(9)}.{tag}", b'{"half": ')])

    async def _end_early(self) -> None:
        """Pause a run for good, and cancel it, where the setting says so; when, is drawn where things go wrong."""
        log, setting = MemoryLog(self.world.streams[LOG]), self.setting
        orders: list[tuple[float, Any]] = [
            (setting.paused, RunPaused(number=NEVER_RESUMED, reason="for good")),
            (setting.cancelled, RunCancelled(reason="enough")),
        ]
        passed = 0.0
        for seconds, fact in orders:
            if seconds:
                wait = seconds - passed
                await asyncio.sleep(self.draw.uniform(0.0, 2 * wait) if self.chaos.on else wait)
                passed = seconds
                for run in setting.runs:
                    if not self._has_ended(run):
                        await append_once(log, [self._said(run, fact)], Scanner([]))

    def _has_ended(self, run: str) -> bool:
        return any(tag_of(one.subject) == RunFinished.tag() and run_of(one.subject) == run for one in self.log())

    async def _strike(self) -> None:
        """End processes wherever they are, take the broker away for a while, and move its clock."""
        while self.chaos.on:
            await asyncio.sleep(self.draw.expovariate(0.2))
            match self.draw.choice(("kill", "kill", "kill", "power", "outage", "clock")) if self.chaos.on else "":
                case "kill":
                    life = self.draw.choice(list(self.lives.values()))
                    self.world.note("kill", f"{life.name} {life.index} is killed")
                    life.kill()
                case "power":
                    self.world.note("power", "everything is killed")
                    for life in self.lives.values():
                        life.kill()
                case "outage":
                    self.world.note("outage", "the broker is away")
                    self.chaos.outage = True
                    await asyncio.sleep(self.draw.uniform(0.1, 6.0))
                    self.chaos.outage = False
                case "clock":
                    self.world.offset += self.draw.uniform(-50.0, 50.0)
                    self.world.note("clock", f"the broker's clock is off by {self.world.offset:.1f} s")

    async def _keep(self, name: str, index: int) -> None:
        """What the supervisor does for one service."""
        while not self.over:
            life = self.lives[name, index] = Life(self.world, name, index)
            context = contextvars.copy_context()
            context.run(LIFE.set, life)
            serving = self.loop.create_task(self._serve(life), context=context)
            await asyncio.wait([serving])
            wrong = None if serving.cancelled() else serving.exception()
            if wrong is not None and not isinstance(wrong, (Killed, Unavailable, TryAgain)):
                self.trouble.append(f"No service ends by itself, but {name} did: {type(wrong).__name__}: {wrong}")
            life.dead = True
            life.bury()
            if life.tasks:
                await asyncio.wait(life.tasks)
            await asyncio.sleep(self.draw.uniform(0.1, 3.0))

    async def _serve(self, life: Life) -> None:
        await life.pause()
        context = Process(life, self.folder)
        gold, work = FaultyLog(life, self.world.streams[GOLD]), self.folder / f"{life.name}-{life.index}"
        match life.name:
            case "executor":
                await services.executor.run_shards(
                    context, RolloutRunner(context.blobs, work, PolicyStandIn(life, self.setting), context.scanner)
                )
            case "policy":
                models: Any = ServedModelsStandIn(life)
                await services.policy.check_adapters(context, models)
            case "auditor":
                runners = [
                    RolloutRunner(context.blobs, work / one, PolicyStandIn(life, self.setting), context.scanner)
                    for one in ("first", "second")
                ]
                await services.auditor.service.audit_runs(
                    context, gold, FaultyBlobs(life, self.world.gold_blobs), in_process, *runners
                )
            case "verifier":
                await services.verifier.score_trajectories(context, in_process)
            case "archivist":
                archive: Any = self.world.rows[LOG]
                await services.archivist.follow(context.log, archive)
            case name:
                await getattr(services, name).serve(context)

    def _started(self, place: int) -> RunStarted:
        setting = self.setting
        task = load(str(TINY))
        public = task.public(setting.seed + place)
        folds = tuple(tuple(example.id for example in public.train if example.fold == fold) for fold in range(FOLDS))
        return RunStarted(
            task=str(TINY),
            seed=setting.seed + place,
            levers=setting.levers,
            generations=setting.generations,
            budget=setting.budget,
            items=Items(dev=tuple(item.id for item in public.dev), folds=folds, probe=(*folds[:2], (), (), ())),
            splits=dict(public.digests),
            verifier=task.verifier,
            policy=task.policy,
            base_model=FaultyBlobs(None, self.world.blobs).put_tree({"base": b""}),
            group_size=3,
            shard_size=setting.shard_size,
            sandbox="none",
            on_drift=setting.on_drift,
            strategy=setting.strategy,
            width=setting.width,
            first_items=setting.first_items,
            recheck=setting.recheck,
            refills=setting.refills,
            max_lag=setting.max_lag,
            schedule=setting.schedule,
        )

    def _said(self, run: str, fact: Any) -> Event:
        return codec.event(fact, run=run, source="operator", cause="", time=runtime.log.worker.now())

    @contextlib.contextmanager
    def _stand_ins(self) -> Iterator[None]:
        clock = Clock(self.world)
        with contextlib.ExitStack() as stack:
            for module, name, stand_in in (
                (runtime.log.worker, "datetime", clock),
                (runtime.rollouts.calls, "time", clock),
                (runtime.rollouts.runner, "time", clock),
                (services.auditor.service, "time", clock),
                (services.controller, "Controller", functools.partial(Controller, clock=clock.monotonic)),
                (runtime.rollouts.runner, "ScaffoldProcess", InProcessScaffold),
                (runtime.rollouts.runner, "provide", lambda recorded: Profile("none", "none")),
                (runtime.effects.train, "train", functools.partial(train, self.setting)),
                (services.feedback_agent, "choose_by_rules", functools.partial(choose, self.setting, choose_by_rules)),
                (services.auditor.service, "open_archive", lambda path, stream: self.world.rows[stream]),
            ):
                stack.enter_context(mock.patch.object(module, name, stand_in))
            yield


def digest(system: System) -> str:
    """SHA-256 of all that stands in both logs."""
    return hashlib.sha256(msgspec.msgpack.encode([system.log(LOG), system.log(GOLD)])).hexdigest()


class Process(Context):
    """The `Context` of one process."""

    def __init__(self, life: Life, folder: Path) -> None:
        world = life.world
        self.name, self.index, self.loop = life.name, life.index, world.loop
        self.log = FaultyLog(life, world.streams[LOG])
        self.scanner = Scanner([])
        self.blobs = FaultyBlobs(life, world.blobs)
        self.work = folder / f"{life.name}-{life.index}"
        node: Any = SimpleNamespace(gold_archive=Path())
        self.node = node
        self._loaded, self._past = {}, {}
        self._park = world.loop.park
        self.status = StatusReporter(life.name, life.index)

    def wants(self) -> Wants:
        """As `Context.wants`, and nobody is told."""
        return Wants()

    def wait_for(self, work: Any) -> Any:
        """As `Context.wait_for`, with the loop's own way to wait."""
        return self._park(work)


def answers_are_recorded(events: Sequence[Event]) -> None:
    """Each attempt's answer is what the recorded call that it used last says."""
    calls = {event.id: event.data for event in events if isinstance(event.data, ModelCalled)}
    for event in events:
        if isinstance(event.data, TrajectoryRecorded):
            use = event.data.calls[-1]
            text = calls[use.call].texts[use.completion]
            assert event.data.answer == text, (
                f"Answers are recorded before they are released, but {event.data.answer!r} is not {text!r}."
            )


def simulate(
    seed: int,
    rates: Mapping[str, float] | None = None,
    *,
    projected: bool = True,
    settings: Sequence[Setting] = SETTINGS,
) -> System:
    """One run under this seed, and all that must hold of it; raises `Broken`.

    `rates` are those of the faults, else they are drawn; so is one of the settings.
    """
    setting = setting_of(seed, settings)
    with (
        tempfile.TemporaryDirectory(prefix="evolog-") as folder,
        mock.patch.object(codec, "decode_at", _decode_at),
        limited(),
    ):
        system = System(setting, seed, Path(folder), rates)
        sentences = [*wrongs(system.run), *system.trouble]
        sentences += wrongs(lambda: undisturbed(setting)) or broken(system, undisturbed(setting))
        if projected and not sentences:
            sentences += wrongs(lambda: projections_rebuild([system], seed, views=True))
    if sentences:
        raise Broken(seed, sentences, system.world.incidents)
    return system


def setting_of(seed: int, settings: Sequence[Setting]) -> Setting:
    """That of these which a seed draws."""
    return random.Random(f"setting {seed}").choice(settings)


@functools.cache
def undisturbed(setting: Setting) -> System:
    """The same run when nothing goes wrong; raises AssertionError if it is broken all the same."""
    with tempfile.TemporaryDirectory(prefix="evolog-") as folder:
        system = System(setting, None, Path(folder))
        system.run()
    if sentences := [*system.trouble, *broken(system, system)]:
        raise AssertionError(f"The undisturbed run is whole, but of {setting}: {' '.join(sentences)}")
    return system


def broken(system: System, calm: System) -> list[str]:
    """What does not hold of a run, as sentences. It is compared with a calm one if it is to decide the same."""
    log, gold = system.log(), system.log(GOLD)
    events, scored = readable(log), readable(gold)
    comparable = system.setting.comparable
    checks = (
        *invariants.checks(log, gold, readable(calm.log()) if comparable else None),
        lambda: invariants.same_decisions(scored, readable(calm.log(GOLD)) if comparable else scored),
        lambda: answers_are_recorded(events),
        lambda: archives_follow(system),
    )
    return [sentence for check in checks for sentence in wrongs(check)]


def wrongs(check: Callable[[], object]) -> list[str]:
    """What a check says, if it does not hold, or does not come to an end."""
    try:
        check()
    except (Exception, Endless) as wrong:
        return [str(wrong) if isinstance(wrong, AssertionError) else f"{type(wrong).__name__}: {wrong}"]
    return []


def archives_follow(system: System) -> None:
    """Whoever projects a stream has been given each of its messages once, in order."""
    for name, rows in system.world.rows.items():
        assert rows.rows == system.log(name), (
            f"Archives follow the log, but that of {name} has {rows.cursor} of {len(system.log(name))}."
        )


def projections_rebuild(systems: Sequence[System], seed: int, *, views: bool) -> None:
    """Both streams, those of several runs one behind the other; the views of one run alone mean something."""
    for name in (LOG, GOLD):
        stored = [each for system in systems for each in system.log(name)]
        numbered = [Stored(number, each.time, each.subject, each.data) for number, each in enumerate(stored, 1)]
        invariants.projections_rebuild(numbered, *archives(name), seed, views)


@functools.cache
def archives(stream: str) -> tuple[Archive, Archive]:
    """Two in memory, which this process keeps, as it takes long to make them."""
    return Archive(Path(":memory:"), stream), Archive(Path(":memory:"), stream)


class Tried(NamedTuple):
    """What a seed came to: its events and what went wrong, by kind, and what broke, if something did."""

    events: Counter[str]
    happened: Counter[str]
    broken: Broken | None


def tried(seed: int) -> Tried:
    """Simulate a seed, in a process of many."""
    return _tried(seed, projected=True)[0]


def _tried(seed: int, *, projected: bool) -> tuple[Tried, System | None]:
    logging.getLogger("evolog").setLevel(logging.CRITICAL)
    try:
        system = simulate(seed, projected=projected)
    except Broken as wrong:
        return Tried(Counter(), Counter(), wrong), None
    return Tried(
        Counter(tag_of(of.subject) for of in (*system.log(), *system.log(GOLD))), system.world.fault_counts, None
    ), system


def tried_together(seeds: range) -> list[Tried]:
    """Simulate some seeds; whose projections do not hold is found one by one, where those of all do not."""
    found = [_tried(seed, projected=seed % VIEWED == 0) for seed in seeds]
    systems = [system for _, system in found if system]
    if wrongs(lambda: projections_rebuild(systems, seeds.start, views=False)):
        return [tried(seed) for seed in seeds]
    return [each for each, _ in found]


def try_all(seeds: range) -> Iterator[Tried]:
    """Simulate these seeds, as many at a time as there are processors."""
    parts = [seeds[start : start + TOGETHER] for start in range(0, len(seeds), TOGETHER)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for part in pool.map(tried_together, parts):
            yield from part


def main() -> int:
    """Simulate so many seeds; 1 where one of them broke something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    console = Console(stderr=True, markup=False, highlight=False)
    began, failed, events, faults = time.monotonic(), 0, 0, 0
    for done in track(
        try_all(range(options.first, options.first + options.seeds)), "seeds", options.seeds, console=console
    ):
        events, faults = events + done.events.total(), faults + done.happened.total()
        if done.broken:
            failed += 1
            console.print(f"Seed {done.broken.seed}: {done.broken}", soft_wrap=True)
            if options.seeds == 1:
                console.print(*done.broken.incidents, sep="\n", soft_wrap=True)
    seconds = time.monotonic() - began
    rate = f"{options.seeds / seconds:.1f} a second"
    print(f"{options.seeds:,} seeds in {seconds:.0f} s, {rate}: {events:,} events, {faults:,} faults; {failed} failed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
