"""Starts runs as `evolog run` does, by that command in a process of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import msgspec

from events.errors import UserError
from services.host.supervisor import with_root

from .reading import Project, RecordedRun

COMMAND = (sys.executable, "-P", "-m", "services.cli", "run")
_ERRORS = {error.code: error for error in UserError.__subclasses__()}


class _Ordered(msgspec.Struct):
    """Of a report, which run it is of."""

    run: str


def run(
    task: str | Path,
    *,
    directory: str | Path = ".evolog",
    name: str | None = None,
    seed: int | None = None,
    generations: int | None = None,
    budget: str | None = None,
    levers: str | None = None,
    policy: str | None = None,
    agent: str | None = None,
    verifier: str | None = None,
    algorithm: str | None = None,
    group_size: int | None = None,
    strategy: str | None = None,
    width: int | None = None,
    schedule: str | None = None,
    wait: bool = True,
    **settings: str | int,
) -> RecordedRun:
    """Start a run of a task, and follow it to the end of its audit; without `wait`, leave it to the services.

    What is None is as `evolog run` has it: from variables, evolog.toml, the task, or a default. `settings` are other
    flags of that command by name. Services that are not up are started, as that command does. What it says on the way
    stands on stderr. An interrupt is handed on to it once.

    Raises `UserError`, with the exit code of the command, where no run came of it.
    """
    said = dict(
        name=name,
        seed=seed,
        generations=generations,
        budget=budget,
        levers=levers,
        policy=policy,
        agent=agent,
        verifier=verifier,
        algorithm=algorithm,
        group_size=group_size,
        strategy=strategy,
        width=width,
        schedule=schedule,
        **settings,
    )
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in said.items() if value is not None]
    code, out, errors = _command([str(task), "--dir", str(directory), *flags, "--json" if wait else "--detach"])
    if not out.strip():
        sentence = next((line for line in reversed(errors) if line.startswith(("evolog: ", "Error: "))), "")
        sentence = sentence.partition(": ")[2] or f"`evolog run` ended with exit code {code}, and said no more."
        raise _ERRORS.get(code, UserError)(sentence, code=code)
    started = msgspec.json.decode(out, type=_Ordered).run if wait else out.strip()
    return Project(Path(directory)).run(started)


def _command(arguments: list[str]) -> tuple[int, str, list[str]]:
    """The command to its end: exit code, what stood on stdout, and the lines of stderr, which are passed on."""
    # in a session of its own: an interrupt of the notebook's whole group would reach it twice
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=with_root(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    errors: list[str] = []
    assert process.stdout and process.stderr
    passing = threading.Thread(target=_pass_on, args=(process.stderr, errors), daemon=True)
    passing.start()
    try:
        with process.stdout:
            out = process.stdout.read()
        code = process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        process.wait()
        raise
    finally:
        passing.join()
    return code, out, errors


def _pass_on(stream: IO[str], lines: list[str]) -> None:
    with stream:
        for line in stream:
            lines.append(line.rstrip("\n"))
            sys.stderr.write(line)
