"""Runs a scaffold in a process of its own. Started by `runtime/rollouts/host.py` as a script; imports nothing of
evolog.

It speaks JSON lines over the two descriptors that its arguments name. `solve` of many items runs in threads; when all
of them wait for the model, their calls are sent together. All attempts at one item that ask the same share one call,
and each gets the completion of its own number. A scaffold may call from threads of its own, but a call's ordinal is
then its place of arrival.
"""

import ctypes
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

BATCH_SIZE = 64
ANSWER_LIMIT = 16 * 1024
CALL_LIMIT = 1000
PROMPT_LIMIT = 200_000
CHOICES_LIMIT = 10_000
FRAME_SIZE = 4 * 1024 * 1024
GRACE = 1.0
"""Seconds without a new call after which the waiting calls are sent, though some attempts wait for something else."""


class Reply:
    """One completion of the model."""

    def __init__(self, text: str) -> None:
        self.text = text


class Item:
    """A question to answer."""

    def __init__(self, id: str, prompt: str) -> None:
        self.id = id
        self.prompt = prompt


class Example:
    """A train item with its label."""

    def __init__(self, prompt: str, label: str) -> None:
        self.prompt = prompt
        self.label = label


class Data:
    """What a scaffold may learn from: the labels' names, and the train items that it may see."""

    def __init__(self, labels: Sequence[str], train: Sequence[Sequence[str]]) -> None:
        self.labels = tuple(labels)
        self.train = tuple(Example(prompt, label) for prompt, label in train)


Entry = dict[str, Any]
"""A call's `ordinal`, its `answer` once there is one, and how many threads are `waiting` for it."""
Ask = tuple[Entry, dict[str, Any]]
"""A call that is to be sent: its entry, and what the host is told of it."""


class CallBatcher:
    """Gathers calls until all attempts wait for one.

    `active` counts items at work, `blocked` the threads that wait, which may be more.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.active = 0
        self.blocked = 0
        self.asks: list[Ask] = []
        self.entries: dict[tuple[str, str], Entry] = {}
        self.counts: dict[str, int] = {}

    def ask(self, item: str, key: str, request: Mapping[str, Any]) -> Entry:
        """The entry of a call, once it is answered."""
        with self.changed:
            entry = self.entries.get((item, key))
            if entry is None:
                ordinal = self.counts[item] = self.counts.get(item, -1) + 1
                entry = self.entries[item, key] = {"ordinal": ordinal, "answer": None, "waiting": 0}
                self.asks.append((entry, {"item": item, "ordinal": ordinal, **request}))
            if entry["answer"] is None:
                self.blocked += 1
                entry["waiting"] += 1
                self.changed.notify_all()
                while entry["answer"] is None:
                    self.changed.wait()
            return entry

    def take(self) -> list[Ask]:
        """The calls to send, as soon as no attempt can go on without them; none when all attempts are done."""
        with self.changed:
            while self.active and not (self.asks and self.blocked >= self.active):
                if not self.changed.wait(GRACE if self.asks else None):
                    break
            asks, self.asks = self.asks, []
            return sorted(asks, key=lambda ask: (ask[1]["item"], ask[1]["ordinal"])) if self.active else []

    def release(self, asks: Sequence[Ask], answers: Sequence[Any]) -> None:
        """Give the answers to the threads that wait for these calls."""
        with self.changed:
            for (entry, _), answer in zip(asks, answers, strict=True):
                entry["answer"] = answer
                self.blocked -= entry["waiting"]
            self.changed.notify_all()


class Model:
    """The policy, as one attempt sees it."""

    def __init__(self, batcher: CallBatcher, item: str, attempt: int) -> None:
        self._batcher = batcher
        self._item = item
        self._attempt = attempt
        self.uses: list[list[int]] = []

    def complete(self, prompt: str, choices: Sequence[str] = (), bias: Sequence[float] = ()) -> Reply:
        """One completion of the prompt: one of `choices` if there are any, `bias` added to their logits.

        Raises ValueError for a call that is malformed or too long, and RuntimeError, with the reason, for one that is
        refused.
        """
        request: dict[str, Any] = {
            "prompt": str(prompt),
            "choices": [str(choice) for choice in choices],
            "bias": [float(value) for value in bias],
        }
        check(**request)
        if len(self.uses) >= CALL_LIMIT:
            raise RuntimeError(f"more than {CALL_LIMIT} calls of the model in one attempt")
        entry = self._batcher.ask(self._item, json.dumps(request), request)
        self.uses.append([entry["ordinal"], self._attempt])
        if isinstance(entry["answer"], dict):
            raise RuntimeError(entry["answer"]["error"])
        return Reply(entry["answer"][self._attempt])


def check(prompt: str, choices: Sequence[str], bias: Sequence[float]) -> None:
    """Raise ValueError for a call that the host would not take."""
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


Solve = Callable[[Item, Model, Data], object]


def attempt_all(
    batcher: CallBatcher, solve: Solve, data: Data, item: Item, attempts: int, results: list[dict[str, Any]]
) -> None:
    """All attempts at one item, one after the other."""
    try:
        for attempt in range(attempts):
            model = Model(batcher, item.id, attempt)
            began = time.monotonic()
            outcome: dict[str, Any] = {"item": item.id, "attempt": attempt, "uses": model.uses}
            try:
                answer = solve(item, model, data)
                if answer is not None and not isinstance(answer, str):
                    outcome |= {
                        "kind": "nonsense",
                        "reason": f"solve returned {type(answer).__name__}, expected str or None",
                    }
                elif answer is not None and len(answer) > ANSWER_LIMIT:
                    outcome |= {
                        "kind": "nonsense",
                        "reason": f"an answer of {len(answer)} characters, at most {ANSWER_LIMIT}",
                    }
                elif answer is not None and not is_text(answer):
                    outcome |= {"kind": "nonsense", "reason": "the answer is no valid Unicode text"}
                else:
                    outcome["answer"] = answer
            except BaseException as wrong:
                outcome |= {"kind": "crashed", "reason": last_words(wrong)}
            outcome["seconds"] = time.monotonic() - began
            results.append(outcome)
    finally:
        with batcher.changed:
            batcher.active -= 1
            batcher.changed.notify_all()


def last_words(wrong: BaseException) -> str:
    """The exception and where in the scaffold it came from, in one line."""
    frames = traceback.extract_tb(wrong.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"{type(wrong).__name__}: {wrong}{where}"[:500].encode(errors="replace").decode()


def frames(asks: Sequence[Ask]) -> Iterator[list[Ask]]:
    """The calls in lists that each fit one frame."""
    part: list[Ask] = []
    size = 0
    for ask in asks:
        more = len(json.dumps(ask[1]))
        if part and size + more > FRAME_SIZE:
            yield part
            part, size = [], 0
        part.append(ask)
        size += more
    if part:
        yield part


def solve_all(channel: "Channel", solve: Solve, data: Data, items: Sequence[tuple[str, str]], attempts: int) -> None:
    """Solve the items in groups of `BATCH_SIZE`; send the outcomes of each group as soon as it is done."""
    for at in range(0, len(items), BATCH_SIZE):
        batcher = CallBatcher()
        results: list[dict[str, Any]] = []
        group = [Item(*item) for item in items[at : at + BATCH_SIZE]]
        batcher.active = len(group)
        for item in group:
            threading.Thread(
                target=attempt_all, args=(batcher, solve, data, item, attempts, results), daemon=True
            ).start()
        while asks := batcher.take():
            for part in frames(asks):
                channel.send({"ask": [request for _, request in part]})
                batcher.release(part, channel.receive()["answers"])
        channel.send({"done": results, "more": at + BATCH_SIZE < len(items)})


class Channel:
    """JSON lines to and from the host, on descriptors that the scaffold's prints cannot reach."""

    def __init__(self) -> None:
        read, write = map(int, sys.argv[1:])
        self._in, self._out = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        for descriptor in (read, write):
            os.set_inheritable(descriptor, False)
        os.dup2(2, 1)

    def send(self, frame: Mapping[str, Any]) -> None:
        """Write one frame."""
        self._out.write(json.dumps(frame).encode() + b"\n")
        self._out.flush()

    def receive(self) -> Any:
        """Read one frame; the end of the host is the end of this process."""
        line = self._in.readline()
        if not line:
            os._exit(0)
        return json.loads(line)


def confine_imports() -> None:
    """Die with the host, and import nothing from outside the interpreter's folders."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
    roots = (sys.prefix + os.sep, sys.base_prefix + os.sep)
    sys.path[:] = [path for path in sys.path if path.startswith(roots)]


def main() -> None:
    """Serve the host until it hangs up."""
    channel = Channel()
    order = channel.receive()
    confine_imports()
    try:
        data = Data(order["labels"], order["train"])
        sys.path.insert(0, order["scaffold"])
        import agent

        solve = agent.solve
    except BaseException as wrong:
        channel.send({"failed": last_words(wrong)})
        return
    channel.send({"ready": True})
    while True:
        order = channel.receive()
        solve_all(channel, solve, data, order["items"], order["attempts"])


if __name__ == "__main__":
    main()
