"""The Feedback-Agent as a language model: puts its prompt together, gives it tools to read with, and makes facts of how
it ends.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from events.change import ProposalFailed, ScaffoldProposed, WeightUpdateRequested
from events.choice import ContextAssembled, LeverChosen
from events.codec import Event
from events.fact import Fact, derive_seed
from events.judgement import CandidateEvaluated
from events.kinds import LeverChoice
from events.population import CandidateAccepted, CandidateRejected
from events.weights import WeightUpdateFailed, WeightUpdateFinished
from runtime.agents.context import (
    HISTORY,
    TRAJECTORIES,
    ShownAttempt,
    describe_briefly,
    describe_fully,
    prompt,
    scaffold_text,
    select_attempts,
)
from runtime.agents.endings import KINDS, Ending, Inspector, Proposal, RequestWeightUpdate, Stop, endings
from runtime.agents.session import (
    AgentSession,
    NoEnding,
    UnfitRequest,
    ValidEnding,
    arguments_of,
    clipped,
    converse,
    tool,
)

LISTED = 100
"""Most trajectories in one list."""
ROWS, CELL = 200, 500
"""Most rows of a query's answer; most characters of one value."""
HISTORY_TYPES = (
    LeverChosen,
    ScaffoldProposed,
    WeightUpdateRequested,
    ProposalFailed,
    CandidateEvaluated,
    CandidateAccepted,
    CandidateRejected,
    WeightUpdateFinished,
    WeightUpdateFailed,
)
"""What its history is made of."""
LEVERS: dict[str, LeverChoice] = {"propose_scaffold": "scaffold", "request_weight_update": "weights", "stop": "stop"}


class ListTrajectories(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """List the attempts at probed train items by the present candidate, one line each."""

    outcome: Annotated[
        str, msgspec.Meta(description="right, wrong, unparsed, or a kind of failure; empty for all.")
    ] = ""
    label: Annotated[str, msgspec.Meta(description="The true label; empty for all.")] = ""
    item: Annotated[str, msgspec.Meta(description="The item's id; empty for all.")] = ""
    offset: Annotated[int, msgspec.Meta(ge=0)] = 0


class ReadTrajectory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read one attempt at a train item in full: the item, each call of the model with its prompt, choices and
    completion, the answer, the reward.
    """

    id: str


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask this run's tables a question in SQL (one SELECT, read-only)."""

    sql: str


class ReadScaffold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read a file of the present scaffold."""

    path: str


class Table(NamedTuple):
    """A query's answer."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Library(NamedTuple):
    """What the agent can read: attempts of the probe, any attempt at a train item by id, tables, and the scaffold's
    files.
    """

    attempts: Sequence[ShownAttempt]
    fetch: Callable[[str], ShownAttempt | None]
    query: Callable[[str], Table]
    """Raises `UnfitRequest` for a question that cannot be answered."""
    files: Mapping[str, str]

    def readers(self) -> dict[str, Callable[[str], str]]:
        """The tools by name."""
        return {
            "list_trajectories": self._list,
            "read_trajectory": self._read,
            "query": lambda arguments: table_text(self.query(arguments_of(Query, arguments).sql)),
            "read_scaffold": self._file,
        }

    def _list(self, arguments: str) -> str:
        request = arguments_of(ListTrajectories, arguments)
        matches = [
            attempt
            for attempt in self.attempts
            if attempt.outcome == (request.outcome or attempt.outcome)
            and attempt.label == (request.label or attempt.label)
            and attempt.item == (request.item or attempt.item)
        ]
        page = matches[request.offset : request.offset + LISTED]
        lines = [
            f"{len(matches)} attempts, {request.offset} to {request.offset + len(page)}: id, item, outcome, reward, "
            "truth, answer"
        ]
        for attempt in page:
            answer = "" if attempt.answer is None else clipped(attempt.answer, 60)
            reward = "-" if attempt.reward is None else f"{attempt.reward:g}"
            lines.append(f"{attempt.id} {attempt.item} {attempt.outcome} {reward} {attempt.label!r:.60} {answer!r}")
        return "\n".join(lines)

    def _read(self, arguments: str) -> str:
        request = arguments_of(ReadTrajectory, arguments)
        attempt = next((candidate for candidate in self.attempts if candidate.id == request.id), None) or self.fetch(
            request.id
        )
        if attempt is None:
            raise UnfitRequest(
                f"There is no attempt {request.id!r} at a train item in this run; list_trajectories and query give ids."
            )
        return describe_fully(attempt)

    def _file(self, arguments: str) -> str:
        request = arguments_of(ReadScaffold, arguments)
        if request.path not in self.files:
            raise UnfitRequest(
                f"There is no file {request.path!r}; the scaffold holds {', '.join(sorted(self.files))}."
            )
        return self.files[request.path]


READERS: Mapping[str, type[msgspec.Struct]] = {
    "list_trajectories": ListTrajectories,
    "read_trajectory": ReadTrajectory,
    "query": Query,
    "read_scaffold": ReadScaffold,
}


class FeedbackInput(NamedTuple):
    """One request for feedback, as the agent gets to know it. `figures` are rates and means of the probe."""

    generation: int
    scaffold: str
    levers: tuple[str, ...]
    task: str
    figures: Mapping[str, float]
    budget: str
    history: Sequence[Event]


def advise(
    session: AgentSession, case: FeedbackInput, library: Library, inspector: Inspector, record: Callable[[Fact], object]
) -> list[Fact]:
    """What the agent chose, and the change itself. What it is shown is recorded before it is asked."""
    chosen = select_attempts(library.attempts, TRAJECTORIES, derive_seed(session.seed, "context", case.generation))
    names = tuple(name for name, lever in LEVERS.items() if lever == "stop" or lever in case.levers)
    parts = {
        "system": "\n\n".join(
            prompt(name) for name in ("feedback_agent", "scaffold", *(["learning"] if "weights" in case.levers else []))
        ),
        "task": case.task,
        "scaffold": scaffold_text(library.files),
        "figures": figures_text(case, library.attempts),
        "history": history_text(case.history, case.generation),
        "trajectories": "\n\n".join(describe_briefly(attempt) for attempt in chosen),
    }
    parts = session.scanner.redacted(parts)
    opening = (
        f"## The task\n{parts['task']}\n\n## The present scaffold\n{parts['scaffold']}\n\n## How it "
        f"fares\n{parts['figures']}\n\n"
        f"## What was tried before\n{parts['history']}\n\n## {len(chosen)} of {len(library.attempts)} attempts at "
        "train items\n"
        f"{parts['trajectories']}\n\nEndings open to you: {', '.join(names)}."
    )
    record(context_assembled(session, case.generation, parts, tuple(attempt.id for attempt in chosen)))
    tools = [*(tool(kind, name) for name, kind in READERS.items()), *(tool(KINDS[name], name) for name in names)]
    ended = converse(session, parts["system"], opening, tools, library.readers(), endings(inspector, names))
    return [session.scanner.redacted(fact) for fact in facts_of_ending(session, case, ended)]


def context_assembled(
    session: AgentSession, generation: int, parts: Mapping[str, str], attempt_ids: tuple[str, ...]
) -> ContextAssembled:
    """The fact of what an agent is shown at the start, part by part."""
    digests = {name: session.blobs.put(text.encode()) for name, text in parts.items()}
    return ContextAssembled(
        generation=generation,
        blob=session.put(digests),
        trajectories=len(attempt_ids),
        parts=digests,
        shown=attempt_ids,
    )


def facts_of_ending(session: AgentSession, case: FeedbackInput, ended: ValidEnding[Ending] | NoEnding) -> list[Fact]:
    """The facts of an ending."""
    generation = case.generation

    def chosen_lever(lever: LeverChoice, action: str, reason: str) -> LeverChosen:
        # how likely a model was to choose this is not known
        return LeverChosen(
            generation=generation,
            lever=lever,
            action=action,
            reason=reason,
            propensities={},
            diagnosis=dict(case.figures),
        )

    match ended:
        case NoEnding(reason=reason, ending=ending):
            failed = ProposalFailed(generation=generation, reason=reason)
            return (
                [chosen_lever(LEVERS[ending], ending, "the agent's ending could not be used"), failed]
                if LEVERS.get(ending, "stop") != "stop"
                else [failed]
            )
        case ValidEnding(value=Proposal(files=files, summary=summary, report=report)):
            tree = session.blobs.put_tree({path: text.encode() for path, text in files.items()})
            return [
                chosen_lever("scaffold", "propose_scaffold", report.strip().partition("\n")[0]),
                ScaffoldProposed(
                    generation=generation, scaffold=tree, parent=case.scaffold, summary=summary, reason=report
                ),
            ]
        case ValidEnding(value=RequestWeightUpdate() as wanted):
            return [
                chosen_lever("weights", wanted.algorithm, wanted.reason),
                WeightUpdateRequested(
                    generation=generation,
                    algorithm=wanted.algorithm,
                    hyper=wanted.hyper,
                    rounds=wanted.rounds,
                    resample=wanted.resample,
                    memory=wanted.memory,
                    reason=wanted.reason,
                    restart=wanted.restart,
                    hints=wanted.hints,
                ),
            ]
        case ValidEnding(value=Stop(reason=reason)):
            return [chosen_lever("stop", "", reason)]
    raise AssertionError(ended)


def figures_text(case: FeedbackInput, attempts: Sequence[ShownAttempt]) -> str:
    """How the candidate fares, in figures."""
    kinds: dict[str, int] = {}
    for attempt in attempts:
        kinds[attempt.outcome] = kinds.get(attempt.outcome, 0) + 1
    scores = [event.data for event in case.history if isinstance(event.data, CandidateEvaluated)]
    best = [
        f"dev {evaluated.score:.4f} [{evaluated.low:.4f}, {evaluated.high:.4f}], generation {evaluated.generation}"
        for evaluated in scores
    ]
    outcomes = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    rates = ", ".join(f"{name} {value:g}" for name, value in case.figures.items())
    return f"{'; '.join(best)}\nattempts of the probe: {outcomes}\n{rates}\n{case.budget}"


def history_text(history: Sequence[Event], generation: int, limit: int = HISTORY) -> str:
    """What was tried in each generation before this one, and what came of it; the latest, where not all fits."""
    lines: dict[int, list[str]] = {}
    for event in history:
        fact: Any = event.data
        if fact.generation >= generation:
            continue
        line = _history_line(fact)
        lines.setdefault(fact.generation, []).extend([line] if line else [])
    texts = [f"### generation {number}\n" + "\n".join(lines[number]) for number in sorted(lines)]
    while len(texts) > 1 and sum(map(len, texts)) > limit:
        del texts[0]
    return clipped("\n\n".join(texts), limit) or "nothing yet"


def _history_line(fact: Fact) -> str:
    match fact:
        case LeverChosen():
            return f"lever: {fact.lever} {fact.action}: {clipped(fact.reason, 1000)}"
        case ScaffoldProposed():
            return f"scaffold: {fact.summary}\nreport: {clipped(fact.reason, 2000)}"
        case WeightUpdateRequested():
            return (
                f"weights: {fact.algorithm}, {fact.rounds} rounds, {fact.hyper}, resample {fact.resample}, memory "
                f"{fact.memory}"
            )
        case WeightUpdateFailed():
            return f"round {fact.round} changed nothing ({fact.kind}): {clipped(fact.reason, 500)}"
        case WeightUpdateFinished():
            return f"{fact.rounds} rounds played, {fact.rollouts} rollouts, {fact.solved} items solved: {fact.reason}"
        case CandidateEvaluated():
            probe = f"pass@1 {fact.pass_at_1:.3f}, pass@k {fact.pass_at_k:.3f}"
            return f"dev {fact.score:.4f} [{fact.low:.4f}, {fact.high:.4f}], {probe}, {fact.failed} failed"
        case CandidateAccepted():
            return f"kept: {fact.reason}"
        case CandidateRejected():
            return f"dropped: {clipped(fact.reason, 1000)}"
        case ProposalFailed():
            return f"no change came of it: {clipped(fact.reason, 1000)}"
    return ""


def table_text(table: Table) -> str:
    """A query's answer as lines of JSON lists, the first of them the columns."""
    rows = [msgspec.json.encode([_cell(value) for value in row]).decode() for row in table.rows[:ROWS]]
    more = ["[more rows]"] if len(table.rows) > ROWS else []
    return "\n".join([msgspec.json.encode(list(table.columns)).decode(), *rows, *more])


def _cell(value: Any) -> Any:
    return clipped(value, CELL) if isinstance(value, str) else value
