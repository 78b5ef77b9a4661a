"""The log in memory: for unit tests and simulation only."""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import islice

from events.subjects import LOG, run_of, tag_of
from runtime.log.port import BATCH_LIMIT, Delivery, Message, Refused, Stored, exclusive_key


class MemoryStream:
    """What a server would keep: the messages, and what each consumer has acknowledged."""

    def __init__(self, name: str = LOG, clock: Callable[[], int] = time.time_ns) -> None:
        self.name = name
        self.clock = clock
        self.messages: list[Stored] = []
        self.last_sequences: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        self.grown = asyncio.Event()

    def store(self, messages: Sequence[Message]) -> int:
        """Store all or none, as `Log.append` says."""
        if len(messages) > BATCH_LIMIT or len({exclusive_key(message.subject) for message in messages}) != len(
            messages
        ):
            raise ValueError(f"a batch holds at most {BATCH_LIMIT} messages, each to a subject of its own")
        for message in messages:
            ends = self.ends.get(exclusive_key(message.subject), 0)
            if ends != message.expected:
                raise Refused(f"{exclusive_key(message.subject)} ends at {ends}, expected {message.expected}")
        for message in messages:
            self.messages.append(Stored(len(self.messages) + 1, self.clock(), message.subject, message.payload))
            self.last_sequences[message.subject] = self.ends[exclusive_key(message.subject)] = len(self.messages)
        self.grown.set()
        self.grown = asyncio.Event()
        return len(self.messages)


class MemoryDelivery:
    """A delivery that comes again when `MemoryLog.redeliver` is called and it was not acknowledged."""

    def __init__(self, stored: Stored, pending: dict[int, Stored]) -> None:
        self.stored = stored
        self.handle = str(stored.sequence)
        self.pending = 0
        self._pending = pending

    async def ack(self) -> None:
        """Forget the delivery."""
        self._pending.pop(self.stored.sequence, None)

    async def in_progress(self) -> None:
        """Do nothing: this delivery has no time limit."""


class MemoryLog:
    """One consumer's view of a `MemoryStream`; `tags` are the types of event that it is handed."""

    def __init__(self, memory: MemoryStream, tags: Sequence[str] = ()) -> None:
        self.memory = memory
        self.stream = memory.name
        self.tags = frozenset(tags)
        self.pending: dict[int, Stored] = {}
        self._next = 0
        self._redeliveries: list[Stored] = []

    async def append(self, messages: Sequence[Message]) -> int:
        """As `Log.append`."""
        return self.memory.store(messages)

    async def read(self, start: int, limit: int, subject: str = "") -> list[Stored]:
        """As `Log.read`."""
        if subject:
            rest = islice(self.memory.messages, max(start, 1) - 1, None)
            return list(islice((stored for stored in rest if stored.subject == subject), limit))
        return self.memory.messages[max(start, 1) - 1 : max(start, 1) - 1 + limit]

    async def count(self, run: str, start: int) -> int:
        """As `Log.count`."""
        return sum(run_of(stored.subject) == run for stored in self.memory.messages[max(start, 1) - 1 :])

    async def last(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """As `Log.last`."""
        messages: dict[str, Stored] = {}
        for pattern in subjects:
            if "*" not in pattern:
                if (sequence := self.memory.last_sequences.get(pattern)) is not None:
                    messages[pattern] = self.memory.messages[sequence - 1]
                continue
            if pattern in self.memory.ends:  # one entity, whatever the tag
                stored = self.memory.messages[self.memory.ends[pattern] - 1]
                messages[stored.subject] = stored
                continue
            wanted = pattern.split(".")
            for subject, sequence in self.memory.last_sequences.items():
                parts = subject.split(".")
                if len(parts) == len(wanted) and all(
                    want in ("*", part) for want, part in zip(wanted, parts, strict=True)
                ):
                    messages[subject] = self.memory.messages[sequence - 1]
        return messages

    async def end(self) -> int:
        """As `Log.end`."""
        return len(self.memory.messages)

    async def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """As `Log.fetch`."""
        deliveries = self._take(limit)
        if not deliveries and wait > 0:
            try:
                async with asyncio.timeout(wait):
                    await self.memory.grown.wait()
            except TimeoutError:
                return []
            deliveries = self._take(limit)
        return deliveries

    async def hand_back(self, handles: Sequence[str]) -> None:
        """As `Log.hand_back`."""
        waiting = {stored.sequence for stored in self._redeliveries}
        given = [self.pending[sequence] for sequence in map(int, handles) if sequence in self.pending.keys() - waiting]
        self._redeliveries += given

    def redeliver(self) -> None:
        """Hand out again all that was not acknowledged, as a server does when `ack_wait` has passed."""
        self._redeliveries = list(self.pending.values())

    def _take(self, limit: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        while len(deliveries) < limit:
            if self._redeliveries:
                stored = self._redeliveries.pop(0)
            elif self._next < len(self.memory.messages):
                stored = self.memory.messages[self._next]
                self._next += 1
                if tag_of(stored.subject) not in self.tags:
                    continue
            else:
                break
            self.pending[stored.sequence] = stored
            deliveries.append(MemoryDelivery(stored, self.pending))
        return deliveries
