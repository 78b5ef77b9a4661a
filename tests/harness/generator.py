"""Logs of any length, as runs would leave them: the real decider decides, and what it asks for is answered from a seed.

for message in log(1_000_000): ...          # in memory, a batch at a time
fill(directory, log_batches(1_000_000))     # onto the disk of a real server, before it is started
"""

import asyncio
import contextlib
import hashlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import nats

from events import codec
from events.change import ProposalFailed, ScaffoldProposed, ScaffoldRequested, WeightUpdateRequested
from events.choice import ContextAssembled, FeedbackRequested, LeverChosen
from events.fact import Fact, derive
from events.judgement import ScoringFailed, TrajectoryScored
from events.kinds import Lever
from events.rollouts import CallUse, ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import Budget, Items, RunFinished, RunStarted
from events.subjects import GOLD, LOG
from events.weights import AdapterPublished, AdapterServed, Canary, OptimizerStepApplied, TrainingBatchSealed
from runtime.blobs.directory import Blobs
from runtime.broker import accounts, binary, children, credentials, server, store, streams
from runtime.broker.credentials import Credentials
from runtime.log.port import BATCH_LIMIT, Message, Stored
from runtime.log.socket import NatsSocket
from runtime.policies.client import model_name
from runtime.run.decide import DECIDER
from runtime.run.decider import DecisionSession
from tests.harness.facts import publisher

FOLDS, GROUP, STEPS = 5, 8, 30
FIRST_TIME = 1_767_225_600_000_000_000
"""2026-01-01, in nanoseconds since 1970: when the first message of a log in memory was stored; each later one a
millisecond after.
"""
MILLISECOND = 1_000_000
SPLITS = ("train", "dev", "test")
BASE_MODEL = derive("base model")
VERIFIER = hashlib.sha256(b"verifier").hexdigest()
_WORDS = (
    "the",
    "of",
    "and",
    "to",
    "in",
    "a",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
    "he",
    "but",
    "at",
)

Batch = list[tuple[str, bytes]]
"""Subjects and payloads that are appended together."""
Batches = Generator[Batch, int, None]
"""Gives batches, and is sent the time at which the log stored the last message of each: decisions carry it."""


def log(
    events: int,
    *,
    runs: int = 8,
    items: int = 500,
    generations: int = 12,
    seed: int = 0,
    strategy: str = "chain",
    width: int = 1,
) -> Iterator[Stored]:
    """A log of `events` messages, or up to a batch more, of about 1 KB, in which so many runs at a time go on side by
    side.

    Each run has so many train items, two fifths as many dev items, and so many generations; one that has finished is
    followed by another.
    """
    batches = log_batches(
        events, runs=runs, items=items, generations=generations, seed=seed, strategy=strategy, width=width
    )
    sequence, time = 0, 0
    try:
        batch = next(batches)
        while True:
            for subject, payload in batch:
                sequence += 1
                time = FIRST_TIME + sequence * MILLISECOND
                yield Stored(sequence, time, subject, payload)
            batch = batches.send(time)
    except StopIteration:
        return


def log_batches(
    events: int,
    *,
    runs: int = 8,
    items: int = 500,
    generations: int = 12,
    seed: int = 0,
    strategy: str = "chain",
    width: int = 1,
) -> Batches:
    """As `log`, in the batches in which it is appended."""
    courses = (
        run_batches(f"run-{number}", items=items, generations=generations, seed=seed, strategy=strategy, width=width)
        for number in range(events)
    )
    return side_by_side(courses, runs, events)


def side_by_side(runs: Iterator[Batches], at_once: int, events: int = sys.maxsize) -> Batches:
    """The batches of runs of which so many at a time go on side by side, until there are so many events; the runs that
    go on then are left as they are.
    """
    courses: list[tuple[Batches, Batch]] = []
    count = 0
    while count < events:
        courses += [(course, next(course)) for course in islice(runs, at_once - len(courses))]
        if not courses:
            return
        course, batch = courses.pop(0)
        time = yield batch
        count += len(batch)
        with contextlib.suppress(StopIteration):
            courses.append((course, course.send(time)))


class OnDisk(NamedTuple):
    """What a run leaves beside its log: its task's name, the digests of its data, and the scaffolds and prompts."""

    task: str
    splits: Mapping[str, str]
    prompts: Mapping[str, str]
    """By item."""
    blobs: Blobs


def run_batches(
    run: str,
    *,
    items: int,
    generations: int,
    seed: int,
    strategy: str = "chain",
    width: int = 1,
    on_disk: OnDisk | None = None,
) -> Batches:
    """One run from its start to its end; the blobs that it names are there where it is given a place for them."""
    world = _World(run, items, generations, seed, on_disk)
    started = msgspec.structs.replace(world.started(), strategy=strategy, width=width)
    waiting: list[list[tuple[Fact, str]]] = [[(started, "")]]
    course = DecisionSession(DECIDER, run)
    sequence, time = 0, 0
    while waiting:
        facts = waiting.pop(0)
        events = [
            codec.event(fact, run=run, source=publisher(fact), cause=cause, time="2026-01-01T00:00:00.000000Z")
            for fact, cause in facts
        ]
        batch = [(event.subject, codec.encode(event)) for event in events]
        time = yield batch
        for event, (subject, payload) in zip(events, batch, strict=True):
            sequence += 1
            decision = course.feed(Stored(sequence, time, subject, payload), event)
            if decision is None:
                continue
            assert event is events[-1], "only the last message of a batch has a time that is known"
            decided = [(message.subject, message.payload) for message in decision.messages(0)]
            time = yield decided
            for output, (subject, payload) in zip(decision.events, decided, strict=True):
                sequence += 1
                assert course.feed(Stored(sequence, time, subject, payload), output) is None
                waiting += [[(fact, output.id) for fact in part] for part in world.answers(output)]


class _World:
    """What answers a run's requests."""

    def __init__(self, run: str, items: int, generations: int, seed: int, on_disk: OnDisk | None) -> None:
        self.run, self.generations, self.seed, self.on_disk = run, generations, seed, on_disk
        self.random = random.Random(f"{seed} {run}")
        draw = self.random
        self.text = " ".join(draw.choices(_WORDS, k=4000))
        self.tokens = [draw.randrange(50_000) for _ in range(2000)]
        self.logprobs = [-draw.expovariate(2.0) for _ in range(2000)]
        self.train = [case(number) for number in range(items)]
        self.dev = [case(number) for number in range(items, items + dev_items(items))]
        self.skill = 0.3

    def started(self) -> RunStarted:
        folds = tuple(tuple(self.train[fold::FOLDS]) for fold in range(FOLDS))
        probe = (tuple(folds[0][: max(1, len(self.train) // 25)]),)
        return RunStarted(
            task=self.on_disk.task if self.on_disk else "generated",
            seed=self.seed,
            levers=("scaffold", "weights"),
            generations=self.generations,
            budget=Budget(),
            items=Items(dev=tuple(self.dev), folds=folds, probe=probe),
            splits=dict(self.on_disk.splits) if self.on_disk else {name: derive(name) for name in SPLITS},
            verifier=VERIFIER,
            policy="generated",
            base_model=BASE_MODEL,
            group_size=GROUP,
        )

    def answers(self, event: codec.Event) -> list[list[Fact]]:
        """What services append in answer to a decision's output, in the batches in which they do."""
        match event.data:
            case ScaffoldRequested():
                return [[self._scaffold(0, "")]]
            case FeedbackRequested(generation=generation, scaffold=scaffold):
                return self._feedback(generation, scaffold)
            case RolloutsRequested() as requested:
                return self._played(event.id, requested)
            case TrainingBatchSealed() as sealed:
                return self._trained(event.id, sealed)
            case RunFinished():
                return []
        return []

    def _name(self, *key: str | int) -> str:
        return hashlib.sha256("/".join(map(str, (self.run, *key))).encode()).hexdigest()

    def _words(self, size: int) -> str:
        at = self.random.randrange(len(self.text) - size)
        return self.text[at : at + size]

    def _scaffold(self, generation: int, parent: str) -> ScaffoldProposed:
        self.skill = min(0.95, max(0.05, self.skill + self.random.uniform(-0.05, 0.1)))
        scaffold = self._stored_scaffold(generation)
        return ScaffoldProposed(
            generation=generation, scaffold=scaffold, parent=parent, summary=self._words(60), reason=self._words(120)
        )

    def _stored_scaffold(self, generation: int) -> str:
        if self.on_disk is None:
            return self._name("scaffold", generation)
        source = (
            f"WORDS = {self._words(400)!r}\n\n\ndef solve(item, model, data):\n    return model(WORDS + item.prompt)\n"
        )
        return self.on_disk.blobs.put_tree({"agent.py": source.encode()})

    def _context(self, generation: int) -> str:
        if self.on_disk is None:
            return self._name("context", generation)
        return self.on_disk.blobs.put(f"What generation {generation} is to know: {self._words(3000)}".encode())

    def _body(self, request: str, asked: RolloutsRequested) -> str:
        """The prompts of a request: a scaffold shows each item behind words and examples of its own."""
        if self.on_disk is None:
            return self._name("body", request)
        prompts, shown = self.on_disk.prompts, random.Random(asked.scaffold)
        words, asks = " ".join(shown.choices(_WORDS, k=60)), []
        for item in asked.items:
            examples = "\n".join(prompts[example] for example in shown.sample(self.train, 3))
            asks.append({"prompt": f"{words}\n{examples}\n{prompts[item]}", "n": asked.attempts})
        return self.on_disk.blobs.put(msgspec.json.encode(asks))

    def _feedback(self, generation: int, scaffold: str) -> list[list[Fact]]:
        lever: Lever = "weights" if generation % 2 else "scaffold"
        action = ("grpo", "best_of_n")[generation % 4 // 2] if lever == "weights" else "retrieval_vote"
        seen = ContextAssembled(generation=generation, blob=self._context(generation), trajectories=20)
        chosen = LeverChosen(
            generation=generation,
            lever=lever,
            action=action,
            reason=self._words(150),
            propensities={"scaffold": 0.5, "weights": 0.5},
            diagnosis={"pass_at_1": self.random.random(), "pass_at_k": self.random.random()},
        )
        if self.random.random() < 0.02:
            return [[seen], [ProposalFailed(generation=generation, reason=self._words(80))]]
        if lever == "scaffold":
            return [[seen, chosen], [self._scaffold(generation, scaffold)]]
        wanted = WeightUpdateRequested(
            generation=generation,
            algorithm=action,
            hyper={"lr": 1e-3},
            rounds=2,
            resample="all",
            memory="round",
            reason=self._words(80),
        )
        return [[seen, chosen], [wanted]]

    def _played(self, request: str, asked: RolloutsRequested) -> list[list[Fact]]:
        calls: list[Fact] = []
        attempts: list[Fact] = []
        scores: list[Fact] = []
        draw = self.random
        body = self._body(request, asked)
        for index, item in enumerate(asked.items):
            answers = [self._words(draw.randrange(60, 300)) for _ in range(asked.attempts)]
            places = [draw.randrange(1970) for _ in answers]
            lengths = [draw.randrange(10, 40) for _ in answers]
            call = ModelCalled(
                request=request,
                item=item,
                ordinal=0,
                provider="generated",
                model=model_name(BASE_MODEL, asked.adapter),
                adapter=asked.adapter,
                body=body,
                index=index,
                sampling_seed=draw.getrandbits(62),
                temperature=asked.temperature,
                texts=tuple(answers),
                tokens=tuple(tuple(self.tokens[at : at + size]) for at, size in zip(places, lengths, strict=True)),
                logprobs=tuple(tuple(self.logprobs[at : at + size]) for at, size in zip(places, lengths, strict=True)),
                prompt_tokens=draw.randrange(100, 900) * asked.attempts,
                completion_tokens=sum(lengths),
                micro_usd=0,
                seconds=draw.random(),
            )
            calls.append(call)
            called = codec.event_id(self.run, ModelCalled, *call.key())
            for attempt, answer in enumerate(answers):
                place: dict[str, Any] = {"request": request, "item": item, "attempt": attempt}
                if draw.random() < 0.002:
                    attempts.append(
                        RolloutFailed(**place, purpose=asked.purpose, kind="crashed", reason=self._words(60))
                    )
                    continue
                recorded = TrajectoryRecorded(
                    **place,
                    purpose=asked.purpose,
                    split=asked.split,
                    generation=asked.generation,
                    scaffold=asked.scaffold,
                    adapter=asked.adapter,
                    answer=answer,
                    calls=(CallUse(called, attempt),),
                    seconds=draw.random() / 10,
                )
                attempts.append(recorded)
                trajectory = codec.event_id(self.run, TrajectoryRecorded, *recorded.key())
                if draw.random() < 0.001:
                    scores.append(ScoringFailed(trajectory=trajectory, **place, reason=self._words(60)))
                    continue
                right = draw.random() < self.skill
                outcome = "right" if right else "wrong"
                scores.append(
                    TrajectoryScored(
                        trajectory=trajectory, **place, reward=float(right), outcome=outcome, verifier=VERIFIER
                    )
                )
        return [
            facts[at : at + BATCH_LIMIT]
            for facts in (calls, attempts, scores)
            for at in range(0, len(facts), BATCH_LIMIT)
        ]

    def _trained(self, batch: str, sealed: TrainingBatchSealed) -> list[list[Fact]]:
        place: dict[str, Any] = {"generation": sealed.generation, "round": sealed.round, "batch": batch}
        adapter = self._name("adapter", batch)
        draw = self.random
        steps: list[Fact] = [
            OptimizerStepApplied(
                **place,
                parent_adapter=sealed.parent_adapter,
                step=step,
                loss=2.0 / (1 + step) + draw.random() / 10,
                kl_to_base=step * draw.random() / 100,
                entropy=draw.random(),
                clip_share=draw.random() / 10,
                ratio_mean=1.0 + draw.random() / 100,
                ratio_max=1.0 + draw.random(),
                grad_norm=draw.random(),
                tied_groups=draw.random(),
                tokens=draw.randrange(10_000),
                seconds=draw.random(),
            )
            for step in range(STEPS)
        ]
        published = AdapterPublished(
            **place,
            adapter=adapter,
            parent_adapter=sealed.parent_adapter,
            base_model=BASE_MODEL,
            algorithm=sealed.algorithm,
            canary=(Canary(prompt=self._words(100), logprobs=tuple(self.logprobs[:16])),),
            trained_on=sealed.trajectories,
        )
        self.skill = min(0.95, self.skill + draw.uniform(-0.02, 0.05))
        return [steps, [published], [AdapterServed(**place, adapter=adapter, error=draw.random() / 1e6)]]


FILLER = Credentials(url="", user="filler", password="filler", inbox="_INBOX_filler")


def case(number: int) -> str:
    """The id of an item."""
    return f"case-{number:05}"


def dev_items(items: int) -> int:
    """How many dev items a run of so many train items has."""
    return max(2, items * 2 // 5)


def fill(directory: Path, batches: Batches, gold: Callable[[], Iterable[tuple[str, bytes]]] = tuple) -> int:
    """Put a log onto the disk of a project directory whose server is not running; how many messages the stream has
    then. What `gold` gives once the log is whole is put onto the stream GOLD.

    A nats-server of its own does it, with the production configuration and stream but for a user within the streams'
    account, which `evolog` never has, and for flushing to disk now and then. It stops in good order, and an
    `EmbeddedServer` finds the stream there.
    """
    port = children.free_port()
    config = server.write_config(directory, port, accounts.draw_passwords())
    changed = json.loads(config.read_text())
    changed["jetstream"]["sync_interval"] = "2m"
    changed["accounts"][accounts.KEEPER] |= {
        "users": [{"user": FILLER.user, "password": FILLER.password}],
        "mappings": {f"{accounts.API}.>": "$JS.API.>"},
    }
    credentials.write_private(config, json.dumps(changed))
    process = subprocess.Popen([binary.find_binary(), "-c", config], stderr=subprocess.DEVNULL)
    try:
        url = f"nats://127.0.0.1:{port}"
        end = _filled(url, batches)
        if measured := list(gold()):
            asyncio.run(_make_stream(url, GOLD))
            wire = _filling(url, GOLD)
            for subject, payload in measured:
                wire.append([Message(subject, payload)])
            wire.close()
        return end
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait() == 0:
            store.pid_file(directory).unlink(missing_ok=True)  # as an `EmbeddedServer` that has stopped


def append_facts(directory: Path, *facts: Fact, run: str, stream: str = LOG) -> None:
    """Append facts to a stream of a directory in which nothing is up."""
    events = [codec.event(fact, run=run, source=publisher(fact), cause="", time="") for fact in facts]
    batch = [(event.subject, codec.encode(event)) for event in events]

    def batches() -> Batches:
        if stream == LOG:
            yield batch

    fill(directory, batches(), lambda: batch if stream == GOLD else [])


def _filled(url: str, batches: Batches) -> int:
    asyncio.run(_make_stream(url, LOG))
    wire = _filling(url, LOG)
    heads: dict[str, int] = {}
    end, time = 0, None
    try:
        while True:
            batch = next(batches) if time is None else batches.send(time)
            messages = [Message(subject, payload, heads.get(subject, 0)) for subject, payload in batch]
            end = wire.append(messages)
            heads |= {
                subject: end - len(batch) + 1 for subject, _ in batch[:1] if subject.endswith(".head.decision_made")
            }
            (last,) = wire.read(end, 1)
            time = last.time
    except StopIteration:
        return end
    finally:
        wire.close()


def _filling(url: str, stream: str) -> NatsSocket:
    return NatsSocket(Credentials(url=url, user=FILLER.user, password=FILLER.password, inbox=FILLER.inbox), stream)


async def _make_stream(url: str, stream: str) -> None:
    async def unheard(wrong: Exception) -> None:
        """The server is still starting."""

    client = await nats.connect(
        url, user=FILLER.user, password=FILLER.password, reconnect_time_wait=0.05, error_cb=unheard
    )
    try:
        await client.jetstream().add_stream(streams._stream_config(stream, 1))
    finally:
        await client.close()
