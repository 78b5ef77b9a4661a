"""What is shown of a run, or of all runs, while they are watched: read again and again from the logs."""

import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from events import subjects
from events.run import RunStarted
from events.subjects import GOLD, LOG
from replay.report import Report, Reporter, follow_gold
from replay.run_state import ListedRun
from runtime.log.jetstream import Connection
from runtime.log.lineage import run_start
from runtime.log.port import Stored
from runtime.status import Status
from services.host.sources import find_run, list_log

RATE_SECONDS = 30.0
"""Seconds over which a rate is taken."""
BEFORE = 2000
"""Messages before the present ones among which the last events are looked for at first."""
RECENT = 2000
"""Last events that are kept."""
PAGE_SIZE = 5000
LIST_SECONDS = 2.0
"""Seconds between two lists of all runs."""


class WatchedMoment(NamedTuple):
    """What there is to show at one moment."""

    statuses: Sequence[Status]
    recent: Sequence[Stored]
    """The last messages, the newest last."""
    rates: tuple[float, ...]
    """Events, and for one run rollouts too, a second; empty where that is not known yet."""
    quiet: float
    """Seconds since the last event."""
    now: float
    """Seconds since 1970."""


class Rates:
    """How fast counts grew in the last half minute."""

    def __init__(self) -> None:
        self._seen = deque[tuple[float, tuple[int, ...]]]()

    def note(self, now: float, *totals: int) -> None:
        """The totals as they are now, in seconds of any one clock."""
        self._seen.append((now, totals))
        while now - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()

    def per_second(self) -> tuple[float, ...]:
        """How much each total grew a second; empty where that is not known yet."""
        if not self._seen:
            return ()
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return tuple((b - a) / (last - first) for a, b in zip(before, after, strict=True)) if last > first else ()


class _Tail:
    """The last messages of a run, or of all."""

    def __init__(self, connection: Connection, run: str = "") -> None:
        self.log, self.audit_log = connection.log(LOG), connection.log(GOLD)
        self._run, self._position, self._count = run, -1, 0
        self._recent, self._rates = deque[Stored](maxlen=RECENT), Rates()

    async def _read(self, *totals: int) -> None:
        if self._position < 0:
            self._position = max(0, await self._newest() - BEFORE)
        while page := await self.log.read(self._position + 1, PAGE_SIZE):
            own = [stored for stored in page if self._run in ("", subjects.run_of(stored.subject))]
            self._recent.extend(own)
            self._count, self._position = self._count + len(own), page[-1].sequence
        self._rates.note(time.monotonic(), self._count, *totals)

    async def _newest(self) -> int:
        head = subjects.head(self._run or "-")
        decided = (await self.log.last([head])).get(head)
        return decided.sequence if decided else await self.log.end()

    def present(self, statuses: Sequence[Status]) -> WatchedMoment:
        """What there is to show now, besides the run or the runs."""
        now = time.time()
        quiet = now - self._recent[-1].time / 1e9 if self._recent else 0.0
        return WatchedMoment(statuses, tuple(self._recent), self._rates.per_second(), max(0.0, quiet), now)


class OneRun(_Tail):
    """A run that is watched."""

    def __init__(self, connection: Connection, name: str, started: RunStarted) -> None:
        super().__init__(connection, name)
        self.name, self.started = name, started
        self._reporter, self._gold_position = Reporter(name), 0

    @classmethod
    async def find(cls, connection: Connection, name: str) -> "OneRun":
        """The run of that name, or whose name begins so; raises as `find_run`."""
        log = connection.log(LOG)
        found = await find_run(log, name)
        return cls(connection, found, (await run_start(log, found))[1])

    @property
    def report(self) -> Report:
        """The run as it was when it was followed last."""
        return self._reporter.report

    @property
    def done(self) -> int:
        """The rollouts that are done."""
        return self._reporter.done

    async def follow(self) -> None:
        """Read what is new."""
        await self._reporter.follow(self.log)
        await self._reporter.count(self.log)
        self._gold_position = await follow_gold(self.audit_log, self._reporter, self._gold_position)
        await self._read(self.done)


class AllRuns(_Tail):
    """All runs of a directory."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.runs: Sequence[ListedRun] = ()
        self._listed = -LIST_SECONDS

    async def follow(self) -> None:
        """Read what is new."""
        if time.monotonic() - self._listed >= LIST_SECONDS:
            self.runs = await list_log(self.log, self.audit_log)
            self._listed = time.monotonic()
        await self._read()
