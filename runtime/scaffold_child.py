"""Runs a scaffold in a process of its own. Started by `runtime/scaffold_host.py` as a script; imports nothing of evolog.

It speaks JSON lines over what were its standard input and output. `solve` of many items runs in threads; when all of them wait
for the model, their calls are asked for together. All attempts at one item that ask the same share one call, and each is given
the completion that bears its number.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback

TOGETHER = 64
ANSWER_LIMIT = 16 * 1024
CALL_LIMIT = 1000


class Reply:
    """What the model said."""

    def __init__(self, text):
        self.text = text


class Item:
    """What is to be answered."""

    def __init__(self, id, prompt):
        self.id = id
        self.prompt = prompt


class Example:
    """A train item with its label."""

    def __init__(self, prompt, label):
        self.prompt = prompt
        self.label = label


class Data:
    """What a scaffold may learn from."""

    def __init__(self, labels, train):
        self.labels = tuple(labels)
        self.train = [Example(prompt, label) for prompt, label in train]


class Desk:
    """Where attempts wait for the model."""

    def __init__(self):
        self.changed = threading.Condition()
        self.active = 0
        self.blocked = 0
        self.asks = []
        self.known = {}
        self.counts = {}

    def ask(self, item, key, request):
        """The entry of a call, once its completions are there."""
        with self.changed:
            entry = self.known.get((item, key))
            if entry is None:
                ordinal = self.counts[item] = self.counts.get(item, -1) + 1
                entry = self.known[item, key] = {"ordinal": ordinal, "texts": None}
                self.asks.append((entry, {"item": item, "ordinal": ordinal, **request}))
            if entry["texts"] is None:
                self.blocked += 1
                self.changed.notify_all()
                while entry["texts"] is None:
                    self.changed.wait()
            return entry


class Model:
    """The policy, as one attempt sees it."""

    def __init__(self, desk, item, attempt):
        self._desk = desk
        self._item = item
        self._attempt = attempt
        self.uses = []

    def complete(self, prompt, choices=(), bias=(), max_tokens=64):
        """One completion of the prompt: one of `choices` if there are any, `bias` added to their logits."""
        request = {
            "prompt": str(prompt),
            "choices": [str(choice) for choice in choices],
            "bias": [float(value) for value in bias],
            "max_tokens": int(max_tokens),
        }
        if request["bias"] and len(request["bias"]) != len(request["choices"]):
            raise ValueError(f"{len(request['bias'])} biases for {len(request['choices'])} choices; give one for each, or none")
        if len(self.uses) >= CALL_LIMIT:
            raise RuntimeError(f"more than {CALL_LIMIT} calls of the model in one attempt")
        entry = self._desk.ask(self._item, json.dumps(request), request)
        self.uses.append([entry["ordinal"], self._attempt])
        return Reply(entry["texts"][self._attempt])


def attempt_all(desk, solve, data, item, attempts, results):
    """All attempts at one item, one after the other."""
    try:
        for attempt in range(attempts):
            model = Model(desk, item.id, attempt)
            began = time.monotonic()
            outcome = {"item": item.id, "attempt": attempt, "uses": model.uses}
            try:
                answer = solve(item, model, data)
                if answer is not None and not isinstance(answer, str):
                    outcome |= {"kind": "nonsense", "reason": f"solve returned {type(answer).__name__}, expected str or None"}
                elif answer is not None and len(answer) > ANSWER_LIMIT:
                    outcome |= {"kind": "nonsense", "reason": f"an answer of {len(answer)} characters, at most {ANSWER_LIMIT}"}
                else:
                    if answer is not None:
                        answer.encode()
                    outcome["answer"] = answer
            except UnicodeEncodeError:
                outcome |= {"kind": "nonsense", "reason": "the answer is no valid Unicode text"}
            except BaseException as wrong:
                outcome |= {"kind": "crashed", "reason": last_words(wrong)}
            outcome["seconds"] = time.monotonic() - began
            results.append(outcome)
    finally:
        with desk.changed:
            desk.active -= 1
            desk.changed.notify_all()


def last_words(wrong):
    """The exception and where in the scaffold it came from, in one line."""
    frames = traceback.extract_tb(wrong.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"{type(wrong).__name__}: {wrong}{where}"[:500]


def solve_all(channel, solve, data, items, attempts):
    """Solve the items in groups of `TOGETHER`; say what came of each group as soon as it is done."""
    for at in range(0, len(items), TOGETHER):
        desk, results = Desk(), []
        group = [Item(*item) for item in items[at : at + TOGETHER]]
        desk.active = len(group)
        for item in group:
            threading.Thread(target=attempt_all, args=(desk, solve, data, item, attempts, results), daemon=True).start()
        while True:
            with desk.changed:
                while desk.active and not (desk.asks and desk.blocked == desk.active):
                    desk.changed.wait()
                if not desk.active:
                    break
                asks = sorted(desk.asks, key=lambda ask: (ask[1]["item"], ask[1]["ordinal"]))
                desk.asks = []
            channel.send({"ask": [request for _, request in asks]})
            answers = channel.receive()["answers"]
            with desk.changed:
                for (entry, _), texts in zip(asks, answers, strict=True):
                    entry["texts"] = texts
                desk.blocked = 0  # every one that waited was answered
                desk.changed.notify_all()
        channel.send({"done": results, "more": at + TOGETHER < len(items)})


class Channel:
    """JSON lines to and from the host, on descriptors that the scaffold's prints cannot reach."""

    def __init__(self):
        self._in = os.fdopen(os.dup(0), "rb")
        self._out = os.fdopen(os.dup(1), "wb")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)

    def send(self, frame):
        """Write one frame."""
        self._out.write(json.dumps(frame).encode() + b"\n")
        self._out.flush()

    def receive(self):
        """Read one frame; the end of the host is the end of this process."""
        line = self._in.readline()
        if not line:
            os._exit(0)
        return json.loads(line)


def confine(limits):
    """Apply the limits, and die with the host."""
    for name, value in limits.items():
        number = getattr(resource, name)
        _, most = resource.getrlimit(number)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(number, (value, value))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
    roots = (sys.prefix + os.sep, sys.base_prefix + os.sep)
    sys.path[:] = [path for path in sys.path if path.startswith(roots)]


def main():
    """Serve the host until it hangs up."""
    channel = Channel()
    order = channel.receive()
    confine(order["limits"])
    try:
        with open(order["data"], encoding="utf-8") as file:
            data = Data(**json.load(file))
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
