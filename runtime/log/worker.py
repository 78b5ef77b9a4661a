"""The loop of an effect service: take work from the log, perform it, append its outcome once, acknowledge.

An executor, or any effect service, may die anywhere in here. The work is then handed out again, what is recorded is
found, and the rest is done: no model call is paid twice, no optimiser step is applied twice. The same message twice has
one outcome on the log (`port.append_once`).
"""

import asyncio
import datetime
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from events import codec
from events.catalogue import BY_FACT
from events.codec import Event
from events.errors import TryAgain, Unavailable
from events.fact import Fact
from events.run import EventSetAside
from events.secret import Scanner, SecretFound
from runtime.log.port import Delivery, Log, Stored, append_once

logger = logging.getLogger("evolog")

HEARTBEAT = 1.5
"""Seconds between two requests for more time; the server hands work out again after five."""
PAUSE = 1.0
"""Seconds before a failed append is tried again."""

T = TypeVar("T")
Perform = Callable[[list[Event]], Awaitable[Sequence[Event]]]


def now() -> str:
    """The present time as events carry it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def answer(fact: Fact, cause: Event, source: str) -> Event:
    """The event by which an effect service answers another event, which becomes its cause."""
    return codec.event(fact, run=cause.run, source=source, cause=cause.id, time=now())


async def work(
    log: Log, perform: Perform, *, source: str, scanner: Scanner, limit: int = 1, stop: asyncio.Event | None = None
) -> None:
    """Work until `stop` is set. `perform` gets up to `limit` events at a time and gives back the events to append."""
    while stop is None or not stop.is_set():
        deliveries = await log.fetch(limit, 1.0)
        if deliveries:
            await step(log, deliveries, perform, source=source, scanner=scanner)


async def step(log: Log, deliveries: Sequence[Delivery], perform: Perform, *, source: str, scanner: Scanner) -> None:
    """One turn of the loop: unreadable messages are set aside, the others performed, the outputs appended, all
    acknowledged.
    """
    events: list[Event] = []
    outputs: list[Event] = []
    for delivery in deliveries:
        event, set_aside = decode_or_set_aside(delivery.stored, source)
        events += [event] if event else []
        outputs += [set_aside] if set_aside else []
    beating = asyncio.create_task(_heartbeat(deliveries))
    try:
        if events:
            outputs += await perform(events)
        if outputs:
            await retry_until_available(lambda: append_struck_out(log, outputs, scanner))
        for delivery in deliveries:
            await delivery.ack()
    finally:
        beating.cancel()


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
    a server.
    """
    while True:
        try:
            return await attempt()
        except (Unavailable, TryAgain) as wrong:
            logger.warning("%s", wrong)
            await asyncio.sleep(PAUSE)


async def _heartbeat(deliveries: Sequence[Delivery]) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT)
        for delivery in deliveries:
            await delivery.in_progress()
