"""Logs of whole runs without services: the decider decides, and canned answers stand for what services say."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from events import codec
from events.change import ScaffoldProposed, ScaffoldRequested, WeightUpdateRequested
from events.choice import FeedbackRequested
from events.fact import Fact, derive, derive_seed
from events.judgement import TrajectoryScored
from events.population import CandidateAccepted
from events.rollouts import RolloutsRequested
from events.run import AuditReleased, Budget, RunStarted
from events.weights import AdapterPublished, AdapterRejected, AdapterServed, TrainingBatchSealed
from replay.history import History
from runtime.blobs.directory import Blobs
from runtime.log.lineage import in_folding_order
from runtime.log.port import Stored, readable
from runtime.run.decide import DECIDER
from runtime.run.decider import Decider, DecisionSession
from tests.harness.facts import RUN, adapter_of, proposed, publisher, started


class DecidedLog:
    """A run's log that grows by what services say and by what the decider decides at it.

    A `late` controller reads facts only once all are appended. `past` is what a fork goes on from.
    """

    def __init__(
        self, late: bool = False, run: str = RUN, decider: Decider[Any] = DECIDER, past: Sequence[Stored] = ()
    ) -> None:
        self.late, self.run = late, run
        self.messages: list[Stored] = []
        self.session: DecisionSession[Any] = DecisionSession(decider, run)
        self.session.inherit(in_folding_order(past))
        self._unread: list[Stored] = []
        self._before = past[-1].sequence if past else 0

    def say(self, *facts: Fact) -> None:
        """Append these, and then what is decided at each of them."""
        events = [codec.event(fact, run=self.run, source=publisher(fact), cause="", time="") for fact in facts]
        if self.late:
            self.say_at_once(*events)
        else:
            for event in events:
                self.say_at_once(event)

    def say_at_once(self, *events: codec.Event) -> None:
        """Append all of these, and only then what is decided at them."""
        self._unread += [self.append(event) for event in events]
        self.read()

    def read(self) -> None:
        """Feed the decider with what it has not read, its own decisions too."""
        while self._unread:
            stored = self._unread.pop(0)
            decision = self.session.feed(stored, codec.decode(stored.data))
            self._unread += [self.append(event) for event in (decision.events if decision else ())]

    def append(self, event: codec.Event) -> Stored:
        """Append one event, and let nobody read it."""
        sequence = self._before + len(self.messages) + 1
        self.messages.append(Stored(sequence, sequence * 10**9, event.subject, codec.encode(event)))
        return self.messages[-1]

    def go_on(self, limit: int = 1 << 30, random: Random | None = None) -> "DecidedLog":
        """Answer what is asked, one fact after the other, until the run is finished or has that many messages.

        With `random`, what is answered next is drawn.
        """
        asked, read = Asked(), 0
        while len(self.messages) < limit:
            for event in readable(self.messages[read:]):
                asked.take(event)
            read = len(self.messages)
            if not asked.open:
                break
            facts = list(asked.open.values())
            self.say(random.choice(facts) if random else facts[0])
        return self


class Asked:
    """What services would say to all that some events ask for and do not answer, by the id of each answer.

    Answers follow from what is asked.
    """

    def __init__(self) -> None:
        self.open: dict[str, Fact] = {}
        self._there: set[str] = set()
        self._acted_on: set[str] = set()

    def take(self, event: codec.Event) -> None:
        """Take the next event."""
        self._there.add(event.id)
        self.open.pop(event.id, None)
        wanted = answers(event)
        match event.data:
            case RunStarted(on_drift=on_drift) if on_drift:
                self._acted_on.add(event.run)
            case CandidateAccepted(generation=generation) if event.run in self._acted_on:
                quiet = AuditReleased(look=generation, action="none", lever="", generation=-1, bits=0.0)
                wanted = [quiet, *wanted]
        by_id = {codec.event_id(event.run, type(fact), *fact.key()): fact for fact in wanted}
        self.open |= {id: fact for id, fact in by_id.items() if id not in self._there}


def missing_answers(messages: Sequence[Stored]) -> list[Fact]:
    """What services would say to all that these messages ask for and do not answer."""
    asked = Asked()
    for event in readable(messages):
        asked.take(event)
    return list(asked.open.values())


def answers(event: codec.Event) -> list[Fact]:
    """What services say to one event: two edits, then updates of two rounds of which every other adapter is refused."""
    match event.data:
        case ScaffoldRequested():
            return [ScaffoldProposed(generation=0, scaffold="s0", parent="", summary="", reason="")]
        case FeedbackRequested(generation=number, levers=levers) if "weights" not in levers or (
            number <= 2 and "scaffold" in levers
        ):
            return [ScaffoldProposed(generation=number, scaffold=f"s{number}", parent="", summary="", reason="")]
        case FeedbackRequested(generation=number):
            order: dict[str, Any] = {
                "algorithm": "grpo",
                "hyper": {},
                "rounds": 2,
                "resample": "unsolved",
                "memory": "update",
                "hints": number == 3,
            }
            return [WeightUpdateRequested(generation=number, **order, reason="")]
        case RolloutsRequested() as asked:
            return [
                TrajectoryScored(
                    trajectory=derive(asked.seed, item, attempt),
                    request=event.id,
                    item=item,
                    attempt=attempt,
                    reward=float(derive_seed(asked.seed, asked.scaffold, asked.adapter, item, attempt) % 3 == 0),
                    outcome="right",
                    verifier="v1",
                )
                for item in asked.items
                for attempt in range(asked.attempts)
            ]
        case TrainingBatchSealed() as sealed:
            named = derive("adapter", sealed.parent_adapter, sealed.training_seed, sealed.trajectories)
            state = hashlib.sha256(state_after(named)).hexdigest()
            return [msgspec.structs.replace(adapter_of(sealed, named), state=state)]
        case AdapterPublished() as published:
            place: dict[str, Any] = {
                "generation": published.generation,
                "round": published.round,
                "adapter": published.adapter,
                "batch": published.batch,
            }
            if published.generation == 4:
                return [AdapterRejected(**place, reason="its canary differs")]
            return [AdapterServed(**place, error=0.0)]
        case _:
            return []


def state_after(adapter: str) -> bytes:
    """The optimiser state that the training of an adapter left, whose blob is named by its digest."""
    return f"left by {adapter}".encode()


def short_run(late: bool = False) -> list[Stored]:
    """A run that decides three times and ends; `late`: with a controller that was away while much came."""
    log = DecidedLog(late)
    log.say(started(generations=0))
    log.say(proposed())
    log.say(*missing_answers(log.messages))
    return log.messages


def long_run() -> list[Stored]:
    """A run of five generations with both levers, hints and a refused adapter."""
    log = DecidedLog()
    log.say(started(generations=5))
    return log.go_on().messages


def wide_run(run: str = RUN, order: int = 1) -> list[Stored]:
    """A run of nine generations, four at a time, that looks at first items and looks twice, until its budget ends.

    Services answer in a drawn order.
    """
    log = DecidedLog(run=run)
    log.say(
        msgspec.structs.replace(
            started(generations=9, budget=Budget(rollouts=170)),
            strategy="dgm",
            width=4,
            first_items=2,
            recheck=1,
            refills=1,
        )
    )
    return log.go_on(random=Random(order)).messages


def lagging_run(run: str = RUN, order: int = 1) -> list[Stored]:
    """A run of six generations whose rollouts are made while earlier ones are trained.

    Services answer in a drawn order.
    """
    log = DecidedLog(run=run)
    log.say(msgspec.structs.replace(started(generations=6, shard_size=2), max_lag=1))
    return log.go_on(random=Random(order)).messages


def as_history(
    messages: Sequence[Stored], blobs: Path = Path("nowhere"), run: str = RUN, past: Sequence[Stored] = ()
) -> History:
    """A run's messages as replay reads them."""
    return History(run, past, messages, [], Blobs(blobs), Blobs(blobs))
