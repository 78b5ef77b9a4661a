"""Runs scaffolds as processes that `runtime/sandbox/launch.py` starts, and speaks with them over two pipes, in JSON
lines.

`runtime/sandbox` limits what a scaffold can reach and use. Here its time, its output and the size of its calls are
limited. What it may learn from comes through its pipe: the labels of its own folds alone, and no file is made of them.
Nothing comes back but through pipes.
"""

import json
import math
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from events.errors import UserError
from events.kinds import RolloutFailure
from runtime.rollouts.shard import RolloutKey
from runtime.sandbox import descriptors
from runtime.sandbox import limits as sandbox
from runtime.sandbox.bwrap import SHARED, WORK
from runtime.sandbox.choose import broken, provide_anew
from runtime.sandbox.launch import Command, Confined, Kind, seen_at

CHILD = Path(__file__).with_name("child.py")
CHILD_INSIDE, SCAFFOLD_INSIDE = "/evolog/scaffold_child.py", "/evolog/scaffold"
"""Where the child script and the scaffold's folder appear inside the sandbox."""
FRAME_LIMIT = 8 * 1024 * 1024
"""Bytes of one frame, which is one JSON line: whatever calls are in it, the policy's body stays below the server's
limit.
"""
HUNG_LIMIT = 8
"""Attempts of a shard that may hang in a row, after which the others are not waited for."""
ANSWER_LIMIT = 16 * 1024
"""Characters of an answer, and of a failure's reason."""
PROMPT_LIMIT = 200_000
"""Characters of a prompt, and of all choices of one call together."""
CHOICES_LIMIT = 10_000
SHORTEST_WAIT = 0.05
"""Seconds after which a stopwatch, which may have been paused meanwhile, is looked at again."""
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
    """The most seconds for which it may be silent: while it fits its data, or an attempt from its beginning or from its
    last answered call on. While a call is with the policy, no time counts.
    """
    shard_timeout: float = 3600.0
    """The most seconds that a shard may take, without those in which a call is with the policy."""
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
    """What a scaffold may learn from: the labels' names, and train as (prompt, label), or (prompt, label, files)."""

    labels: Sequence[str]
    train: Sequence[tuple[str, str | None] | tuple[str, str | None, Mapping[str, str]]]


Shown = tuple[str, str] | tuple[str, str, Mapping[str, str]]
"""An item as a scaffold sees it: its name there, its prompt, and its files if it has any."""


class ScaffoldCall(msgspec.Struct):
    """One call of the model by `model.complete`, as the scaffold made it."""

    item: str
    ordinal: int
    """Its place among the different calls for the item, from 0."""
    prompt: str
    choices: tuple[str, ...]
    bias: tuple[float, ...]
    plain: bool = False


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
    """What the child sends: that it is ready or failed to load, calls to answer, or outcomes of attempts."""

    ready: bool = False
    failed: str = ""
    ask: list[ScaffoldCall] = []
    done: list[AttemptOutcome] = []


_decoder = msgspec.json.Decoder(_Frame)

AnswerCalls = Callable[[list[ScaffoldCall]], Sequence[Sequence[str] | RefusedCall]]
"""The answer of each call: a text for each attempt, or a refusal."""


class Stopwatch:
    """Counts seconds from when it is started, but for those in which it is paused, by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pauses = 0
        self.start()

    def start(self) -> None:
        """Count from 0, once no pause is left."""
        with self._lock:
            self._began = self._pause_began = time.monotonic()
            self._paused = 0.0

    def passed(self) -> float:
        """The seconds so far."""
        with self._lock:
            return (self._pause_began if self._pauses else time.monotonic()) - self._began - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count no seconds meanwhile."""
        with self._lock:
            if not self._pauses:
                self._pause_began = time.monotonic()
            self._pauses += 1
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1
                if not self._pauses:
                    self._paused += time.monotonic() - self._pause_began


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
        shared_state: bool = False,
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
            descriptors.pipe()
        )  # of our own: a sandbox's keeper holds standard input and output open when its command has closed them
        self._out, write = descriptors.pipe()
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
            places = [WORK, SHARED] if kind == "bwrap" else [os.path.abspath(self._folder)]
            self._send(
                {
                    "scaffold": seen_at(kind, SCAFFOLD_INSIDE, scaffold),
                    "places": places,
                    "shared_state": shared_state,
                    **data._asdict(),
                }
            )
            if not self._has_frame(limits.idle_timeout):
                raise ScaffoldStopped("hung", f"no word for {limits.idle_timeout:g} s")
            frame = self._decoded()
            if not frame.ready:
                raise ScaffoldStopped("unloadable", frame.failed or "the scaffold did not say that it is ready")
        except BaseException as wrong:
            self.close()
            if isinstance(wrong, ScaffoldStopped) and wrong.kind in ("crashed", "hung"):
                provide_anew(kind)  # a host that can confine nothing any more must not look like this
            raise

    def solve(
        self,
        items: Sequence[Shown],
        attempts: int,
        answer_calls: AnswerCalls,
        shard: Stopwatch | None = None,
        silence: Stopwatch | None = None,
    ) -> list[AttemptOutcome]:
        """An outcome for each attempt at each item, in order.

        `shard` counts the seconds of the shard of which these are some items; None for all. `silence` counts those of
        the attempt under way, of one item alone; without it, the process times its attempts. After a failure of the
        process as a whole, `alive` is False. Raises `HostUnfit` or `TryAgain` where its sandbox has failed.
        """
        shard = shard or Stopwatch()
        attempts_left = {RolloutKey(item, attempt) for item, *_ in items for attempt in range(attempts)}
        checked = _ShardFrames(attempts_left, attempts, self._limits)
        kind: RolloutFailure = "nonsense"
        reason = ""
        try:
            limit = None if silence else self._limits.idle_timeout
            self._send({"items": items, "attempts": attempts, "limit": limit})
            while len(checked.outcomes) < len(attempts_left):
                frame = self._receive_in_time(shard, silence, len(checked.outcomes))
                checked.take(frame)
                if silence and frame.done:
                    silence.start()
                if frame.ask:
                    with shard.paused():
                        answers = answer_calls(frame.ask)
                    self._send({"answers": [_encoded(answer) for answer in answers]})
        except ScaffoldStopped as stopped:
            kind, reason = stopped.kind, str(stopped)
            self.close()
        return [
            checked.outcomes.get(RolloutKey(item, attempt)) or AttemptOutcome(item, attempt, kind=kind, reason=reason)
            for item, *_ in items
            for attempt in range(attempts)
        ]

    def _receive_in_time(self, shard: Stopwatch, silence: Stopwatch | None, attempt: int) -> _Frame:
        """The next frame of a shard. An attempt that is timed here, and that is silent for too long, is stopped."""
        limit = self._limits.idle_timeout
        deadline = math.inf if silence else time.monotonic() + 2 * limit
        while True:
            left = min(deadline - time.monotonic(), self._limits.shard_timeout - shard.passed())
            if silence:
                left = min(left, limit - silence.passed())
            if self._has_frame(max(SHORTEST_WAIT, left)):
                return self._decoded()
            if shard.passed() >= self._limits.shard_timeout:
                raise ScaffoldStopped("hung", f"the shard took more than {self._limits.shard_timeout:g} s")
            if time.monotonic() >= deadline:
                raise ScaffoldStopped("hung", f"no word for {limit:g} s")
            if silence and silence.passed() >= limit:
                self._send({"stop": attempt, "reason": f"no word for {limit:g} s"})
                deadline, silence = time.monotonic() + limit, None

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

    def _has_frame(self, seconds: float) -> bool:
        """Whether a whole frame has come within so many seconds; raises `ScaffoldStopped` where none can come."""
        deadline, searched = time.monotonic() + seconds, 0
        while self._buffer.find(b"\n", searched) < 0:
            searched = len(self._buffer)
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                return False
            chunk = os.read(self._out, 1 << 20)
            if not chunk:
                raise self._reason_of_end()
            self._buffer += chunk
            if len(self._buffer) > FRAME_LIMIT and b"\n" not in chunk:
                raise ScaffoldStopped("flooded", f"more than {FRAME_LIMIT} bytes in one frame")
        return True

    def _decoded(self) -> _Frame:
        """The frame that has come."""
        end = self._buffer.index(b"\n")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
            raise ScaffoldStopped("nonsense", f"a frame that cannot be read: {wrong}") from wrong

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


class _ShardFrames:
    """What has come of the attempts that a process was given, from frames that it may have made up.

    A frame that it cannot have sent raises `ScaffoldStopped`. Each brings a call or an outcome, so that there is an end
    to them.
    """

    def __init__(self, given: Set[RolloutKey], attempts: int, limits: ScaffoldLimits) -> None:
        self.outcomes: dict[RolloutKey, AttemptOutcome] = {}
        self._given, self._attempts, self._limits = given, attempts, limits
        self._items = {key.item for key in given}
        self._asked: dict[str, set[int]] = defaultdict(set)
        self._hung = 0
        """Attempts that hung since one did not."""
        self._began = time.monotonic()

    def take(self, frame: _Frame) -> None:
        """Take in a frame's calls or outcomes."""
        if bool(frame.ask) == bool(frame.done):
            raise ScaffoldStopped(
                "nonsense", "the scaffold's process sent a frame that is neither a call nor an outcome"
            )
        for call in frame.ask:
            self._check_call(call)
            self._asked[call.item].add(call.ordinal)
        for outcome in frame.done:
            self._check_outcome(outcome)
            self.outcomes[RolloutKey(outcome.item, outcome.attempt)] = outcome
            self._hung = self._hung + 1 if outcome.kind == "hung" else 0
        if self._hung >= HUNG_LIMIT:
            raise ScaffoldStopped("hung", f"{HUNG_LIMIT} attempts in a row had hung")

    def _check_call(self, call: ScaffoldCall) -> None:
        """The child script refuses what is refused here too, unless a scaffold has tampered with it."""
        most = self._limits.calls * self._attempts
        if call.item not in self._items or len(self._asked[call.item]) >= most:
            raise ScaffoldStopped("flooded", f"calls for no item of its own, or more than {most} for one")
        if call.ordinal != len(self._asked[call.item]):
            raise ScaffoldStopped("nonsense", f"call {call.ordinal} for an item, out of its turn")
        if call.bias and (len(call.bias) != len(call.choices) or not all(map(math.isfinite, call.bias))):
            raise ScaffoldStopped("nonsense", "a call with biases that no call can have")
        if (
            len(call.prompt) > PROMPT_LIMIT
            or len(call.choices) > CHOICES_LIMIT
            or sum(map(len, call.choices)) > PROMPT_LIMIT
        ):
            raise ScaffoldStopped(
                "flooded", f"a call with a prompt of {len(call.prompt)} characters and {len(call.choices)} choices"
            )

    def _check_outcome(self, outcome: AttemptOutcome) -> None:
        key = RolloutKey(outcome.item, outcome.attempt)
        longest = max(map(len, (outcome.answer or "", outcome.kind, outcome.reason)))
        if (
            key not in self._given
            or key in self.outcomes
            or any(call not in self._asked[key.item] or number != key.attempt for call, number in outcome.uses)
            or len(outcome.uses) > self._limits.calls
            or longest > ANSWER_LIMIT
            or not 0 <= outcome.seconds <= time.monotonic() - self._began
        ):
            raise ScaffoldStopped(
                "nonsense", "the scaffold's process sent an outcome that none of its attempts can have"
            )


def _encoded(answer: Sequence[str] | RefusedCall) -> object:
    return {"error": answer.reason} if isinstance(answer, RefusedCall) else list(answer)
