"""A recorded run as a value: its messages, those of its past, what the auditor found, and its blobs."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from events.codec import Event
from events.errors import CheckFailed
from events.run import RunFinished, RunStarted
from events.subjects import LOG, run_of
from runtime.blobs.directory import Blobs
from runtime.log import lineage
from runtime.log.lineage import Span
from runtime.log.port import Delivery, Log, Message, Refused, Stored, readable

_CHUNK = 5000


class History(NamedTuple):
    """One run. `past` holds the messages of its ancestors that it goes on from, oldest first; `messages` its own."""

    run: str
    past: Sequence[Stored]
    messages: Sequence[Stored]
    gold: Sequence[Stored]
    blobs: Blobs
    gold_blobs: Blobs

    @property
    def everything(self) -> list[Stored]:
        """Past and present, in the order of the log."""
        return [*self.past, *self.messages]

    @property
    def events(self) -> list[Event]:
        """What of it can be read."""
        return readable(self.everything)

    @property
    def log(self) -> Log:
        """Past and present as a log."""
        return RecordedLog(self.everything)

    @property
    def started(self) -> RunStarted:
        """What began the run; raises `CheckFailed` where that cannot be read."""
        for event in readable(self.messages):
            if isinstance(event.data, RunStarted):
                return event.data
        raise CheckFailed(f"The messages of run {self.run} hold no run_started that can be read, so there is nothing to go by.")

    @property
    def finished(self) -> RunFinished | None:
        """How the run ended, if it has."""
        return next((event.data for event in readable(self.messages) if isinstance(event.data, RunFinished)), None)


async def of_log(log: Log, gold: Log, run: str, blobs: Blobs, gold_blobs: Blobs) -> History:
    """A run as it stands on a log now."""
    past, own = await lineage.past(log, run), await lineage.messages(log, Span(run))
    return History(run, past, own, await _gold(gold, run), blobs, gold_blobs)


async def _gold(gold: Log, run: str) -> list[Stored]:
    found: list[Stored] = []
    position = 0
    while read := await gold.read(position + 1, _CHUNK):
        found += [stored for stored in read if run_of(stored.subject) == run]
        position = read[-1].sequence
    return found


class RecordedLog:
    """A history's messages as a log that is read and never written, for whatever asks a `runtime.log.port.Log`."""

    def __init__(self, messages: Sequence[Stored], stream: str = LOG) -> None:
        self.stream = stream
        self._messages = list(messages)
        self._sequences = [stored.sequence for stored in messages]
        self._last = {stored.subject: stored for stored in messages}

    async def append(self, messages: Sequence[Message]) -> int:
        """Nothing can be appended."""
        raise Refused("a recorded run is read only")

    async def read(self, start: int, limit: int, only: str = "") -> list[Stored]:
        """As `Log.read`, over the sequences that there are."""
        rest = islice(self._messages, bisect_left(self._sequences, start), None)
        return list(islice((stored for stored in rest if not only or stored.subject == only), limit))

    async def last(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """As `Log.last`."""
        found: dict[str, Stored] = {}
        for pattern in subjects:
            if "*" in pattern:
                matching = re.compile(re.escape(pattern).replace(r"\*", r"[^.]+")).fullmatch
                found |= {subject: stored for subject, stored in self._last.items() if matching(subject)}
            elif pattern in self._last:
                found[pattern] = self._last[pattern]
        return found

    async def end(self) -> int:
        """As `Log.end`."""
        return self._sequences[-1] if self._sequences else 0

    async def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """No work is handed out."""
        return []
