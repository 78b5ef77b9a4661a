"""Runs scaffolds as processes that `runtime/sandbox/launch.py` starts, and speaks with them over two pipes, in JSON
lines.

`runtime/sandbox` limits what a scaffold can reach and use. Here its time, its output and the size of its calls are
limited. What it may learn from comes through its pipe: the labels of its own folds alone, and no file is made of them.
Nothing comes back but through pipes.
"""

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from events.errors import UserError
from events.kinds import RolloutFailure
from runtime.rollouts.shard import RolloutKey
from runtime.sandbox import limits as sandbox
from runtime.sandbox.choose import broken, provide_anew
from runtime.sandbox.launch import Command, Confined, Kind, seen_at

CHILD = Path(__file__).with_name("child.py")
CHILD_INSIDE, SCAFFOLD_INSIDE = "/evolog/scaffold_child.py", "/evolog/scaffold"
"""Where the child script and the scaffold's folder appear inside the sandbox."""
FRAME_LIMIT = 64 * 1024 * 1024
"""Bytes of one frame, which is one JSON line."""
CALLS_LIMIT = 8 * 1024 * 1024
"""Bytes of one frame of calls: whatever is in it, the policy's body stays below the server's limit."""
ANSWER_LIMIT = 16 * 1024
"""Characters of an answer, and of a failure's reason."""
PROMPT_LIMIT = 200_000
"""Characters of a prompt, and of all choices of one call together."""
CHOICES_LIMIT = 10_000
EXIT_TIMEOUT = 1.0
"""Seconds from the end of a child's pipe to its exit, after which it is killed."""
PRINT_LIMIT = 1024 * 1024
"""Bytes that a scaffold may print before it counts as flooding."""
SCAFFOLD_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LANG": "C.UTF-8",
}
"""Variables of every scaffold's process; it gets no other of this process's."""


class ScaffoldLimits(NamedTuple):
    """What one scaffold process may use."""

    idle_timeout: float = 120.0
    """The most seconds for which it may send nothing: while it fits its data, or answers one group of items."""
    memory: int = 8 * 1024**3
    """Bytes."""
    file_size: int = 256 * 1024**2
    """Bytes of one file that it writes."""
    cpu_seconds: int = 3600
    calls: int = 1000
    """Calls of the model for one item, in each of its attempts."""
    tokens: int = 4_000_000
    """Tokens that one attempt may read and write by `model.complete`, and as many over HTTP."""


class ScaffoldData(NamedTuple):
    """What a scaffold may learn from: the labels' names, and train as (prompt, label)."""

    labels: Sequence[str]
    train: Sequence[tuple[str, str]]


class ScaffoldCall(msgspec.Struct):
    """One call of the model by `model.complete`, as the scaffold made it."""

    item: str
    ordinal: int
    """Its place among the different calls for the item, from 0."""
    prompt: str
    choices: tuple[str, ...]
    bias: tuple[float, ...]


class RefusedCall(msgspec.Struct, frozen=True):
    """A call that gets no completions: the kind of failure of the attempts that made it, and why."""

    kind: RolloutFailure
    reason: str


class AttemptOutcome(msgspec.Struct, frozen=True):
    """How one attempt ended, as the scaffold's process says: an answer, or a kind of failure and its reason."""

    item: str
    attempt: int
    uses: tuple[tuple[int, int], ...] = ()
    """The calls that it made: the ordinal of each, and the number of the completion that it was given."""
    answer: str | None = None
    kind: RolloutFailure | Literal[""] = ""
    reason: str = ""
    seconds: float = 0.0


class _Frame(msgspec.Struct):
    """What the child sends: that it is ready or failed to load, calls to answer, or the outcomes of a group
    of items.
    """

    ready: bool = False
    failed: str = ""
    ask: list[ScaffoldCall] | None = None
    done: list[AttemptOutcome] | None = None
    more: bool = False


_decoder = msgspec.json.Decoder(_Frame)

AnswerCalls = Callable[[list[ScaffoldCall]], Sequence[Sequence[str] | RefusedCall]]
"""The answer of each call: a text for each attempt, or a refusal."""


class ScaffoldStopped(Exception):
    """The scaffold's process can do no more: `kind` is that of a failed rollout, and the message is its reason."""

    def __init__(self, kind: RolloutFailure, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class ScaffoldProcess:
    """One scaffold over one set of data, ready to solve items until it is closed or stops.

    Raises `ScaffoldStopped` where the scaffold cannot be loaded, `HostUnfit` where its sandbox cannot be had.
    """

    def __init__(
        self,
        scaffold: Path,
        data: ScaffoldData,
        work: Path,
        limits: ScaffoldLimits = ScaffoldLimits(),
        kind: Kind = "bwrap",
    ) -> None:
        self._limits = limits
        self._kind = kind
        self._buffer = bytearray()
        self._printed = bytearray()
        self._flooded = False
        work.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.mkdtemp(dir=work)  # a new one each time, in which no earlier process has left anything
        make_readable(scaffold)
        read, self._in = (
            os.pipe()
        )  # of our own: a sandbox's keeper holds standard input and output open when its command has closed them
        self._out, write = os.pipe()
        try:
            argv = [sys.executable, "-s", "-P", seen_at(kind, CHILD_INSIDE, CHILD), str(read), str(write)]
            binds = {CHILD_INSIDE: CHILD, SCAFFOLD_INSIDE: scaffold}
            resources = sandbox.ResourceLimits(
                memory=limits.memory, cpu_seconds=limits.cpu_seconds, file_size=limits.file_size
            )
            self._child = Confined(
                kind, Command(argv, binds, SCAFFOLD_ENVIRONMENT, Path(self._folder), resources, (read, write))
            )
        except BaseException:
            os.close(self._in)
            os.close(self._out)
            raise
        finally:
            os.close(read)
            os.close(write)
        self._child.stdin.close()
        self._child.stdout.close()
        os.set_blocking(self._in, False)
        self._reader = threading.Thread(target=self._read_prints, args=(self._child.stderr,), daemon=True)
        self._reader.start()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        self._writable = selectors.DefaultSelector()
        self._writable.register(self._in, selectors.EVENT_WRITE)
        try:
            self._send({"scaffold": seen_at(kind, SCAFFOLD_INSIDE, scaffold), **data._asdict()})
            frame = self._receive()
            if not frame.ready:
                raise ScaffoldStopped("unloadable", frame.failed or "the scaffold did not say that it is ready")
        except BaseException as wrong:
            self.close()
            if isinstance(wrong, ScaffoldStopped) and wrong.kind in ("crashed", "hung"):
                provide_anew(kind)  # a host that can confine nothing any more must not look like this
            raise

    def solve(self, items: Sequence[tuple[str, str]], attempts: int, answer_calls: AnswerCalls) -> list[AttemptOutcome]:
        """An outcome for each attempt at each (id, prompt), in order.

        After a failure of the process, `alive` is False. Raises `HostUnfit` or `TryAgain` where its sandbox has failed.
        """
        outcomes: dict[RolloutKey, AttemptOutcome] = {}
        ids, call_counts = {item for item, _ in items}, Counter[str]()
        kind: RolloutFailure = "nonsense"
        reason = "the scaffold's process left this attempt out"
        try:
            self._send({"items": items, "attempts": attempts})
            more = True
            while more:
                frame = self._receive()
                if frame.ask is not None:
                    for call in frame.ask:
                        _check_call(call)
                        call_counts[call.item] += 1
                        if call.item not in ids or call_counts[call.item] > self._limits.calls * attempts:
                            most = self._limits.calls * attempts
                            raise ScaffoldStopped(
                                "flooded", f"calls for no item of its own, or more than {most} for one"
                            )
                    self._send({"answers": [_encoded(answer) for answer in answer_calls(frame.ask)]})
                elif frame.done is not None:
                    for outcome in frame.done:
                        self._check_outcome(outcome, attempts)
                    outcomes |= {RolloutKey(outcome.item, outcome.attempt): outcome for outcome in frame.done}
                    more = frame.more
                else:
                    raise ScaffoldStopped(
                        "nonsense", "the scaffold's process sent a frame that is neither a call nor an outcome"
                    )
        except ScaffoldStopped as stopped:
            kind, reason = stopped.kind, str(stopped)
            self.close()
        return [
            outcomes.get(RolloutKey(item, attempt)) or AttemptOutcome(item, attempt, kind=kind, reason=reason)
            for item, _ in items
            for attempt in range(attempts)
        ]

    def _check_outcome(self, outcome: AttemptOutcome, attempts: int) -> None:
        """Raise `ScaffoldStopped` for an outcome that the child script does not send, unless a scaffold has tampered
        with it.
        """
        impossible = any(not 0 <= completion < attempts for _, completion in outcome.uses)
        longest = max(map(len, (outcome.answer or "", outcome.kind, outcome.reason)))
        if impossible or len(outcome.uses) > self._limits.calls or longest > ANSWER_LIMIT:
            raise ScaffoldStopped(
                "nonsense", "the scaffold's process sent an outcome that none of its attempts can have"
            )

    @property
    def alive(self) -> bool:
        """Whether it can solve more."""
        return self._child.poll() is None

    def close(self) -> None:
        """Kill the process and all that it started."""
        self._child.close()
        self._reader.join(1.0)
        self._selector.close()
        self._writable.close()
        for pipe in (self._in, self._out):
            if pipe >= 0:
                os.close(pipe)
        self._in = self._out = -1
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read_prints(self, stream: BufferedReader) -> None:
        """Keep the last that the scaffold prints, and kill it where that floods.

        It closes the stream itself: a process that the child left behind may hold the other end, and closing would wait
        for a read.
        """
        total = 0
        with stream:
            while chunk := stream.read1(65536):
                total += len(chunk)
                self._printed = (self._printed + chunk)[-4096:]
                if total > PRINT_LIMIT:
                    self._flooded = True
                    return self._child.kill()

    def _send(self, frame: dict[str, object]) -> None:
        unsent = memoryview(json.dumps(frame).encode() + b"\n")
        deadline = time.monotonic() + self._limits.idle_timeout
        while unsent:
            if not self._writable.select(max(0.0, deadline - time.monotonic())):
                raise ScaffoldStopped("hung", f"did not take what it was sent for {self._limits.idle_timeout:g} s")
            try:
                unsent = unsent[os.write(self._in, unsent[:65536]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise self._reason_of_end() from None

    def _receive(self) -> _Frame:
        deadline, searched = time.monotonic() + self._limits.idle_timeout, 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            left = deadline - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                raise ScaffoldStopped("hung", f"no word for {self._limits.idle_timeout:g} s")
            chunk = os.read(self._out, 1 << 20)
            if not chunk:
                raise self._reason_of_end()
            self._buffer += chunk
            if len(self._buffer) > FRAME_LIMIT:
                raise ScaffoldStopped("flooded", f"more than {FRAME_LIMIT} bytes in one frame")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            frame = _decoder.decode(line)
        except msgspec.DecodeError as wrong:
            raise ScaffoldStopped("nonsense", f"a frame that cannot be read: {wrong}") from wrong
        if frame.ask is not None and end > CALLS_LIMIT:
            raise ScaffoldStopped("flooded", f"calls of {end} bytes in one frame, at most {CALLS_LIMIT}")
        return frame

    def _reason_of_end(self) -> ScaffoldStopped | UserError:
        """Why the process has closed its pipe: the scaffold's failure, or this host's."""
        try:
            code = self._child.wait(EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return ScaffoldStopped("hung", "closed its pipes and did not end")
        if self._child.violation:
            return ScaffoldStopped("crashed", f"the scaffold was stopped: {self._child.violation}")
        if failure := self._child.failure():
            return broken(self._kind, failure)
        self._reader.join(1.0)
        if self._flooded:
            return ScaffoldStopped("flooded", f"printed more than {PRINT_LIMIT} bytes")
        lines = self._printed.decode(errors="replace").strip().splitlines()
        ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return ScaffoldStopped("crashed", f"the scaffold's process {ending}{': ' + lines[-1][:300] if lines else ''}")


def make_readable(folder: Path) -> None:
    """Let every account read a folder, where this process is root: its sandboxes run under another account, whatever
    root's umask is.
    """
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))


def _check_call(call: ScaffoldCall) -> None:
    """Raise `ScaffoldStopped` for a call that is too large.

    The child script refuses it too, unless a scaffold has tampered with it.
    """
    if (
        len(call.prompt) > PROMPT_LIMIT
        or len(call.choices) > CHOICES_LIMIT
        or sum(map(len, call.choices)) > PROMPT_LIMIT
    ):
        raise ScaffoldStopped(
            "flooded", f"a call with a prompt of {len(call.prompt)} characters and {len(call.choices)} choices"
        )


def _encoded(answer: Sequence[str] | RefusedCall) -> object:
    return {"error": answer.reason} if isinstance(answer, RefusedCall) else list(answer)
