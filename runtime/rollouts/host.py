"""Runs scaffolds as processes in a sandbox, and speaks with them over two pipes.

`runtime/sandbox` fences what a scaffold can reach and use. Here its time, its output and what a call may hold are fenced, and what it is
told: its labels come through its pipe, those of its own folds alone, and no file is made of them. Nothing comes back but through pipes.
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
from pathlib import Path
from typing import IO, Literal, NamedTuple

import msgspec

from events.kinds import RolloutFailure
from runtime.sandbox import limits as sandbox
from runtime.sandbox.launch import Command, Confined, Kind, seen_at

CHILD = Path(__file__).with_name("child.py")
CHILD_INSIDE, SCAFFOLD_INSIDE = "/evolog/scaffold_child.py", "/evolog/scaffold"
FRAME_LIMIT = 64 * 1024 * 1024
CALLS_LIMIT = 8 * 1024 * 1024
"""Bytes of one frame of calls: whatever is in it, the policy's body stays below the server's limit."""
ANSWER_LIMIT = 16 * 1024
"""Characters of an answer, and of what is said of a failure."""
PROMPT_LIMIT = 200_000
"""Characters of a prompt, and of all choices of one call together."""
CHOICES_LIMIT = 10_000
EXIT_PATIENCE = 1.0
"""Seconds from the end of a child's pipe to its exit, after which it is killed."""
PRINT_LIMIT = 1024 * 1024
"""Bytes that a scaffold may print before it counts as flooding."""
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LANG": "C.UTF-8",
}


class Limits(NamedTuple):
    """What one scaffold process may use. `silence` is the longest it may go without a word: fitting, or one group of items. `calls` and
    `tokens` are for one attempt that calls the model over HTTP."""

    silence: float = 120.0
    memory: int = 8 * 1024**3
    file_size: int = 256 * 1024**2
    cpu_seconds: int = 3600
    calls: int = 1000
    tokens: int = 4_000_000


class Data(NamedTuple):
    """What a scaffold may learn from: the labels' names, and train as (prompt, label)."""

    labels: Sequence[str]
    train: Sequence[tuple[str, str]]


class Ask(msgspec.Struct):
    """One call of the model, as the scaffold made it."""

    item: str
    ordinal: int
    prompt: str
    choices: tuple[str, ...]
    bias: tuple[float, ...]


class Refused(msgspec.Struct, frozen=True):
    """A call that gets no completions: the kind of failure that its attempts come to, and why."""

    kind: RolloutFailure
    reason: str


class Outcome(msgspec.Struct, frozen=True):
    """What came of one attempt: an answer, or the kind of failure and its reason. `uses` are (ordinal, completion) pairs."""

    item: str
    attempt: int
    uses: tuple[tuple[int, int], ...] = ()
    answer: str | None = None
    kind: RolloutFailure | Literal[""] = ""
    reason: str = ""
    seconds: float = 0.0


class _Frame(msgspec.Struct):
    ready: bool = False
    failed: str = ""
    ask: list[Ask] | None = None
    done: list[Outcome] | None = None
    more: bool = False


_decoder = msgspec.json.Decoder(_Frame)

AnswerCalls = Callable[[list[Ask]], Sequence[Sequence[str] | Refused]]


class ScaffoldStopped(Exception):
    """The child can do no more; `kind` and the text say what became of it."""

    def __init__(self, kind: RolloutFailure, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class ScaffoldProcess:
    """One scaffold over one set of data, ready to solve items until it is closed or stops."""

    def __init__(self, scaffold: Path, data: Data, work: Path, limits: Limits = Limits(), kind: Kind = "bwrap") -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._printed = bytearray()
        self._flooded = False
        work.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.mkdtemp(dir=work)  # anew each time: nothing is to be found that an earlier process left
        open_to_all(scaffold)
        read, self._in = os.pipe()  # of our own: a sandbox's keeper holds standard input and output open when its command has closed them
        self._out, write = os.pipe()
        try:
            argv = [sys.executable, "-s", "-P", seen_at(kind, CHILD_INSIDE, CHILD), str(read), str(write)]
            binds = {CHILD_INSIDE: CHILD, SCAFFOLD_INSIDE: scaffold}
            resources = sandbox.ResourceLimits(memory=limits.memory, cpu_seconds=limits.cpu_seconds, file_size=limits.file_size)
            self._child = Confined(kind, Command(argv, binds, ENVIRONMENT, Path(self._folder), resources, (read, write)))
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
        self._listener = threading.Thread(target=self._listen, args=(self._child.stderr,), daemon=True)
        self._listener.start()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        self._writable = selectors.DefaultSelector()
        self._writable.register(self._in, selectors.EVENT_WRITE)
        try:
            self._send({"scaffold": seen_at(kind, SCAFFOLD_INSIDE, scaffold), **data._asdict()})
            frame = self._receive()
            if not frame.ready:
                raise ScaffoldStopped("unloadable", frame.failed or "the scaffold did not say that it is ready")
        except BaseException:
            self.close()
            raise

    def solve(self, items: Sequence[tuple[str, str]], attempts: int, answer_calls: AnswerCalls) -> list[Outcome]:
        """An outcome for each attempt at each (id, prompt), in order. After a failure of the process, `alive` is False."""
        wanted = {(item, attempt) for item, _ in items for attempt in range(attempts)}
        found: dict[tuple[str, int], Outcome] = {}
        known, asked = {item for item, _ in items}, Counter[str]()
        kind: RolloutFailure = "nonsense"
        reason = "the scaffold's process left this attempt out"
        try:
            self._send({"items": items, "attempts": attempts})
            more = True
            while more:
                frame = self._receive()
                if frame.ask is not None:
                    for ask in frame.ask:
                        _check(ask)
                        asked[ask.item] += 1
                        if ask.item not in known or asked[ask.item] > self._limits.calls * attempts:
                            most = self._limits.calls * attempts
                            raise ScaffoldStopped("flooded", f"calls for no item of its own, or more than {most} for one")
                    self._send({"answers": [_said(answer) for answer in answer_calls(frame.ask)]})
                elif frame.done is not None:
                    for outcome in frame.done:
                        self._check_outcome(outcome, attempts)
                    found |= {(outcome.item, outcome.attempt): outcome for outcome in frame.done}
                    more = frame.more
                else:
                    raise ScaffoldStopped("nonsense", "the scaffold's process sent a frame that is neither a call nor an outcome")
        except ScaffoldStopped as stopped:
            kind, reason = stopped.kind, str(stopped)
            self.close()
        return [
            found.get((item, attempt)) or Outcome(item, attempt, kind=kind, reason=reason)
            for item, attempt in sorted(wanted, key=_order(items))
        ]

    def _check_outcome(self, outcome: Outcome, attempts: int) -> None:
        """The child keeps to all this; one whose own code was tampered with is stopped."""
        strange = any(not 0 <= completion < attempts for _, completion in outcome.uses)
        words = max(map(len, (outcome.answer or "", outcome.kind, outcome.reason)))
        if strange or len(outcome.uses) > self._limits.calls or words > ANSWER_LIMIT:
            raise ScaffoldStopped("nonsense", "the scaffold's process sent an outcome that none of its attempts can have")

    @property
    def alive(self) -> bool:
        """Whether it can solve more."""
        return self._child.poll() is None

    def close(self) -> None:
        """Kill the process and all that it started."""
        self._child.close()
        self._listener.join(1.0)
        self._selector.close()
        self._writable.close()
        for pipe in (self._in, self._out):
            if pipe >= 0:
                os.close(pipe)
        self._in = self._out = -1
        shutil.rmtree(self._folder, ignore_errors=True)

    def _listen(self, stream: IO[bytes]) -> None:
        """Closes the stream itself: what the child left behind may hold the other end, and a close beside a read would wait for it."""
        total = 0
        with stream:
            while chunk := stream.read1(65536):  # type: ignore[attr-defined]
                total += len(chunk)
                self._printed = (self._printed + chunk)[-4096:]
                if total > PRINT_LIMIT:
                    self._flooded = True
                    return self._child.kill()

    def _send(self, frame: dict[str, object]) -> None:
        left = memoryview(json.dumps(frame).encode() + b"\n")
        deadline = time.monotonic() + self._limits.silence
        while left:
            if not self._writable.select(max(0.0, deadline - time.monotonic())):
                raise ScaffoldStopped("hung", f"did not take what it was sent for {self._limits.silence:g} s")
            try:
                left = left[os.write(self._in, left[:65536]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise self._ended() from None

    def _receive(self) -> _Frame:
        deadline, searched = time.monotonic() + self._limits.silence, 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            left = deadline - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                raise ScaffoldStopped("hung", f"no word for {self._limits.silence:g} s")
            chunk = os.read(self._out, 1 << 20)
            if not chunk:
                raise self._ended()
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

    def _ended(self) -> ScaffoldStopped:
        try:
            code = self._child.wait(EXIT_PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return ScaffoldStopped("hung", "closed its pipes and did not end")
        if self._child.violation:
            return ScaffoldStopped("crashed", f"the scaffold was stopped: {self._child.violation}")
        self._listener.join(1.0)
        if self._flooded:
            return ScaffoldStopped("flooded", f"printed more than {PRINT_LIMIT} bytes")
        words = self._printed.decode(errors="replace").strip().splitlines()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return ScaffoldStopped("crashed", f"the scaffold's process {how}{': ' + words[-1][:300] if words else ''}")


def open_to_all(folder: Path) -> None:
    """Root's sandboxes run under another account, which must be able to read this folder whatever root's umask is."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))


def _check(ask: Ask) -> None:
    """The child checks this too, in the attempt; a child that lies is stopped."""
    if len(ask.prompt) > PROMPT_LIMIT or len(ask.choices) > CHOICES_LIMIT or sum(map(len, ask.choices)) > PROMPT_LIMIT:
        raise ScaffoldStopped("flooded", f"a call with a prompt of {len(ask.prompt)} characters and {len(ask.choices)} choices")


def _said(answer: Sequence[str] | Refused) -> object:
    return {"error": answer.reason} if isinstance(answer, Refused) else list(answer)


def _order(items: Sequence[tuple[str, str]]) -> Callable[[tuple[str, int]], tuple[int, int]]:
    places = {item: place for place, (item, _) in enumerate(items)}
    return lambda key: (places[key[0]], key[1])
