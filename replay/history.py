"""A recorded run as a value: its messages, those of its past, the auditor's, and the blobs that they name."""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from events.codec import Event
from events.errors import CheckFailed
from events.fact import Fact
from events.run import RunFinished, RunStarted
from events.subjects import GOLD, HEAD, LOG, entity_of, run_of, tag_of
from runtime.blobs.directory import Blobs
from runtime.log import lineage
from runtime.log.lineage import Span
from runtime.log.port import Delivery, Log, Message, Refused, Stored, readable

T = TypeVar("T", bound=Fact)
PAGE_SIZE = 5000
EventProgress = Callable[[int, int], None]
"""Hears how many events of how many are done."""


class History(NamedTuple):
    """One run and all that is recorded of it.

    `past` holds the messages of its ancestors up to where the run was forked, the oldest first, and is empty for a run
    that is no fork. `messages` are the run's own, `gold` the auditor's on the stream GOLD.
    """

    run: str
    past: Sequence[Stored]
    messages: Sequence[Stored]
    gold: Sequence[Stored]
    blobs: Blobs
    gold_blobs: Blobs
    exported: bool = False
    """Whether it was read from the files of an export, which anyone may have written."""

    @property
    def everything(self) -> list[Stored]:
        """The messages of the past and the run's own, in the order of the log."""
        return [*self.past, *self.messages]

    @property
    def events(self) -> list[Event]:
        """The events among these messages that can be read."""
        return readable(self.everything)

    @property
    def log(self) -> Log:
        """The messages of the past and the run's own as a log that can only be read."""
        return RecordedLog(self.everything)

    @property
    def gold_log(self) -> Log:
        """The auditor's messages as a log that can only be read."""
        return RecordedLog(self.gold, GOLD)

    @property
    def started(self) -> RunStarted:
        """The event that began the run; raises `CheckFailed` where it cannot be read."""
        if started := self._first(RunStarted):
            return started
        raise CheckFailed(
            f"The messages of run {self.run} hold no run_started that can be read, so there is nothing to go by."
        )

    @property
    def finished(self) -> RunFinished | None:
        """The event that ended the run; None while it goes on."""
        return self._first(RunFinished)

    def _first(self, kind: type[T]) -> T | None:
        of_kind = (stored for stored in self.messages if tag_of(stored.subject) == kind.tag())
        events = (event for stored in of_kind for event in readable([stored]))
        return next((event.data for event in events if isinstance(event.data, kind)), None)


def second_events(messages: Sequence[Stored]) -> list[str]:
    """A sentence for each event on a place that another event had taken; the first counts everywhere."""
    counts = Counter(stored.subject for stored in messages if entity_of(stored.subject) != HEAD)
    first: dict[str, int] = {}
    found: list[str] = []
    for stored in (one for one in messages if counts[one.subject] > 1):
        found += [
            f"Sequence {stored.sequence} on {stored.subject} is a second event on a place that was taken: sequence "
            f"{first[event.id]} is the first, and counts."
            for event in readable([stored])
            if first.setdefault(event.id, stored.sequence) != stored.sequence
        ]
    return found


async def read_history(log: Log, gold: Log, run: str, blobs: Blobs, gold_blobs: Blobs) -> History:
    """Read a run from the two logs as they are now."""
    history = await read_decided(log, run)
    return history._replace(gold=await gold_messages(gold, run), blobs=blobs, gold_blobs=gold_blobs)


async def read_decided(log: Log, run: str) -> History:
    """Read what deciding a run again needs: its messages and its past's, without the auditor's and without blobs."""
    past, own = await lineage.past(log, run), await lineage.messages(log, Span(run))
    return History(run, past, own, [], Blobs(Path()), Blobs(Path()))


async def gold_messages(gold: Log, run: str) -> list[Stored]:
    """The auditor's messages of a run."""
    messages: list[Stored] = []
    position = 0
    while page := await gold.read(position + 1, PAGE_SIZE):
        messages += [stored for stored in page if run_of(stored.subject) == run]
        position = page[-1].sequence
    return messages


class RecordedLog:
    """Recorded messages as a `runtime.log.port.Log` that can only be read. Sequences may be missing."""

    def __init__(self, messages: Sequence[Stored], stream: str = LOG) -> None:
        self.stream = stream
        self._messages = list(messages)
        self._sequences = [stored.sequence for stored in messages]
        self._last = {stored.subject: stored for stored in messages}

    async def append(self, messages: Sequence[Message]) -> int:
        """Raise `Refused`."""
        raise Refused("a recorded run is read only")

    async def read(self, start: int, limit: int, only: str = "") -> list[Stored]:
        """As `Log.read`; sequences that are missing are passed over."""
        rest = islice(self._messages, bisect_left(self._sequences, start), None)
        return list(islice((stored for stored in rest if not only or stored.subject == only), limit))

    async def count(self, run: str, start: int) -> int:
        """As `Log.count`."""
        rest = islice(self._messages, bisect_left(self._sequences, start), None)
        return sum(run_of(stored.subject) == run for stored in rest)

    async def last(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """As `Log.last`."""
        latest: dict[str, Stored] = {}
        for pattern in subjects:
            if "*" in pattern:
                matching = re.compile(re.escape(pattern).replace(r"\*", r"[^.]+")).fullmatch
                latest |= {subject: stored for subject, stored in self._last.items() if matching(subject)}
            elif pattern in self._last:
                latest[pattern] = self._last[pattern]
        return latest

    async def end(self) -> int:
        """As `Log.end`."""
        return self._sequences[-1] if self._sequences else 0

    async def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """As `Log.fetch`, of which nothing ever comes."""
        return []

    async def hand_back(self, handles: Sequence[str]) -> None:
        """As `Log.hand_back`, of what nobody was handed."""
