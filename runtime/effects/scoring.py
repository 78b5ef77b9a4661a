"""Calls a task's own scoring code, in a child process with a main thread of its own, under a time limit.

Whoever scores does it here: the verifier service, the auditor, and replay. So a verifier may use signals and print, and
a loop, a crash or a memory that runs out costs the one answer that caused it.

The child (`scoring_child.py`) loads one task and answers calls over a socket, in JSON lines. It is sent a `LoadTask`,
then any number of `CallBatch`, and sends a `ScoringResult` for each call as soon as that has ended. Within a call it
may send questions for the task's judge model, and is sent a `JudgeAnswer` to each.
"""

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import typing
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from events.errors import NotFound, NotHere, TryAgain, Unavailable, UserError, raise_if_hosts, why
from runtime.broker.children import die_with_parent
from tasks.loading import Task, without_extra

T = TypeVar("T")

QUESTIONS = 64
"""How often one call may ask the judge model."""
MOST_CHILDREN = 4
"""Tasks that a `ScoringProcess` keeps a child for."""
CHILD_MODULE = "runtime.effects.scoring_child"
STDERR = 2
"""Where what scoring code prints goes: standard output is the command line's own."""
_ROOT = Path(__file__).parents[2]
_LINE_LIMIT = 256 * 1024**2
"""Bytes of one result."""
_TRIES = 2
"""Times that a call is made of which a child dies, since what it dies of may be another's."""


AskJudge = Callable[[int, int, str, int], str]
"""The judge model's answer: from the call's place among those of a list, the question's place within that call, the
prompt, and the most tokens. Raises UserError where there is none.
"""


class Failed(msgspec.Struct, frozen=True):
    """A call that gave no value, and why."""

    reason: str


class AnswerScorer(Protocol):
    """Makes calls of a task's own code."""

    def __call__(
        self, function: Callable[..., T], calls: Sequence[tuple[object, ...]], ask: AskJudge | None = None
    ) -> list[T | Failed]:
        """What each call of a method of `Task` gives, or why it gives nothing.

        `function` is the method of one task, or a `partial` of it. `ask` answers what the calls ask the judge model.
        Raises what is the host's own (`raise_if_hosts`).
        """


class LoadTask(msgspec.Struct, frozen=True):
    """The task that a child is to load: its name or folder, and the text and the name of another verifier, if any."""

    task: str
    source: str = ""
    source_name: str = ""
    seconds: float = 120.0
    """The longest that a call may take."""
    sandbox: str = ""
    """The profile of the sandbox that its programs run in; empty: this host's own."""


class CallBatch(msgspec.Struct, frozen=True):
    """Calls of one method of the task, by their arguments."""

    method: str
    calls: Sequence[Sequence[Any]]


class ScoringResult(msgspec.Struct, frozen=True):
    """What came of one call, or of loading the task."""

    value: Any = None
    error: Literal["", "failed", "not here", "try again"] = ""
    reason: str = ""
    code: int = 0
    """The exit code of what is not here."""
    prompt: str | None = None
    """A question for the judge model, within a call that has not ended."""
    max_tokens: int = 0
    """The most tokens of its answer."""
    number: int = -1
    """Its place among all that the child has sent, from 0."""


class JudgeAnswer(msgspec.Struct, frozen=True):
    """What the child is sent for a question: the answer, or why there is none."""

    text: str = ""
    refused: str = ""


_decoder = msgspec.json.Decoder(ScoringResult)


def in_process(
    function: Callable[..., T], calls: Sequence[tuple[object, ...]], ask: AskJudge | None = None
) -> list[T | Failed]:
    """A `AnswerScorer` in this thread, without limits; its task has the tools that it was given."""
    del ask
    return [_called(function, arguments) for arguments in calls]


def _called(function: Callable[..., T], arguments: Sequence[object]) -> T | Failed:
    try:
        return function(*arguments)
    except Exception as wrong:
        raise_if_hosts(wrong)
        if isinstance(wrong, NotFound):  # a task's own word for data that are not here
            raise NotHere(str(wrong)) from wrong
        if wrong.__cause__ and (missing := without_extra(wrong.__cause__)):
            raise NotHere(str(missing), code=missing.code) from wrong
        return Failed(why(wrong))


def result_of(work: Callable[[], Any]) -> ScoringResult:
    """What a child sends of a piece of work, which may raise anything."""
    try:
        value = work()
    except NotHere as lacking:
        return ScoringResult(error="not here", reason=str(lacking), code=lacking.code)
    except (TryAgain, Unavailable) as later:
        return ScoringResult(error="try again", reason=str(later))
    except BaseException as wrong:
        return ScoringResult(error="failed", reason=str(wrong) if isinstance(wrong, UserError) else _named(wrong))
    return ScoringResult(error="failed", reason=value.reason) if isinstance(value, Failed) else ScoringResult(value)


def call_in_child(task: Task, batch: CallBatch, arguments: Sequence[object]) -> ScoringResult:
    """One call of a batch, in the child."""
    return result_of(lambda: _called(getattr(task, batch.method), arguments))


def _named(wrong: BaseException) -> str:
    return f"{type(wrong).__name__}: {wrong}".removesuffix(": ")


class ScoringProcess:
    """A `AnswerScorer` in child processes, one for each task, which are started when they are needed and kept.

    A call that takes longer than `limit` seconds, or than its verifier's own limit where that is None, or of which the
    child dies twice, has failed. What its questions wait for an answer does not count. For any thread: calls of several
    are made one after the other.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.limit = limit
        self._children: OrderedDict[LoadTask, _Child] = OrderedDict()
        self._turn = threading.Lock()

    def __call__(
        self, function: Callable[..., T], calls: Sequence[tuple[object, ...]], ask: AskJudge | None = None
    ) -> list[T | Failed]:
        """As `AnswerScorer.__call__`; raises `NotHere` where the child cannot load the task.

        A judge of which there is no text has a process of its own, and is called here.
        """
        method: Any = function.func if isinstance(function, functools.partial) else function
        first = function.args if isinstance(function, functools.partial) else ()
        task: Task = method.__self__
        if task.judge and not task.judge_text:
            return in_process(function, calls)
        source_name = str(task.judge.__file__) if task.judge else ""
        load = LoadTask(task.reference, task.judge_text, source_name, self.limit or task.seconds, task.sandbox)
        kind = typing.get_type_hints(method)["return"]
        with self._turn:
            results = self._results(load, method.__name__, [(*first, *arguments) for arguments in calls], ask)
        return [_value(result, kind) for result in results]

    def close(self) -> None:
        """End the children."""
        with self._turn:
            while self._children:
                self._children.popitem()[1].close()

    def _results(
        self, load: LoadTask, method: str, calls: Sequence[Sequence[object]], ask: AskJudge | None
    ) -> list[ScoringResult]:
        results: list[ScoringResult] = []
        deaths = 0
        while len(results) < len(calls):
            child = self._child(load)
            before, questions, left = len(results), 0, load.seconds
            try:
                child.send(CallBatch(method, calls[before:]))
                while len(results) < len(calls):
                    began = time.monotonic()
                    result = child.receive(left)
                    if result.prompt is None:
                        results.append(result)
                        questions, left = 0, load.seconds
                    else:
                        left -= time.monotonic() - began
                        child.send(_judge_answer(ask, len(results), questions, result))
                        questions += 1
            except TimeoutError:
                self._drop(load)
                results.append(ScoringResult(error="failed", reason=f"it took longer than {load.seconds:g} s"))
            except _Died as death:
                self._drop(load)
                deaths = 1 if len(results) > before else deaths + 1
                if deaths == _TRIES:
                    results.append(ScoringResult(error="failed", reason=str(death)))
                    deaths = 0
            except BaseException:
                self._drop(load)
                raise
        return results

    def _child(self, load: LoadTask) -> "_Child":
        if load not in self._children:
            while len(self._children) >= MOST_CHILDREN:
                self._children.popitem(last=False)[1].close()
            self._children[load] = _Child(load)
        self._children.move_to_end(load)
        return self._children[load]

    def _drop(self, load: LoadTask) -> None:
        self._children.pop(load).close()


def _value(result: ScoringResult, kind: Any) -> Any:
    if result.error == "not here":
        raise NotHere(result.reason, code=result.code)
    if result.error == "try again":
        raise TryAgain(result.reason)
    return Failed(result.reason) if result.error else msgspec.convert(result.value, kind)


def _judge_answer(ask: AskJudge | None, call: int, number: int, question: ScoringResult) -> JudgeAnswer:
    if ask is None:
        return JudgeAnswer(refused="nobody asks a judge model here")
    if number >= QUESTIONS:
        return JudgeAnswer(refused=f"a judgement may ask {QUESTIONS} times")
    try:
        return JudgeAnswer(ask(call, number, question.prompt or "", question.max_tokens))
    except UserError as wrong:
        raise_if_hosts(wrong)
        return JudgeAnswer(refused=str(wrong))


class _Died(Exception):
    """The child has ended, or speaks nonsense."""


class _Child:
    """One child process, which has loaded its task."""

    def __init__(self, load: LoadTask) -> None:
        self._socket, theirs = socket.socketpair()
        self._limit = load.seconds
        self._buffer = bytearray()
        self._received = 0
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", CHILD_MODULE, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)])},
                stdin=subprocess.DEVNULL,
                stdout=STDERR,
                pass_fds=(theirs.fileno(),),
                process_group=0,
                preexec_fn=die_with_parent(),
            )
        try:
            self.send(load)
            _value(self.receive(self._limit), None)
        except (_Died, TimeoutError) as wrong:
            self.close()
            raise NotHere(f"The process that scores could not load the task {load.task} ({wrong}).") from wrong
        except BaseException:
            self.close()
            raise

    def send(self, frame: LoadTask | CallBatch | JudgeAnswer) -> None:
        """Send the child a frame; raises as `receive` does."""
        self._socket.settimeout(self._limit)
        try:
            self._socket.sendall(msgspec.json.encode(frame) + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None

    def receive(self, seconds: float) -> ScoringResult:
        """The next result; raises TimeoutError where none comes within so many seconds, and `_Died`.

        A verifier may write to the socket too, or fork: what is not the next result is none.
        """
        deadline, searched = time.monotonic() + seconds, 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > _LINE_LIMIT:
                raise _Died(f"its process sent more than {_LINE_LIMIT >> 20} MiB in one line")
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            try:
                chunk = self._socket.recv(1 << 16)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                raise self._died()
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            result = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
            raise _Died(f"its process sent what cannot be read: {wrong}") from wrong
        if result.number != self._received:
            raise _Died("its process sent a result out of its turn")
        self._received += 1
        return result

    def close(self) -> None:
        """Kill the process and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._socket.close()

    def _died(self) -> _Died:
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return _Died("its process closed the socket")
        return _Died(
            f"its process {f'was killed by {signal.Signals(-code).name}' if code < 0 else f'exited with {code}'}"
        )
