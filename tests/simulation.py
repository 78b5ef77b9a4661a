"""The whole system in one process under a seed: all services on the log in memory, in virtual time, with everything going wrong.

`simulate(seed)` is one run of it and raises `Broken` with what does not hold. What runs is the services' own code; stand-ins are the
broker, the blobs' disk, the clocks, the scaffold's process, the policy and the gradient work. `make sim SEEDS=10000` runs many.
"""

import argparse
import asyncio
import contextlib
import contextvars
import datetime
import functools
import hashlib
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import invariants
import msgspec
from rich.console import Console
from rich.progress import track
from tiny import data as tiny
from virtual import Standstill, VirtualLoop

import runtime.rollouts
import runtime.worker
import services.archivist
import services.auditor
import services.controller
import services.executor
import services.feedback_agent
import services.meta_agent
import services.policy
import services.trainer
import services.verifier
from algorithms.learning.batch import NothingToLearn, Step
from events import codec
from events.codec import Event
from events.errors import NotFound, TryAgain, Unavailable
from events.play import ModelCalled, TrajectoryRecorded
from events.run import Budget, Items, RunFinished, RunPaused, RunResumed, RunStarted
from events.secret import Scanner
from events.subjects import GOLD, LOG, run_of, tag_of
from events.weights import Canary
from runtime.blobs import Blobs
from runtime.log import Delivery, Message, Refused, Stored, append_once, require_contiguous, slot
from runtime.log_memory import MemoryLog, MemoryStream
from runtime.lookup import readable
from runtime.policies.interface import Sampled, SampleRequest
from runtime.policies.training import Order, Sources, Trained
from runtime.rollouts import Player
from runtime.sandbox.choose import Profile
from runtime.scaffold_host import Ask, Data, Limits, Outcome
from runtime.server import _MANY_AT_ONCE, ACK_WAIT, CONSUMERS
from services.context import Context
from tasks.contract import FOLDS
from tasks.loading import load

TINY = Path(__file__).parent / "tiny"
BEGAN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
PATIENCE = 900.0
"""Virtual seconds in which a run must be over once nothing goes wrong any more."""
QUIET = 15.0
"""Virtual seconds for which things go on after the last audit, so that late deliveries do what harm they can."""
PROJECTED = 25
"""Every so many seeds the logs are projected into DuckDB too, which takes longer than all the rest of a seed."""

FAULTS = {
    "crash": "append read last end fetch ack blob compute",
    "crash after": "append ack blob",
    "away": "append read last end",
    "unconfirmed": "append",
    "late": "append",
    "full": "append blob",
    "short": "read",
    "lost": "fetch ack in_progress",
    "again": "fetch",
    "slow": "append read last end fetch ack in_progress compute",
}
"""What can go wrong, and in which operations: the process ends before or after, nothing answers, it is done and not confirmed, it is done
when nobody waits any more, the disk is full, less is read than there is, a message is lost, is handed out twice, or takes seconds."""


_decode_at = functools.lru_cache(8192)(codec.decode_at)


class Broken(AssertionError):
    """Invariants that do not hold, as sentences, and what happened."""

    def __init__(self, seed: int, sentences: Sequence[str], story: Sequence[str]) -> None:
        super().__init__(seed, sentences, story)  # as a pickle gives them back
        self.seed, self.sentences, self.story = seed, sentences, story

    def __str__(self) -> str:
        """The sentences, and how to see it again."""
        return "\n".join([*self.sentences, f"Once more, with what happened: make sim SEED={self.seed} SEEDS=1"])


class Killed(BaseException):
    """The process is gone."""


class Setting(NamedTuple):
    """A run, or two at once, that is undisturbed or not. `skill` is how often the policy is right, of 100."""

    seed: int
    skill: int = 40
    runs: tuple[str, ...] = ("r",)
    levers: tuple[str, ...] = ("scaffold", "weights")
    generations: int = 3
    budget: Budget = Budget()
    rough: int = 0
    """Of 100 answers, those that a scaffold or the verifier does not survive."""
    damaged: int = 0
    """The round whose adapter is rejected."""
    barren: int = 0
    """The round in which there is nothing to learn."""
    shard_size: int = 400


SETTINGS = (
    Setting(1),
    Setting(2, shard_size=6),
    Setting(3, skill=0, levers=("weights",), generations=2),
    Setting(4, budget=Budget(rollouts=50)),
    Setting(5, budget=Budget(tokens=60), shard_size=6),
    Setting(6, rough=12),
    Setting(7, damaged=2),
    Setting(8, barren=2, levers=("weights",)),
    Setting(9, runs=("one", "two"), generations=2),
)


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
            self.world.tell(fault, f"{self.name} {self.index}: {operation}: {fault}")
        if fault == "crash":
            self.kill()
            raise Killed
        return fault

    async def pause(self, fault: str = "") -> None:
        """Let a little time pass."""
        await asyncio.sleep(self.world.draw.uniform(0.0, 8.0) if fault == "slow" else self.world.draw.random() * 0.02)
        self.check()

    def compute(self) -> None:
        """From a thread: take longer than an append does, or die of it."""
        fault = self.fault("compute")
        self.world.loop.park(asyncio.sleep(self.world.draw.random() * 0.4))
        self.world.loop.park(self.pause(fault))


LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("LIFE", default=None)


class Chaos:
    """What goes wrong, drawn from a seed: some kinds of fault, each with a rate of its own, until all is well again."""

    def __init__(self, seed: int | None, rates: Mapping[str, float] | None) -> None:
        self.draw = random.Random(f"chaos {seed}")
        self.on = seed is not None
        drawn = {kind: 10 ** self.draw.uniform(-3.0, -1.0) for kind in FAULTS if self.draw.random() < 0.6}
        self.rates = drawn | {"again": self.draw.random() ** 3} if rates is None else rates
        self.until = self.draw.uniform(10.0, 80.0) if self.on else 0.0
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
        messages = [of if of.expected is not None else of._replace(expected=self.ends.get(slot(of.subject), 0)) for of in messages]
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
        self.most = 5000 if name in _MANY_AT_ONCE else 1
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


class Handed:
    """A delivery, as one process was given it."""

    def __init__(self, life: Life, consumer: Consumer, stored: Stored) -> None:
        self._life, self._consumer, self.stored = life, consumer, stored

    async def ack(self) -> None:
        """As `Delivery.ack`."""
        fault = self._life.fault("ack")
        await self._life.pause(fault)
        if fault != "lost" and self._consumer.pending.pop(self.stored.sequence, None) is not None:
            self._consumer.woken.set()
        if fault == "crash after":
            self._life.kill()
            raise Killed

    async def in_progress(self) -> None:
        """As `Delivery.in_progress`."""
        fault = self._life.fault("in_progress")
        await self._life.pause(fault)
        if fault != "lost" and self.stored.sequence in self._consumer.pending:
            self._consumer.pending[self.stored.sequence] = self._life.world.loop.time() + ACK_WAIT


class Port:
    """The log as one process sees it: whatever it asks may come late, be lost, or be the last that it does."""

    def __init__(self, life: Life, stream: Stream) -> None:
        self.life, self.of, self.stream = life, stream, stream.name
        self._log = MemoryLog(stream)

    async def append(self, messages: Sequence[Message]) -> int:
        """As `Log.append`."""
        return int(await self._ask("append", lambda: self._log.append(messages)))

    async def read(self, start: int, limit: int, only: str = "") -> list[Stored]:
        """As `Log.read`; at the end of the log it takes longer."""
        if start > len(self.of.messages) and not only:
            grown = asyncio.Event()
            self.of.readers.append(grown)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(grown.wait(), 2.0)
        found: list[Stored] = await self._ask("read", lambda: self._log.read(start, limit, only))
        return found

    async def last(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """As `Log.last`."""
        found: dict[str, Stored] = await self._ask("last", lambda: self._log.last(subjects))
        return found

    async def end(self) -> int:
        """As `Log.end`."""
        return int(await self._ask("end", self._log.end))

    async def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """As `Log.fetch`, with more patience."""
        consumer, until = self.of.consumers[self.life.name], self.life.world.loop.time() + 10 * wait
        await self.life.pause()
        fault = self.life.fault("fetch")
        while not (found := consumer.take(limit, fault)) and self.life.world.loop.time() < until:
            await consumer.wait(until)
            self.life.check()
        await self.life.pause(fault)
        return [] if fault == "lost" else [Handed(self.life, consumer, stored) for stored in found]

    async def _ask(self, operation: str, do: Callable[[], Awaitable[Any]]) -> Any:
        fault = self.life.fault(operation)
        await self.life.pause(fault)
        if fault == "late":
            self.life.world.later(do)
        if fault in ("away", "late"):
            raise Unavailable("nothing answers")
        if fault == "full":
            raise TryAgain("no room")
        found = await do()
        if fault == "short":
            found = found[: self.life.world.draw.randint(1, 3)]
        if fault == "crash after":
            self.life.kill()
        if self.life.world.draw.random() < 0.5:
            await self.life.pause()
        self.life.check()
        if fault == "unconfirmed":
            raise Unavailable("no confirmation came")
        return found


class Kept(Blobs):
    """Blobs that outlive the process that wrote them, without a disk."""

    def __init__(self, life: Life | None, kept: dict[str, bytes]) -> None:
        super().__init__(Path("/nonexistent"))
        self._life, self._kept = life, kept

    def put(self, data: bytes) -> str:
        """As `Blobs.put`."""
        fault = self._life.fault("blob") if self._life else ""
        if fault == "full":
            raise TryAgain("no room")
        digest = hashlib.sha256(data).hexdigest()
        self._kept[digest] = data
        if fault == "crash after" and self._life:
            self._life.kill()
            raise Killed
        return digest

    def get(self, digest: str) -> bytes:
        """As `Blobs.get`."""
        if self._life:
            self._life.check()
        if digest not in self._kept:
            raise NotFound(f"blob {digest}")
        return self._kept[digest]

    def unpack(self, digest: str, target: Path) -> Path:
        """Nothing is written: whoever plays or trains looks it up by the folder's name."""
        self.get_tree(digest)
        return target.with_name(digest)


class Rows:
    """What an archive would hold."""

    def __init__(self) -> None:
        self.rows: list[Stored] = []

    @property
    def cursor(self) -> int:
        """As `Archive.cursor`."""
        return len(self.rows)

    def apply(self, rows: Sequence[Stored]) -> int:
        """As `Archive.apply`."""
        fresh = [row for row in rows if row.sequence > self.cursor]
        require_contiguous(fresh, self.cursor + 1)
        self.rows += fresh
        return len(fresh)

    def close(self) -> None:
        """As `Archive.close`."""


class Scaffold:
    """A scaffold in this process: `solve` begins anew whenever a call of its is answered."""

    alive = True

    def __init__(self, folder: Path, data: Data, work: Path, limits: Limits, kind: str) -> None:
        life = LIFE.get()
        assert life
        names: dict[str, Any] = {}
        exec(Kept(life, life.world.kept).get_tree(folder.name)["agent.py"], names)
        self._solve, self._data = names["solve"], data

    def solve(self, items: Sequence[tuple[str, str]], attempts: int, answer_calls: Callable[[list[Ask]], Sequence[Any]]) -> list[Outcome]:
        """As `ScaffoldProcess.solve`; calls are asked for three at a time."""
        desk = _Desk()
        done: dict[tuple[str, int], Outcome] = {}
        while True:
            for item, prompt in items:
                for attempt in range(attempts):
                    if (item, attempt) not in done and (outcome := self._attempt(desk, item, prompt, attempt)):
                        done[item, attempt] = outcome
            asks = desk.take()
            if not asks:
                return [done[item, attempt] for item, _ in items for attempt in range(attempts)]
            for at in range(0, len(asks), 3):
                desk.release(asks[at : at + 3], answer_calls(asks[at : at + 3]))

    def _attempt(self, desk: "_Desk", item: str, prompt: str, attempt: int) -> Outcome | None:
        uses: list[tuple[int, int]] = []

        def complete(prompt: str, choices: Sequence[str] = ()) -> SimpleNamespace:
            ordinal, texts = desk.ask(item, prompt, tuple(choices))
            uses.append((ordinal, attempt))
            if not isinstance(texts, Sequence):
                raise RuntimeError(texts.reason)
            return SimpleNamespace(text=texts[attempt])

        try:
            answer = self._solve(SimpleNamespace(id=item, prompt=prompt), SimpleNamespace(complete=complete), self._data)
        except _Unanswered:
            return None
        except Exception as wrong:
            return Outcome(item, attempt, tuple(uses), kind="crashed", reason=str(wrong))
        return Outcome(item, attempt, tuple(uses), answer=answer)

    def close(self) -> None:
        """There is no process."""


class _Unanswered(BaseException):
    pass


class _Desk:
    """The calls of a shard: the same call by all attempts at an item is one."""

    def __init__(self) -> None:
        self._ordinals: dict[tuple[str, str], int] = {}
        self._counts: Counter[str] = Counter()
        self._answers: dict[tuple[str, int], Any] = {}
        self._asks: list[Ask] = []

    def ask(self, item: str, prompt: str, choices: tuple[str, ...]) -> tuple[int, Any]:
        if (item, prompt) not in self._ordinals:
            ordinal = self._ordinals[item, prompt] = self._counts[item]
            self._counts[item] += 1
            self._asks.append(Ask(item, ordinal, prompt, choices, ()))
        ordinal = self._ordinals[item, prompt]
        if (item, ordinal) not in self._answers:
            raise _Unanswered
        return ordinal, self._answers[item, ordinal]

    def take(self) -> list[Ask]:
        asks, self._asks = self._asks, []
        return asks

    def release(self, asks: Sequence[Ask], answers: Sequence[Any]) -> None:
        self._answers |= {(ask.item, ask.ordinal): answer for ask, answer in zip(asks, answers, strict=True)}


class Oracle:
    """A policy that is right the more often the longer its adapter was trained. Asked again for what is recorded, it answers otherwise."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """As `Policy.sample`."""
        self._life.compute()
        return [self._completions(model, request) for request in requests]

    def _completions(self, model: str, request: SampleRequest) -> Sampled:
        world, trained = self._life.world, self._life.world.adapter(model)["trained"]
        again = request.seed in world.streams[LOG].sampled
        said = request.prompt.split()
        texts = []
        for number in range(request.n):
            draw = random.Random(f"{model} {request.prompt} {request.hint} {request.seed} {number} {again}")
            skill = 90 if request.hint else world.setting.skill + 20 * trained + 10 * (len(said) > 1)
            right = draw.randrange(100) < skill
            label = tiny.label_of(said[0])
            text = label if right else draw.choice([other for other in tiny.LABELS if other != label])
            if draw.randrange(100) < world.setting.rough:
                text = draw.choice(("unspeakable", "unscorable"))
            texts.append(text if not again else f"{text}, or so")
        count = range(request.n)
        return Sampled(tuple(texts), tuple((number,) for number in count), tuple((-1.0,) for _ in count), len(said))


class Served:
    """The models of a policy server, as `vouch` asks for them."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def find(self, name: str) -> Any:
        """A policy that shows log-probabilities, which are off where its adapter is damaged."""
        self._life.compute()
        shown = -9.0 if self._life.world.adapter(name)["damaged"] else -1.0
        return SimpleNamespace(log_probs=lambda prompt: [shown])


def train(order: Order, attempts: Sequence[Any], sources: Sources, out: Path, state_out: Path) -> Trained:
    """In the place of the gradient work: an adapter that is a digest of all that it should follow from."""
    life = LIFE.get()
    assert life
    life.compute()
    sources.label(attempts[0].item)
    setting = life.world.setting
    if setting.barren and order.about["events"].endswith(f"round {setting.barren}"):
        raise NothingToLearn("every group is tied")
    state = order.state.read_bytes() if order.state else b""
    seen = msgspec.json.encode([order.parent, order.algorithm, dict(order.hyper), order.seed, state.decode(), attempts])
    out.mkdir()
    adapter = {
        "trained": life.world.adapter(f"base@{order.parent}" if order.parent else "base")["trained"] + 1,
        "damaged": bool(setting.damaged) and order.about["events"].endswith(f"round {setting.damaged}"),
        "seen": hashlib.sha256(seen).hexdigest(),
    }
    (out / "adapter.json").write_bytes(msgspec.json.encode(adapter))
    state_out.write_bytes(msgspec.json.encode({"after": adapter["seen"]}))
    steps = tuple(
        Step(**dict.fromkeys(Step.__struct_fields__, 0.5) | {"loss": 1.0 / (2 + number), "tokens": number}) for number in range(3)
    )
    return Trained(steps, (Canary("canary", (-1.0,)),), len(attempts), 0, (), "native")


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

    def create_task(self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None) -> "asyncio.Task[Any]":
        """As the loop's own."""
        task = super().create_task(coro, name=name, context=context)
        life = context.get(LIFE) if context else LIFE.get()
        if life:
            life.tasks = [other for other in life.tasks if not other.done()] + [task]
            if life.dead:
                task.cancel()
        return task


class World:
    """Everything there is, for one seed; with no seed nothing goes wrong."""

    def __init__(self, setting: Setting, seed: int | None, folder: Path, rates: Mapping[str, float] | None = None) -> None:
        self.setting, self.seed, self.folder = setting, seed, folder
        self.loop = Loop(seed or 0)
        self.draw = random.Random(f"world {seed}")
        self.chaos = Chaos(seed, rates)
        self.story: list[str] = []
        self.happened: Counter[str] = Counter()
        self.trouble: list[str] = []
        self.offset = 0.0
        self.streams = {name: Stream(self, name) for name in (LOG, GOLD)}
        self.kept: dict[str, bytes] = {}
        self.gold_kept: dict[str, bytes] = {}
        self.rows = {LOG: Rows(), GOLD: Rows()}
        self.lives: dict[tuple[str, int], Life] = {}
        self.late: list[asyncio.Task[None]] = []
        self.over = False
        self._adapters: dict[str, dict[str, Any]] = {"": {"trained": 0, "damaged": False}, "uniform": {"trained": 0, "damaged": False}}

    def tell(self, kind: str, what: str) -> None:
        """Note what goes wrong."""
        self.happened[kind] += 1
        self.story.append(f"{self.loop.time():9.3f} {what}")

    def broker_clock(self) -> int:
        """Nanoseconds, with the steps that the broker's clock has made."""
        return int((BEGAN.timestamp() + self.loop.time() + self.offset) * 1e9)

    def adapter(self, model: str) -> dict[str, Any]:
        """What a model's adapter says of itself."""
        digest = model.partition("@")[2]
        if digest not in self._adapters:
            self._adapters[digest] = msgspec.json.decode(Kept(None, self.kept).get_tree(digest)["adapter.json"])
        return self._adapters[digest]

    def later(self, do: Callable[[], Awaitable[Any]]) -> None:
        """Do it when whoever asked for it has given up, or is dead."""

        async def then() -> None:
            await asyncio.sleep(self.draw.uniform(0.0, 6.0))
            with contextlib.suppress(Refused):
                await do()

        self.late.append(self.loop.create_task(then(), context=contextvars.Context()))

    def run(self) -> None:
        """Run to the end."""
        with self._stand_ins():
            try:
                self.loop.run_until_complete(self._live())
            except Standstill:
                self.trouble.append("Every request is answered or failed, but nothing moves any more.")
            finally:
                self.loop.close()

    async def _live(self) -> None:
        services_of = {name: 1 for name in (*CONSUMERS, "controller", "archivist")} | {"executor": 2}
        if self.chaos.on:
            services_of = {name: count + (self.draw.random() < 0.3) for name, count in services_of.items()} | {"archivist": 1, "auditor": 1}
        keeping = [self.loop.create_task(self._keep(name, index)) for name, count in services_of.items() for index in range(count)]
        others = [self.loop.create_task(self._operate()), self.loop.create_task(self._strike())]
        while not self._audited() and self.loop.time() < self.chaos.until + PATIENCE:
            if self.chaos.on and self.loop.time() > self.chaos.until:
                self.chaos.on = self.chaos.outage = False
            await asyncio.sleep(1.0)
        if self._audited():
            await asyncio.sleep(QUIET)
        self.over = True
        for life in self.lives.values():
            life.kill()
        await asyncio.wait(keeping)
        for task in (*others, *self.late):
            task.cancel()
        await asyncio.gather(*others, *self.late, return_exceptions=True)

    def _audited(self) -> bool:
        return sum(tag_of(stored.subject) == "audit_finished" for stored in self.streams[GOLD].messages) == len(self.setting.runs)

    async def _operate(self) -> None:
        """Order the runs, and where things go wrong, pause and resume them, and put in what nobody can read."""
        log = MemoryLog(self.streams[LOG])
        for run in self.setting.runs:
            started = self._started(sorted(self.setting.runs).index(run))
            await append_once(log, [self._said(run, started)], Scanner([]))
        if not self.chaos.on:
            return
        for number in range(1, self.draw.randint(0, 3)):
            await asyncio.sleep(self.draw.uniform(0.0, 20.0))
            run = self.draw.choice(self.setting.runs)
            if not any(tag_of(stored.subject) == RunFinished.tag() and run_of(stored.subject) == run for stored in log.of.messages):
                self.tell("pause", f"run {run} is paused")
                await append_once(log, [self._said(run, RunPaused(number=number, reason="to see"))], Scanner([]))
                await asyncio.sleep(self.draw.uniform(0.0, 20.0))
                await append_once(log, [self._said(run, RunResumed(number=number))], Scanner([]))
                self.tell("resume", f"run {run} is resumed")
        if self.draw.random() < 0.3:
            tag = self.draw.choice(("trajectory_recorded", "rollouts_requested", "trajectory_scored"))
            await log.append([Message(f"evolog.{self.setting.runs[0]}.{self.draw.randrange(9)}.{tag}", b'{"half": ')])

    async def _strike(self) -> None:
        """End processes wherever they are, take the broker away for a while, and move its clock."""
        while self.chaos.on:
            await asyncio.sleep(self.draw.expovariate(0.2))
            match self.draw.choice(("kill", "kill", "kill", "power", "outage", "clock")) if self.chaos.on else "":
                case "kill":
                    life = self.draw.choice(list(self.lives.values()))
                    self.tell("kill", f"{life.name} {life.index} is killed")
                    life.kill()
                case "power":
                    self.tell("power", "everything is killed")
                    for life in self.lives.values():
                        life.kill()
                case "outage":
                    self.tell("outage", "the broker is away")
                    self.chaos.outage = True
                    await asyncio.sleep(self.draw.uniform(0.1, 6.0))
                    self.chaos.outage = False
                case "clock":
                    self.offset += self.draw.uniform(-50.0, 50.0)
                    self.tell("clock", f"the broker's clock is off by {self.offset:.1f} s")

    async def _keep(self, name: str, index: int) -> None:
        """What the supervisor does for one service."""
        while not self.over:
            life = self.lives[name, index] = Life(self, name, index)
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
        context = Process(life)
        gold, work = Port(life, self.streams[GOLD]), self.folder / f"{life.name}-{life.index}"
        match life.name:
            case "executor":
                await services.executor.play_shards(context, Player(context.blobs, work, Oracle(life), context.scanner))
            case "policy":
                await services.policy.vouch(context, Served(life))  # type: ignore[arg-type]
            case "auditor":
                player = Player(context.blobs, work, Oracle(life), context.scanner)
                await services.auditor.audit_runs(context, gold, Kept(life, self.gold_kept), player)
            case "archivist":
                await services.archivist.follow(context.log, self.rows[LOG])  # type: ignore[arg-type]
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
            base_model=Kept(None, self.kept).put_tree({"base": b""}),
            group_size=3,
            shard_size=setting.shard_size,
            sandbox="none",
        )

    def _said(self, run: str, fact: Any) -> Event:
        return codec.event(fact, run=run, source="operator", cause="", time=runtime.worker.now())

    @contextlib.contextmanager
    def _stand_ins(self) -> Iterator[None]:
        clock = Clock(self)
        with contextlib.ExitStack() as stack:
            for module, name, stand_in in (
                (runtime.worker, "datetime", clock),
                (runtime.rollouts, "time", clock),
                (services.verifier, "time", clock),
                (services.auditor, "time", clock),
                (runtime.rollouts, "ScaffoldProcess", Scaffold),
                (runtime.rollouts, "provide", lambda recorded: Profile("none", "none")),
                (services.trainer, "train", train),
                (services.auditor, "open_archive", lambda path, stream: self.rows[stream]),
            ):
                stack.enter_context(mock.patch.object(module, name, stand_in))
            yield


class Process(Context):
    """The `Context` of one process."""

    def __init__(self, life: Life) -> None:
        world = life.world
        self.name, self.index, self.loop = life.name, life.index, world.loop
        self.log = Port(life, world.streams[LOG])
        self.scanner = Scanner([])
        self.blobs = Kept(life, world.kept)
        self.work = world.folder / f"{life.name}-{life.index}"
        self.node = SimpleNamespace(gold_archive=Path())  # type: ignore[assignment]
        self._loaded = {}

    def wait_for(self, work: Any) -> Any:
        """As `Context.wait_for`, with the loop's own way to wait."""
        return self.loop.park(work)  # type: ignore[attr-defined]


def answers_are_recorded(events: Sequence[Event]) -> None:
    """Each attempt's answer is what the recorded call that it used last says."""
    calls = {event.id: event.data for event in events if isinstance(event.data, ModelCalled)}
    for event in events:
        if isinstance(event.data, TrajectoryRecorded):
            use = event.data.calls[-1]
            text = calls[use.call].texts[use.completion]
            assert event.data.answer == text, f"Answers are recorded before they are released, but {event.data.answer!r} is not {text!r}."


def simulate(seed: int, rates: Mapping[str, float] | None = None) -> World:
    """One run under this seed, and all that must hold of it; raises `Broken`. `rates` are those of the faults, else they are drawn."""
    setting = random.Random(f"setting {seed}").choice(SETTINGS)
    with tempfile.TemporaryDirectory(prefix="evolog-") as folder, mock.patch.object(codec, "decode_at", _decode_at):
        world = World(setting, seed, Path(folder), rates)
        world.run()
        sentences = [*world.trouble, *broken(world, undisturbed(setting))]
        if not sentences and seed % PROJECTED == 0:
            sentences += wrongs(lambda: projections_rebuild(world))
    if sentences:
        raise Broken(seed, sentences, world.story)
    return world


@functools.cache
def undisturbed(setting: Setting) -> World:
    """The same run when nothing goes wrong."""
    with tempfile.TemporaryDirectory(prefix="evolog-") as folder:
        world = World(setting, None, Path(folder))
        world.run()
    if sentences := [*world.trouble, *broken(world, world)]:
        raise Broken(-1, sentences, world.story)
    return world


def broken(world: World, calm: World) -> list[str]:
    """What does not hold of a run, as sentences."""
    log, gold = (world.streams[name].messages for name in (LOG, GOLD))
    events, scored = readable(log), readable(gold)
    return [
        sentence
        for check in (
            lambda: invariants.every_request_is_answered(events),
            lambda: invariants.nothing_counts_twice(events),
            lambda: invariants.no_step_twice(events),
            lambda: invariants.budget_is_kept(events),
            lambda: invariants.once_only(log),
            lambda: invariants.once_only(gold),
            lambda: invariants.causes_come_first(events),
            lambda: answers_are_recorded(events),
            lambda: invariants.same_decisions(events, readable(calm.streams[LOG].messages)),
            lambda: invariants.same_decisions(scored, readable(calm.streams[GOLD].messages)),
            lambda: invariants.chains_hold(log),
            lambda: invariants.decisions_follow(log),
            lambda: invariants.audited_once(events, scored),
        )
        for sentence in wrongs(check)
    ]


def wrongs(check: Callable[[], None]) -> list[str]:
    """What a check says, if it does not hold."""
    try:
        check()
    except (AssertionError, LookupError, StopIteration, ValueError) as wrong:
        return [str(wrong) if isinstance(wrong, AssertionError) else f"{type(wrong).__name__}: {wrong}"]
    return []


def projections_rebuild(world: World) -> None:
    """Both streams."""
    for name, stream in world.streams.items():
        invariants.projections_rebuild(stream.messages, world.folder, name, world.seed or 0)


class Tried(NamedTuple):
    """What a seed came to: its events and what went wrong, by kind, and what broke, if something did."""

    events: Counter[str]
    happened: Counter[str]
    broken: Broken | None


def tried(seed: int) -> Tried:
    """Simulate a seed, in a process of many."""
    logging.getLogger("evolog").setLevel(logging.CRITICAL)
    try:
        world = simulate(seed)
    except Broken as wrong:
        return Tried(Counter(), Counter(), wrong)
    return Tried(Counter(tag_of(of.subject) for stream in world.streams.values() for of in stream.messages), world.happened, None)


def try_all(seeds: range) -> Iterator[Tried]:
    """Simulate these seeds, as many at a time as there are processors."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        yield from pool.map(tried, seeds, chunksize=5)


def main() -> int:
    """Simulate so many seeds; 1 where one of them broke something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    console = Console(stderr=True, markup=False, highlight=False)
    began, failed, events, faults = time.monotonic(), 0, 0, 0
    for done in track(try_all(range(options.first, options.first + options.seeds)), "seeds", options.seeds, console=console):
        events, faults = events + done.events.total(), faults + done.happened.total()
        if done.broken:
            failed += 1
            console.print(f"Seed {done.broken.seed}: {done.broken}", soft_wrap=True)
            if options.seeds == 1:
                console.print(*done.broken.story, sep="\n", soft_wrap=True)
    seconds = time.monotonic() - began
    rate = f"{options.seeds / seconds:.1f} a second"
    print(f"{options.seeds:,} seeds in {seconds:.0f} s, {rate}: {events:,} events, {faults:,} faults; {failed} failed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
