"""What the processes of a simulation share, where anything may go wrong: broker, disk, clocks, and the time that things
take.

Each operation may fail, be done without a word of it, be done late, or be the last that its process does.
"""

import asyncio
import contextlib
import contextvars
import datetime
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from events.catalogue import CONSUMERS
from events.errors import NotFound, TryAgain, Unavailable
from events.subjects import GOLD, LOG, tag_of
from runtime.blobs.directory import Blobs
from runtime.broker.streams import ACK_WAIT, IN_HAND
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import Delivery, Message, Refused, Stored, exclusive_key, require_contiguous
from tests.harness.virtual import VirtualLoop

BEGAN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

FAULTS = {
    "crash": "append read last end fetch ack blob apply compute",
    "crash after": "append ack blob apply",
    "away": "append read last end compute",
    "unconfirmed": "append",
    "late": "append",
    "full": "append blob",
    "short": "read",
    "lost": "fetch ack in_progress",
    "again": "fetch",
    "slow": "append read last end fetch ack in_progress compute",
}
"""What can go wrong, and in which operations: the process ends before or after, nothing answers, it is done and not
confirmed, it is done when nobody waits any more, the disk is full, less is read than there is, a message is lost, is
handed out twice, or takes seconds.
"""


SLOW = 8.0
"""Seconds, at most, that an answer of the policy takes in a world of other delays."""


class Killed(BaseException):
    """The process is gone."""


class Life:
    """One process of a service, from its start to its end: then its tasks do nothing more that anybody could see."""

    def __init__(self, world: "World", name: str, index: int) -> None:
        self.world, self.name, self.index = world, name, index
        self.skew = world.draw.uniform(-100.0, 100.0) if world.chaos.on else 0.0
        self.dead = False
        self.tasks: list[asyncio.Task[Any]] = []

    def kill(self) -> None:
        """As kill -9 does."""
        if not self.dead:
            self.dead = True
            self.world.loop.call_soon(self.bury)

    def die(self) -> NoReturn:
        """End here."""
        self.kill()
        raise Killed

    def bury(self) -> None:
        """Cancel what is left of it."""
        for task in self.tasks:
            task.cancel()

    def check(self) -> None:
        """Raise `Killed` in a process that is gone."""
        if self.dead:
            raise Killed

    def fault(self, operation: str) -> str:
        """What goes wrong with an operation; a crash before it is raised here."""
        self.check()
        fault = self.world.chaos.fault(operation)
        if fault:
            self.world.note(fault, f"{self.name} {self.index}: {operation}: {fault}")
        if fault == "crash":
            self.die()
        return fault

    async def pause(self, fault: str = "") -> None:
        """Let a little time pass."""
        await asyncio.sleep(self.world.draw.uniform(0.0, 8.0) if fault == "slow" else self.world.draw.random() * 0.02)
        self.check()

    def compute(self) -> None:
        """From a thread: take longer than an append does, or die of it, or find no policy there."""
        fault = self.fault("compute")
        if fault == "away":
            raise TryAgain("no policy answers")
        self.world.loop.park(asyncio.sleep(self.world.draw.random() * (SLOW if self.world.delays else 0.4)))
        self.world.loop.park(self.pause(fault))


LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("LIFE", default=None)


class Chaos:
    """What goes wrong, drawn from a seed: some kinds of fault, each with a rate of its own, until all is well again."""

    def __init__(self, seed: int | None, rates: Mapping[str, float] | None) -> None:
        self.draw = random.Random(f"chaos {seed}")
        self.on = seed is not None
        rates_by_kind = {kind: 10 ** self.draw.uniform(-3.0, -1.0) for kind in FAULTS if self.draw.random() < 0.6}
        self.rates = rates_by_kind | {"again": self.draw.random() ** 3} if rates is None else rates
        self.ends_at = self.draw.uniform(10.0, 80.0) if self.on else 0.0
        self.outage = False
        self.kinds = {
            operation: [kind for kind in self.rates if operation in FAULTS[kind].split()]
            for operation in sorted({operation for operations in FAULTS.values() for operation in operations.split()})
        }

    def fault(self, operation: str) -> str:
        """The kind of fault that meets an operation, or none."""
        if not self.on:
            return ""
        if self.outage and operation in ("append", "read", "last", "end", "fetch"):
            return "lost" if operation == "fetch" else "away"
        return next((kind for kind in self.kinds[operation] if self.draw.random() < self.rates[kind]), "")


class Stream(MemoryStream):
    """The broker's side of a stream, with its durable consumers."""

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(name, world.broker_clock)
        self.world = world
        self.consumers = {durable: Consumer(self, durable, tags) for durable, tags in CONSUMERS.items()}
        self.sampled: set[int] = set()
        """The sampling seeds of calls that are recorded."""
        self.readers: list[asyncio.Event] = []

    def store(self, messages: Sequence[Message]) -> int:
        """As a broker, which checks no expectation where none is given."""
        messages = [
            of if of.expected is not None else of._replace(expected=self.ends.get(exclusive_key(of.subject), 0))
            for of in messages
        ]
        end = super().store(messages)
        for message in messages:
            tag = tag_of(message.subject)
            if tag == "model_called":
                self.sampled.add(msgspec.json.decode(message.payload)["data"]["sampling_seed"])
            for consumer in self.consumers.values():
                if tag in consumer.tags:
                    consumer.woken.set()
        for reader in self.readers:
            reader.set()
        self.readers.clear()
        return end


class Consumer:
    """A durable consumer: what is handed out and not acknowledged in time is handed out again, to whoever asks next."""

    def __init__(self, stream: Stream, name: str, tags: Sequence[str]) -> None:
        self.stream, self.tags = stream, tags
        self.most = IN_HAND[name]
        self.pending: dict[int, float] = {}
        """Sequences that are not acknowledged, and until when they are not handed out again."""
        self.woken = asyncio.Event()
        self._seen = 0

    def take(self, limit: int, fault: str) -> list[Stored]:
        """Up to so many messages that are due."""
        world, messages = self.stream.world, self.stream.messages
        now = world.loop.time()
        due = [sequence for sequence, until in self.pending.items() if until <= now or fault == "again"]
        while self._seen < len(messages) and len(self.pending) < self.most:
            self._seen += 1
            if tag_of(messages[self._seen - 1].subject) in self.tags:
                self.pending[self._seen] = 0.0
                due.append(self._seen)
        if world.chaos.on and fault != "again":
            world.draw.shuffle(due)
        for sequence in due[:limit]:
            self.pending[sequence] = now + ACK_WAIT
        return [messages[sequence - 1] for sequence in due[:limit]]

    async def wait(self, until: float) -> None:
        """Until something may be due, or until then."""
        now = self.stream.world.loop.time()
        self.woken.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.woken.wait(), max(0.001, min([until, *self.pending.values()]) - now))


class FaultyDelivery:
    """A message that one process was handed; its acknowledgement may be lost."""

    def __init__(self, life: Life, consumer: Consumer, stored: Stored) -> None:
        self._life, self._consumer, self.stored = life, consumer, stored
        self.handle, self.pending = str(stored.sequence), 0

    async def ack(self) -> None:
        """As `Delivery.ack`."""
        fault = self._life.fault("ack")
        await self._life.pause(fault)
        if fault != "lost" and self._consumer.pending.pop(self.stored.sequence, None) is not None:
            self._consumer.woken.set()
        if fault == "crash after":
            self._life.die()

    async def in_progress(self) -> None:
        """As `Delivery.in_progress`."""
        fault = self._life.fault("in_progress")
        await self._life.pause(fault)
        if fault != "lost" and self.stored.sequence in self._consumer.pending:
            self._consumer.pending[self.stored.sequence] = self._life.world.loop.time() + ACK_WAIT


class FaultyLog:
    """The log as one process sees it: whatever it asks may come late, be lost, or be the last that it does."""

    def __init__(self, life: Life, stream: Stream) -> None:
        self.life, self.memory, self.stream = life, stream, stream.name
        self._log = MemoryLog(stream)

    async def append(self, messages: Sequence[Message]) -> int:
        """As `Log.append`."""
        return int(await self._ask("append", lambda: self._log.append(messages)))

    async def read(self, start: int, limit: int, subject: str = "") -> list[Stored]:
        """As `Log.read`; at the end of the log it takes longer."""
        if start > len(self.memory.messages) and not subject:
            grown = asyncio.Event()
            self.memory.readers.append(grown)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(grown.wait(), 2.0)
        messages: list[Stored] = await self._ask("read", lambda: self._log.read(start, limit, subject))
        return messages

    async def count(self, run: str, start: int) -> int:
        """As `Log.count`."""
        return int(await self._ask("count", lambda: self._log.count(run, start)))

    async def last(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """As `Log.last`."""
        latest: dict[str, Stored] = await self._ask("last", lambda: self._log.last(subjects))
        return latest

    async def end(self) -> int:
        """As `Log.end`."""
        return int(await self._ask("end", self._log.end))

    async def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """As `Log.fetch`, with more patience."""
        consumer, until = self.memory.consumers[self.life.name], self.life.world.loop.time() + 10 * wait
        await self.life.pause()
        fault = self.life.fault("fetch")
        while not (messages := consumer.take(limit, fault)) and self.life.world.loop.time() < until:
            await consumer.wait(until)
            self.life.check()
        await self.life.pause(fault)
        return [] if fault == "lost" else [FaultyDelivery(self.life, consumer, stored) for stored in messages]

    async def hand_back(self, handles: Sequence[str]) -> None:
        """As `Log.hand_back`, of which the consumer hears nothing: deliveries come again when their time is up."""

    async def _ask(self, operation: str, do: Callable[[], Awaitable[Any]]) -> Any:
        fault = self.life.fault(operation)
        await self.life.pause(fault)
        if fault == "late":
            self.life.world.later(do)
        if fault in ("away", "late"):
            raise Unavailable("nothing answers")
        if fault == "full":
            raise TryAgain("no room")
        result = await do()
        if fault == "short":
            result = result[: self.life.world.draw.randint(1, 3)]
        if fault == "crash after":
            self.life.die()
        if self.life.world.draw.random() < 0.5:
            await self.life.pause()
        self.life.check()
        if fault == "unconfirmed":
            raise Unavailable("no confirmation came")
        return result


class FaultyBlobs(Blobs):
    """Blobs in memory that outlive the process that wrote them; writing one may fail, or be the last that the process
    does.
    """

    def __init__(self, life: Life | None, contents: dict[str, bytes]) -> None:
        super().__init__(Path("/nonexistent"))
        self._life, self._contents = life, contents

    def put(self, data: bytes) -> str:
        """As `Blobs.put`."""
        fault = self._life.fault("blob") if self._life else ""
        if fault == "full":
            raise TryAgain("no room")
        digest = hashlib.sha256(data).hexdigest()
        self._contents[digest] = data
        if fault == "crash after" and self._life:
            self._life.die()
        return digest

    def get(self, digest: str) -> bytes:
        """As `Blobs.get`."""
        if self._life:
            self._life.check()
        if digest not in self._contents:
            raise NotFound(f"blob {digest}")
        return self._contents[digest]

    def unpack(self, digest: str, target: Path) -> Path:
        """Nothing is written: whoever plays or trains looks it up by the folder's name."""
        self.get_tree(digest)
        return target.with_name(digest)


class ArchiveStandIn:
    """What an archive would hold; it outlives the process that writes it."""

    def __init__(self) -> None:
        self.rows: list[Stored] = []

    @property
    def cursor(self) -> int:
        """As `Archive.cursor`."""
        return len(self.rows)

    def apply(self, rows: Sequence[Stored]) -> int:
        """As `Archive.apply`."""
        life = LIFE.get()
        fault = life.fault("apply") if life else ""
        new_rows = [row for row in rows if row.sequence > self.cursor]
        require_contiguous(new_rows, self.cursor + 1)
        self.rows += new_rows
        if life and fault == "crash after":
            life.die()
        return len(new_rows)

    def close(self) -> None:
        """As `Archive.close`."""


class Clock:
    """In the place of the modules `time` and `datetime`."""

    UTC = datetime.UTC

    def __init__(self, world: "World") -> None:
        self._world = world
        self.datetime = self

    def now(self, zone: datetime.tzinfo) -> datetime.datetime:
        """As the process's own clock has it."""
        life = LIFE.get()
        return BEGAN + datetime.timedelta(seconds=self._world.loop.time() + (life.skew if life else 0.0))

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self._world.loop.time()

    perf_counter = monotonic


class Loop(VirtualLoop):
    """A loop that knows which process a task belongs to."""

    def create_task(
        self, coro: Any, *, name: object = None, context: contextvars.Context | None = None
    ) -> "asyncio.Task[Any]":
        """As the loop's own."""
        task = super().create_task(coro, name=name, context=context)
        life = context.get(LIFE) if context else LIFE.get()
        if life:
            life.tasks = [other for other in life.tasks if not other.done()] + [task]
            if life.dead:
                task.cancel()
        return task


class World:
    """What all processes share.

    With no seed nothing goes wrong; `rates` are those of the faults, else they are drawn. `delays` other than 0 give
    another order of things, in which answers of the policy take up to seconds.
    """

    def __init__(self, seed: int | None, rates: Mapping[str, float] | None, delays: int = 0) -> None:
        self.loop = Loop(seed or delays)
        self.delays = delays
        self.draw = random.Random(f"world {seed} {delays}" if delays else f"world {seed}")
        self.chaos = Chaos(seed, rates)
        self.incidents: list[str] = []
        self.fault_counts: Counter[str] = Counter()
        """How often each kind of fault has met something."""
        self.offset = 0.0
        """Seconds by which the broker's clock is off."""
        self.streams = {name: Stream(self, name) for name in (LOG, GOLD)}
        self.blobs: dict[str, bytes] = {}
        self.gold_blobs: dict[str, bytes] = {}
        self.rows = {LOG: ArchiveStandIn(), GOLD: ArchiveStandIn()}
        self.late: list[asyncio.Task[None]] = []

    def note(self, kind: str, text: str) -> None:
        """Note what goes wrong."""
        self.fault_counts[kind] += 1
        self.incidents.append(f"{self.loop.time():9.3f} {text}")

    def broker_clock(self) -> int:
        """Nanoseconds, with the steps that the broker's clock has made."""
        return int((BEGAN.timestamp() + self.loop.time() + self.offset) * 1e9)

    def later(self, do: Callable[[], Awaitable[Any]]) -> None:
        """Do it when whoever asked for it has given up, or is dead."""

        async def then() -> None:
            await asyncio.sleep(self.draw.uniform(0.0, 6.0))
            with contextlib.suppress(Refused):
                await do()

        self.late.append(self.loop.create_task(then(), context=contextvars.Context()))
