"""A run with its task, as this host has it."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from events.errors import CheckFailed, UserError
from events.run import RunStarted
from runtime.blobs.directory import Blobs
from runtime.run.confined_verifier import ConfinedVerifier
from tasks.contract import Item, Public
from tasks.loading import Task, known, load


class LoadedRun(NamedTuple):
    """A run, with its task as this host has it."""

    started: RunStarted
    task: Task
    public: Public

    @property
    def shown_public(self) -> Public:
        """What a language model may read of the task: of private prompts their digests alone, and no files."""
        if not self.started.private_prompts:
            return self.public
        hidden = (replace(example, prompt=digest_text(example.prompt), files={}) for example in self.public.train)
        return replace(self.public, train=tuple(hidden))

    def shown_text(self, prompt: str) -> str:
        """A prompt as a language model may read it: as it is, or its digest where prompts are private."""
        return digest_text(prompt) if self.started.private_prompts else prompt

    def items(self, ids: Collection[str]) -> dict[str, Item]:
        """Those of these items that are in the task's data, by id."""
        wanted = set(ids)
        found = {
            example.id: Item(example.id, example.prompt, example.group, example.files, example.metadata, example.name)
            for example in self.public.train
            if example.id in wanted
        }
        found |= {item.id: item for split in (self.public.dev, self.public.test) for item in split if item.id in wanted}
        return {id: found[id] for id in ids if id in found}


class TaskAccess(NamedTuple):
    """Which code is run for a recorded run: a task's is run with all rights of the user.

    Of an exported run, anyone may have written what the record names.
    """

    exported: bool = True
    """Whether the run came as an export; otherwise it is this directory's own, and what it names is the user's."""
    folder: str = ""
    """The task that the user names, in place of the one that the run does."""
    trusted: bool = False
    """Whether the user trusts the folder that an exported run names."""

    def load_task(self, named: str) -> Task:
        """The task of a run that names it so.

        Raises `UserError` for an exported run's that is none of evolog's own, unless the user names or trusts it; and
        as `tasks.loading.load`.
        """
        if self.exported and not (self.folder or self.trusted or named in known()):
            raise UserError(
                f"The run came as an export and names the task {named!r}, whose code is not run unasked: name the "
                "task's folder with --task FOLDER, or run what the export names with --trust-code.",
                code=77,
            )
        return load(self.folder or named)


def digest_text(prompt: str) -> str:
    """What stands in the place of a private prompt."""
    return f"[private: sha256 {hashlib.sha256(prompt.encode()).hexdigest()[:16]}, {len(prompt)} characters]"


OWN = TaskAccess(exported=False)
"""Of a run on this directory's own log."""


def load_run(run: str, started: RunStarted, blobs: Blobs, access: TaskAccess, work: Path) -> LoadedRun:
    """The run's task and data. The verifier that an exported run brings is run in the sandbox, in the folder `work`.

    Raises `CheckFailed` if this host's data is not what the run was started on, and as `TaskAccess.load_task`.
    """
    task = access.load_task(started.task)
    task = msgspec.structs.replace(task, sandbox=started.sandbox)
    public = task.public(started.seed)
    if public.digests != started.splits:
        named = access.folder or started.task
        raise CheckFailed(
            f"The data of task {named!r} on this host is not what run {run} was started on; "
            f"run `evolog data get {named}` here."
        )
    if started.verifier_code:
        source, name = blobs.get(started.verifier_code).decode(), f"the verifier of run {run}"
        if access.exported and not task.has_verifier(source):
            task = task.with_judge(ConfinedVerifier(source, name, task, work), name)
        else:
            task = task.with_verifier(source, name)
    return LoadedRun(started, task, public)
