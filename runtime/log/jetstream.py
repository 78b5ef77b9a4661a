"""The log on a NATS server with JetStream. Only this module and `runtime/broker/streams.py` know nats-py."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import NoStreamResponseError, ServiceUnavailableError
from nats.js.errors import NotFoundError as JetStreamNotFound

from events.errors import Misconfigured, Unavailable
from events.secret import Scanner, Secret
from events.subjects import LOG
from runtime.broker.accounts import API, READERS
from runtime.broker.credentials import Credentials
from runtime.log.port import Delivery, Message, Stored
from runtime.log.socket import BulkReader, NatsSocket, expectation, sequence_in

logger = logging.getLogger("evolog")

APPEND_TIMEOUT = 15.0
"""Seconds; an append waits for the disk."""
POLL_SECONDS = 0.5
"""Seconds between two checks whether an append was denied."""
GATHERING = 0.02
"""Seconds in which further messages may join the first of a fetch."""


class Connection:
    """One account's connection."""

    def __init__(self, credentials: Credentials) -> None:
        self.client = Client()
        self.credentials = credentials
        self.scanner = Scanner([Secret(credentials.password)])
        self.denied = 0
        """Publishes that the server would not take from this account."""

    async def on_error(self, error: Exception) -> None:
        """Count what was denied; everything else comes back from the call that it concerns."""
        logger.debug("nats: %s", error)
        self.denied += "permissions violation" in str(error).lower()

    def log(self, stream: str = LOG) -> "JetStreamLog":
        """The log of that name; work is handed out by the durable consumer that bears the account's name."""
        return JetStreamLog(self, stream)

    async def close(self) -> None:
        """Close the connection."""
        await self.client.close()


async def connect(credentials: Credentials) -> Connection:
    """Connect, and reconnect for ever after; raises `Unavailable` if the server cannot be reached now."""
    connection = Connection(credentials)
    try:
        await connection.client.connect(
            credentials.url,
            user=credentials.user,
            password=credentials.password,
            inbox_prefix=credentials.inbox.encode(),
            error_cb=connection.on_error,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,  # type: ignore[arg-type]  # seconds, which nats-py hands to asyncio.sleep
            connect_timeout=5,
            allow_reconnect=True,
            pending_size=64 * 1024 * 1024,
        )
    except (OSError, nats.errors.Error, TimeoutError) as wrong:
        raise Unavailable(
            f"No broker answers at {credentials.url} ({wrong or type(wrong).__name__}): start it with `evolog up`."
        ) from wrong
    return connection


class JetStreamDelivery:
    """A delivery of a durable pull consumer."""

    def __init__(self, message: Msg) -> None:
        self._message = message
        meta = message.metadata
        self.stored = Stored(meta.sequence.stream, int(meta.timestamp.timestamp() * 1e9), message.subject, message.data)

    async def ack(self) -> None:
        """As `Delivery.ack`."""
        await self._message.ack()

    async def in_progress(self) -> None:
        """As `Delivery.in_progress`."""
        await self._message.in_progress()


class JetStreamLog:
    """One stream through one account's connection."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self.stream = stream
        self._connection = connection
        self._client = connection.client
        self._context = connection.client.jetstream(prefix=API)
        self._appending = NatsSocket(connection.credentials, stream)
        ahead = connection.credentials.user in READERS and stream == LOG
        self._reading = (BulkReader if ahead else NatsSocket)(connection.credentials, stream)
        self._consumer = connection.credentials.user
        self._pull: JetStreamContext.PullSubscription | None = None

    async def append(self, messages: Sequence[Message]) -> int:
        """As `Log.append`.

        A batch goes out by the wire; for a single message a thread would cost more than nats-py does.
        """
        if len(messages) != 1:
            return await asyncio.to_thread(self._appending.append, messages)
        (message,) = messages
        denied = self._connection.denied
        publishing = self._client.request(
            message.subject, message.payload, timeout=APPEND_TIMEOUT, headers=expectation(message)
        )
        response = asyncio.ensure_future(publishing)
        check = asyncio.get_running_loop().call_later(POLL_SECONDS, self._give_up_if_denied, response, denied)
        try:
            return sequence_in((await response).data, 1)
        except asyncio.CancelledError as wrong:
            if self._connection.denied == denied:
                raise
            raise Misconfigured(
                f"The account {self._consumer!r} may not do this: publish to {message.subject}."
            ) from wrong
        except nats.errors.NoRespondersError as wrong:
            raise Unavailable(
                f"No stream takes {message.subject}: the broker has no {self.stream}, or is starting."
            ) from wrong
        except (nats.errors.Error, TimeoutError) as wrong:
            raise Unavailable(f"The broker did not confirm an append within {APPEND_TIMEOUT:g} s ({wrong}).") from wrong
        finally:
            check.cancel()

    def _give_up_if_denied(self, response: asyncio.Future[Msg], denied: int) -> None:
        # the server says out of band that it will not take a publish, and never answers it
        if self._connection.denied > denied:
            response.cancel()
        elif not response.done():
            asyncio.get_running_loop().call_later(POLL_SECONDS, self._give_up_if_denied, response, denied)

    async def read(self, start: int, limit: int, subject: str = "") -> list[Stored]:
        """As `Log.read`."""
        return await asyncio.to_thread(self._reading.read, max(start, 1), limit, subject)

    async def last(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """As `Log.last`."""
        return await asyncio.to_thread(self._reading.last, subjects)

    async def end(self) -> int:
        """As `Log.end`."""
        try:
            return (await self._context.stream_info(self.stream)).state.last_seq
        except (nats.errors.Error, TimeoutError) as wrong:
            raise Unavailable(f"The broker does not tell the state of {self.stream} ({wrong}).") from wrong

    async def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """As `Log.fetch`; a broker that is away for the moment looks like one that has nothing."""
        try:
            if self._pull is None:
                self._pull = await self._context.pull_subscribe_bind(consumer=self._consumer, stream=self.stream)
            messages = await self._pull.fetch(1, timeout=wait)
            if limit > 1:
                # a fetch of many waits for all of them, so the others get a short while only
                with contextlib.suppress(TimeoutError, nats.errors.TimeoutError):
                    messages += await self._pull.fetch(limit - 1, timeout=GATHERING)
        except (TimeoutError, nats.errors.TimeoutError):
            return []
        except (nats.errors.Error, NoStreamResponseError, ServiceUnavailableError, JetStreamNotFound):
            await asyncio.sleep(min(wait, 0.2))
            return []
        return [JetStreamDelivery(message) for message in messages]
