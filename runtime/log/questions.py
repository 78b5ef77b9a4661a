"""Questions that are answered at once, by NATS request and reply: a completion, a query of the archive.

Nothing of them is on the log. Who asks needs no address but the broker's: a question goes to a subject, and the server
hands it to one of those that listen there. Where nobody does, the server says so at once.

An answer may take long. Whoever works on it says so every second, and under which name. Where it has been silent for a
while, its name is asked for: the server then knows whether it is gone.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

import msgspec

from events.errors import NotHere, TryAgain, Unavailable, UserError
from runtime.broker.credentials import Credentials, Login
from runtime.log.jetstream import AskedQuestion, Connection
from runtime.log.port import EVENT_LIMIT
from runtime.log.socket import NatsSocket
from runtime.log.worker import retry_until_available

logger = logging.getLogger("evolog")

QUESTION_LIMIT = 1 << 20
"""Most bytes of a question, and of one part of an answer."""
SENT_UNASKED = 16 << 20
"""Most bytes of an answer that are sent at once, since a server hangs up on whoever leaves 64 MiB unread. Of a longer
answer, so many bytes are asked for at a time.
"""
ANSWER_LIMIT = 512 << 20
"""Most bytes of an answer."""
KEPT = 120.0
"""Seconds for which a long answer is kept after it was last asked for."""
FIRST_WORD, WORD = 0.25, 1.0
"""Seconds after which one says for the first time that one works on an answer, and how often from then on."""
LISTENING = 1.0
"""Seconds between two looks whether whoever works is silent, and whether the connection is there."""
SILENCE = 4.0
"""Seconds of silence after which it is asked whether the one who works still listens, again and again."""
NO_WORD = 10.0
"""Seconds after which a question is given up of which nobody said that it is worked on."""
PATIENCE = 60.0
"""Seconds of silence after which a question is given up, whoever listens; also those that a part of an answer may take
on its way.
"""
PAUSE = 0.1
"""Seconds before a question is asked again that nobody took."""
WORKERS = 64
"""Questions that one process works on at once."""
_WORKING, _PART, _END, _KEPT, _REFUSED = b"w", b"p", b"e", b"k", b"x"

AnswerQuestion = Callable[[str, bytes], bytes]
"""Gives the answer to a question, from its subject and its bytes. It is called in a thread.

`NotHere` and `TryAgain` that it raises are raised where it was asked, and any other `UserError` as `Declined`.
"""


class NobodyListens(Unavailable):
    """No process listens on the subject of a question."""


class Declined(UserError):
    """Whoever was asked gives no answer, for a reason that lies in the question."""


_KINDS: dict[str, type[UserError]] = {"not here": NotHere, "try again": TryAgain, "declined": Declined}


class _Kept(msgspec.Struct):
    host: str
    id: str
    size: int


class _Refusal(msgspec.Struct):
    kind: str
    sentence: str
    code: int


class Asking(NatsSocket):
    """A connection by which one account asks, one question at a time."""

    def __init__(self, credentials: Credentials, login: Login | None = None) -> None:
        super().__init__(credentials, "", timeout=PATIENCE, login=login)

    def ask(self, subject: str, question: bytes, *, patience: float = 0.0) -> bytes:
        """The answer to a question of at most `EVENT_LIMIT` bytes.

        Raises what the answering function raises, `NobodyListens` where nobody does for so many seconds, and
        `Unavailable` where whoever worked on it is gone, or the broker.
        """
        if len(question) > EVENT_LIMIT:
            raise ValueError(f"a question has at most {EVENT_LIMIT} bytes, not {len(question)}")
        end = time.monotonic() + patience
        while True:
            try:
                with self._lock:
                    return self._guarded(lambda: self._ask_and_wait(subject, question))
            except NobodyListens:
                if time.monotonic() >= end:
                    raise
            time.sleep(PAUSE)

    def _ask_and_wait(self, subject: str, question: bytes) -> bytes:
        reply = f"{self._inbox}.q{next(self._numbers)}"
        self._send(subject, reply, question)
        parts, worker, asked = bytearray(), "", ""
        heard = looked = time.monotonic()
        while True:
            now = time.monotonic()
            if now - heard > (PATIENCE if worker else NO_WORD):
                raise Unavailable(f"Whoever took a question on {subject} has not said a word for {now - heard:.0f} s.")
            if worker and now - looked > SILENCE:
                looked, asked = now, f"{self._inbox}.q{next(self._numbers)}"
                self._send(f"{subject.partition('.')[0]}.host.{worker}", asked, b"")
            size = len(self._buffer)
            if (message := self._next()) is None:
                if len(self._buffer) > size:  # a part is on its way
                    heard = looked = time.monotonic()
                continue
            to, header, data = message
            if to.decode() == asked and header:  # nobody listens under that name
                raise Unavailable(f"Whoever worked on a question on {subject} is gone.")
            if to.decode() != reply:
                continue
            heard = looked = time.monotonic()
            if header:
                raise NobodyListens(f"Nobody listens on {subject}.")
            kind, rest = data[:1], data[1:]
            if kind == _WORKING:
                worker = rest.decode()
            elif kind in (_PART, _END):
                parts += rest
                if kind == _END:
                    return bytes(parts)
            elif kind == _KEPT:
                return self._fetch(subject.partition(".")[0], msgspec.json.decode(rest, type=_Kept))
            else:
                refusal = msgspec.json.decode(rest, type=_Refusal)
                raise _KINDS.get(refusal.kind, Declined)(refusal.sentence, code=refusal.code)

    def _fetch(self, service: str, kept: _Kept) -> bytes:
        answer = bytearray()
        while len(answer) < kept.size:
            answer += self._ask_and_wait(f"{service}.host.{kept.host}", f"{kept.id} {len(answer)}".encode())
        return bytes(answer)

    def _send(self, subject: str, reply: str, payload: bytes) -> None:
        self._send_all(f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + b"\r\n")

    def _next(self) -> tuple[bytes, bytes, bytes] | None:
        """The next message, or None where none has come whole yet, after a while."""
        end = self._buffer.find(b"\r\n")
        line = bytes(self._buffer[: max(end, 0)])
        if end < 0:
            self._receive()
        elif line.startswith((b"MSG ", b"HMSG ")):
            if len(self._buffer) >= end + int(line.split()[-1]) + 4:
                return self._message()
            self._receive()
        else:
            self._line()
            if line == b"PING" and self._socket is not None:
                self._socket.sendall(b"PONG\r\n")
            elif line.startswith(b"-ERR"):
                raise self._refusal(line)
        return None

    def _receive(self) -> None:
        assert self._socket is not None
        self._socket.settimeout(LISTENING)
        try:
            self._fill()
        except TimeoutError:
            pass
        finally:
            self._socket.settimeout(PATIENCE)


class Answering:
    """Answers the questions on some subjects, each of which goes to one of those that listen there.

    `service` is the first token of all these subjects; who listens shares a group of that name.
    """

    def __init__(self, connection: Connection, service: str, answer: AnswerQuestion) -> None:
        self.name = secrets.token_hex(6)
        """What this process is known by to those that it answers."""
        self._connection, self._service, self._answer = connection, service, answer
        self._wanted: set[str] = set()
        self._changed = asyncio.Lock()
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix=service)
        self._working = set[asyncio.Task[None]]()
        self._kept: dict[str, tuple[bytes, asyncio.TimerHandle]] = {}

    async def listen(self, subjects: Collection[str]) -> None:
        """Listen on these subjects and no others, from now on; whoever hears of it later finds them taken."""
        self._wanted = set(subjects)
        await self._follow()

    async def serve(self) -> None:
        """Listen for ever, again after each loss of the connection."""
        try:
            while True:
                await retry_until_available(self._follow)
                await asyncio.sleep(LISTENING)
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _follow(self) -> None:
        async with self._changed:
            subjects = {*self._wanted, f"{self._service}.host.{self.name}"}
            await self._connection.listen(subjects, self._service, self._take)

    async def _take(self, question: AskedQuestion) -> None:
        if question.subject.startswith(f"{self._service}.host."):
            if not question.data:
                return  # that it came says what was asked
            work = self._say_of_kept(question)
        else:
            work = self._work_on(question)
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _work_on(self, question: AskedQuestion) -> None:
        loop = asyncio.get_running_loop()
        answering = loop.run_in_executor(self._threads, self._answer, question.subject, question.data)
        with contextlib.suppress(Unavailable):  # whoever asked will ask again
            wait = FIRST_WORD
            while not (await asyncio.wait([answering], timeout=wait))[0]:
                await question.say(_WORKING + self.name.encode())
                wait = WORD
            try:
                answer = answering.result()
                if len(answer) > ANSWER_LIMIT:
                    raise UserError(f"The answer has {len(answer):,} bytes, at most {ANSWER_LIMIT:,}: ask for less.")
            except UserError as wrong:
                await question.say(_refused(wrong))
            except Exception as wrong:
                logger.exception("a question on %s was not answered", question.subject)
                await question.say(_refused(TryAgain(f"{type(wrong).__name__}: {wrong}")))
            else:
                if len(answer) <= SENT_UNASKED:
                    await _say(question, answer)
                else:
                    kept = _Kept(self.name, secrets.token_hex(6), len(answer))
                    self._keep(kept.id, answer)
                    await question.say(_KEPT + msgspec.json.encode(kept))

    def _keep(self, id: str, answer: bytes) -> None:
        if id in self._kept:
            self._kept[id][1].cancel()
        self._kept[id] = answer, asyncio.get_running_loop().call_later(KEPT, self._kept.pop, id, None)

    async def _say_of_kept(self, question: AskedQuestion) -> None:
        id, _, start = question.data.decode().partition(" ")
        answer, _ = self._kept.get(id) or (b"", None)
        with contextlib.suppress(Unavailable):
            if not answer:
                await question.say(_refused(TryAgain(f"An answer was not fetched within {KEPT:g} s: ask again.")))
                return
            self._keep(id, answer)
            await _say(question, answer[int(start) : int(start) + SENT_UNASKED])


async def _say(question: AskedQuestion, answer: bytes) -> None:
    for start in range(0, max(1, len(answer)), QUESTION_LIMIT):
        end = start + QUESTION_LIMIT
        await question.say((_PART if end < len(answer) else _END) + answer[start:end])


def _refused(wrong: UserError) -> bytes:
    kind = "declined"
    if isinstance(wrong, NotHere):
        kind = "not here"
    elif isinstance(wrong, TryAgain | Unavailable):
        kind = "try again"
    return _REFUSED + msgspec.json.encode(_Refusal(kind, str(wrong), wrong.code))
