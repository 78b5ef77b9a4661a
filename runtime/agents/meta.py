"""The Meta-Agent as a language model: from the task's text, sample items and the reference scaffold to a first
scaffold.
"""

from collections.abc import Callable, Mapping

from events.change import ProposalFailed, ScaffoldProposed
from events.fact import Fact, derive_seed
from runtime.agents.artefacts import PublishArtefact, publisher
from runtime.agents.context import PROMPTS, SAMPLES, prompt, sample_items, scaffold_text
from runtime.agents.endings import KINDS, Inspector, Proposal, endings
from runtime.agents.feedback import context_assembled
from runtime.agents.session import AgentSession, NoEnding, converse, tool
from tasks.contract import Public


def other_tasks() -> str:
    """The descriptions of tasks that the agent is conditioned on, besides the one at hand."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((PROMPTS / "tasks").glob("*.md")))


def write_first(
    session: AgentSession,
    task: str,
    reference: Mapping[str, str],
    inspector: Inspector,
    record: Callable[[Fact], Fact | None],
    public: Public,
) -> list[Fact]:
    """The first scaffold, or why there is none. What the agent is shown is recorded before it is asked.

    `public` is what it may read of the task.
    """
    parts = {
        "system": f"{prompt('meta_agent')}\n\n{prompt('scaffold')}",
        "other tasks": other_tasks(),
        "task": task,
        "samples": sample_items(public, SAMPLES, derive_seed(session.seed, "samples")),
        "reference": scaffold_text(reference),
    }
    parts = session.scanner.redacted(parts)
    opening = (
        f"## Other tasks\n{parts['other tasks']}\n\n## The task at hand\n{parts['task']}\n\n## Sample train "
        f"items\n{parts['samples']}\n\n"
        f"## The reference scaffold\n{parts['reference']}"
    )
    record(context_assembled(session, session.generation, parts, ()))
    ended = converse(
        session,
        parts["system"],
        opening,
        [tool(PublishArtefact, "publish_artefact"), tool(KINDS["propose_scaffold"], "propose_scaffold")],
        {"publish_artefact": publisher(session, record)},
        endings(inspector, ("propose_scaffold",)),
    )
    if isinstance(ended, NoEnding):
        return [session.scanner.redacted(ProposalFailed(generation=session.generation, reason=ended.reason))]
    assert isinstance(ended.value, Proposal)
    files, summary, report = ended.value
    tree = session.blobs.put_tree({path: text.encode() for path, text in files.items()})
    proposed = ScaffoldProposed(generation=session.generation, scaffold=tree, parent="", summary=summary, reason=report)
    return [session.scanner.redacted(proposed)]
