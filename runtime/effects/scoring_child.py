"""The process in which a task's own scoring code runs: see `scoring.py`, which starts it and gives it a socket."""

import contextlib
import itertools
import os
import socket
import sys
from pathlib import Path

import msgspec

from events.errors import hosts_own
from runtime.effects.scoring import CallBatch, JudgeAnswer, LoadTask, ScoringResult, call_in_child, result_of
from runtime.effects.tools import SandboxTools
from tasks.contract import Tools
from tasks.loading import Task, load


def main(descriptor: int) -> None:
    """Load a task, then make calls, until the socket ends."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, it goes first
    with socket.socket(fileno=descriptor) as parent:
        parent.set_inheritable(False)
        lines = parent.makefile("rb")
        process, numbers = os.getpid(), itertools.count()

        def send(result: ScoringResult) -> None:
            if os.getpid() != process:
                os._exit(1)  # a fork that a verifier made, and that came back here
            parent.sendall(msgspec.json.encode(msgspec.structs.replace(result, number=next(numbers))) + b"\n")

        def ask(prompt: str, max_tokens: int) -> str:
            send(ScoringResult(prompt=str(prompt), max_tokens=int(max_tokens)))
            answer = msgspec.json.decode(lines.readline(), type=JudgeAnswer)
            if answer.refused:
                raise RuntimeError(f"The judge model gave no answer: {answer.refused}")
            return answer.text

        wanted = msgspec.json.decode(lines.readline(), type=LoadTask)
        loaded: list[Task] = []
        send(result_of(lambda: loaded.append(_loaded(wanted, SandboxTools(ask, wanted.sandbox)))))
        while line := lines.readline():
            batch = msgspec.json.decode(line, type=CallBatch)
            for arguments in batch.calls:
                send(call_in_child(loaded[0], batch, arguments))


def _loaded(wanted: LoadTask, tools: Tools) -> Task:
    with hosts_own():
        task = msgspec.structs.replace(load(wanted.task), tools=tools)
        return task.with_verifier(wanted.source, wanted.source_name) if wanted.source else task


if __name__ == "__main__":
    main(int(sys.argv[1]))
