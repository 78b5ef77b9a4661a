"""The log on a NATS server with JetStream. Only this module and `runtime/broker` know nats-py."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import runtime.broker.without_websockets  # noqa: F401

# isort: split
import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.errors import NoStreamResponseError, ServiceUnavailableError
from nats.js.errors import NotFoundError as JetStreamNotFound

from events.errors import Misconfigured, Unavailable
from events.secret import Scanner
from events.subjects import LOG
from runtime.broker import streams
from runtime.broker.accounts import API, READERS, VERSION_KEY
from runtime.broker.client import open_client
from runtime.broker.credentials import Login
from runtime.log.port import Delivery, Message, Stored
from runtime.log.socket import BulkReader, NatsSocket, expectation, sequence_in

logger = logging.getLogger("evolog")

APPEND_TIMEOUT = 15.0
"""Seconds; an append waits for the disk."""
STATE_TIMEOUT = 5.0
POLL_SECONDS = 0.5
"""Seconds between two checks whether a request was denied."""
ANSWER_TIMEOUT = 1.0
"""Seconds within which what is there already is handed out."""
GATHER_LIMIT, GATHER_QUIET = 1.0, 0.06
"""Seconds for which answers to a question to many are awaited, in all and after one that came."""
PAUSE = 0.2
"""Seconds before a fetch looks again for a broker that is away."""


class StreamState(msgspec.Struct, frozen=True):
    """How many messages a stream has, and the sequence of the last one."""

    messages: int
    last_seq: int


class _StreamInfo(msgspec.Struct):
    state: StreamState


class _ConsumerConfig(msgspec.Struct):
    metadata: dict[str, str] = {}


class _ConsumerInfo(msgspec.Struct):
    config: _ConsumerConfig = msgspec.field(default_factory=_ConsumerConfig)


class Backlog(msgspec.Struct, frozen=True):
    """How many events a durable consumer has still to hand out, and how many are handed out and not acknowledged."""

    pending: int = msgspec.field(name="num_pending")
    unacknowledged: int = msgspec.field(name="num_ack_pending")


class AskedQuestion:
    """A message on which somebody waits for an answer."""

    def __init__(self, connection: "Connection", message: Msg) -> None:
        self._connection, self._reply = connection, message.reply
        self.subject, self.data = message.subject, message.data

    async def say(self, payload: bytes) -> None:
        """Answer, or answer further; raises `Unavailable` where the broker is away."""
        await self._connection.publish(self._reply, payload)


class Connection:
    """One account's connection: made when it is needed, and again when it was lost, by the credentials as they are
    then.
    """

    def __init__(self, login: Login) -> None:
        self.login, self.credentials = login, login()
        self.scanner = Scanner(self.credentials.secrets())
        self.denied = 0
        """Publishes that the server would not take from this account."""
        self._client: Client | None = None
        self._responders: dict[str, Callable[[], bytes]] = {}
        self._connecting = asyncio.Lock()
        self._requests: set[asyncio.Future[Msg]] = set()
        self._listening: tuple[Client | None, dict[str, Subscription]] = (None, {})

    async def client(self) -> Client:
        """nats-py's client, connected; raises `Unavailable` where the broker is away."""
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                credentials = self.login()
                self.scanner.learn(credentials.secrets())  # a key may have taken the place of another
                self._client = await open_client(credentials, self._on_error, self._on_closed)
                for subject, answer in self._responders.items():
                    await self._respond(self._client, subject, answer)
            return self._client

    async def respond(self, subject: str, answer: Callable[[], bytes]) -> None:
        """Answer whatever is asked on a subject, on this connection and those that take its place."""
        client = await self.client()
        self._responders[subject] = answer
        await self._respond(client, subject, answer)

    async def _respond(self, client: Client, subject: str, answer: Callable[[], bytes]) -> None:
        async def on_question(message: Msg) -> None:
            with contextlib.suppress(nats.errors.Error):
                await message.respond(answer())

        await client.subscribe(subject, cb=on_question)

    async def gather(self, subjects: Sequence[str]) -> list[bytes]:
        """What all who listen on these subjects answer to an empty question, as far as it comes soon.

        It is over once every subject has had an answer and no other has come for `GATHER_QUIET` seconds.
        """
        client = await self.client()
        answers = await client.subscribe(client.new_inbox())
        found: list[bytes] = []
        loop = asyncio.get_running_loop()
        end = loop.time() + GATHER_LIMIT
        try:
            for subject in subjects:
                await client.publish(subject, b"", reply=answers.subject)
            while (left := end - loop.time()) > 0:
                quiet = len(found) >= len(subjects)
                message = await answers.next_msg(min(left, GATHER_QUIET) if quiet else left)
                found.append(message.data)  # an empty one says that nobody listens
        except (TimeoutError, nats.errors.TimeoutError):
            pass
        except (nats.errors.Error, OSError) as wrong:
            raise Unavailable(f"The broker has gone ({wrong}).") from wrong
        finally:
            with contextlib.suppress(nats.errors.Error, OSError):
                await answers.unsubscribe()
        return [answer for answer in found if answer]

    async def request(
        self, subject: str, payload: bytes, *, timeout: float, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The answer to a request.

        Raises `Misconfigured` where the account may not make it, and `Unavailable` where no answer comes in so many
        seconds or the connection is lost meanwhile.
        """
        client = await self.client()
        denied = self.denied
        response = asyncio.ensure_future(
            client.request(subject, payload, timeout=timeout, headers=dict(headers) if headers else None)
        )
        self._requests.add(response)
        check = asyncio.get_running_loop().call_later(POLL_SECONDS, self._give_up_if_denied, response, denied)
        try:
            return (await response).data
        except asyncio.CancelledError as wrong:
            if self.denied > denied:
                raise Misconfigured(
                    f"The account {self.credentials.user!r} may not do this: publish to {subject}."
                ) from wrong
            if client.is_closed:
                raise Unavailable("The broker has gone before it answered.") from wrong
            raise
        except nats.errors.NoRespondersError as wrong:
            raise Unavailable(
                f"Nothing answers to {subject}: the broker has no such stream, or is starting."
            ) from wrong
        except (nats.errors.Error, OSError, TimeoutError) as wrong:
            raise Unavailable(
                f"The broker did not answer within {timeout:g} s ({wrong or type(wrong).__name__})."
            ) from wrong
        finally:
            check.cancel()
            self._requests.discard(response)

    async def wanted_version(self) -> str:
        """The version of evolog that the host of the broker wants of this account's processes; empty where it does not
        say. Raises `Unavailable`.
        """
        try:
            subject = f"{API}.CONSUMER.INFO.{LOG}.{self.credentials.user}"
            answer = await self.request(subject, b"", timeout=STATE_TIMEOUT)
            return msgspec.json.decode(answer, type=_ConsumerInfo).config.metadata.get(VERSION_KEY, "")
        except (Misconfigured, msgspec.DecodeError):  # a broker that older code has set up
            return ""

    async def backlogs(self, durables: Sequence[str]) -> dict[str, Backlog]:
        """What each of these consumers of the log has still to do; it is left out where there is none of that name.

        Raises as `request`.
        """
        subjects = [f"{API}.CONSUMER.INFO.{LOG}.{durable}" for durable in durables]
        answers = await asyncio.gather(*(self.request(subject, b"", timeout=STATE_TIMEOUT) for subject in subjects))
        found: dict[str, Backlog] = {}
        for durable, answer in zip(durables, answers, strict=True):
            with contextlib.suppress(msgspec.ValidationError):  # the answer is an error
                found[durable] = msgspec.json.decode(answer, type=Backlog)
        return found

    async def publish(self, subject: str, payload: bytes) -> None:
        """Send what nobody answers; raises `Unavailable` where the broker is away."""
        try:
            await (await self.client()).publish(subject, payload)
        except (nats.errors.Error, OSError) as wrong:
            raise Unavailable(f"The broker has gone ({wrong}).") from wrong

    async def listen(
        self, subjects: Collection[str], group: str, heard: Callable[[AskedQuestion], Awaitable[None]]
    ) -> None:
        """Have what is asked on these subjects, and on no others, come to `heard`, each to one listener of the group.

        This holds until the connection is lost; called again, it adds and ends what differs. Raises `Unavailable` where
        the broker is away.
        """
        client = await self.client()
        if self._listening[0] is not client:
            self._listening = (client, {})
        _, subscriptions = self._listening

        async def take(message: Msg) -> None:
            await heard(AskedQuestion(self, message))

        try:
            more, less = set(subjects) - subscriptions.keys(), subscriptions.keys() - set(subjects)
            for subject in more:
                subscriptions[subject] = await client.subscribe(subject, queue=group, cb=take)
            for subject in less:
                await subscriptions.pop(subject).unsubscribe()
            if more or less:
                await client.flush()
        except (nats.errors.Error, OSError) as wrong:
            raise Unavailable(f"The broker has gone ({wrong}).") from wrong

    async def _on_error(self, error: Exception) -> None:
        # count what was denied; everything else comes back from the call that it concerns
        logger.debug("nats: %s", error)
        self.denied += "permissions violation" in str(error).lower()

    async def _on_closed(self) -> None:
        # no answer comes to what was asked on this connection
        for response in list(self._requests):
            response.cancel()

    def _give_up_if_denied(self, response: asyncio.Future[Msg], denied: int) -> None:
        # the server says out of band that it will not take a publish, and never answers it
        if self.denied > denied:
            response.cancel()
        elif not response.done():
            asyncio.get_running_loop().call_later(POLL_SECONDS, self._give_up_if_denied, response, denied)

    def log(self, stream: str = LOG, consumer: str = "") -> "JetStreamLog":
        """The log of that name; work is handed out by this durable consumer, or that which bears the account's name."""
        return JetStreamLog(self, stream, consumer)

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.close()


async def connect(login: Login) -> Connection:
    """Connect as an account; raises `Unavailable` if the broker cannot be reached now."""
    connection = Connection(login)
    await connection.client()
    return connection


class JetStreamDelivery:
    """A delivery of a durable pull consumer."""

    def __init__(self, connection: Connection, message: Msg) -> None:
        self._connection = connection
        self.handle = message.reply
        meta = message.metadata
        self.pending = meta.num_pending
        self.stored = Stored(meta.sequence.stream, int(meta.timestamp.timestamp() * 1e9), message.subject, message.data)
        self._came = time.monotonic()

    async def ack(self) -> None:
        """As `Delivery.ack`.

        One that was held for longer than the server waits is its to hand out again. The server takes the next request
        for work before an acknowledgement that is under way, and so its answer is waited for.
        """
        if time.monotonic() - self._came > streams.ACK_WAIT:
            with contextlib.suppress(Unavailable):
                await self._connection.request(self.handle, b"+ACK", timeout=APPEND_TIMEOUT)
                return
        await self._connection.publish(self.handle, b"+ACK")

    async def in_progress(self) -> None:
        """As `Delivery.in_progress`."""
        await self._connection.publish(self.handle, b"+WPI")


class JetStreamLog:
    """One stream through one account's connection."""

    def __init__(self, connection: Connection, stream: str, consumer: str = "") -> None:
        self.stream = stream
        self._connection = connection
        credentials, login = connection.credentials, connection.login
        self._appending = NatsSocket(credentials, stream, login=login)
        ahead = credentials.user in READERS and stream == LOG
        self._reading = (BulkReader if ahead else NatsSocket)(credentials, stream, login=login)
        self._consumer = consumer or credentials.user
        self._pull: JetStreamContext.PullSubscription | None = None
        self._pulling: Client | None = None
        self._trouble = ""

    async def append(self, messages: Sequence[Message]) -> int:
        """As `Log.append`.

        A batch goes out by the wire; for a single message a thread would cost more than nats-py does.
        """
        if len(messages) != 1:
            return await asyncio.to_thread(self._appending.append, messages)
        (message,) = messages
        answer = await self._connection.request(
            message.subject, message.payload, timeout=APPEND_TIMEOUT, headers=expectation(message)
        )
        return sequence_in(answer, 1)

    async def read(self, start: int, limit: int, subject: str = "") -> list[Stored]:
        """As `Log.read`."""
        return await asyncio.to_thread(self._reading.read, max(start, 1), limit, subject)

    async def count(self, run: str, start: int) -> int:
        """As `Log.count`."""
        return await asyncio.to_thread(self._reading.count, run, max(start, 1))

    async def last(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """As `Log.last`."""
        return await asyncio.to_thread(self._reading.last, subjects)

    async def end(self) -> int:
        """As `Log.end`."""
        return (await self.state()).last_seq

    async def state(self) -> StreamState:
        """How many messages the stream has, and where it ends; raises `Unavailable` where the broker does not tell."""
        answer = await self._connection.request(f"{API}.STREAM.INFO.{self.stream}", b"", timeout=STATE_TIMEOUT)
        try:
            return msgspec.json.decode(answer, type=_StreamInfo).state
        except msgspec.ValidationError as wrong:
            raise Unavailable(f"The broker does not tell the state of {self.stream}: {answer[:200]!r}.") from wrong

    async def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """As `Log.fetch`; a broker that is away looks like one that has nothing. That it is away is logged, once."""
        try:
            client = await self._connection.client()
            if self._pull is None or self._pulling is not client:
                self._pull = await client.jetstream(prefix=API).pull_subscribe_bind(
                    consumer=self._consumer, stream=self.stream
                )
                self._pulling = client
            messages = await self._pull.fetch(1, timeout=wait) if wait else []
            if limit > len(messages):
                messages += await self._available(client, limit - len(messages))
        except (TimeoutError, nats.errors.TimeoutError):
            return []
        except (
            Unavailable,
            nats.errors.Error,
            NoStreamResponseError,
            ServiceUnavailableError,
            JetStreamNotFound,
        ) as wrong:
            if self._trouble != str(wrong):
                logger.warning("%s", wrong)
            self._trouble = str(wrong)
            await asyncio.sleep(min(wait, PAUSE))
            return []
        self._trouble = ""
        return [JetStreamDelivery(self._connection, message) for message in messages]

    async def _available(self, client: Client, limit: int) -> list[Msg]:
        # nats-py waits for a whole batch, and what has come so far is then in nobody's hand
        messages: list[Msg] = []
        answers = await client.subscribe(client.new_inbox())
        subject = f"{API}.CONSUMER.MSG.NEXT.{self.stream}.{self._consumer}"
        with contextlib.suppress(TimeoutError, nats.errors.Error):
            await client.publish(subject, msgspec.json.encode({"batch": limit, "no_wait": True}), answers.subject)
            while len(messages) < limit and (message := await answers.next_msg(ANSWER_TIMEOUT)).reply:
                messages.append(message)
            await answers.unsubscribe()
        return messages

    async def hand_back(self, handles: Sequence[str]) -> None:
        """As `Log.hand_back`."""
        for handle in handles:
            if handle.startswith("$JS.ACK.") and f".{self.stream}.{self._consumer}." in handle:
                await self._connection.publish(handle, b"-NAK")
