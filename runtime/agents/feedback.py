"""The Feedback-Agent as a language model: puts its prompt together, gives it tools to read with, and makes facts of how
it ends.
"""

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from algorithms.statistics import Estimate, is_share
from events.change import (
    ChildRunFinished,
    ChildRunRequested,
    ProposalFailed,
    ScaffoldProposed,
    WeightUpdateRequested,
)
from events.choice import ContextAssembled, FeedbackRequested, LeverChosen, ParentSelected
from events.codec import Event
from events.fact import Fact, derive_seed
from events.judgement import CandidateEvaluated, CandidateRechecked, StageEvaluated
from events.kinds import LeverChoice
from events.population import ArtefactPublished, CandidateAccepted, CandidateKept, CandidateRejected
from events.weights import WeightUpdateFailed, WeightUpdateFinished
from runtime.agents.ancestry import Ancestry, ancestry
from runtime.agents.artefacts import Artefact, PublishArtefact, ReadArtefact, artefacts_text, publisher, reader
from runtime.agents.changes import Changes
from runtime.agents.context import (
    ARTEFACTS,
    DROPPED,
    HISTORY,
    SCAFFOLD,
    TOKENS,
    ShownAttempt,
    describe_briefly,
    describe_fully,
    prompt,
    scaffold_text,
    select_attempts,
)
from runtime.agents.endings import (
    KINDS,
    ChildRunLimits,
    Ending,
    Inspector,
    Proposal,
    RequestChildRun,
    RequestWeightUpdate,
    Stop,
    endings,
)
from runtime.agents.proposal import TRIAL_ITEMS, TRIAL_SECONDS, fingerprint, offered_packages, validate_source
from runtime.agents.session import (
    CALLS,
    READ_LIMIT,
    RESULT_LIMIT,
    AgentSession,
    NoEnding,
    UnfitRequest,
    ValidEnding,
    arguments_of,
    clipped,
    converse,
    tool,
)
from runtime.agents.trials import MOST_ROLLOUTS, AskPolicy, Trials, TryScaffold, Workbench
from runtime.blobs.directory import Blobs
from runtime.rollouts.host import ScaffoldLimits

LISTED = 100
"""Most trajectories in one list."""
ROWS, CELL = 200, 500
"""Most rows of a query's answer; most characters of one value."""
HISTORY_TYPES = (
    ParentSelected,
    LeverChosen,
    ScaffoldProposed,
    WeightUpdateRequested,
    ChildRunRequested,
    ChildRunFinished,
    ProposalFailed,
    StageEvaluated,
    CandidateRechecked,
    CandidateEvaluated,
    CandidateAccepted,
    CandidateKept,
    CandidateRejected,
    WeightUpdateFinished,
    WeightUpdateFailed,
    ArtefactPublished,
)
"""What its history is made of."""
LEVERS: dict[str, LeverChoice] = {
    "propose_scaffold": "scaffold",
    "request_weight_update": "weights",
    "request_child_run": "child",
    "stop": "stop",
}
OPTIONAL = ("second", "beside", "artefacts", "rejected")
"""Parts that are left out where there is nothing to show."""
SECOND = "second:"
"""Stands before the paths of a second scaffold's files; no path of a scaffold holds it."""


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
    """Read a file of the present scaffold, of a second one as `second:PATH`, or of any earlier candidate's by `base`,
    the rejected ones included.
    """

    path: Annotated[str, msgspec.Meta(description="Empty: the names of all files.")] = ""
    base: Annotated[
        str,
        msgspec.Meta(
            description="`generation-3` for the candidate of generation 3, `trial-...` for one that was tried; empty "
            "for the present one."
        ),
    ] = ""


class Table(NamedTuple):
    """A query's answer."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Library(NamedTuple):
    """What the agent can read: attempts of the probe, any attempt at a train item by id, tables, the files of the
    scaffold and of a second one, and what earlier generations left.
    """

    attempts: Sequence[ShownAttempt]
    fetch: Callable[[str], ShownAttempt | None]
    query: Callable[[str], Table]
    """Raises `UnfitRequest` for a question that cannot be answered."""
    files: Mapping[str, str]
    second: Mapping[str, str] = {}
    artefacts: Sequence[Artefact] = ()
    candidates: Mapping[int, str] = {}
    """The digests of the scaffolds of earlier candidates, by generation."""
    workbench: Workbench | None = None
    """Where something can be tried out, if it can."""

    def readers(self, changes: Changes) -> dict[str, Callable[[str], str]]:
        """The tools by name."""
        return {
            "list_trajectories": self._list,
            "read_trajectory": self._read,
            "query": lambda arguments: table_text(self.query(arguments_of(Query, arguments).sql)),
            "read_scaffold": lambda arguments: self._file(changes, arguments),
            "read_artefact": reader(self.artefacts),
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

    def _file(self, changes: Changes, arguments: str) -> str:
        request = arguments_of(ReadScaffold, arguments)
        files = dict(changes.files(request.base))
        if not request.base:
            files |= {f"{SECOND}{path}": text for path, text in self.second.items()}
        if not request.path:
            return "\n".join(f"{path}: {len(files[path]):,} characters" for path in sorted(files))
        if request.path not in files:
            raise UnfitRequest(f"There is no file {request.path!r}; the scaffold holds {', '.join(sorted(files))}.")
        return files[request.path]


READERS: Mapping[str, type[msgspec.Struct]] = {
    "list_trajectories": ListTrajectories,
    "read_trajectory": ReadTrajectory,
    "query": Query,
    "read_scaffold": ReadScaffold,
    "read_artefact": ReadArtefact,
    "publish_artefact": PublishArtefact,
    "try_scaffold": TryScaffold,
    "ask_policy": AskPolicy,
}


def tools_of(
    session: AgentSession,
    library: Library,
    changes: Changes,
    inspector: Inspector,
    record: Callable[[Fact], Fact | None],
    published: Sequence[str] = (),
) -> dict[str, Callable[[str], str]]:
    """The tools of a conversation by name, as far as there is something that they could be used on."""
    readers = {**library.readers(changes), "publish_artefact": publisher(session, record, published)}
    if library.workbench is not None:
        trials = Trials(
            session, changes, lambda files: validate_source(files, inspector.hidden), library.workbench, record
        )
        readers |= {"try_scaffold": trials.try_scaffold, "ask_policy": trials.ask_policy}
    return readers


def limits_text(session: AgentSession, library: Library, limits: ScaffoldLimits) -> str:
    """What the agent may use, and what its scaffold may."""
    bench = library.workbench
    lines = [
        f"Your conversation: {CALLS} answers, the last of them an ending; {session.model.output:,} tokens in each "
        f"answer, thoughts included; {RESULT_LIMIT:,} characters of one tool's answer, {READ_LIMIT:,} of all.",
        f"A scaffold: {limits.idle_timeout:g} s without a word in `prepare` or in one attempt, "
        f"{limits.shard_timeout:g} s for a shard of attempts, {limits.memory >> 30} GiB of memory, "
        f"{limits.calls:,} calls of the model in an attempt; before it costs a rollout, {TRIAL_SECONDS} s for "
        f"{TRIAL_ITEMS} items.",
        f"Modules that it can import, besides Python's own: {', '.join(offered_packages())}.",
    ]
    if bench is not None:
        left = "as many rollouts as you like" if bench.rollouts_left is None else f"{bench.rollouts_left:,} rollouts"
        lines.append(f"Trials: {left} in all, {MOST_ROLLOUTS} in one. They are taken from what the run has left.")
    return "\n".join(lines)


def may_know(requested: FeedbackRequested, fact: Any) -> bool:
    """Whether an agent may know a fact of a generation: it is settled, or the agent published it before a crash."""
    own = isinstance(fact, ArtefactPublished) and fact.generation == requested.generation
    return own or bool(fact.generation <= requested.known)


class FeedbackInput(NamedTuple):
    """One request for feedback, as the agent gets to know it. `figures` are rates and means of the probe."""

    requested: FeedbackRequested
    task: str
    figures: Mapping[str, float]
    budget: str
    history: Sequence[Event]
    """Of `HISTORY_TYPES`, and of settled generations alone; of its own, what it has published already."""
    child_runs: ChildRunLimits | None = None
    """What a child run may be ordered with, where one may."""

    def endings(self) -> tuple[str, ...]:
        """The names of the endings that are open to the agent."""
        choices = {*self.requested.levers, "stop", *(["child"] if self.child_runs else [])}
        return tuple(name for name, lever in LEVERS.items() if lever in choices)


def advise(
    session: AgentSession,
    case: FeedbackInput,
    library: Library,
    inspector: Inspector,
    record: Callable[[Fact], Fact | None],
) -> list[Fact]:
    """What the agent chose, and the change itself. What it is shown is recorded before it is asked."""
    number, levers, names = case.requested.generation, case.requested.levers, case.endings()
    read = scaffold_reader(session.blobs)
    changes = Changes(library.files, library.candidates, read)
    inspector = inspector._replace(
        changes=changes,
        judged=lambda files: judged_before(case.history, case.requested, read).get(fingerprint(files), ""),
    )
    chosen = select_attempts(library.attempts, TOKENS, derive_seed(session.seed, "context", number))
    texts = {
        "task": ("The task", case.task),
        "scaffold": ("The present scaffold", scaffold_text(library.files)),
        "second": ("A second scaffold, whose ideas you may use", scaffold_text(library.second, SCAFFOLD // 2, SECOND)),
        "figures": ("How it fares", figures_text(case, library.attempts)),
        "history": ("What was tried before", history_text(case.history, case.requested)),
        "rejected": ("Scaffolds that were rejected", rejected_text(case.history, case.requested, read)),
        "beside": ("What is under way at this moment", beside_text(case.requested.beside)),
        "artefacts": ("What earlier generations left", artefacts_text(library.artefacts, ARTEFACTS)),
        "trajectories": (
            f"{len(chosen)} of {len(library.attempts)} attempts at train items",
            "\n\n".join(describe_briefly(attempt) for attempt in chosen),
        ),
        "limits": ("Your limits", limits_text(session, library, inspector.limits)),
    }
    texts = {name: (title, text) for name, (title, text) in texts.items() if text or name not in OPTIONAL}
    system = [
        prompt(name)
        for name in ("feedback_agent", "scaffold", "figures", *(["learning"] if "weights" in levers else []))
    ]
    parts = session.scanner.redacted(
        {"system": "\n\n".join(system), **{name: text for name, (_, text) in texts.items()}}
    )
    opening = "\n\n".join(f"## {title}\n{parts[name]}" for name, (title, _) in texts.items())
    opening = f"{opening}\n\nEndings open to you: {', '.join(names)}."
    record(context_assembled(session, number, parts, tuple(attempt.id for attempt in chosen)))
    own = [
        event.data.name
        for event in case.history
        if isinstance(event.data, ArtefactPublished) and event.data.generation == number
    ]
    readers = tools_of(session, library, changes, inspector, record, own)
    tools = [*(tool(READERS[name], name) for name in readers), *(tool(KINDS[name], name) for name in names)]
    ended = converse(session, parts["system"], opening, tools, readers, endings(inspector, names, case.child_runs))
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
    generation = case.requested.generation

    def chosen_lever(lever: LeverChoice, action: str, reason: str) -> LeverChosen:
        # how likely a model was to choose this is not known, unless a schedule chose for it
        return LeverChosen(
            generation=generation,
            lever=lever,
            action=action,
            reason=reason,
            propensities=dict(case.requested.propensities),
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
                    generation=generation, scaffold=tree, parent=case.requested.scaffold, summary=summary, reason=report
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
        case ValidEnding(value=RequestChildRun() as child):
            return [
                chosen_lever("child", "request_child_run", child.reason),
                ChildRunRequested(
                    generation=generation,
                    levers=tuple(dict.fromkeys(child.levers)),
                    generations=child.generations,
                    rollouts=child.rollouts,
                    reason=child.reason,
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
    own: list[str] = []
    others: list[str] = []
    for one in scores:
        text = f"dev {one.score:.4f} [{one.low:.4f}, {one.high:.4f}], generation {one.generation}"
        (own if one.candidate == case.requested.candidate else others).append(text)
    candidates = "; ".join(own[-1:]) + ("\nother candidates: " + "; ".join(others) if others else "")
    outcomes = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    rates = ", ".join(f"{name} {value:g}" for name, value in case.figures.items())
    return f"{candidates}\nattempts of the probe: {outcomes}\n{rates}\n{case.budget}"


def beside_text(beside: Sequence[int]) -> str:
    """That others change the same candidate at this moment, if any do."""
    if not beside:
        return ""
    numbers = ", ".join(map(str, beside))
    return (
        f"The same candidate is being changed {len(beside)} times more, in generation {numbers}, by agents that are "
        "shown what you are shown. You cannot know what they try: it is likely to be what comes to mind first. Try "
        "something else that you expect to gain."
    )


def history_text(history: Sequence[Event], requested: FeedbackRequested, limit: int = HISTORY) -> str:
    """What was tried in each settled generation, and what came of it: first what changed the present candidate or an
    ancestor, then the rest. Where not all fits, the oldest of the rest is left out first.
    """
    line = ancestry(history, requested)
    lines: dict[int, list[str]] = {}
    for event in history:
        fact: Any = event.data
        if fact.generation > requested.known:
            continue
        text = _history_line(fact)
        lines.setdefault(fact.generation, []).extend([text] if text else [])
    texts = {number: f"### {_title(number, line)}\n" + "\n".join(lines[number]) for number in sorted(lines)}
    near = [number for number in texts if number in line.generations]
    rest = [number for number in texts if number not in line.generations]
    while len(near) + len(rest) > 1 and sum(len(texts[number]) for number in (*near, *rest)) > limit:
        del (rest or near)[0]
    elsewhere = ["## From other candidates"] if near and rest else []
    shown = [*(texts[number] for number in near), *elsewhere, *(texts[number] for number in rest)]
    return clipped("\n\n".join(shown), limit) or "nothing yet"


def rejected_text(
    history: Sequence[Event],
    requested: FeedbackRequested,
    read: Callable[[str], Mapping[str, str]],
    limit: int = DROPPED,
) -> str:
    """What the scaffolds changed that were rejected, and why they were: the latest first, those of the lineage before
    the others, as far as there is room.
    """
    line = ancestry(history, requested)
    proposed: dict[int, ScaffoldProposed] = {}
    reasons: dict[int, str] = {}
    for event in history:
        match event.data:
            case ScaffoldProposed() as fact if fact.generation <= requested.known and fact.parent:
                proposed[fact.generation] = fact
            case CandidateRejected(generation=number, reason=reason):
                reasons[number] = reason
    numbers = sorted(reasons.keys() & proposed.keys(), key=lambda number: (number in line.generations, number))
    parts: list[str] = []
    for number in reversed(numbers):
        fact = proposed[number]
        changed = clipped(changed_lines(read(fact.parent), read(fact.scaffold)), limit // 4)
        part = f"### generation {number}: {fact.summary}\nrejected: {clipped(reasons[number], 500)}\n{changed}"
        if sum(map(len, parts)) + len(part) > limit:
            left = len(numbers) - len(parts)
            parts.append(f"and {left} more, earlier: read_scaffold shows them by `base`")
            break
        parts.append(part)
    return "\n\n".join(parts)


def changed_lines(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """The difference between two scaffolds."""
    return "\n".join(
        line
        for path in sorted(before.keys() | after.keys())
        for line in difflib.unified_diff(
            before.get(path, "").splitlines(), after.get(path, "").splitlines(), path, path, n=2, lineterm=""
        )
    )


def judged_before(
    history: Sequence[Event], requested: FeedbackRequested, read: Callable[[str], Mapping[str, str]]
) -> dict[str, str]:
    """What became of each scaffold that was judged with the present adapter, by `fingerprint`, in words; the candidate
    that is to be changed is not among them.
    """
    verdicts: dict[int, str] = {}
    scored: dict[int, CandidateEvaluated] = {}
    for event in history:
        match event.data:
            case CandidateEvaluated() as fact if fact.generation <= requested.known:
                scored[fact.generation] = fact
            case CandidateAccepted(generation=number):
                verdicts[number] = "was accepted"
            case CandidateKept(generation=number):
                verdicts[number] = "was kept"
            case CandidateRejected(generation=number, reason=reason):
                verdicts[number] = f"was rejected ({clipped(reason, 300)})"
    return {
        fingerprint(read(fact.scaffold)): f"generation {number} judged the same code with the same weights: it scored "
        f"dev {fact.score:.4f} and {verdicts.get(number, 'has no verdict yet')}."
        for number, fact in sorted(scored.items())
        if fact.adapter == requested.adapter and fact.scaffold != requested.scaffold
    }


def scaffold_reader(blobs: Blobs) -> Callable[[str], Mapping[str, str]]:
    """A function from a scaffold's digest to its files."""

    @functools.cache
    def read(digest: str) -> Mapping[str, str]:
        return {path: data.decode(errors="replace") for path, data in blobs.get_tree(digest).items()}

    return read


def scaffolds_of(history: Sequence[Event], known: int) -> dict[int, str]:
    """The scaffold of each settled generation that made or judged one."""
    found: dict[int, str] = {}
    for event in history:
        match event.data:
            case ScaffoldProposed(generation=number, scaffold=scaffold) if number <= known:
                found[number] = scaffold
            case CandidateEvaluated(generation=number, scaffold=scaffold) if number <= known:
                found[number] = scaffold
    return found


def _title(number: int, line: Ancestry) -> str:
    origin = [f"from generation {line.parents[number]}"] if number in line.parents else []
    role = ["the present candidate" if number == line.path[-1] else "an ancestor"] if number in line.path else []
    notes = "; ".join(origin + role)
    return f"generation {number} ({notes})" if notes else f"generation {number}"


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
            right = is_share(Estimate(fact.score, fact.low, fact.high), fact.items - fact.failed)
            names = ("pass@1", "pass@k") if right else ("probe: mean reward", "mean of the best of an item")
            probe = f"{names[0]} {fact.pass_at_1:.3f}, {names[1]} {fact.pass_at_k:.3f}"
            return f"dev {fact.score:.4f} [{fact.low:.4f}, {fact.high:.4f}], {probe}, {fact.failed} failed"
        case ChildRunRequested():
            return f"child run: {', '.join(fact.levers)}, up to {fact.generations} generations"
        case ChildRunFinished():
            return f"the child run took {fact.rollouts} rollouts: {clipped(fact.reason, 500)}"
        case StageEvaluated(passed=False):
            return f"after {fact.items} dev items: {fact.reason}"
        case CandidateRechecked():
            return f"asked again, against the best so far: {fact.difference:+.4f} [{fact.low:+.4f}, {fact.high:+.4f}]"
        case CandidateAccepted():
            return f"accepted: {fact.reason}"
        case CandidateKept():
            return f"kept, though not the best: {fact.reason}"
        case CandidateRejected():
            return f"rejected: {clipped(fact.reason, 1000)}"
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
