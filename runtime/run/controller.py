"""Drives every unfinished run: reads the log from where the oldest of them began, folds, decides, and appends what is
not recorded yet.

After a restart it decides again what is recorded, and goes on where the record ends. Two controllers do no harm: the
head of a run refuses the slower one's decision, which then starts over from the log.

It also does what runs ask of it that is no decision: it keeps time where a budget limits it, starts the runs that
belong to a candidate of another, tells their owners how they ended, and ends them with their owners.
"""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from events import codec, subjects
from events.change import ChildRunFinished, ChildRunOrdered
from events.codec import Event
from events.errors import CheckFailed, NotFound, TryAgain, Unavailable, UserError
from events.fact import Fact
from events.run import DecisionMade, RunCancelled, RunFinished, RunStarted, TimeSpent
from events.secret import Scanner, SecretFound
from runtime.log import lineage
from runtime.log.described import counts
from runtime.log.port import BATCH_LIMIT, Log, Refused, Stored, append_once, readable
from runtime.log.worker import PAUSE, append_struck_out, decode_or_set_aside, now, retry_until_available
from runtime.run.child import child_finished, child_started, failed_child
from runtime.run.decider import Decider, Decision, DecisionSession
from runtime.status import StatusReporter, log_line

logger = logging.getLogger("evolog")

PAGE_SIZE = 5000
EVERYTHING = 1 << 31
BUSY_WAIT = 0.005
IDLE_WAIT = 0.05
"""Seconds between reads at the end of the log, while events keep coming and when none has come for a while."""
IDLE_AFTER = 200
LONGEST_TICK, TICKS = 60.0, 60
"""Seconds, at most, between two records of the time that a run was driven; how often at least within its budget."""


class Head(msgspec.Struct):
    """The last recorded decision of a run: its number, digest and sequence; and the version that each was made by."""

    number: int = 0
    digest: str = ""
    sequence: int = 0
    versions: dict[int, int] = {}

    def advance(self, made: DecisionMade, sequence: int) -> None:
        """Make this decision the last recorded one."""
        self.number, self.digest, self.sequence = made.number, made.digest, sequence
        self.versions[made.number] = made.decider


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector, which would look through all messages of a long past again and again."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


class _Stale(Exception):
    """Somebody else decided; what this controller holds is out of date."""


class Controller:
    """Feeds the events of all runs of one log to a decider, and appends its decisions."""

    def __init__(
        self,
        log: Log,
        decider: Decider[Any],
        scanner: Scanner,
        clock: Callable[[], float] = time.monotonic,
        status: StatusReporter | None = None,
    ) -> None:
        self._status = status or StatusReporter("controller")
        self.log, self.decider, self.scanner, self.clock = log, decider, scanner, clock
        self._loaded = False
        self._began = 0
        self._position = 0
        self._reached: int | None = None
        """How far it had read when it last began anew; what came since, nobody has looked at."""
        self._sessions: dict[str, DecisionSession[Any]] = {}
        self._heads: dict[str, Head] = {}
        self._closed: set[str] = set()
        self._abandoned: dict[str, UserError] = {}
        """Of the closed ones those that cannot be driven, and why."""
        self._children: dict[str, tuple[str, ChildRunOrdered]] = {}
        """Runs that belong to another: their owner, and what it ordered."""
        self._timed: dict[str, tuple[int, float]] = {}
        """Of runs whose time is limited: how often it was recorded, and the clock then."""

    async def serve(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Drive the runs until `stop` says so."""
        sweeping = asyncio.create_task(self.sweep())
        try:
            await self._drive(stop)
        finally:
            sweeping.cancel()

    async def sweep(self) -> None:
        """Set aside what cannot be read before the oldest unfinished run, where driving the runs never looks."""
        while not self._loaded:
            await asyncio.sleep(BUSY_WAIT)
        position, end = 0, self._began
        while position < end:
            try:
                read = await self.log.read(position + 1, min(PAGE_SIZE, end - position))
            except Unavailable:
                await asyncio.sleep(PAUSE)
                continue
            for stored in read:
                await self._decode(stored)
            position = read[-1].sequence if read else end

    async def _drive(self, stop: Callable[[], bool]) -> None:
        idle = 0
        while not stop():
            try:
                moved = await self.step()
                await self.keep_time()
            except (Unavailable, TryAgain) as wrong:
                logger.warning("%s", wrong)
                await asyncio.sleep(PAUSE)
                self._reset()
                continue
            idle = 0 if moved else idle + 1
            if not moved:
                await asyncio.sleep(BUSY_WAIT if idle < IDLE_AFTER else IDLE_WAIT)

    async def step(self) -> bool:
        """Read the next page of the log, and decide; returns whether there was anything to read."""
        try:
            if not self._loaded:
                with self._status.doing("reads what the unfinished runs have decided"):
                    await self._load()
            read = await self.log.read(self._position + 1, PAGE_SIZE)
            for stored in read:
                await self._feed(stored)
                self._position = stored.sequence
            self._status.reached(self._position)
        except _Stale as stale:
            logger.warning("%s", stale)
            self._reset()
            return True
        return bool(read)

    async def keep_time(self) -> None:
        """Record for how long runs were driven whose budget limits it, each some sixty times."""
        for run, session in list(self._sessions.items()):
            started, state = session.state.started, session.state
            limit = started.budget.seconds if started else None
            if limit is None:
                continue
            ticks, since = self._timed.get(run, (-1, 0.0))
            if ticks != state.ticks or state.paused:  # a tick was folded, or nothing is to be counted
                self._timed[run] = (state.ticks, self.clock())
                continue
            elapsed = self.clock() - since
            if elapsed >= min(LONGEST_TICK, limit / TICKS, limit - state.seconds):
                tick = TimeSpent(number=state.ticks + 1, seconds=round(state.seconds + elapsed, 3))
                await self._record(run, tick, "")
                self._timed[run] = (state.ticks, self.clock())  # until it is folded, which starts anew

    async def _record(self, run: str, fact: Fact, cause: str) -> None:
        """Append a fact that is no decision, unless it is there already."""
        event = codec.event(fact, run=run, source="controller", cause=cause, time=now())
        await append_once(self.log, [event], self.scanner)

    async def _tend_children(self, event: Event) -> None:
        """Start the run that one orders, tell an owner how its run ended, and end the runs of an owner that has."""
        data, run = event.data, event.run
        if isinstance(data, ChildRunOrdered):
            session = self._sessions.get(run)
            if session is not None and run not in self._closed:
                await self._start_child(run, session.state.started, data, event.id)
        elif isinstance(data, RunFinished):
            if run in self._children:
                await self._tell_owner(run, child_finished(self._children[run][1], data), event.id)
            for child in [child for child, (owner, _) in self._children.items() if owner == run]:
                await self._cancel_child(child, run)

    async def _start_child(self, owner: str, started: RunStarted, ordered: ChildRunOrdered, cause: str) -> None:
        self._children[ordered.child] = (owner, ordered)
        await self._record(ordered.child, child_started(owner, started, ordered), cause)
        _, stands = await lineage.run_start(self.log, ordered.child)
        if (stands.owner, stands.owner_generation) != (owner, ordered.generation):
            reason = f"there was a run {ordered.child} already, which is none of this one's"
            await self._tell_owner(ordered.child, failed_child(ordered, reason), cause)
            del self._children[ordered.child]
        elif ordered.child in self._abandoned:
            await self._give_up(ordered.child, self._abandoned[ordered.child])

    async def _tell_owner(self, child: str, ended: ChildRunFinished, cause: str) -> None:
        owner, _ = self._children[child]
        if owner not in self._closed:
            await self._record(owner, ended, cause)

    async def _cancel_child(self, child: str, owner: str) -> None:
        if child not in self._closed:
            await self._record(child, RunCancelled(reason=f"run {owner}, to which it belongs, has ended"), "")

    def _reset(self) -> None:
        if self._loaded:
            self._reached = self._position
        self._loaded = False
        self._position = 0
        self._sessions.clear()
        self._heads.clear()
        self._closed.clear()
        self._abandoned.clear()
        self._children.clear()
        self._timed.clear()

    async def _load(self) -> None:
        end = await self.log.end()
        finished = await self.log.last([subjects.subject(self.log.stream, "*", "*", RunFinished.tag())])
        self._closed = {subjects.run_of(subject) for subject in finished}
        starts = await lineage.run_starts(self.log)
        begins = {run: stored.sequence for run, stored in starts.items()}
        open_runs = sorted(begins.keys() - self._closed)
        reached = end if self._reached is None else self._reached
        self._position = self._began = min([end, reached, *(begins[run] - 1 for run in open_runs)])
        for run in open_runs:
            for stored in await self.log.read(begins[run], EVERYTHING, subjects.head(run)):
                try:
                    made = codec.decode_at(stored.subject, stored.data).data
                except codec.Unreadable as wrong:
                    self._abandon(
                        run,
                        CheckFailed(f"Sequence {stored.sequence}, a decision of run {run}, cannot be read: {wrong}."),
                    )
                    break
                assert isinstance(made, DecisionMade)
                self._heads.setdefault(run, Head()).advance(made, stored.sequence)
        for run in open_runs:
            for event in readable([starts[run]]):
                if isinstance(event.data, RunStarted) and event.data.owner in self._closed:
                    await self._cancel_child(run, event.data.owner)
        self._loaded = True

    async def _feed(self, stored: Stored) -> None:
        run = subjects.run_of(stored.subject)
        event = await self._decode(stored)
        if event is None:
            return
        await self._tend_children(event)
        if run in self._closed:
            return
        head = self._heads.setdefault(run, Head())
        if (session := self._sessions.get(run)) is None:
            session = self._sessions[run] = DecisionSession(self.decider, run, versions=head.versions)
        if isinstance(event.data, RunStarted) and event.data.parent_run:
            try:
                with uncollected():
                    session.inherit(await self._past(run, event.data))
            except (CheckFailed, NotFound) as wrong:
                await self._give_up(run, wrong)
                return
        decision = session.feed(stored, event)
        if decision is None:
            return
        if session.decisions > head.number:
            try:
                await self._append(run, head, decision)
            except (SecretFound, CheckFailed) as wrong:  # a secret of another host's, or more than a batch holds
                await self._give_up(run, wrong)
                return
        elif session.decisions == head.number and not self._same(decision, head):
            difference = (
                f"Run {run} was decided by other code than this: decision {head.number} differs, so the run "
                "is left as it stands. "
            )
            await self._give_up(
                run, CheckFailed(f"{difference}Finish it with the version that started it, or fork it.")
            )
            return
        if isinstance(decision.events[-1].data, RunFinished):
            self._closed.add(run)
            del self._sessions[run]

    def _same(self, decision: Decision, head: Head) -> bool:
        return decision.made.digest == head.digest and max(head.versions.values()) <= self.decider.version

    async def _past(self, run: str, started: RunStarted) -> Iterator[Event]:
        past = await lineage.past(self.log, run)
        lineage.require_past(past, started)
        return lineage.in_folding_order(past)

    def _abandon(self, run: str, error: UserError) -> None:
        self._closed.add(run)
        self._abandoned[run] = error
        self._sessions.pop(run, None)
        logger.error("%s", error)

    async def _give_up(self, run: str, error: UserError) -> None:
        """Drive a run no more: whoever owns it is told."""
        self._abandon(run, error)
        if run in self._children:
            await self._tell_owner(run, failed_child(self._children[run][1], f"it cannot be driven: {error}"), "")

    async def _decode(self, stored: Stored) -> Event | None:
        event, set_aside = decode_or_set_aside(stored, "controller")
        if set_aside:
            await retry_until_available(lambda: append_struck_out(self.log, [set_aside], self.scanner))
        return event

    async def _append(self, run: str, head: Head, decision: Decision) -> None:
        if len(decision.events) > BATCH_LIMIT:
            raise CheckFailed(
                f"A decision of {len(decision.events)} events does not fit one batch of {BATCH_LIMIT}; use larger "
                "shards."
            )
        messages = decision.messages(head.sequence)
        self.scanner.check(b"\n".join(message.payload for message in messages))
        made = decision.made
        while True:
            try:
                end = await self.log.append(messages)
                head.advance(made, end - len(messages) + 1)
                decided = counts([event for event in decision.events if event.data is not made])
                log_line(logging.INFO, "decided", run=run, decision=made.number, outputs=decided, sequence=end)
                return
            except (Unavailable, TryAgain) as wrong:
                logger.warning("%s", wrong)
                await asyncio.sleep(PAUSE)
            except Refused as refused:
                stored = (await self.log.last([subjects.head(run)])).get(subjects.head(run))
                if stored and stored.data == messages[0].payload:  # this very decision, whose confirmation was lost
                    head.advance(made, stored.sequence)
                    return
                raise _Stale(f"decision {made.number} of run {run} was made elsewhere: {refused}") from refused
