"""A run with its task, as this host has it."""

from typing import NamedTuple

from events.errors import CheckFailed
from events.run import RunStarted
from runtime.blobs.directory import Blobs
from tasks.contract import Public
from tasks.loading import Task, load


class LoadedRun(NamedTuple):
    """A run, with its task as this host has it."""

    started: RunStarted
    task: Task
    public: Public


def load_run(run: str, started: RunStarted, blobs: Blobs) -> LoadedRun:
    """The run's task and data; raises `CheckFailed` if this host's data is not what the run was started on."""
    task = load(started.task)
    if started.verifier_code:
        task = task.with_verifier(blobs.get(started.verifier_code).decode(), f"the verifier of run {run}")
    public = task.public(started.seed)
    if public.digests != started.splits:
        raise CheckFailed(
            f"The data of task {started.task!r} on this host is not what run {run} was started on; "
            f"run `evolog data get {started.task}` here."
        )
    return LoadedRun(started, task, public)
