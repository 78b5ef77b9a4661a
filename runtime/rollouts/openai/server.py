"""The bridge: the model as a scaffold reaches it, an HTTP server on a unix socket, for OpenAI's, Anthropic's and
Google's clients.

It knows no policy and no log. One function answers its calls, and returns only when the answer is recorded; so no
client gets an answer that is not on the log. A dialect (`routes`) says what may be asked, `CallBudget` what may be
spent. A client that repeats a request, because no answer reached it, gets the same answer, and nothing is sampled
twice.

Whoever connects may be hostile. The key is checked before a body is read, and a bridge holds so many connections, bytes
and requests at most, whatever is sent to it and however slowly.
"""

import hmac
import io
import math
import socket
import socketserver
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import responses
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast

import msgspec

from events.errors import CheckFailed, HostUnfit, NotHere, TryAgain, Unavailable, UserError
from runtime.rollouts.openai import routes
from runtime.rollouts.openai.dialect import BridgeAnswer, BridgeCall, Refusal

HEAD_LIMIT = 64 * 1024
"""Bytes of a request's line and headers, and of what is buffered after them."""
BODY_LIMIT = 16 * 1024 * 1024
"""Bytes of a request's body."""
BODIES_LIMIT, REPLIES_LIMIT = 64 * 1024 * 1024, 64 * 1024 * 1024
"""Bytes of all bodies, and of all replies, that one bridge works on at once; further requests wait."""
KEPT_LIMIT = 64 * 1024 * 1024
"""Bytes of the replies that are kept for retries; the oldest are forgotten."""
MAX_REQUESTS = 10_000
"""Requests with a body in one attempt, refused ones and retries among them."""
MAX_CONNECTIONS = 256
"""Connections open at once; one more is refused with 429."""
IDLE_TIMEOUT = 600.0
"""Seconds for which a connection may send nothing between two requests."""
TRANSFER_TIMEOUT = 60.0
"""Seconds in which a request's headers, its body, and its reply must each have passed."""
ATTEMPT_PATH = "/evolog/attempt"
PATH_LIMIT = 100
"""Bytes of a unix socket's path; the kernel takes 107."""

AnswerCall = Callable[[BridgeCall], BridgeAnswer]
"""Records a call and its answer, and returns the answer once the record is stored, never before; called from many
threads.

It may raise `Exhausted` (402), `Overloaded` (429), `TryAgain` or `Unavailable` (503: the record cannot be made), and
any other `UserError` for a call that is refused for good (400).
"""


class Exhausted(UserError):
    """The budget is spent; a client does not repeat the request."""

    code = 5


class Overloaded(UserError):
    """Too many requests at once; the client may repeat this one after `seconds`."""

    code = 75

    def __init__(self, message: str, seconds: int = 1) -> None:
        super().__init__(message)
        self.seconds = seconds


class CallBudget:
    """What may be spent over one bridge: calls, tokens read and written, millionths of a dollar, and seconds since it
    was made.

    A call reserves the most that it may read and write: a token for each byte of a prompt or text, and `max_tokens` for
    each completion, at `token_price` millionths of a dollar each. Its answer settles what it used. One that is refused
    for good is a call of no tokens, and one that can be made again costs nothing. Where other calls have reserved what
    is left, a call waits for them to settle. What a policy reads beside the prompt, such as its template, is known when
    the call is settled, and may exceed the limit.
    """

    def __init__(
        self,
        *,
        calls: float = math.inf,
        tokens: float = math.inf,
        micro_usd: float = math.inf,
        seconds: float = math.inf,
        token_price: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = {"calls": calls, "tokens": tokens, "micro_usd": micro_usd}
        self._spent = dict.fromkeys(self._limits, 0.0)
        self._reserved = dict.fromkeys(self._limits, 0.0)
        self._seconds, self._price, self._clock, self._began = seconds, token_price, clock, clock()
        self._changed = threading.Condition()

    @property
    def spent(self) -> dict[str, float]:
        """What has been settled so far."""
        with self._changed:
            return dict(self._spent)

    @contextmanager
    def paying(self, call: BridgeCall) -> Iterator[Callable[[BridgeAnswer], None]]:
        """Reserve for a call, and settle by calling what is yielded with its answer; raises `Exhausted` where there is
        not enough.
        """
        needed = {"calls": 1.0, "tokens": float(call.reserved_tokens), "micro_usd": call.reserved_tokens * self._price}
        used = dict.fromkeys(needed, 0.0)
        with self._changed:
            while self._must_wait(needed):
                self._changed.wait(1.0)
            self._add(self._reserved, needed, 1)
        try:
            yield lambda answer: used.update(calls=1, tokens=sum(answer.usage), micro_usd=answer.micro_usd)
        finally:
            with self._changed:
                self._add(self._reserved, needed, -1)
                self._add(self._spent, used, 1)
                self._changed.notify_all()

    def _must_wait(self, needed: Mapping[str, float]) -> bool:
        """Whether other calls have reserved what this one needs; raises `Exhausted` if there is not enough without them
        either.
        """
        if (passed := self._clock() - self._began) > self._seconds:
            raise Exhausted(f"The budget of {self._seconds:g} seconds is spent: {passed:.1f} have passed.")
        for name, limit in self._limits.items():
            spent = self._spent[name]
            if spent + needed[name] > limit or spent >= limit > 0:
                raise Exhausted(
                    f"The budget of {limit:g} {name} is spent: {spent:g} were used and this call may need "
                    f"{needed[name]:g}."
                )
        return any(
            self._spent[name] + self._reserved[name] + needed[name] > limit for name, limit in self._limits.items()
        )

    @staticmethod
    def _add(totals: dict[str, float], amounts: Mapping[str, float], sign: int) -> None:
        for name, value in amounts.items():
            totals[name] += sign * value


class ByteLimit:
    """So many bytes are held at once at most; who needs more than is left waits for the others."""

    def __init__(self, limit: int) -> None:
        self._limit = self._left = limit
        self._changed = threading.Condition()

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Hold so many bytes, or all of them where that is less."""
        size = min(size, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: size <= self._left)
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()


class _Attempt(msgspec.Struct, frozen=True):
    item: str
    attempt: int


class HttpReply(msgspec.Struct, frozen=True):
    """A reply to an HTTP request; `kind` is its content type."""

    status: int
    kind: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class _Occurrence:
    """One occurrence of a body: its reply, once computed, for the request and its retries."""

    def __init__(self, occurrence: int) -> None:
        self.occurrence = occurrence
        self.computing = threading.Lock()
        self.reply: HttpReply | None = None
        self.unanswered = False
        """Whether the last try got 429 or 503, so that the next request with this body is its retry, whatever that
        request says.
        """


class Bridge:
    """Serves calls of the model on a unix socket until it is closed. `token` is the API key, `models` the aliases that
    may be named.

    Without `begin` it serves one attempt. With it, attempts follow each other: POST /evolog/attempt names the item and
    the attempt that begin now, `begin` is called with both and may raise `UserError`, and earlier requests are
    forgotten.

    `failure` is the first that is not the scaffold's: a record that could not be made, a replay that left its record,
    or a defect. Raises `HostUnfit` where the socket's path is too long.
    """

    def __init__(
        self,
        path: Path,
        answer: AnswerCall,
        *,
        token: str,
        models: Sequence[str],
        budget: CallBudget | None = None,
        begin: Callable[[str, int], None] | None = None,
    ) -> None:
        self.path, self.token, self.models, self.budget = path, token, tuple(models), budget or CallBudget()
        self.failure: Exception | None = None
        self._answer, self._begin, self._closed = answer, begin, False
        self.bodies, self._replies = ByteLimit(BODIES_LIMIT), ByteLimit(REPLIES_LIMIT)
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._forget()
        if len(bytes(path)) > PATH_LIMIT:
            raise HostUnfit(
                f"The socket {path} has a path of {len(bytes(path))} bytes, at most {PATH_LIMIT}; use a shorter folder."
            )
        path.unlink(missing_ok=True)
        self._server = _Server(self)
        path.chmod(
            0o666
        )  # a sandbox's account is another one; the folder around it, and the token, keep all others out
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="bridge", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Bridge":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer no more requests, make no call that still waits, and end the open connections."""
        self._closed = True
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.close_connections()
        self.path.unlink(missing_ok=True)

    @contextmanager
    def replying(self, path: str, data: bytes, retry: bool) -> Iterator[HttpReply]:
        """The reply to a POST request to any path, which counts among those in work until it is passed on.

        `retry` is whether the client says that it repeats a request.
        """
        if not routes.is_known(path):
            yield self._begin_attempt(path, data)
            return
        with self._lock:
            self._requests += 1
        if self._requests > MAX_REQUESTS:
            yield _spent(f"The attempt's {MAX_REQUESTS:,} requests are spent.")
            return
        try:
            with self._reading:  # one at a time: a body takes many times its bytes while it is read
                body, call = routes.read(path, data, self.models[0])
            if call.model not in self.models:
                offer = ", ".join(self.models)
                raise Refusal(
                    f"The model {call.model!r} is not on offer; name one of {offer}.", "model", "model_not_found"
                )
        except Refusal as refused:
            yield _refuse(
                404 if refused.reason == "model_not_found" else 400, str(refused), refused.reason, refused.param
            )
            return
        with self._replies.holding(routes.reply_size(body, call)):
            yield self._reply_once(body, call, retry)

    def _begin_attempt(self, path: str, data: bytes) -> HttpReply:
        if path != ATTEMPT_PATH or self._begin is None:
            return _not_found(path)
        try:
            named = msgspec.json.decode(data, type=_Attempt)
            self._begin(named.item, named.attempt)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, UserError) as wrong:
            return _refuse(400, str(wrong), "no_attempt")
        with self._lock:
            self._forget()
        return HttpReply(200, "application/json", b"{}")

    def _forget(self) -> None:
        """Begin without requests: none is a retry, and no reply is kept."""
        self._entries: dict[str, list[_Occurrence]] = {}
        self._requests = 0
        self._kept: deque[tuple[_Occurrence, int]] = deque()
        self._kept_size = 0

    def _reply_once(self, body: routes.AnyBody, call: BridgeCall, retry: bool) -> HttpReply:
        """The reply to a call, computed once: a retry gets that of the last request with this body, and waits for it if
        need be.
        """
        with self._lock:
            entries = self._entries.setdefault(call.key, [])
            if not (entries and (retry or entries[-1].unanswered)):
                entries.append(_Occurrence(len(entries)))
            entry = entries[-1]
            entry.unanswered = False
        with entry.computing:
            if entry.reply is None:
                reply = self._compute(body, msgspec.structs.replace(call, occurrence=entry.occurrence))
                if reply.status in (429, 503):
                    entry.unanswered = True
                    return reply
                self._keep(entry, reply)
                return reply
            return entry.reply

    def _keep(self, entry: _Occurrence, reply: HttpReply) -> None:
        """Keep a reply for its retries, and forget the oldest ones where that is too much."""
        entry.reply = reply
        with self._lock:
            self._kept.append((entry, len(reply.body)))
            self._kept_size += len(reply.body)
            while self._kept_size > KEPT_LIMIT and len(self._kept) > 1:
                oldest, size = self._kept.popleft()
                oldest.reply = _refuse(410, "This request was answered, and its reply is no longer kept.", "gone")
                self._kept_size -= size

    def _compute(self, body: routes.AnyBody, call: BridgeCall) -> HttpReply:
        try:
            with self.budget.paying(call) as settle:
                if self._closed:
                    raise Exhausted("The attempt is over.")
                try:
                    answer = self._answer(call)
                except UserError as refused:
                    if not isinstance(refused, (Exhausted, Overloaded, TryAgain, Unavailable)):
                        settle(BridgeAnswer())  # a call, though of no tokens
                    raise
                settle(answer)
            return HttpReply(200, *routes.write(body, call, answer))
        except Exhausted as spent:
            return _spent(str(spent))
        except Overloaded as busy:
            return _refuse(429, str(busy), "overloaded", headers=(("Retry-After", str(busy.seconds)),))
        except (TryAgain, Unavailable, NotHere) as away:
            self.failure = self.failure or away
            return _refuse(503, str(away), "recorder_unavailable")
        except UserError as refused:
            if isinstance(refused, CheckFailed):
                self.failure = self.failure or refused
            return _refuse(400, str(refused), "refused")
        except Exception as wrong:
            self.failure = self.failure or wrong
            return _refuse(
                500,
                "The bridge failed; the run's log says how.",
                "bridge_failed",
                headers=(("x-should-retry", "false"),),
            )


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(str(bridge.path), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            if full := len(self._open) >= MAX_CONNECTIONS:
                reply = _refuse(
                    429,
                    f"{MAX_CONNECTIONS} connections are open already.",
                    "overloaded",
                    headers=(("Retry-After", "1"),),
                )
            else:
                self._open.add(request)
        if full:
            request.setblocking(False)
            try:
                request.send(_encoded(reply, close=True))
            except OSError:
                pass
            return self.shutdown_request(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """End the connections that are still open; their threads end by that."""
        with self._guard:
            for request in self._open:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing for a client that went away: its call is recorded."""


class _Unfit(Exception):
    """A request that is not read to its end, and the reply to it."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.reply = _refuse(status, message, code)


class _Incoming(io.RawIOBase):
    """What a connection sends, within limits that are set anew for each part of a request; raises `_Unfit` beyond."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.expect(IDLE_TIMEOUT)

    def expect(self, seconds: float, size: float = math.inf) -> None:
        """Take what comes next for so many seconds, and so many bytes of it."""
        self._end, self._left = time.monotonic() + seconds, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """As the base class has it."""
        if self._left <= 0:
            raise _Unfit(431, f"The headers have more than {HEAD_LIMIT:,} bytes.", "headers_too_large")
        try:
            if (seconds := self._end - time.monotonic()) <= 0:
                raise TimeoutError
            self._connection.settimeout(seconds)
            size = self._connection.recv_into(buffer)
        except TimeoutError:
            raise _Unfit(408, "The request took too long to arrive.", "too_slow") from None
        self._left -= size
        return size


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def bridge(self) -> Bridge:
        return cast(_Server, self.server).bridge

    def setup(self) -> None:
        """As the base class has it; what is sent comes through `_Incoming`."""
        super().setup()
        self.rfile.close()
        self._incoming = _Incoming(self.connection)
        self.rfile = self._buffer = io.BufferedReader(self._incoming)

    def handle_one_request(self) -> None:
        """As the base class has it; a request that comes too slowly or whose headers are too large is refused."""
        self._incoming.expect(IDLE_TIMEOUT)
        try:
            self._buffer.peek(1)
        except _Unfit:
            self.close_connection = True
            return
        try:
            self._incoming.expect(TRANSFER_TIMEOUT, HEAD_LIMIT)
            super().handle_one_request()
        except _Unfit as unfit:
            self._send(unfit.reply, close=True)

    def handle_expect_100(self) -> bool:
        """Ask for the body of no request that has another key."""
        return self._is_authorized() and super().handle_expect_100()

    def do_GET(self) -> None:
        self.close_connection = self.close_connection or self._has_body()
        if self._is_authorized():
            if self.path == "/v1/models":
                models = [
                    {"id": name, "object": "model", "created": 0, "owned_by": "evolog"} for name in self.bridge.models
                ]
                self._send(HttpReply(200, "application/json", msgspec.json.encode({"object": "list", "data": models})))
            else:
                self._send(_not_found(self.path))

    def do_POST(self) -> None:
        if not self._is_authorized():
            return
        size = ",".join(self.headers.get_all("Content-Length", ()))
        if "Transfer-Encoding" in self.headers or not (size.isascii() and size.isdigit()):
            return self._send(
                _refuse(411, "The body's length is not said; send Content-Length.", "length_required"), close=True
            )
        if len(size) > 12 or int(size) > BODY_LIMIT:
            return self._send(
                _refuse(413, f"A body of {size} bytes, at most {BODY_LIMIT}.", "body_too_large"), close=True
            )
        with self.bridge.bodies.holding(int(size)):
            self._incoming.expect(TRANSFER_TIMEOUT)
            data = self.rfile.read(int(size))
            if len(data) < int(size):
                self.close_connection = True
                return
            with self.bridge.replying(self.path, data, self._is_retry()) as reply:
                self._send(reply)

    def _has_body(self) -> bool:
        return "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0"

    def _is_retry(self) -> bool:
        return self.headers.get("x-stainless-retry-count", "0").strip() not in ("", "0")

    def _is_authorized(self) -> bool:
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        given = self.headers.get("x-api-key") or self.headers.get("x-goog-api-key") or bearer
        if hmac.compare_digest(given.encode(errors="replace"), self.bridge.token.encode()):
            return True
        self._send(
            _refuse(401, "The API key is not this attempt's; use OPENAI_API_KEY as it is set.", "invalid_api_key"),
            close=True,  # its body is left unread
        )
        return False

    def _send(self, reply: HttpReply, close: bool = False) -> None:
        self.close_connection = self.close_connection or close
        self.connection.settimeout(TRANSFER_TIMEOUT)
        self.wfile.write(_encoded(reply, close=self.close_connection))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The reply where `http.server` itself refuses a request, such as one with another method."""
        status = 404 if code == 501 else code
        self._send(_refuse(status, message or responses.get(code, "refused"), "invalid_request"), close=True)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: calls are on the event log."""


def _not_found(path: str) -> HttpReply:
    known = ", ".join([*(f"POST {known}" for known in routes.KNOWN), "GET /v1/models"])
    return _refuse(404, f"There is no {path[:200]} here; there are {known}.", "not_found")


def _spent(message: str) -> HttpReply:
    return _refuse(402, message, "run_budget_exhausted", headers=(("x-should-retry", "false"),))


def _refuse(
    status: int, message: str, code: str, param: str | None = None, headers: tuple[tuple[str, str], ...] = ()
) -> HttpReply:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return HttpReply(status, "application/json", msgspec.json.encode({"error": error}), headers)


def _encoded(reply: HttpReply, *, close: bool) -> bytes:
    fields = [("Content-Type", reply.kind), ("Content-Length", str(len(reply.body))), *reply.headers]
    if close:
        fields.append(("Connection", "close"))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {reply.status} {responses[reply.status]}\r\n{head}\r\n".encode() + reply.body
