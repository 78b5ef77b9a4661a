"""Proposing: the first scaffold of a run, by the rules agent or by a language model."""

from collections.abc import Callable

from msgspec.structs import replace

from events.change import ScaffoldProposed, ScaffoldRequested
from events.fact import Fact
from runtime.agents.context import task_text
from runtime.agents.endings import Inspector
from runtime.agents.feedback import Library, Table
from runtime.agents.meta import write_first
from runtime.agents.policy_text import policy_text
from runtime.agents.session import AgentSession
from runtime.agents.trials import Workbench
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


def reference_instead(blobs: Blobs, loaded: LoadedRun, requested: ScaffoldRequested, reason: str) -> ScaffoldProposed:
    """The reference scaffold in the place of a language model's that came to nothing, and why: without a start, the run
    would end with nothing.
    """
    return replace(
        reference_scaffold(blobs, loaded, requested),
        summary="the task's reference scaffold, since the Meta-Agent's proposal failed",
        reason=f"the Meta-Agent proposed nothing that can be used: {reason}",
    )


def scaffold_by_model(
    session: AgentSession,
    loaded: LoadedRun,
    inspector: Inspector,
    query: Callable[[str], Table],
    workbench: Workbench | None,
    record: Callable[[Fact], Fact | None],
) -> list[Fact]:
    """What a language model makes of the task and its reference scaffold, or why there is no scaffold.

    `query` asks the run's tables in SQL, and `workbench` is where something can be tried out. `record` appends what the
    model is shown before it is asked, and its trials.
    """
    task = task_text(loaded.task.description, loaded.public, policy_text(loaded.started))
    library = Library((), lambda id: None, query, loaded.task.scaffold(), workbench=workbench)
    return write_first(session, task, library, inspector, record, loaded.shown_public, loaded.started.examples)
