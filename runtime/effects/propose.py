"""Proposing: the first scaffold of a run, by the rules agent or by a language model."""

from collections.abc import Callable

from events.change import ScaffoldProposed, ScaffoldRequested
from events.fact import Fact
from runtime.agents.context import task_text
from runtime.agents.endings import Inspector
from runtime.agents.meta import write_first
from runtime.agents.session import AgentSession
from runtime.blobs.directory import Blobs
from runtime.run.loading import LoadedRun


def reference_scaffold(blobs: Blobs, loaded: LoadedRun, requested: ScaffoldRequested) -> ScaffoldProposed:
    """The task's reference scaffold as it is, which a run of the rules agent starts from."""
    return ScaffoldProposed(
        generation=requested.generation,
        scaffold=blobs.put_tree({path: text.encode() for path, text in loaded.task.scaffold().items()}),
        parent="",
        summary="the task's reference scaffold",
        reason="a run of the rules agent starts from the reference",
    )


def scaffold_by_model(
    session: AgentSession, loaded: LoadedRun, inspector: Inspector, record: Callable[[Fact], Fact | None]
) -> list[Fact]:
    """What a language model makes of the task and its reference scaffold, or why there is no scaffold.

    `record` appends what the model is shown before it is asked.
    """
    task = task_text(loaded.task.description, loaded.public, loaded.started.policy)
    return write_first(session, task, loaded.task.scaffold(), inspector, record, loaded.shown_public)
