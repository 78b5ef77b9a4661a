"""What a service does and waits for at present: told by its code, and given to whoever asks for it.

None of this is a fact of a run: it is never appended, and nothing rests on it. `StatusReporter` may be called from any
thread. Code that may have to wait, such as one that asks a language model again, is handed `Waits`.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec

logger = logging.getLogger("evolog")
FIELDS = "fields"
"""The attribute of a log record that holds its names and values."""


def log_line(level: int, message: str, **fields: object) -> None:
    """Write a line to the service's log, with names and values behind it; a value of None or "" is left out."""
    said = {name: value for name, value in fields.items() if value not in (None, "")}
    logger.log(level, "%s", message, extra={FIELDS: said})


class Waits(Protocol):
    """Where code says what it waits for, as soon as it does."""

    def report(
        self,
        waiting_for: str,
        error: str | None = None,
        attempt: int | None = None,
        attempts: int | None = None,
        retry_at: float | None = None,
    ) -> None:
        """It waits for this from now on; it replaces what was reported before.

        `error` is why, in words; `attempt` of `attempts` failed last, counted from 1; the next begins at `retry_at`, in
        seconds since 1970.
        """

    def clear(self) -> None:
        """It waits no longer."""


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """A thing that a service does, for a run or for itself, and since when, in seconds since 1970."""

    doing: str
    run: str = ""
    since: float


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """That a service waits, as `Waits.report` has it."""

    waiting_for: str
    run: str = ""
    since: float
    error: str = ""
    attempt: int | None = None
    attempts: int | None = None
    retry_at: float | None = None
    put_off: int = 0
    """How many events are not answered for this; they are handed out again, to whoever is there."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What one process of a service does at present. Times are seconds since 1970."""

    service: str
    index: int
    host: str
    pid: int
    since: float
    """When the process began."""
    version: str = ""
    capabilities: tuple[str, ...] = ()
    """What its host can do that not every host can, where it takes work for that."""
    activities: tuple[Activity, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    last_error: str = ""
    """What it last waited for with an error, in words."""
    last_error_at: float | None = None
    position: int | None = None
    """Of one that reads the whole log: the sequence of the last event that it has read."""
    silent: float = 0.0
    """Of one that is remembered: the seconds for which it has not answered."""

    @property
    def process(self) -> str:
        """The name of the process, such as executor-1."""
        return f"{self.service}-{self.index}"


class StatusReporter:
    """Keeps the status of one process. Its own `report` and `clear` are those of `Waits` for no run in particular."""

    def __init__(
        self,
        service: str,
        index: int = 0,
        *,
        version: str = "",
        redact: Callable[[str], str] = lambda text: text,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._lock = threading.Lock()
        self._redact, self.on_change = redact, on_change
        self._activities: dict[int, Activity] = {}
        self._waiting: dict[object, Waiting] = {}
        self._status = Status(
            service=service,
            index=index,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=time.time(),
            version=version,
        )

    def status(self) -> Status:
        """The status as it is now."""
        with self._lock:
            return msgspec.structs.replace(
                self._status, activities=tuple(self._activities.values()), waiting=tuple(self._waiting.values())
            )

    def capable(self, capability: str) -> None:
        """Say that it takes work for hosts that have this."""
        with self._lock:
            capabilities = (*self._status.capabilities, capability)
            self._status = msgspec.structs.replace(self._status, capabilities=capabilities)

    def reached(self, position: int) -> None:
        """Say how far it has read the log; this is not told as a change."""
        with self._lock:
            self._status = msgspec.structs.replace(self._status, position=position)

    @contextlib.contextmanager
    def doing(self, doing: str, run: str = "") -> Iterator[None]:
        """Say that this is done meanwhile."""
        activity = Activity(doing=self._redact(doing), run=run, since=time.time())
        with self._changing():
            self._activities[id(activity)] = activity
        try:
            yield
        finally:
            with self._changing():
                del self._activities[id(activity)]

    @contextlib.contextmanager
    def logged(self, doing: str, level: int = logging.INFO, run: str = "", **fields: object) -> Iterator[None]:
        """Say that this is done meanwhile, and write to the log when it begins and when it is done."""
        began = time.monotonic()
        log_line(level, f"begins: {doing}", run=run, **fields)
        with self.doing(doing, run):
            yield
        log_line(level, f"done: {doing}", run=run, **fields, seconds=round(time.monotonic() - began, 3))

    def waits(self, run: str = "") -> Waits:
        """Where one piece of work for a run says what it waits for, apart from all others."""
        return _Waits(self, run)

    def report(
        self,
        waiting_for: str,
        error: str | None = None,
        attempt: int | None = None,
        attempts: int | None = None,
        retry_at: float | None = None,
    ) -> None:
        """As `Waits.report`."""
        self.set_waiting(self, "", waiting_for, error, attempt, attempts, retry_at)

    def clear(self) -> None:
        """As `Waits.clear`."""
        self.end_waiting(self)

    def set_waiting(
        self,
        key: object,
        run: str,
        waiting_for: str,
        error: str | None,
        attempt: int | None = None,
        attempts: int | None = None,
        retry_at: float | None = None,
        *,
        put_off: int = 0,
    ) -> None:
        """Note, under a key, what a piece of work waits for, and log it where it is something new."""
        before, now, waiting_for = self._waiting.get(key), time.time(), self._redact(waiting_for)
        waiting = Waiting(
            waiting_for=waiting_for,
            run=run,
            since=before.since if before and before.waiting_for == waiting_for else now,
            error=self._redact(error or ""),
            attempt=attempt,
            attempts=attempts,
            retry_at=retry_at,
            put_off=put_off,
        )
        with self._changing():
            self._waiting[key] = waiting
            if waiting.error:
                self._status = msgspec.structs.replace(self._status, last_error=waiting.error, last_error_at=now)
        if before is None or _novelty(before) != _novelty(waiting):
            level = logging.WARNING if waiting.error else logging.INFO
            log_line(level, f"waits for {waiting.waiting_for}", **_fields(waiting, now))

    def end_waiting(self, key: object) -> None:
        """Note that nothing is waited for under a key any more."""
        with self._changing():
            ended = self._waiting.pop(key, None)
        if ended is not None:
            seconds = round(time.time() - ended.since, 1)
            log_line(logging.INFO, f"waits no longer for {ended.waiting_for}", run=ended.run, seconds=seconds)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock:
            yield
        self.on_change()


class _Waits:
    def __init__(self, reporter: StatusReporter, run: str) -> None:
        self._reporter, self._run = reporter, run

    def report(
        self,
        waiting_for: str,
        error: str | None = None,
        attempt: int | None = None,
        attempts: int | None = None,
        retry_at: float | None = None,
    ) -> None:
        self._reporter.set_waiting(self, self._run, waiting_for, error, attempt, attempts, retry_at)

    def clear(self) -> None:
        self._reporter.end_waiting(self)


class _Unheard:
    def report(
        self,
        waiting_for: str,
        error: str | None = None,
        attempt: int | None = None,
        attempts: int | None = None,
        retry_at: float | None = None,
    ) -> None:
        del waiting_for, error, attempt, attempts, retry_at

    def clear(self) -> None:
        pass


UNHEARD: Waits = _Unheard()
"""For code that runs where nobody follows it, such as a replay."""


@contextlib.contextmanager
def waiting(waits: Waits, waiting_for: str) -> Iterator[None]:
    """Say that this is waited for meanwhile."""
    waits.report(waiting_for)
    try:
        yield
    finally:
        waits.clear()


def _novelty(waiting: Waiting) -> tuple[str, str, int | None]:
    return waiting.waiting_for, waiting.error, waiting.attempt


def _fields(waiting: Waiting, now: float) -> dict[str, Any]:
    tries = f"{waiting.attempt}/{waiting.attempts}" if waiting.attempts else waiting.attempt
    next_in = None if waiting.retry_at is None else round(max(0.0, waiting.retry_at - now), 1)
    return {"run": waiting.run, "error": waiting.error, "attempt": tries, "next_in": next_in}
