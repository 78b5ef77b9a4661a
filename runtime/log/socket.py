"""Bulk appends and reads over a plain socket: a message costs a tenth or less of what it costs in nats-py.

It speaks the little of the NATS protocol that atomic batches (ADR-50) and batched direct get (ADR-31) need. nats-py
does the rest.
"""

import contextlib
import itertools
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from events.errors import Misconfigured, TryAgain, Unavailable, UserError
from events.subjects import PREFIX
from events.time import nanoseconds
from runtime.broker.accounts import API
from runtime.broker.credentials import (
    CONNECT_LIMIT,
    Credentials,
    Login,
    refused_key,
    require_encrypted,
    signature,
)
from runtime.broker.tls import client_context, handshake_error, server_hostname
from runtime.log.port import BATCH_LIMIT, Message, Refused, Stored, exclusive_key, require_contiguous

READ_BATCH = 2000
LAST_BATCH = 500
EVERYTHING = 1 << 62
_CRLF = b"\r\n"
PART, AHEAD = 4000, 12000
"""Messages that a bulk read asks for at a time, and the most that it has asked for before they are wanted."""
PART_BYTES = 16 * 1024 * 1024
"""Most bytes of such a part; a server hangs up on whoever leaves 64 MiB unread."""
PIECE = 1 << 15
"""Bytes that are sent at once. Each piece may take the whole timeout, so a narrow link is slow, and not away."""
UNSENT = 1 << 16
"""Most bytes that the system takes before it has sent them: what it has taken tells nothing of the link."""
IDLE = 10.0
"""Seconds after which a connection that was not used is made anew. It answers no pings meanwhile, so the server may
have closed it, and where a link was cut nobody has told of it.
"""
PATIENCE = 5.0
"""Seconds after which messages that were asked for and are not there are given up."""
# subject, subscription, reply ($JS.ACK.<stream>.<consumer>.<times>.<sequence>.<of the consumer>.<time>.<pending>),
# bytes of headers, of all
_HANDED_ON = re.compile(
    rb"HMSG (\S+) \d+ \$JS\.ACK\.[^. ]+\.[^. ]+\.\d+\.(\d+)\.\d+\.(\d+)\.(\d+) (\d+) (\d+)\r\n"
).match
_ENDED = re.compile(rb"HMSG (\S+) \d+  ?\d+ \d+\r\nNATS/1\.0 409 (?:[^\r]+\r\n)+\r\n\r\n").match
T = TypeVar("T")
_WRONG_LAST_SEQUENCE = (10060, 10070, 10071, 10164)
_NO_SPACE = (10023, 10025, 10047, 10077)


class _Problem(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    seq: int = 0
    count: int = 0
    error: _Problem | None = None


class _Greeting(msgspec.Struct):
    nonce: str = ""


class _Reset(msgspec.Struct):
    num_pending: int = 0
    error: _Problem | None = None


class _OutOfStep(Exception):
    """The consumer delivered a message other than the next in sequence."""


class _TooMany(Exception):
    """More than 1,024 subjects match a pattern, the most whose last messages the server gives to one request."""


class NatsSocket:
    """A blocking connection to one stream, made when it is needed, by what `login` gives at that time, if anything.

    Safe to call from several threads, one call at a time.
    """

    def __init__(
        self, credentials: Credentials, stream: str, *, timeout: float = 15.0, login: Login | None = None
    ) -> None:
        self._account, self._stream, self._timeout = credentials, stream, timeout
        self._login = login or (lambda: credentials)
        self._url = credentials.url
        self._inbox = f"{credentials.inbox}.{uuid.uuid4().hex[:12]}"
        self._socket: socket.socket | None = None
        self._used = 0.0
        """When the last call ended."""
        self._buffer = bytearray()
        self._numbers = itertools.count()
        """An answer that comes late must not be taken for another call's: no reply subject is used twice."""
        self._lock = threading.Lock()

    def append(self, messages: Sequence[Message]) -> int:
        """Store all the messages or none: one as a plain publish, more as an atomic batch; the last one's sequence.

        Raises `Refused` at an expectation that does not hold, `TryAgain` where the disk is full, `Misconfigured` where
        the account may not append this, and `Unavailable` where no answer came, after which the messages may be stored
        or not.
        """
        if not 0 < len(messages) <= BATCH_LIMIT:
            raise ValueError(f"an append holds 1 to {BATCH_LIMIT} messages, not {len(messages)}")
        batch = uuid.uuid4().hex if len(messages) > 1 else ""
        frames = bytearray()
        reply = ""
        for number, message in enumerate(messages, 1):
            header = "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in expectation(message).items())
            if batch:
                header += f"Nats-Batch-Id: {batch}\r\nNats-Batch-Sequence: {number}\r\n"
            if number == len(messages):
                reply = f"{self._inbox}.a{next(self._numbers)}"
                header += "Nats-Batch-Commit: 1\r\n\r\n" if batch else "\r\n"
            else:
                header += "\r\n"
            sizes = f"{len(header)} {len(header) + len(message.payload)}"
            frames += f"HPUB {message.subject} {reply + ' ' if reply else ''}{sizes}\r\n{header}".encode()
            frames += message.payload
            frames += _CRLF
        with self._lock:
            return self._guarded(lambda: self._send_append(bytes(frames), reply.encode(), len(messages)))

    def read(self, start: int, limit: int, subject: str = "") -> list[Stored]:
        """Up to `limit` messages from sequence `start` on; raises `CheckFailed` at a gap, `Unavailable` if the server
        is gone.
        """
        messages: list[Stored] = []
        while len(messages) < limit:
            position = messages[-1].sequence + 1 if messages else start
            # `next_by_subj` is what makes this a read forward; a wildcard takes every subject.
            part = self._ask(
                {"seq": position, "batch": min(READ_BATCH, limit - len(messages)), "next_by_subj": subject or ">"}
            )
            if not part:
                break
            if not subject:
                require_contiguous(part, position)
            messages += part
        return messages

    def count(self, run: str, start: int) -> int:
        """How many messages from sequence `start` on are of this run."""
        pattern = f"{PREFIX[self._stream]}.{run}.*.*"
        with self._lock:
            found = self._guarded(lambda: self._gather({"seq": start, "batch": 1, "next_by_subj": pattern}))
        return sum(int(_field(header, b"\r\nNats-Num-Pending: ")) + 1 for header, _ in found)

    def last(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """The last message of each of these subjects that has one."""
        messages: dict[str, Stored] = {}
        wide = [pattern for pattern in subjects if "*" in pattern.split(".")[1:3]]
        narrow = [pattern for pattern in subjects if pattern not in wide]
        for index in range(0, len(narrow), LAST_BATCH):
            wanted = narrow[index : index + LAST_BATCH]
            messages |= {stored.subject: stored for stored in self._ask({"multi_last": wanted, "batch": 1024})}
        for pattern in wide:
            try:
                matching = self._ask({"multi_last": [pattern], "batch": 1024})
            except _TooMany:
                matching = self.read(1, EVERYTHING, pattern)
            messages |= {stored.subject: stored for stored in matching}
        return messages

    def close(self) -> None:
        """Drop the connection; the next call makes a new one."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _ask(self, request: dict[str, object]) -> list[Stored]:
        with self._lock:
            return self._guarded(lambda: self._exchange(request))

    def _guarded(self, call: Callable[[], T]) -> T:
        # an answer that was not read to its end would be taken for the next call's: after any failure the connection is
        # made anew
        if self._socket is not None and time.monotonic() - self._used > IDLE:
            self.close()
        try:
            return call()
        except (Refused, TryAgain, _TooMany):
            raise
        except OSError as wrong:
            self.close()
            if error := handshake_error(self._account, wrong):
                raise error from wrong
            raise Unavailable(
                f"No answer from the broker at {self._url} ({wrong}); {self._account.advice()}."
            ) from wrong
        except BaseException:
            self.close()
            raise
        finally:
            self._used = time.monotonic()

    def _send_all(self, data: bytes) -> None:
        connection, view = self._socket or self._connect(), memoryview(data)
        for start in range(0, len(view), PIECE):
            connection.sendall(view[start : start + PIECE])

    def _send_append(self, frames: bytes, reply: bytes, count: int) -> int:
        self._send_all(frames)
        while True:
            subject, header, data = self._message()
            if subject == reply:
                break
        if header:
            raise Unavailable(
                f"No stream at {self._url} takes this append: the broker has no {self._stream}, or is starting."
            )
        return sequence_in(data, count)

    def _exchange(self, request: dict[str, object]) -> list[Stored]:
        return [_stored(header, data) for header, data in self._gather(request)]

    def _gather(self, request: dict[str, object]) -> list[tuple[bytes, bytes]]:
        """The header and payload of each message that a request brings."""
        connection = self._socket or self._connect()
        reply = f"{self._inbox}.r{next(self._numbers)}"
        payload = json.dumps(request).encode()
        connection.sendall(f"PUB {API}.DIRECT.GET.{self._stream} {reply} {len(payload)}\r\n".encode() + payload + _CRLF)
        messages: list[tuple[bytes, bytes]] = []
        reply_subject = reply.encode()
        while True:
            subject, header, data = self._message()
            if subject != reply_subject:
                continue  # an answer that an earlier, broken-off call left behind
            if not header:
                raise Unavailable(f"The broker at {self._url} gave an answer that is no message: {data[:200]!r}.")
            status = header[: header.index(_CRLF)].removeprefix(b"NATS/1.0").strip()
            if status[:3] in (b"204", b"404"):  # the end of the batch; nothing there
                return messages
            if status[:3] == b"413":
                raise _TooMany
            if status:
                raise Unavailable(f"The broker at {self._url} refused to read {self._stream}: {status.decode()}.")
            messages.append((header, data))

    def _message(self) -> tuple[bytes, bytes, bytes]:
        while True:
            line = self._line()
            if line.startswith(b"HMSG "):
                _, subject, *_, header_size, size = line.split()  # what a consumer hands on has a reply subject too
                whole = self._take(int(size))
                return subject, whole[: int(header_size)], whole[int(header_size) :]
            if line.startswith(b"MSG "):
                parts = line.split()
                return parts[1], b"", self._take(int(parts[-1]))
            if line == b"PING":
                assert self._socket is not None
                self._socket.sendall(b"PONG\r\n")
            elif line.startswith(b"-ERR"):
                raise self._refusal(line)

    def _nonce(self, greeting: bytes) -> str:
        try:
            return msgspec.json.decode(greeting.removeprefix(b"INFO "), type=_Greeting).nonce
        except msgspec.DecodeError as wrong:
            raise Unavailable(f"What listens at {self._url} is no nats-server: it says {greeting[:80]!r}.") from wrong

    def _refusal(self, line: bytes) -> UserError:
        message = line[5:].decode(errors="replace").strip("'")
        if self._account.seed and "authorization violation" in message.lower():
            return refused_key(self._account)
        if "permissions violation" in message.lower():
            return Misconfigured(f"The account {self._account.user!r} may not do this at {self._url}: {message}.")
        return Unavailable(f"The broker at {self._url} answered: {message}.")

    def _line(self) -> bytes:
        while (end := self._buffer.find(_CRLF)) < 0:
            self._fill()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size + 2:
            self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[: size + 2]
        return data

    def _fill(self) -> None:
        assert self._socket is not None
        more = self._socket.recv(1 << 18)
        if not more:
            raise ConnectionResetError("the connection was closed")
        self._buffer += more

    def _connect(self) -> socket.socket:
        account = self._login()
        *others, last = account.addresses()
        for other in others:
            with contextlib.suppress(OSError, Unavailable):
                return self._connect_to(other)
        return self._connect_to(last)

    def _connect_to(self, account: Credentials) -> socket.socket:
        self._account, self._url = account, account.url
        require_encrypted(self._url)
        url = urlsplit(self._url)
        context = client_context(self._account)
        self._buffer.clear()
        self._socket = connection = socket.create_connection(
            (url.hostname or "127.0.0.1", url.port or 4222), min(CONNECT_LIMIT, self._timeout)
        )
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(AttributeError, OSError):  # not every system has it
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        if context:  # before a word is said: else who stands between could have it go on without TLS
            connection = context.wrap_socket(connection, server_hostname=server_hostname(self._account, url.hostname))
            self._socket = connection
        greeting = self._line()
        options: dict[str, object] = {
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "no_responders": True,
            "lang": "evolog",
            "version": "1",
            "protocol": 1,
        }
        if self._account.seed:
            options |= signature(self._account.seed, self._nonce(greeting))
        else:
            options |= {"user": self._account.user, "pass": self._account.password}
        connection.sendall(f"CONNECT {json.dumps(options)}\r\nSUB {self._inbox}.* 1\r\nPING\r\n".encode())
        while (line := self._line()) != b"PONG":
            if line.startswith(b"-ERR"):
                raise self._refusal(line)
        connection.settimeout(self._timeout)
        return connection


class BulkReader(NatsSocket):
    """A connection that reads a whole stream, in order. It requests more before that is needed, and a message costs the
    server a third of what a direct get costs it, which copies the message's headers anew for each header that it adds.

    The messages come by the account's consumer in `runtime.broker.accounts.READERS`, which has one place. Where another
    connection of the account has moved it, or messages are missing, this one goes on by direct gets, which find out.
    """

    def __init__(
        self, credentials: Credentials, stream: str, *, timeout: float = 15.0, login: Login | None = None
    ) -> None:
        super().__init__(credentials, stream, timeout=timeout, login=login)
        self._consumer = credentials.user
        self._next = 0
        """The sequence of the message that is to come next."""
        self._left = 0
        """How many messages there are from it on, as far as is known; 0 where the consumer stands elsewhere."""
        self._more_from = 0
        """Where a direct get ended that found as many as it asked for."""
        self._outstanding: dict[bytes, int] = {}
        """How many are still to come of each request, by the subject that it is answered on."""
        self._read, self._at = b"", 0
        """What was received, and how far it was taken apart."""
        self._placed = False
        """Whether the consumer hands its messages to this connection."""

    def read(self, start: int, limit: int, subject: str = "") -> list[Stored]:
        """As `NatsSocket.read`, or fewer where they are many or large; from where the last call ended, they have likely
        arrived already.
        """
        going_on = start == self._next and self._left
        if subject or not (going_on or start == self._more_from):
            messages = super().read(start, limit if subject else min(limit, READ_BATCH), subject)
            if not subject:
                self._more_from = messages[-1].sequence + 1 if len(messages) == READ_BATCH else 0
            return messages
        try:
            with self._lock:
                return self._guarded(lambda: self._read_ahead(start, limit))
        except _OutOfStep:
            return super().read(start, min(limit, READ_BATCH))

    def close(self) -> None:
        """As `NatsSocket.close`."""
        super().close()
        self._outstanding.clear()
        self._read, self._at, self._left, self._placed = b"", 0, 0, False

    def _gather(self, request: dict[str, object]) -> list[tuple[bytes, bytes]]:
        if self._placed:
            self.close()  # with what was asked for and may still come
        return super()._gather(request)

    def _read_ahead(self, start: int, limit: int) -> list[Stored]:
        if start != self._next or not self._left:
            self._reset_consumer(start)
        messages: list[Stored] = []
        size = 0
        while len(messages) < limit and self._left and size < PART_BYTES:
            self._ask_ahead()
            size += self._receive(messages, limit)
        self._ask_ahead()
        return messages

    def _reset_consumer(self, start: int) -> None:
        self.close()
        connection = self._connect()
        payload = json.dumps({"seq": start}).encode()
        connection.sendall(
            f"PUB {API}.CONSUMER.RESET.{self._stream}.{self._consumer} {self._inbox}.p {len(payload)}\r\n".encode()
        )
        connection.sendall(payload + _CRLF)
        _, header, data = self._message()
        state = _Reset() if header else msgspec.json.decode(data, type=_Reset)
        if header or state.error:
            raise _OutOfStep
        self._next, self._left, self._placed = start, state.num_pending, True

    def _ask_ahead(self) -> None:
        assert self._socket is not None
        while (
            count := min(PART, self._left - (outstanding := sum(self._outstanding.values())))
        ) > 0 and outstanding + count <= AHEAD:
            reply = f"{self._inbox}.n{next(self._numbers)}"
            self._outstanding[reply.encode()] = count
            payload = json.dumps({"batch": count, "max_bytes": PART_BYTES, "expires": int(PATIENCE * 1e9)}).encode()
            subject = f"{API}.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
            self._socket.sendall(f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + _CRLF)

    def _receive(self, messages: list[Stored], limit: int) -> int:
        """Take apart what is here, until there are `limit` messages, and receive more where not one is; how many bytes
        were taken apart.
        """
        read, at, sequence, left = self._read, self._at, self._next, self._left
        while len(messages) < limit:
            if handed := _HANDED_ON(read, at):
                subject, number, time, pending, headers, size = handed.groups()
                begin = handed.end()
                end = begin + int(size)
                if end + 2 > len(read):
                    break
                if int(number) != sequence:
                    raise _OutOfStep
                messages.append(Stored(sequence, int(time), subject.decode(), read[begin + int(headers) : end]))
                at, sequence, left = end + 2, sequence + 1, int(pending)
            elif ended := _ENDED(read, at):  # a request came to its number, or to its bytes
                self._count(sequence)
                self._outstanding.pop(ended[1], None)
                at = ended.end()
            elif (end := read.find(_CRLF, at)) < 0 or (read.startswith(b"HMSG ", at) and read.find(_CRLF * 2, at) < 0):
                break
            elif read.startswith(b"PING", at):
                assert self._socket is not None
                self._socket.sendall(b"PONG\r\n")
                at = end + 2
            elif read.startswith(b"-ERR", at):
                raise self._refusal(read[at:end])
            else:  # nothing came in time, or nobody hands anything on
                raise _OutOfStep
        taken = at - self._at
        self._count(sequence)
        self._left, self._read, self._at = left, read, at
        if not taken:
            assert self._socket is not None
            more = self._socket.recv(1 << 20)
            if not more:
                raise ConnectionResetError("the connection was closed")
            self._read, self._at = read[at:] + more, 0
        return taken

    def _count(self, sequence: int) -> None:
        """Count messages before this sequence as received: requests are answered in order, but its end may precede its
        last messages.
        """
        came, self._next = sequence - self._next, sequence
        for reply, count in list(self._outstanding.items()):
            self._outstanding[reply] = count - min(came, count)
            came -= min(came, count)
            if not self._outstanding[reply]:
                del self._outstanding[reply]


def expectation(message: Message) -> dict[str, str]:
    """The headers that make the server refuse a message unless its entity's last sequence is the expected one."""
    return {
        "Nats-Expected-Last-Subject-Sequence": str(message.expected),
        "Nats-Expected-Last-Subject-Sequence-Subject": exclusive_key(message.subject),
    }


def sequence_in(answer: bytes, count: int) -> int:
    """The sequence of the last of `count` messages in the server's answer to an append; raises what the answer says
    went wrong.
    """
    response = msgspec.json.decode(answer, type=_Answer)
    if response.error is not None:
        reason = f"{response.error.description} (error {response.error.err_code})"
        if response.error.err_code in _WRONG_LAST_SEQUENCE:
            raise Refused(reason)
        if response.error.err_code in _NO_SPACE or "space left" in reason:
            raise TryAgain(
                f"The broker has no room left for the log: {reason}. Free disk space, and the run goes on by itself."
            )
        raise Unavailable(f"The broker refused an append: {reason}.")
    if count > 1 and response.count != count:
        raise Unavailable(
            f"The broker stored {response.count} of a batch of {count}; servers before 2.14 do not keep batches whole."
        )
    return response.seq


def _stored(header: bytes, data: bytes) -> Stored:
    # Nats-Stream, Nats-Subject, Nats-Sequence and Nats-Time-Stamp, after the headers that the publisher set
    subject = _field(header, b"\r\nNats-Subject: ")
    sequence = int(_field(header, b"\r\nNats-Sequence: "))
    return Stored(sequence, nanoseconds(_field(header, b"\r\nNats-Time-Stamp: ").decode()), subject.decode(), data)


def _field(header: bytes, name: bytes) -> bytes:
    at = header.rindex(name) + len(name)  # the last: a publisher may have set a header of that name, which comes first
    return header[at : header.index(_CRLF, at)]
