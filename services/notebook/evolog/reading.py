"""Reads a project directory or an export: its runs, their events and trajectories, their audits, and views of them."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import duckdb

from events.codec import Event
from events.errors import NotFound
from events.fact import Fact
from events.gold import DriftFlagged
from events.judgement import ScoringFailed, TrajectoryScored
from events.kinds import DriftState, Purpose, SplitName
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import RunFinished, RunStarted
from replay.archive import query as archives
from replay.archive.rebuild import rebuild_from_history
from replay.audit.audit import Audit, AuditReport, audit_history, audit_passed
from replay.exports import folder
from replay.history import History
from replay.recorded import EventIndex, StoredEvent
from replay.report import Report
from replay.soundness import require_decided
from runtime.policies.interface import SampleRequest
from runtime.rollouts.attempt import request_reader
from runtime.run.loading import TaskAccess
from services.host.imports import find_export
from services.host.kept_audits import kept_audit
from services.host.node import Node
from services.host.passed_runs import load_passed
from services.host.reports import list_runs, load_report
from services.host.sources import load_history

from .tables import quoted, relation

if TYPE_CHECKING:
    from services.views.audit_pictures import Picture

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")
F = TypeVar("F", bound=Fact)


def open(path: str | Path = ".evolog") -> "Project":
    """A project directory, or the folder of an export. Nothing needs to be up, and nothing is changed.

    Raises `NotFound` where there is neither.
    """
    directory = Path(path)
    node = Node(directory)
    if not (folder.is_export(directory) or node.nats_dir.is_dir() or node.imports.is_dir()):
        raise NotFound(
            f"There is no project directory and no export at {directory}: name the `.evolog` of a run, or a folder "
            "that `evolog replay RUN --export` made."
        )
    return Project(directory)


class Project:
    """What is recorded in a project directory, or in an export, which holds one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"evolog.open({str(self.path)!r})"

    @property
    def is_export(self) -> bool:
        """Whether it is an export."""
        return folder.is_export(self.path)

    def runs(self) -> "list[RecordedRun]":
        """The runs, the oldest first, and then those that were imported. `view("runs")` has their figures."""
        if self.is_export:
            return [RecordedRun(self, folder.read_manifest(self.path).run)]
        return [RecordedRun(self, listed.run) for listed in _outside_of_loops(list_runs, self.path)]

    def run(self, name: str) -> "RecordedRun":
        """The run of that name, or the only one whose name begins so.

        Raises `NotFound` for none, and `UsageError` for several.
        """
        if self.is_export:
            (only,) = self.runs()
            if not only.name.startswith(name):
                raise NotFound(f"There is no run {name!r} in {self.path}, which is an export of {only.name}.")
            return only
        return RecordedRun(self, _outside_of_loops(load_report, self.path, name).run)

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """The answer to a query over all runs, as `evolog sql` gives it: a relation with `df()`, `arrow()` and more.

        The runs that were imported are not among them: `view` of such a run has its rows. Raises `UsageError` for SQL
        that is wrong or changes something, and as `evolog sql` where the archive is away.
        """
        return self._view(query, "answer")

    def view(self, name: str) -> duckdb.DuckDBPyRelation:
        """A view or table of the archive, such as `generations`, with the rows of all runs. Raises as `sql`."""
        return self._view(f"FROM {quoted(name)}", name)

    def _view(self, query: str, name: str) -> duckdb.DuckDBPyRelation:
        if self.is_export:
            return self.runs()[0].view(name) if query.startswith("FROM ") else self.runs()[0].sql(query)
        return relation(archives.query(self.path, query), name)


class RecordedRun:
    """One run. It is read when it is first asked for something, and is then as it was at that time."""

    def __init__(self, project: Project, name: str) -> None:
        self.project, self.name = project, name
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def __repr__(self) -> str:
        return f"{self.project!r}.run({self.name!r})"

    @property
    def _source(self) -> str:
        """What the run is found by in `_directory`: an export by its path."""
        return str(self.project.path.resolve()) if self.project.is_export else self.name

    @property
    def _directory(self) -> Path:
        return self.project.path.parent if self.project.is_export else self.project.path

    @property
    def _is_files(self) -> bool:
        return find_export(Node(self._directory), self._source) is not None

    @cached_property
    def _history(self) -> History:
        return _outside_of_loops(load_history, self._directory, self._source)

    @cached_property
    def _index(self) -> EventIndex:
        return EventIndex(self._history.everything)

    @cached_property
    def report(self) -> Report:
        """What `evolog show` prints: generations, scores, cost, and the auditor's table."""
        return _outside_of_loops(load_report, self._directory, self._source)

    @property
    def started(self) -> RunStarted:
        """The event that began it: its task, seed, levers, budget and all other settings."""
        return self._history.started

    @property
    def finished(self) -> RunFinished | None:
        """The event that ended it; None while it goes on."""
        return self._history.finished

    def events(self, *types: type[Fact]) -> Iterator[StoredEvent]:
        """Its events of these types, or all, in the order of the log: `.sequence`, and `.event` with its `.data`.

        A fork's past comes first. What cannot be read is left out, and so is a second event on a place that was taken.
        The auditor's events are not among them.
        """
        return (row for row in self._index.events if not types or isinstance(row.event.data, types))

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """The answer to a query over this run alone, with a fork's past. The tables are made when first asked for.

        Raises `UsageError` for SQL that is wrong or changes something.
        """
        return relation(archives.query_file(self._archive, query), "answer")

    def view(self, name: str) -> duckdb.DuckDBPyRelation:
        """A view or table of the archive, such as `generations`, with the rows of this run."""
        query = f"SELECT * FROM {quoted(name)} WHERE run = '{self.name}'"
        if self._is_files:
            return relation(archives.query_file(self._archive, query), name)
        return relation(archives.query(self._directory, query), name)

    @cached_property
    def _archive(self) -> Path:
        self._scratch = tempfile.TemporaryDirectory(prefix="evolog-")
        path = Path(self._scratch.name) / archives.ARCHIVE
        rebuild_from_history(self._history, path)
        return path

    def trajectories(self, purpose: Purpose | None = None, *, generation: int | None = None) -> "Iterator[Trajectory]":
        """Its attempts at items, those that failed too, in the order of the log: for one purpose, such as `dev`, and of
        one generation, or all.
        """
        requests, calls = self._by_id(RolloutsRequested), self._by_id(ModelCalled)
        read = request_reader(self._history.blobs)
        for row in self.events(TrajectoryRecorded, RolloutFailed):
            fact = row.event.data
            assert isinstance(fact, TrajectoryRecorded | RolloutFailed)
            requested = requests.get(fact.request)
            if requested is None or purpose not in (None, fact.purpose):
                continue
            if generation in (None, requested.generation):
                yield _trajectory(row.event, requested, self._index, calls, read)

    def _by_id(self, kind: type[F]) -> dict[str, F]:
        return {row.event.id: row.event.data for row in self._index.events if isinstance(row.event.data, kind)}

    def audit(self, *, task: str = "", trust_code: bool = False, fresh: bool = False) -> "AuditResult":
        """The audit of the run as it stands, as `evolog audit` computes it.

        `task` and `trust_code` are that command's flags for exports, whose code is run only where that is asked for.
        One that is kept is taken where nothing has changed since, unless it is to be `fresh`.
        """
        return AuditResult(_outside_of_loops(self._audited, task, trust_code, fresh))

    def _audited(self, task: str, trust_code: bool, fresh: bool) -> AuditReport:
        node, access = Node(self._directory), TaskAccess(folder=task, trusted=trust_code)
        if self._is_files:
            require_decided(self._history)
            return audit_history(self._history, access._replace(exported=True))
        access = access._replace(exported=False)
        if not fresh and (kept := kept_audit(node, self.name, access)):
            return kept
        run = load_passed(self._directory, self.name, lambda done, total: None)
        if isinstance(run, History):
            require_decided(run)
            return audit_history(run, access)
        return audit_passed(run, access)


@dataclass(frozen=True)
class ChatTurn:
    """What one side said in a call of the policy."""

    role: str
    """`user` or `assistant`; `text` for a prompt that the policy goes on with as it stands."""
    content: str


@dataclass(frozen=True)
class PolicyCall:
    """One completion that an attempt was given."""

    id: str
    """The id of its `model_called`."""
    messages: tuple[ChatTurn, ...]
    """The prompt as the policy read it, and the completion; the completion alone where prompts are private, and were
    left out of an export.
    """
    tokens: tuple[int, ...]
    """The completion's token ids."""
    logprobs: tuple[float, ...]
    """The log-probability of each in nats, at temperature 1 among the choices on offer."""
    choices: tuple[str, ...]
    """The texts on offer; empty for any text."""
    temperature: float
    cut: bool | None
    """Whether it ended because it reached its limit; None where that is not known."""


@dataclass(frozen=True)
class Trajectory:
    """One attempt at one item."""

    id: str
    """Of a failed one, the id of its `rollout_failed`."""
    request: str
    generation: int
    purpose: Purpose
    split: SplitName
    item: str
    attempt: int
    scaffold: str
    adapter: str
    answer: str | None
    reward: float | None
    """By the run's verifier; None where it has none."""
    outcome: str
    """The verifier's word for the answer, the kind of failure, or `not scored`."""
    failure: str
    """Why it did not run or was not scored, in a sentence; empty otherwise."""
    details: str
    """What the verifier says of the answer beyond its word."""
    seconds: float | None
    calls: tuple[PolicyCall, ...]

    @property
    def messages(self) -> tuple[ChatTurn, ...]:
        """The turns of all its calls, in order."""
        return tuple(turn for call in self.calls for turn in call.messages)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The token ids of all its completions, in order."""
        return tuple(token for call in self.calls for token in call.tokens)


@dataclass(frozen=True)
class AuditResult:
    """An audit, with its figures and its pictures. A notebook shows it as the page of `evolog audit --html`."""

    report: AuditReport

    @property
    def figures(self) -> Audit:
        """All that it says in figures, as `evolog audit --json` prints it."""
        return self.report.audit

    @property
    def state(self) -> DriftState:
        """`green`, `unknown`, `attenuated`, `suspect` or `drift`."""
        return self.report.audit.state

    @property
    def sentence(self) -> str:
        """The verdict in a sentence."""
        return self.report.audit.sentence

    @property
    def flags(self) -> tuple[DriftFlagged, ...]:
        """What the auditor said while the run went on."""
        return tuple(self.report.flags)

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be checked, as sentences."""
        return tuple(self.report.notes)

    def pictures(self) -> dict[str, bytes]:
        """Its pictures as PNG, by name; needs matplotlib."""
        return {picture.name: picture.png for picture in self._pictures()}

    def _pictures(self) -> "list[Picture]":
        from services.views.audit_pictures import pictures

        return list(pictures(self.report.audit))

    def _repr_html_(self) -> str:
        from services.views.audit_html import page

        return page(self.report, self._pictures())


def _trajectory(
    event: Event,
    requested: RolloutsRequested,
    index: EventIndex,
    calls: Mapping[str, ModelCalled],
    read: Callable[[ModelCalled], SampleRequest],
) -> Trajectory:
    fact, judgement = event.data, index.judgements.get(event.id)
    assert isinstance(fact, TrajectoryRecorded | RolloutFailed)
    ran = fact if isinstance(fact, TrajectoryRecorded) else None
    scored = judgement if isinstance(judgement, TrajectoryScored) else None
    if isinstance(fact, RolloutFailed):
        outcome, failure = str(fact.kind), fact.reason
    elif scored:
        outcome, failure = scored.outcome, ""
    else:
        outcome, failure = "not scored", judgement.reason if isinstance(judgement, ScoringFailed) else ""
    return Trajectory(
        id=event.id,
        request=fact.request,
        generation=requested.generation,
        purpose=fact.purpose,
        split=requested.split,
        item=fact.item,
        attempt=fact.attempt,
        scaffold=requested.scaffold,
        adapter=ran.adapter if ran else requested.adapter,
        answer=ran.answer if ran else None,
        reward=scored.reward if scored else None,
        outcome=outcome,
        failure=failure,
        details=scored.details if scored else "",
        seconds=ran.seconds if ran else None,
        calls=tuple(
            _call(use.call, called, use.completion, read)
            for use in (ran.calls if ran else ())
            if (called := calls.get(use.call))
        ),
    )


def _call(id: str, called: ModelCalled, place: int, read: Callable[[ModelCalled], SampleRequest]) -> PolicyCall:
    said = ChatTurn("assistant", called.texts[place])
    asked: tuple[ChatTurn, ...] = ()
    choices: tuple[str, ...] = ()
    try:
        request = read(called)
    except NotFound:  # private prompts are left out of exports
        pass
    else:
        asked = (ChatTurn("text" if request.plain else "user", request.prompt + request.hint),)
        choices = request.choices
    return PolicyCall(
        id=id,
        messages=(*asked, said),
        tokens=called.tokens[place],
        logprobs=called.logprobs[place],
        choices=choices,
        temperature=called.temperature,
        cut=called.cut[place] if called.cut else None,
    )


def _outside_of_loops(
    work: Callable[Parameters, Returned], *arguments: Parameters.args, **named: Parameters.kwargs
) -> Returned:
    """Call `work`, which runs an event loop of its own; in a thread where one is running here, as in Jupyter."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work(*arguments, **named)
    with ThreadPoolExecutor(1, "evolog") as thread:
        return thread.submit(work, *arguments, **named).result()
