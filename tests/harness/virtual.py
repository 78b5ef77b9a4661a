"""An event loop in virtual time whose order follows from a seed: the same seed gives the same interleaving, threads
included.

Nothing waits: when nothing is left to be done, time moves on to the next timer. Of the callbacks that are ready, one is
drawn. What is given to a thread runs in one, but never beside anything else: either the loop runs or one thread, until
it ends or waits for the loop.
"""

import asyncio
import contextvars
import random
import threading
from asyncio import base_events
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class Standstill(Exception):
    """Nothing is ready and no timer is set, so nothing will ever happen again."""


class VirtualLoop(base_events.BaseEventLoop):
    """`time()` is seconds since the loop was made."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._draw = random.Random(f"loop {seed}")
        self._now = 0.0
        self._ready = _Drawn(self._draw)
        self._selector = self
        self._clock_resolution = 1e-9
        self._idle: list[_Thread] = []

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """What a selector does: let the time pass until the next timer."""
        if timeout is None:
            raise Standstill
        self._now += timeout
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        raise RuntimeError("a thread called the loop beside it")

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Arguments], T], *args: *Arguments
    ) -> "asyncio.Future[T]":
        """As the loop's own, and never at the same time as anything else."""
        future: asyncio.Future[T] = self.create_future()
        self.call_later(self._draw.random() / 1000, self._begin, future, lambda: func(*args))
        return future

    def park(self, work: Coroutine[Any, Any, T]) -> T:
        """From a thread: wait for a coroutine that runs on the loop."""
        return _here.thread.wait_for(work)

    def _begin(self, future: "asyncio.Future[Any]", work: Callable[[], Any]) -> None:
        if not future.done():
            thread = self._idle.pop() if self._idle else _Thread()
            thread.work = work
            self._let_run(thread, future)

    def _let_run(self, thread: "_Thread", future: "asyncio.Future[Any]") -> None:
        """Let a thread run until it ends or waits."""
        thread.go.release()
        thread.back.acquire()
        if thread.awaited:
            (work, context), thread.awaited = thread.awaited, None
            task = self.create_task(work, context=context)
            thread.answer = task
            task.add_done_callback(lambda _: self._let_run(thread, future))
            return
        self._idle.append(thread)
        if future.done():  # whoever waited for it is dead
            return
        if thread.wrong is not None:
            future.set_exception(thread.wrong)
        else:
            future.set_result(thread.found)

    def close(self) -> None:
        """End the threads as well."""
        for thread in self._idle:
            thread.work = None
            thread.go.release()
        super().close()


class _Drawn(deque[Any]):
    """Callbacks that are ready, of which any may be next."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self._draw = draw

    def popleft(self) -> Any:
        if len(self) > 1:
            self.rotate(-self._draw.randrange(len(self)))
        return super().popleft()


class _Here(threading.local):
    thread: "_Thread"


_here = _Here()


class _Thread:
    """A thread that runs while the loop waits for it, and waits while the loop runs."""

    def __init__(self) -> None:
        self.go, self.back = threading.Lock(), threading.Lock()
        self.go.acquire()
        self.back.acquire()
        self.work: Callable[[], Any] | None = None
        self.awaited: tuple[Coroutine[Any, Any, Any], contextvars.Context] | None = None
        self.answer: asyncio.Task[Any] | None = None
        self.found: Any = None
        self.wrong: BaseException | None = None
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        _here.thread = self
        while True:
            self.go.acquire()
            if self.work is None:
                return
            self.found = self.wrong = None
            try:
                self.found = self.work()
            except BaseException as wrong:
                self.wrong = wrong
            self.back.release()

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        self.awaited = work, contextvars.copy_context()
        self.back.release()
        self.go.acquire()
        assert self.answer
        found: T = self.answer.result()
        return found
