"""The log as the rest of the program sees it: append with an expectation, read by sequence, be handed work.

`append_once` leaves an event that stands there already as it is, so that what is done twice is recorded once.

`MemoryLog` (for tests and simulation) and `JetStreamLog` keep the same contract, and the same tests run on both.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

import msgspec

from events.codec import Event, Unreadable, decode_at, encode
from events.errors import CheckFailed
from events.secret import Scanner

EVENT_LIMIT = 2 * 1024 * 1024 - 16 * 1024
"""Most bytes of an event: what the server takes of a message, less room for its headers."""
BATCH_LIMIT = 1000
"""Most messages that the server takes in one atomic batch (NATS ADR-50)."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A message as the log holds it; `time` is when the log stored it, in nanoseconds since 1970."""

    sequence: int
    time: int
    subject: str
    data: bytes


UNEXPLAINED, LAG = 50, 0.1
"""How often an append is tried again of which the log says that something is there and shows nothing, and the seconds
between: of the servers of a cluster the one that is asked may not have yet what the leader has.
"""


class Message(NamedTuple):
    """A message to append. `expected` is the last sequence that its entity must have; 0: no event of it may be stored
    yet.

    An entity is the subject without its tag, so that of two outcomes of one attempt, such as recorded and failed, only
    one can be stored.
    """

    subject: str
    payload: bytes
    expected: int = 0


def exclusive_key(subject: str) -> str:
    """The pattern of all subjects of one entity."""
    return subject.rpartition(".")[0] + ".*"


class Refused(Exception):
    """An append did not meet its expectation: nothing of it was stored."""


class Delivery(Protocol):
    """A message handed to one of a consumer's workers, and handed out again unless it is acknowledged in time."""

    @property
    def stored(self) -> Stored:
        """The message."""

    @property
    def handle(self) -> str:
        """What names this delivery to the log, in any process; for `Log.hand_back`."""

    @property
    def pending(self) -> int:
        """How many messages waited behind this one for a worker when it was handed out, as far as is known."""

    async def ack(self) -> None:
        """Ask not to be handed it again. This promises nothing: only what stands in the log does."""

    async def in_progress(self) -> None:
        """Ask for more time."""


class Log(Protocol):
    """One stream, as one account sees it."""

    @property
    def stream(self) -> str:
        """The stream's name."""

    async def append(self, messages: Sequence[Message]) -> int:
        """Store all the messages, next to each other, or none; the last one's sequence. At most `BATCH_LIMIT`, no two
        of one entity.

        Raises `Refused` where an entity's last sequence is not the one expected.
        """

    async def read(self, start: int, limit: int, subject: str = "") -> list[Stored]:
        """Up to `limit` messages from sequence `start` on, without a gap; empty at the end of the log.

        With `subject`, those on this one subject. Raises `CheckFailed` where sequences are missing.
        """

    async def last(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """The last message of each of these subjects that has one; a subject may hold the wildcard `*`."""

    async def count(self, run: str, start: int) -> int:
        """How many messages from sequence `start` on are of this run."""

    async def end(self) -> int:
        """The sequence of the last message stored; 0 where there is none."""

    async def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """Up to `limit` deliveries for this account's workers; empty if there were none for `wait` seconds."""

    async def hand_back(self, handles: Sequence[str]) -> None:
        """Have these deliveries handed out again at once, unless they were acknowledged: their worker has died."""


def readable(messages: Iterable[Stored]) -> list[Event]:
    """The events of messages, without those that cannot be read; whoever is handed those as work sets them aside.

    Of several with one id, which an account that leaves the expectation out can append, the first counts.
    """
    events: dict[str, Event] = {}
    for stored in messages:
        with suppress(Unreadable):
            event = decode_at(stored.subject, stored.data)
            events.setdefault(event.id, event)
    return list(events.values())


def require_contiguous(stored: Sequence[Stored], start: int) -> None:
    """Raise `CheckFailed` unless the sequences run on from `start` without a gap."""
    for expected, message in enumerate(stored, start):
        if message.sequence != expected:
            raise CheckFailed(
                f"The log has a gap: sequence {message.sequence} came where {expected} was expected. Messages were "
                "lost or damaged: "
                "`evolog doctor --integrity` says which; restore the store from a copy."
            )


async def append_once(log: Log, events: Sequence[Event], scanner: Scanner) -> bool:
    """Append those events whose entities have none on the log yet; returns whether some had one, which may differ and
    stays as it is.

    In one atomic batch when nothing is there. A batch that is refused because some is there is followed by one of the
    rest.
    """
    messages = {exclusive_key(event.subject): Message(event.subject, encode(event)) for event in events}
    for message in messages.values():
        if len(message.payload) > EVENT_LIMIT:  # the broker would hang up, as if it were away
            raise CheckFailed(
                f"An event on {message.subject} has {len(message.payload):,} bytes, at most {EVENT_LIMIT:,}; it was "
                "not appended."
            )
    scanner.check(
        b"\n".join(message.payload for message in messages.values())
    )  # at once: a third of the time of one by one
    waiting, existed, unexplained = list(messages.values()), False, 0
    while waiting:
        batch, waiting = waiting[:BATCH_LIMIT], waiting[BATCH_LIMIT:]
        try:
            await log.append(batch)
        except Refused:
            known = {
                exclusive_key(subject)
                for subject in await log.last([exclusive_key(message.subject) for message in batch])
            }
            rest = [message for message in batch if exclusive_key(message.subject) not in known]
            if len(rest) == len(batch):
                if unexplained == UNEXPLAINED:
                    raise
                import asyncio  # which the pure core, that imports this module, does without

                unexplained += 1
                await asyncio.sleep(LAG)
            waiting, existed = rest + waiting, existed or len(rest) < len(batch)
    return existed
