"""The log on a NATS server with JetStream. All that knows nats-py is in this module and in `runtime/server.py`."""

import asyncio
import json
import uuid
from collections.abc import Sequence

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NoStreamResponseError, ServiceUnavailableError
from nats.js.errors import NotFoundError as JetStreamNotFound

from events.errors import Misconfigured, TryAgain, Unavailable
from events.secret import Scanner, Secret
from events.subjects import LOG
from runtime.log import Delivery, Message, Refused, Stored
from runtime.reader import Reader
from runtime.server import API

APPEND_TIMEOUT = 15.0
"""Seconds; a batch on a slow disk waits for several fsyncs."""
_WRONG_LAST_SEQUENCE = (10071, 10070, 10060)
_NO_SPACE = (10047, 10023, 10077, 10025)


class Credentials(msgspec.Struct, frozen=True):
    """What one account needs to connect, as it stands in its file."""

    url: str
    user: str
    password: str
    inbox: str


class Connection:
    """One account's connection. Denied publishes, which the server reports out of band, are kept in `denied`."""

    def __init__(self, client: Client, credentials: Credentials, denied: list[str]) -> None:
        self.client = client
        self.credentials = credentials
        self.scanner = Scanner([Secret(credentials.password)])
        self.denied = denied

    def log(self, stream: str = LOG) -> "JetStreamLog":
        """The log of that name; work is handed out by the durable consumer that bears the account's name."""
        return JetStreamLog(self, stream)

    async def close(self) -> None:
        """Close the connection."""
        await self.client.close()


async def connect(credentials: Credentials) -> Connection:
    """Connect, and reconnect for ever after; raises `Unavailable` if the server cannot be reached now."""
    denied: list[str] = []

    async def on_error(error: Exception) -> None:
        if "permissions violation" in str(error).lower():
            denied.append(str(error))

    try:
        client = await nats.connect(
            credentials.url,
            user=credentials.user,
            password=credentials.password,
            inbox_prefix=credentials.inbox.encode(),
            error_cb=on_error,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,
            connect_timeout=5,
            allow_reconnect=True,
            pending_size=64 * 1024 * 1024,
        )
    except (OSError, nats.errors.Error, TimeoutError) as wrong:
        raise Unavailable(f"No broker answers at {credentials.url} ({wrong or type(wrong).__name__}): start it with `evolog up`.") from wrong
    return Connection(client, credentials, denied)


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
        self._context = connection.client.jetstream(prefix=API, timeout=APPEND_TIMEOUT)
        of = connection.credentials
        self._reader = Reader(of.url, of.user, of.password, of.inbox, stream)
        self._consumer = of.user
        self._pull: object | None = None

    async def append(self, messages: Sequence[Message]) -> int:
        """As `Log.append`: one message is a plain publish, more are one atomic batch (NATS ADR-50)."""
        if not messages:
            raise ValueError("an append holds at least one message")
        headers: dict[str, str] = {}
        batch = uuid.uuid4().hex if len(messages) > 1 else ""
        for place, message in enumerate(messages, 1):
            headers = {"Nats-Expected-Last-Subject-Sequence": str(message.expected)}
            if batch:
                headers |= {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(place)}
            if place < len(messages):
                await self._client.publish(message.subject, message.payload, headers=headers)
        if batch:
            headers["Nats-Batch-Commit"] = "1"
        denied = len(self._connection.denied)
        last = messages[-1]
        request = asyncio.ensure_future(self._client.request(last.subject, last.payload, timeout=APPEND_TIMEOUT, headers=headers))
        while not (await asyncio.wait({request}, timeout=0.5))[0]:
            if len(self._connection.denied) > denied:  # the server says so out of band, and never answers
                request.cancel()
                raise Misconfigured(f"The account {self._consumer} may not append {last.subject}.")
        try:
            answer = request.result()
        except nats.errors.NoRespondersError as wrong:
            raise Unavailable(f"No stream takes {last.subject}: the broker has no {self.stream}, or is starting.") from wrong
        except (nats.errors.Error, TimeoutError) as wrong:
            raise Unavailable(f"The broker did not confirm an append within {APPEND_TIMEOUT:.0f} s ({wrong}).") from wrong
        return self._stored_at(json.loads(answer.data), len(messages) if batch else 0)

    def _stored_at(self, answer: dict[str, object], batch: int) -> int:
        error = answer.get("error")
        if isinstance(error, dict):
            code = error.get("err_code")
            if code in _WRONG_LAST_SEQUENCE:
                raise Refused(str(error.get("description")))
            if code in _NO_SPACE or "storage" in str(error.get("description")):
                raise TryAgain(
                    f"The broker has no room left for the log ({error.get('description')}); free disk space and the run goes on by itself."
                )
            raise Unavailable(f"The broker refused an append: {error.get('description')} (error {code}).")
        if batch and answer.get("count") != batch:
            raise Unavailable(f"The broker stored {answer.get('count')} of a batch of {batch}; servers below 2.14 do not keep batches whole.")
        return int(str(answer["seq"]))

    async def read(self, start: int, limit: int) -> list[Stored]:
        """As `Log.read`."""
        return await asyncio.to_thread(self._reader.read, max(start, 1), limit)

    async def last(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """As `Log.last`."""
        return await asyncio.to_thread(self._reader.last, subjects)

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
            messages = await self._pull.fetch(limit, timeout=wait)  # type: ignore[attr-defined]
        except (TimeoutError, nats.errors.TimeoutError):
            return []
        except (nats.errors.Error, NoStreamResponseError, ServiceUnavailableError, JetStreamNotFound):
            await asyncio.sleep(min(wait, 0.2))
            return []
        return [JetStreamDelivery(message) for message in messages]
