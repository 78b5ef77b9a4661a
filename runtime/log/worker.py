"""The loop of an effect service: take work from the log, perform it, append its outcome once, acknowledge.

An executor, or any effect service, may die anywhere in here. The work is then handed out again, what is recorded is
found, and the rest is done: no model call is paid twice, no optimiser step is applied twice. The same message twice has
one outcome on the log (`port.append_once`).

Work for which the host lacks something for a while (`NotHere`) has no outcome: it is not acknowledged, so that it is
handed out again, and other work goes on meanwhile.
"""

import asyncio
import contextlib
import datetime
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from events import codec, subjects
from events.catalogue import BY_FACT
from events.codec import Event
from events.errors import NotHere, RunHalted, TryAgain, Unavailable
from events.fact import Fact
from events.run import EventSetAside, RunFinished
from events.secret import Scanner, SecretFound
from runtime.log.described import counts, describe
from runtime.log.port import Delivery, Log, Stored, append_once
from runtime.status import StatusReporter, log_line

logger = logging.getLogger("evolog")

HEARTBEAT = 1.5
"""Seconds between two requests for more time; the server hands work out again after five."""
FIRST_PAUSE, PAUSE = 0.1, 1.0
"""Seconds before what failed for want of a broker is tried again: they double up to the second."""

HOST_PATIENCE = 600.0
"""Seconds for which a process tries again what its host lacks something for, before it ends with the sentence."""

TAKEN_ELSEWHERE = 20.0
"""Seconds after which work that was put off and did not come again counts as another process's: it is handed out every
five.
"""

T = TypeVar("T")
Perform = Callable[[list[Event]], Awaitable[Sequence[Event]]]


def now() -> str:
    """The present time as events carry it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def answer(fact: Fact, cause: Event, source: str) -> Event:
    """The event by which an effect service answers another event, which becomes its cause."""
    return codec.event(fact, run=cause.run, source=source, cause=cause.id, time=now())


class Wants:
    """What a process's host lacks, of each event whose work had to be put off: told, and given up after `patience`
    seconds.

    `tell` hears the run and what is lacking each time that something changes, and None once nothing of the run is put
    off any more.
    """

    def __init__(
        self, patience: float = HOST_PATIENCE, tell: Callable[[str, str | None], object] = lambda run, sentence: None
    ) -> None:
        self._patience, self._tell = patience, tell
        self._since: dict[str, float] = {}
        self._latest: dict[str, tuple[float, str]] = {}
        """When an event's work was put off last, and its run."""
        self._counts: Counter[str] = Counter()
        self._lacking: dict[str, str] = {}

    def put_off(self, event: Event, lacking: NotHere) -> None:
        """Tell that the work of an event must wait for something; raises `lacking` once it has waited too long."""
        over, now = self.over(event), time.monotonic()
        self._counts[event.run] += event.id not in self._latest
        self._latest[event.id] = now, event.run
        self._since.setdefault(event.id, now)
        self._lacking[event.run] = str(lacking).removesuffix(".") + "."
        self._tell(event.run, self._lacking[event.run])
        if over and not isinstance(lacking, RunHalted):
            raise lacking

    def count(self, run: str) -> int:
        """How many events of a run have their work put off."""
        return self._counts[run]

    def over(self, event: Event) -> bool:
        """Whether the work of an event has been put off for too long."""
        return event.id in self._since and time.monotonic() - self._since[event.id] > self._patience

    def done(self, events: Sequence[Event]) -> None:
        """The work of these events is done."""
        for event in events:
            self._since.pop(event.id, None)
        self._told_no_more([event.id for event in events])

    def look(self) -> None:
        """Tell no more of what has not been handed out here again: another process has taken it."""
        before = time.monotonic() - TAKEN_ELSEWHERE
        self._told_no_more([id for id, (latest, _) in self._latest.items() if latest < before])

    def _told_no_more(self, ids: Sequence[str]) -> None:
        runs = [self._latest.pop(id)[1] for id in ids if id in self._latest]
        self._counts.subtract(runs)
        for run in dict.fromkeys(runs):
            self._tell(run, self._lacking[run] if self._counts[run] else None)


async def work(
    log: Log,
    perform: Perform,
    *,
    source: str,
    scanner: Scanner,
    limit: int = 1,
    wants: Wants | None = None,
    status: StatusReporter | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Work until `stop` is set. `perform` gets up to `limit` events at a time and gives back the events to append.

    What is in hand is told to `status` and written to the service's log. Raises what `Wants.put_off` raises.
    """
    wants = wants or Wants()
    while stop is None or not stop.is_set():
        deliveries = await log.fetch(limit, 1.0)
        wants.look()
        if deliveries:
            await step(log, deliveries, perform, source=source, scanner=scanner, wants=wants, status=status)


async def step(
    log: Log,
    deliveries: Sequence[Delivery],
    perform: Perform,
    *,
    source: str,
    scanner: Scanner,
    wants: Wants,
    status: StatusReporter | None = None,
) -> None:
    """One turn of the loop: unreadable messages are set aside, the others performed, the outputs appended, all
    acknowledged. What a run that has ended still wanted is wanted no more, but by the auditor.

    Where the host lacks something for one of several, they are performed one by one, and what must wait is put off.
    """
    events: list[Event] = []
    outputs: list[Event] = []
    for delivery in deliveries:
        event, set_aside = decode_or_set_aside(delivery.stored, source)
        events += [event] if event else []
        outputs += [set_aside] if set_aside else []
    beating = asyncio.create_task(_heartbeat(deliveries))
    try:
        if source != "auditor":
            events = await retry_until_available(lambda: _of_open_runs(log, events))
        if events:
            with _in_hand(events, deliveries[-1].pending, status, outputs):
                outputs += await perform(events)
        if outputs:
            await retry_until_available(lambda: append_struck_out(log, outputs, scanner))
        for delivery in deliveries:
            await delivery.ack()
        wants.done(events)
    except NotHere as lacking:
        if len(deliveries) > 1:
            for delivery in deliveries:
                await step(log, [delivery], perform, source=source, scanner=scanner, wants=wants, status=status)
        else:
            wants.put_off(events[0], lacking)
    finally:
        beating.cancel()


@contextlib.contextmanager
def _in_hand(
    events: Sequence[Event], pending: int, status: StatusReporter | None, outputs: Sequence[Event]
) -> Iterator[None]:
    """Tell, while it lasts, what is done for these events, and log when it is taken in hand and when it is done."""
    work = describe(events, pending)
    began = time.monotonic()
    log_line(logging.INFO, f"begins: {work.doing}", run=work.run, **work.fields)
    with status.doing(work.doing, work.run) if status else contextlib.nullcontext():
        yield
    seconds = round(time.monotonic() - began, 3)
    log_line(logging.INFO, f"done: {work.doing}", run=work.run, **work.fields, outputs=counts(outputs), seconds=seconds)


async def _of_open_runs(log: Log, events: Sequence[Event]) -> list[Event]:
    """The events of runs that have not ended: a run may be cancelled with work under way."""
    ends = {
        subjects.subject(log.stream, event.run, codec.event_id(event.run, RunFinished), RunFinished.tag()): event.run
        for event in events
    }
    ended = {ends[subject] for subject in await log.last(list(ends))} if ends else set()
    return [event for event in events if event.run not in ended]


def decode_or_set_aside(stored: Stored, source: str) -> tuple[Event | None, Event | None]:
    """The event in a message; or of one that cannot be read, the `event_set_aside` that records it.

    None of both where its subject names no run, and where `source` may not record it: then the controller does, which
    reads every message.
    """
    try:
        return codec.decode_at(stored.subject, stored.data), None
    except codec.Unreadable as wrong:
        logger.warning("sequence %d set aside: %s", stored.sequence, wrong)
        if source not in BY_FACT[EventSetAside].publishers:
            return None, None
        return None, codec.set_aside(
            stored.sequence, stored.subject, stored.data, str(wrong), source=source, time=now()
        )


async def first_ended(*endless: Coroutine[Any, Any, None]) -> None:
    """Run what goes on for ever, side by side, until one of them ends or raises; the others are cancelled then."""
    tasks = [asyncio.create_task(one) for one in endless]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


async def append_struck_out(log: Log, events: Sequence[Event], scanner: Scanner) -> bool:
    """As `append_once`; where a known secret is found, a marker stands in its place.

    An outcome that is refused would be handed out, performed and refused again for ever.
    """
    try:
        return await append_once(log, events, scanner)
    except SecretFound as found:
        logger.warning("%s A marker stands in its place.", found)
        return await append_once(log, [struck_out(event, scanner) for event in events], scanner)


def struck_out(event: Event, scanner: Scanner) -> Event:
    """The event with a marker in the place of each known secret in its texts."""
    if not scanner.finds(codec.encode(event)):
        return event
    fact = event.data
    if isinstance(fact, EventSetAside):
        fact = msgspec.structs.replace(fact, bytes="")  # with a marker it would not be base64
    return codec.event(scanner.redacted(fact), run=event.run, source=event.source, cause=event.cause, time=event.time)


async def retry_until_available(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try until the broker is there and has room: an effect that was performed must not be lost for want of
    a server. What is in the way is logged, once.
    """
    pause, trouble = FIRST_PAUSE, ""
    while True:
        try:
            return await attempt()
        except (Unavailable, TryAgain) as wrong:
            if trouble != str(wrong):
                logger.warning("%s", wrong)
            trouble = str(wrong)
            await asyncio.sleep(min(pause, PAUSE))
            pause *= 2


async def _heartbeat(deliveries: Sequence[Delivery]) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT)
        with contextlib.suppress(Unavailable):  # the next one may reach the broker again
            for delivery in deliveries:
                await delivery.in_progress()
