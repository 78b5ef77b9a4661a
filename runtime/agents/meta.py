"""The Meta-Agent as a language model: from the task's text, sample items and the reference scaffold to a first
scaffold.
"""

from collections.abc import Callable
from pathlib import Path

from events.change import ProposalFailed, ScaffoldProposed
from events.fact import Fact, derive_seed
from runtime.agents.changes import Changes
from runtime.agents.context import OTHERS, PROMPTS, SAMPLES, prompt, sample_items, scaffold_text
from runtime.agents.endings import KINDS, Inspector, Proposal, endings
from runtime.agents.feedback import READERS, Library, context_assembled, limits_text, scaffold_reader, tools_of
from runtime.agents.session import AgentSession, NoEnding, clipped, converse, tool
from tasks.contract import Public

OTHER_TASKS = PROMPTS / "tasks"
WITHOUT_ATTEMPTS = ("list_trajectories", "read_trajectory", "read_artefact")
"""Tools that there is nothing for before the first generation."""


def other_tasks(most: int, folder: Path = OTHER_TASKS, limit: int = OTHERS) -> str:
    """The descriptions of tasks that the agent is conditioned on, besides the one at hand: at most so many, each of
    another kind, and in all so many characters.
    """
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))][:most]
    return "\n".join(clipped(text, limit // len(texts)) for text in texts)


def write_first(
    session: AgentSession,
    task: str,
    library: Library,
    inspector: Inspector,
    record: Callable[[Fact], Fact | None],
    public: Public,
    examples: int = 4,
) -> list[Fact]:
    """The first scaffold, or why there is none. What the agent is shown is recorded before it is asked.

    `library` holds the reference scaffold, and `public` is what it may read of the task. Of other tasks it is shown
    `examples`.
    """
    texts = {
        "other tasks": ("Other tasks", other_tasks(examples)),
        "task": ("The task at hand", task),
        "samples": ("Sample train items", sample_items(public, SAMPLES, derive_seed(session.seed, "samples"))),
        "reference": ("The reference scaffold", scaffold_text(library.files)),
        "limits": ("Your limits", limits_text(session, library, inspector.limits)),
    }
    texts = {name: (title, text) for name, (title, text) in texts.items() if text or name != "other tasks"}
    system = "\n\n".join(prompt(name) for name in ("meta_agent", "scaffold", "figures"))
    parts = session.scanner.redacted({"system": system, **{name: text for name, (_, text) in texts.items()}})
    opening = "\n\n".join(f"## {title}\n{parts[name]}" for name, (title, _) in texts.items())
    record(context_assembled(session, session.generation, parts, ()))
    changes = Changes(library.files, {}, scaffold_reader(session.blobs))
    inspector = inspector._replace(changes=changes)
    tools = tools_of(session, library, changes, inspector, record)
    tools = {name: read for name, read in tools.items() if name not in WITHOUT_ATTEMPTS}
    ended = converse(
        session,
        parts["system"],
        opening,
        [*(tool(READERS[name], name) for name in tools), tool(KINDS["propose_scaffold"], "propose_scaffold")],
        tools,
        endings(inspector, ("propose_scaffold",)),
    )
    if isinstance(ended, NoEnding):
        return [session.scanner.redacted(ProposalFailed(generation=session.generation, reason=ended.reason))]
    assert isinstance(ended.value, Proposal)
    files, summary, report = ended.value
    tree = session.blobs.put_tree({path: text.encode() for path, text in files.items()})
    proposed = ScaffoldProposed(generation=session.generation, scaffold=tree, parent="", summary=summary, reason=report)
    return [session.scanner.redacted(proposed)]
