"""Runs a scaffold in a process of its own. Started by `runtime/rollouts/host.py` as a script; imports nothing of
evolog.

It speaks JSON lines over the two descriptors that its arguments name. It loads the scaffold once, and lets it prepare
itself from its data; from then on it is a template. Each attempt is a fork of it, with a work folder of its own, so
that no attempt sees what another has left. Where the task wants shared state, attempts are threads of this process.

Up to `BATCH_SIZE` items are under way at once, and the attempts at one item follow each other. When all of them wait
for the model, their calls are sent together. All attempts at one item that ask the same share one call, and each gets
the completion of its own number. A scaffold may call from threads of its own, but a call's ordinal is then its place of
arrival.
"""

import contextlib
import ctypes
import gc
import json
import math
import os
import random
import select
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

BATCH_SIZE = 64
AT_ONCE = max(4, os.cpu_count() or 1)
"""Attempts that compute at the same time; no time counts of the others, which wait for the model or for their turn."""
ANSWER_LIMIT = 16 * 1024
CALL_LIMIT = 1000
PROMPT_LIMIT = 200_000
CHOICES_LIMIT = 10_000
FRAME_SIZE = 4 * 1024 * 1024
LINE_LIMIT = 8 * 1024 * 1024
"""Bytes of one line from an attempt."""
GRACE = 1.0
"""Seconds without a new call after which the waiting calls are sent, though some attempts wait for something else."""
EXIT_TIMEOUT = 1.0
"""Seconds from the end of an attempt's line to the end of its process, after which it is killed."""
COPY_LIMIT = 1024 * 1024
"""Bytes of a file that `prepare` left, up to which each attempt gets a copy of its own to write on."""
CHUNK, CHUNKS = 65536, 64
"""Bytes that are read or written at a time, and how often in turn from one line."""
CHILDREN = f"/proc/self/task/{os.getpid()}/children"
"""Lists the template's children."""
SEES_CHILDREN = os.access(CHILDREN, os.R_OK)
"""Not under Landlock, where an attempt's process group is killed in place of all that it started."""
LIBC = ctypes.CDLL(None)
_DEATH_SIGNAL, _DUMPABLE, _SUBREAPER = 1, 4, 36


class Reply:
    """One completion of the model."""

    def __init__(self, text: str) -> None:
        self.text = text


class Item:
    """A question to answer."""

    def __init__(self, id: str, prompt: str, files: Mapping[str, str] = {}) -> None:
        self.id = id
        self.prompt = prompt
        self.files = dict(files)


class Example:
    """A train item with its label."""

    def __init__(self, prompt: str, label: str | None, files: Mapping[str, str] = {}) -> None:
        self.prompt = prompt
        self.label = label
        self.files = dict(files)


class Data:
    """What a scaffold may learn from: the labels' names, and the train items that it may see."""

    def __init__(self, labels: Sequence[str], train: Sequence[Sequence[Any]]) -> None:
        self.labels = tuple(labels)
        self.train = tuple(Example(*example) for example in train)


Solve = Callable[[Item, "Model", Data], object]
Ask = Callable[[dict[str, Any]], dict[str, Any]]
"""From a call of the model to its answer: a `text`, or why it is `refused`."""


class Model:
    """The policy, as one attempt sees it."""

    def __init__(self, ask: Ask, attempt: int) -> None:
        self._ask = ask
        self._attempt = attempt
        self._calls = 0

    def complete(
        self, prompt: str, choices: Sequence[str] = (), bias: Sequence[float] = (), plain: bool = False
    ) -> Reply:
        """One completion of the prompt: one of `choices` if there are any, `bias` added to their logits.

        A language model reads a `plain` prompt as text that goes on, and any other as a user's turn in a chat.
        Raises ValueError for a call that is malformed or too long, and RuntimeError, with the reason, for one that is
        refused.
        """
        request: dict[str, Any] = {
            "prompt": str(prompt),
            "choices": [str(choice) for choice in choices],
            "bias": [float(value) for value in bias],
            "plain": bool(plain),
        }
        check(**request)
        if self._calls >= CALL_LIMIT:
            raise RuntimeError(f"more than {CALL_LIMIT} calls of the model in one attempt")
        self._calls += 1
        answer = self._ask(request)
        if "refused" in answer:
            raise RuntimeError(answer["refused"])
        return Reply(answer["text"])


def check(prompt: str, choices: Sequence[str], bias: Sequence[float], plain: bool) -> None:
    """Raise ValueError for a call that the host would not take."""
    if not isinstance(plain, bool):
        raise ValueError("plain is neither true nor false")
    if len(prompt) > PROMPT_LIMIT:
        raise ValueError(f"a prompt of {len(prompt)} characters, at most {PROMPT_LIMIT}")
    if len(choices) > CHOICES_LIMIT:
        raise ValueError(f"{len(choices)} choices, at most {CHOICES_LIMIT}")
    if (together := sum(map(len, choices))) > PROMPT_LIMIT:
        raise ValueError(f"choices of {together} characters together, at most {PROMPT_LIMIT}")
    if bias and len(bias) != len(choices):
        raise ValueError(f"{len(bias)} biases for {len(choices)} choices; give one for each, or none")
    if not all(map(math.isfinite, bias)):
        raise ValueError("a bias is not finite; leave a label out of the choices to rule it out")
    if not all(map(is_text, (prompt, *choices))):
        raise ValueError("the prompt or a choice is no valid Unicode text")


def is_text(text: str) -> bool:
    """Whether UTF-8 can hold it: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def outcome_of(solve: Solve, item: Item, model: Model, data: Data) -> dict[str, Any]:
    """What one attempt comes to: its answer, or the kind of failure and its reason."""
    try:
        answer = solve(item, model, data)
        if answer is not None and not isinstance(answer, str):
            return nonsense(f"solve returned {type(answer).__name__}, expected str or None")
        if answer is not None and len(answer) > ANSWER_LIMIT:
            return nonsense(f"an answer of {len(answer)} characters, at most {ANSWER_LIMIT}")
        if answer is not None and not is_text(answer):
            return nonsense("the answer is no valid Unicode text")
        return {"answer": answer}
    except BaseException as wrong:
        return failure("crashed", last_words(wrong))


def failure(kind: str, reason: str) -> dict[str, Any]:
    """The outcome of an attempt that failed."""
    return {"kind": kind, "reason": reason}


def nonsense(reason: str) -> dict[str, Any]:
    """The outcome of an attempt that said what has no meaning."""
    return failure("nonsense", reason)


def last_words(wrong: BaseException) -> str:
    """The exception and where in the scaffold it came from, in one line."""
    frames = traceback.extract_tb(wrong.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"{type(wrong).__name__}: {wrong}{where}"[:500].encode(errors="replace").decode()


class Caller:
    """An attempt's own end of its line: asks from any of the attempt's threads, and waits for the answer.

    Whichever thread waits first reads for all of them.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end, self._lines = end, end.makefile("rb")
        self._changed = threading.Condition()
        self._answers: dict[int, dict[str, Any]] = {}
        self._asked = 0
        self._reading = False

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """As `Ask`."""
        with self._changed:
            self._asked = number = self._asked + 1
            self.say({"ask": request, "number": number})
            while number not in self._answers:
                if self._reading:
                    self._changed.wait()
                    continue
                self._reading = True
                self._changed.release()
                try:
                    line = self._lines.readline()
                finally:
                    self._changed.acquire()
                    self._reading = False
                if not line:
                    raise SystemExit("nobody answers any more")
                answer = json.loads(line)
                self._answers[answer["number"]] = answer
                self._changed.notify_all()
            return self._answers.pop(number)

    def say(self, message: Mapping[str, Any]) -> None:
        """Write one line."""
        self._end.sendall(json.dumps(message).encode() + b"\n")


class Line:
    """JSON lines to and from the host or an attempt, read and written without waiting.

    `limit` is the most bytes of a line that is read.
    """

    def __init__(self, read: int, write: int, limit: float = math.inf) -> None:
        self.read, self.write, self._limit = read, write, limit
        self.ended = False
        self._unread, self.unsent = bytearray(), bytearray()
        for descriptor in (read, write):
            os.set_blocking(descriptor, False)
            os.set_inheritable(descriptor, False)

    def send(self, frame: Mapping[str, Any]) -> None:
        """Write one frame, or as much of it as is taken now; `flush` writes the rest."""
        self.unsent += json.dumps(frame).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write what is taken now."""
        try:
            while self.unsent:
                del self.unsent[: os.write(self.write, self.unsent[:CHUNK])]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent.clear()
            self.ended = True

    def receive(self) -> list[bytes]:
        """The lines that have come; `ended` says whether there can be more. Raises ValueError for one that is too
        long.
        """
        whole = False
        try:
            for _ in range(CHUNKS):
                chunk = os.read(self.read, CHUNK)
                self._unread += chunk
                whole = whole or b"\n" in chunk
                if not chunk:
                    self.ended = True
                    break
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        lines = []
        if whole:
            *lines, self._unread = self._unread.split(b"\n")
        if len(self._unread) > self._limit:
            raise ValueError(f"more than {self._limit} bytes in one line")
        return [bytes(line) for line in lines]


class Attempt:
    """One attempt under way, as the template sees it; `process` is 0 for a thread, which has no folder of its own."""

    def __init__(self, item: Item, number: int, process: int, end: socket.socket, folder: str) -> None:
        self.item, self.number, self.process, self.folder, self.end = item, number, process, folder, end
        self.line = Line(end.fileno(), end.fileno(), LINE_LIMIT)
        self.uses: list[list[int]] = []
        self.waiting: set[int] = set()
        """The numbers of its calls that are not answered."""
        self.began = self.since = time.monotonic()
        """When it began, and from when on it has been silent."""


class Call:
    """A call of the model for one item, which its attempts share."""

    def __init__(self, item: str, ordinal: int, request: Mapping[str, Any]) -> None:
        self.item, self.ordinal = item, ordinal
        self.frame = {"item": item, "ordinal": ordinal, **request}
        self.size = len(json.dumps(self.frame))
        self.answer: Any = None
        self.waiting: list[tuple[Attempt, int]] = []
        """Who waits for the answer, and the number of the call among the attempt's own."""

    def answer_to(self, attempt: Attempt) -> dict[str, Any]:
        """What an attempt is told: the completion of its own number, or why there is none."""
        if isinstance(self.answer, dict):
            return {"refused": self.answer["error"]}
        return {"text": self.answer[attempt.number]}


class Stage:
    """What attempts are played with: the scaffold's function, its data, and the folders that they may write in.

    `places` are folders that nothing but this sandbox writes in, the work folder first.
    """

    def __init__(self, solve: Solve, data: Data, places: Sequence[str], shared: bool) -> None:
        self.solve, self.data, self.places, self.shared = solve, data, places, shared
        self._present = {place: set(os.listdir(place)) for place in places}
        self._begun = 0

    def settle(self) -> None:
        """Begin to be a template. What is there by now can no more be written on, and this process is hard to reach.

        Raises RuntimeError where the scaffold has left threads or processes running, which no fork would have.
        """
        if threading.active_count() > 1 or children():
            raise RuntimeError("threads or processes were left running before the first item; start them within solve")
        for place, names in self._present.items():
            for name in names:
                make_read_only(os.path.join(place, name))
        LIBC.prctl(_DUMPABLE, 0, 0, 0, 0)  # attempts have the same account, and must not find its descriptors in /proc
        if SEES_CHILDREN:
            LIBC.prctl(_SUBREAPER, 1, 0, 0, 0)  # what an attempt leaves running becomes this process's child
        gc.freeze()

    def begin(self, item: Item, number: int, foreign: Sequence[int]) -> Attempt:
        """Start an attempt: a fork in a folder of its own, without the `foreign` descriptors, or a thread."""
        ours, theirs = socket.socketpair()
        if self.shared:
            threading.Thread(target=self._play, args=(item, number, theirs), daemon=True).start()
            return Attempt(item, number, 0, ours, "")
        self._begun += 1
        work = self.places[0]
        folder = os.path.join(work, f"attempt-{self._begun}")
        os.mkdir(folder)
        for name in self._present[work]:
            copy(os.path.join(work, name), os.path.join(folder, name))
        process = os.fork()
        if process == 0:
            self._become(item, number, folder, theirs, [ours.fileno(), *foreign])
        theirs.close()
        return Attempt(item, number, process, ours, folder)

    def _become(self, item: Item, number: int, folder: str, end: socket.socket, foreign: Sequence[int]) -> NoReturn:
        """Play an attempt in this process, which was forked for it."""
        status = 1
        try:
            LIBC.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
            for descriptor in foreign:
                os.close(descriptor)
            LIBC.prctl(_DUMPABLE, 1, 0, 0, 0)  # so that its memory can be counted
            if not SEES_CHILDREN:
                os.setpgid(0, 0)
            os.chdir(folder)
            os.environ["TMPDIR"] = os.environ["PWD"] = folder
            tempfile.tempdir = None
            draw_from(f"{item.id} {number}")
            self._play(item, number, end)
            sys.stdout.flush()
            sys.stderr.flush()
            status = 0
        finally:
            os._exit(status)

    def _play(self, item: Item, number: int, end: socket.socket) -> None:
        caller = Caller(end)
        caller.say({"outcome": outcome_of(self.solve, item, Model(caller.ask, number), self.data)})

    def end(self, attempt: Attempt, running: Sequence[Attempt]) -> None:
        """Kill an attempt's process and what it has left running, and remove its folder.

        Raises OSError where that cannot be removed.
        """
        attempt.end.close()
        if self.shared:
            return
        kill(attempt.process)
        if not SEES_CHILDREN:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(attempt.process, signal.SIGKILL)
        known = {other.process for other in running}
        while orphans := set(children()) - known:
            for orphan in orphans:
                kill(orphan)
        remove(attempt.folder)

    def clear(self, running: Sequence[Attempt]) -> bool:
        """Whether an attempt can begin, which must find nothing that those before it have written beside their own
        folders.

        That is removed, once no attempt runs that may need it.
        """
        if self.shared:
            return True
        known = {os.path.basename(attempt.folder) for attempt in running}
        left = [
            os.path.join(place, name)
            for place, present in self._present.items()
            for name in os.listdir(place)
            if name not in present and name not in known
        ]
        if left and running:
            return False
        for path in left:
            remove(path)
        return True


def make_read_only(path: str) -> None:
    """Take the right to write away from a file, or from a folder and all that is in it."""
    if os.path.islink(path):
        return
    if os.path.isdir(path):
        for name in os.listdir(path):
            make_read_only(os.path.join(path, name))
    os.chmod(path, os.stat(path).st_mode & 0o555)


def copy(source: str, target: str) -> None:
    """A copy of a file or folder that can be written on; a link to what is no file, or a large one."""
    if os.path.isdir(source) and not os.path.islink(source):
        os.mkdir(target)
        for name in os.listdir(source):
            copy(os.path.join(source, name), os.path.join(target, name))
    elif os.path.isfile(source) and not os.path.islink(source) and os.path.getsize(source) <= COPY_LIMIT:
        shutil.copyfile(source, target)
    else:
        os.symlink(source, target)


def remove(path: str) -> None:
    """Remove a file or folder if it is there, whatever rights an attempt has left on it and however deep it is; raises
    OSError where that cannot be.
    """
    with contextlib.suppress(OSError):
        return os.rmdir(path)  # most attempts write nothing
    if not os.path.isdir(path) or os.path.islink(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    folders, moved = [path], 0
    while folders:
        folder = folders.pop()
        os.chmod(folder, 0o700)
        with os.scandir(folder) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):  # moved up: there is no end to how deep folders can be
                    os.chmod(entry.path, 0o700)
                    moved += 1
                    folders.append(f"{path}-{moved}")
                    os.rename(entry.path, folders[-1])
                else:
                    os.unlink(entry.path)
        os.rmdir(folder)


def kill(process: int) -> None:
    """Kill a child, and wait for its end."""
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def children() -> list[int]:
    """The ids of this process's children, as far as they can be seen."""
    with contextlib.suppress(PermissionError), open(CHILDREN, encoding="ascii") as file:
        return [int(child) for child in file.read().split()]
    return []


def draw_from(seed: str) -> None:
    """Let what is random follow from a seed, where it comes from the generators that modules share."""
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(zlib.crc32(seed.encode()))


class Solving:
    """The attempts at an order's items. `limit` is the most seconds for which one may be silent."""

    def __init__(
        self, host: Line, stage: Stage, items: Sequence[Sequence[Any]], attempts: int, limit: float | None
    ) -> None:
        self._host, self._stage, self._attempts = host, stage, attempts
        self._limit = math.inf if limit is None or stage.shared else limit
        self._at_once = BATCH_SIZE if stage.shared else AT_ONCE
        self._todo = deque((Item(*item), 0) for item in items)
        """The attempts that can begin: the first at each item, and the next where one has ended."""
        self._under_way: set[str] = set()
        """The items of which an attempt has begun and not all have ended."""
        self._running: dict[int, Attempt] = {}
        """By descriptor."""
        self._calls: dict[str, dict[str, Call]] = {}
        """By item and by what is asked."""
        self._unsent: list[Call] = []
        self._sent: list[Call] = []
        self._answered: deque[tuple[Attempt, int, dict[str, Any]]] = deque()
        """Answers that wait until less is computed."""
        self._last_call = 0.0
        self._selector = selectors.PollSelector()
        self._selector.register(host.read, selectors.EVENT_READ)

    def run(self) -> None:
        """Play until each attempt has an outcome, and the host was sent it."""
        while self._todo or self._running or self._host.unsent:
            while self._computing() < self._at_once and (self._deliver() or self._begin()):
                pass
            self._send_calls()
            for key, _ in self._selector.select(self._patience()):
                if key.fd in (self._host.read, self._host.write):
                    self._listen_to_host()
                elif attempt := self._running.get(key.fd):
                    self._listen_to(attempt)
            for attempt in self._timed():
                if time.monotonic() - attempt.since > self._limit:
                    self._finish(attempt, failure("hung", f"no word for {self._limit:g} s"))

    def _computing(self) -> int:
        return sum(not attempt.waiting for attempt in self._running.values())

    def _timed(self) -> list[Attempt]:
        """The attempts whose silence counts."""
        return [attempt for attempt in self._running.values() if not attempt.waiting]

    def _deliver(self) -> bool:
        """Hand an attempt an answer that it waits for, if there is one."""
        if not self._answered:
            return False
        attempt, number, answer = self._answered.popleft()
        if self._running.get(attempt.line.read) is attempt:
            attempt.waiting.discard(number)
            attempt.since = time.monotonic()
            attempt.line.send({"number": number, **answer})
            self._watch(attempt.line)
        return True

    def _begin(self) -> bool:
        """Start the next attempt, if one can begin."""
        if not self._todo or (len(self._under_way) >= BATCH_SIZE and self._todo[0][0].id not in self._under_way):
            return False
        if not self._stage.clear(list(self._running.values())):
            return False
        item, number = self._todo.popleft()
        self._under_way.add(item.id)
        attempt = self._stage.begin(item, number, [self._host.read, self._host.write, *self._running])
        self._running[attempt.line.read] = attempt
        self._selector.register(attempt.line.read, selectors.EVENT_READ)
        return True

    def _send_calls(self) -> None:
        """Send the waiting calls that fit one frame, as soon as no attempt can go on without them."""
        if self._sent or not self._unsent:
            return
        if (self._computing() or self._answered) and time.monotonic() < self._last_call + GRACE:
            return
        self._unsent.sort(key=lambda call: (call.item, call.ordinal))
        while self._unsent and (not self._sent or sum(c.size for c in self._sent) + self._unsent[0].size <= FRAME_SIZE):
            self._sent.append(self._unsent.pop(0))
        self._host.send({"ask": [call.frame for call in self._sent]})
        self._watch(self._host)

    def _watch(self, line: Line) -> None:
        """Wait until a line takes more, where something is left to be sent."""
        if line.read == line.write:
            self._selector.modify(line.read, selectors.EVENT_READ | (selectors.EVENT_WRITE if line.unsent else 0))
        elif line.unsent and line.write not in self._selector.get_map():
            self._selector.register(line.write, selectors.EVENT_WRITE)
        elif not line.unsent and line.write in self._selector.get_map():
            self._selector.unregister(line.write)

    def _patience(self) -> float | None:
        """Seconds until something is due though nobody says anything; None for never."""
        due = min((attempt.since + self._limit for attempt in self._timed()), default=math.inf)
        if self._unsent and not self._sent:
            due = min(due, self._last_call + GRACE)
        return max(0.0, due - time.monotonic()) if math.isfinite(due) else None

    def _listen_to_host(self) -> None:
        self._host.flush()
        self._watch(self._host)
        for line in self._host.receive():
            frame = json.loads(line)
            if "stop" in frame:
                for attempt in list(self._running.values()):
                    if attempt.number == frame["stop"]:
                        self._finish(attempt, failure("hung", frame["reason"]))
                continue
            sent, self._sent = self._sent, []
            for call, answer in zip(sent, frame["answers"], strict=True):
                call.answer = answer
                self._answered += ((attempt, number, call.answer_to(attempt)) for attempt, number in call.waiting)
        if self._host.ended:
            os._exit(0)

    def _listen_to(self, attempt: Attempt) -> None:
        """Take in what an attempt says. It may have been tampered with: what has no meaning ends it, and it alone."""
        outcome = None
        try:
            attempt.line.flush()
            self._watch(attempt.line)
            for line in attempt.line.receive():
                message = json.loads(line)
                if "outcome" in message:
                    outcome = sound(message["outcome"])
                    break
                self._ask(attempt, int(message["number"]), message["ask"])
        except Exception as wrong:
            outcome = nonsense(f"the attempt's process sent what cannot be read: {last_words(wrong)}"[:500])
        if outcome is None and attempt.line.ended:
            outcome = death(attempt)
        if outcome is not None:
            self._finish(attempt, outcome)

    def _ask(self, attempt: Attempt, number: int, request: Mapping[str, Any]) -> None:
        check(**request)
        if len(attempt.uses) >= CALL_LIMIT:
            raise ValueError(f"more than {CALL_LIMIT} calls")
        calls = self._calls.setdefault(attempt.item.id, {})
        call = calls.get(key := json.dumps(request))
        if call is None:
            call = calls[key] = Call(attempt.item.id, len(calls), request)
            self._unsent.append(call)
            self._last_call = time.monotonic()
        attempt.uses.append([call.ordinal, attempt.number])
        attempt.waiting.add(number)
        if call.answer is None:
            call.waiting.append((attempt, number))
        else:
            self._answered.append((attempt, number, call.answer_to(attempt)))

    def _finish(self, attempt: Attempt, outcome: dict[str, Any]) -> None:
        """End an attempt, and tell the host what came of it."""
        seconds = time.monotonic() - attempt.began
        self._selector.unregister(attempt.line.read)
        del self._running[attempt.line.read]
        self._stage.end(attempt, list(self._running.values()))
        about = {"item": attempt.item.id, "attempt": attempt.number, "uses": attempt.uses, "seconds": seconds}
        self._host.send({"done": [{**about, **outcome}]})
        self._watch(self._host)
        if attempt.number + 1 < self._attempts:
            self._todo.appendleft((attempt.item, attempt.number + 1))
        else:
            self._under_way.discard(attempt.item.id)
            self._calls.pop(attempt.item.id, None)


def sound(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """An outcome as `outcome_of` gives it; raises ValueError for any other."""
    match outcome:
        case {"answer": None}:
            return {"answer": None}
        case {"answer": str(answer)} if len(answer) <= ANSWER_LIMIT and is_text(answer):
            return {"answer": answer}
        case {"kind": "crashed" | "nonsense" as kind, "reason": str(reason)} if len(reason) <= 500 and is_text(reason):
            return failure(kind, reason)
    raise ValueError("an outcome that no attempt can have")


def death(attempt: Attempt) -> dict[str, Any]:
    """The failure of an attempt that has closed its line: how its process ended."""
    if not attempt.process:
        return failure("crashed", "the attempt has closed its line")
    handle = os.pidfd_open(attempt.process)
    try:
        if not select.select([handle], [], [], EXIT_TIMEOUT)[0]:
            return failure("hung", "closed its line and did not end")
    finally:
        os.close(handle)
    ended = os.waitid(os.P_PID, attempt.process, os.WEXITED | os.WNOWAIT)
    assert ended
    if ended.si_code == os.CLD_EXITED:
        return failure("crashed", f"the attempt's process exited with {ended.si_status}")
    return failure("crashed", f"the attempt's process was killed by {signal.Signals(ended.si_status).name}")


def confine_imports() -> None:
    """Die with the host, and import nothing from outside the interpreter's folders."""
    LIBC.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
    roots = (sys.prefix + os.sep, sys.base_prefix + os.sep)
    sys.path[:] = [path for path in sys.path if path.startswith(roots)]


def next_order(host: Line) -> Any:
    """The host's next frame; the end of the host is the end of this process."""
    while True:
        for line in host.receive():
            if "stop" not in (order := json.loads(line)):  # which came when its attempt had ended
                return order
        if host.ended:
            os._exit(0)
        select.select([host.read], [], [])


def load(order: Mapping[str, Any]) -> Stage:
    """The scaffold that an order names, ready for its attempts; raises whatever it raises."""
    data = Data(order["labels"], order["train"])
    sys.path.insert(0, order["scaffold"])
    import agent

    solve = agent.solve
    if prepare := getattr(agent, "prepare", None):
        prepare(data)
    stage = Stage(solve, data, order["places"], order["shared_state"])
    if not stage.shared:
        stage.settle()
    return stage


def main() -> None:
    """Serve the host until it hangs up."""
    host = Line(*map(int, sys.argv[1:]))
    os.dup2(2, 1)
    order = next_order(host)
    confine_imports()
    try:
        stage = load(order)
    except BaseException as wrong:
        return host.send({"failed": last_words(wrong)})
    host.send({"ready": True})
    while True:
        order = next_order(host)
        Solving(host, stage, order["items"], order["attempts"], order["limit"]).run()


if __name__ == "__main__":
    main()
