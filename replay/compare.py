"""Compares two runs: their configurations, decisions, generations, scaffolds and scores."""

import asyncio
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

import msgspec

from events.codec import Event
from events.errors import UserError
from events.judgement import CandidateEvaluated
from events.population import CandidateAccepted, CandidateKept, CandidateRejected
from replay.history import History
from replay.report import Generation, Report, cell_label, collect, sort_cells

UNDECIDED = ("decision_made", "event_set_aside", "time_spent", "run_started", "run_cancelled", "child_run_finished")
"""Tags of what the controller appends beside its decisions."""
RUN_SPECIFIC = frozenset({"digest", "probe_requests", "dev_requests", "requests", "number", "input", "child"})
"""Fields of decided facts with names and digests of the run itself, which differ between any two runs."""
CANDIDATES = frozenset({"candidate", "parents", "probabilities", "second", "against"})
"""Fields with the ids of candidates, which are compared by the candidates' generations."""
COMPARED_FIELDS = (
    "parents",
    "lever",
    "change",
    "reason",
    "score",
    "low",
    "high",
    "items",
    "failed",
    "stage",
    "recheck",
    "standing",
    "verdict",
    "rollouts",
    "tokens",
    "micro_usd",
)
"""Fields of a generation that are compared."""


class DivergentDecision(msgspec.Struct, kw_only=True):
    """The first decided fact that differs between two runs.

    Facts are taken by generation, since several generations may be decided on side by side. `place` is its index among
    the decided facts in that order. `first` and `second` are the fact in words, as each run decided it. A
    run that decided no more has no sequence.
    """

    place: int
    first: str
    second: str
    first_sequence: int | None
    second_sequence: int | None
    tag: str = ""
    """The type of the fact, where both decided one of the same type for the same generation; else empty."""
    generation: int | None = None
    fields: dict[str, tuple[Any, Any]] = {}
    """What differs in it, by the name of the field, or of the value in it; a value that one of them lacks is None."""


class RunComparison(msgspec.Struct, kw_only=True):
    """All differences between two runs.

    A pair holds the first run's value and the second's. Times and names of runs are left out.
    """

    version: int = 2
    first: str
    second: str
    config: dict[str, tuple[Any, Any]]
    parting: DivergentDecision | None
    generations: dict[int, dict[str, tuple[Any, Any]]]
    scaffolds: dict[int, str]
    """By generation, a unified diff of the scaffolds of candidates that were accepted or kept."""
    scores: dict[str, tuple[float | None, float | None]]
    """The auditor's scores, by cell and split."""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.config or self.parting or self.generations or self.scaffolds or self.scores)


def compare(first: History, second: History) -> RunComparison:
    """Compare two runs."""
    runs = first, second
    reports = [asyncio.run(collect(run.log, run.gold_log, run.run)) for run in runs]
    configs = [_config(run) for run in runs]
    return RunComparison(
        first=first.run,
        second=second.run,
        config={key: (configs[0][key], configs[1][key]) for key in configs[0] if configs[0][key] != configs[1][key]},
        parting=_first_divergence(first, second),
        generations=dict(_generations(*reports)),
        scaffolds=dict(_scaffolds(first, second)),
        scores=dict(_scores(*reports)),
    )


def _config(run: History) -> dict[str, Any]:
    config: dict[str, Any] = msgspec.to_builtins(run.started)
    config["items"] = {name: _counts(items) for name, items in config["items"].items()}
    return config


def _counts(items: list[Any]) -> Any:
    """The length of each list of items."""
    return [_counts(part) for part in items] if items and isinstance(items[0], list) else len(items)


def _first_divergence(first: History, second: History) -> DivergentDecision | None:
    decided = [_decided(run) for run in (first, second)]
    texts = [_in_words(events) for events in decided]
    for index in range(max(map(len, texts))):
        first_text, second_text = (words[index] if index < len(words) else "" for words in texts)
        if first_text != second_text:
            sequences = [_sequence(run, events, index) for run, events in zip((first, second), decided, strict=True)]
            pair = [events[index] if index < len(events) else None for events in decided]
            alike = _alike(*pair)
            return DivergentDecision(
                tag=alike.tag if alike else "",
                generation=getattr(alike.data, "generation", None) if alike else None,
                fields=differing_fields(*_fields_of(texts, index)) if alike else {},
                place=index,
                first=first_text or "nothing more is decided",
                second=second_text or "nothing more is decided",
                first_sequence=sequences[0],
                second_sequence=sequences[1],
            )
    return None


def _fields_of(texts: Sequence[Sequence[str]], index: int) -> list[Any]:
    """The fields of the facts at an index, out of their words."""
    return [json.loads(words[index].partition(" ")[2]) for words in texts]


def _alike(first: Event | None, second: Event | None) -> Event | None:
    """The first of two facts of one type about one generation; None where they are not."""
    if first is None or second is None or first.tag != second.tag:
        return None
    generations = [getattr(event.data, "generation", None) for event in (first, second)]
    return first if generations[0] == generations[1] else None


def differing_fields(first: Any, second: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """What differs between two values, by the name of each value in them; None stands for one that is not there."""
    if isinstance(first, dict) and isinstance(second, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in dict.fromkeys([*first, *second]):
            found |= differing_fields(first.get(key), second.get(key), f"{name}.{key}" if name else key)
        return found
    return {} if first == second else {name: (first, second)}


def _decided(run: History) -> list[Event]:
    """The decided events by generation, and within one in order; what belongs to none comes last.

    A fork asks again for what its parent was not given; those repetitions are left out.
    """
    decided: dict[tuple[object, ...], Event] = {}
    for event in run.events:
        if event.source == "controller" and event.tag not in UNDECIDED:
            decided.setdefault((event.tag, *event.data.key()), event)
    return sorted(decided.values(), key=lambda event: getattr(event.data, "generation", inf))


def _in_words(events: Sequence[Event]) -> list[str]:
    names = {
        event.data.candidate: f"generation {event.data.generation}"
        for event in events
        if isinstance(event.data, CandidateEvaluated | CandidateRejected)
    }
    return [f"{event.tag} {json.dumps(_fields(event, names), ensure_ascii=False)}" for event in events]


def _fields(event: Event, names: Mapping[str, str]) -> dict[str, Any]:
    """What is compared of a fact, with candidates by their generations."""
    fields = {name: value for name, value in msgspec.to_builtins(event.data).items() if name not in RUN_SPECIFIC}
    return {name: _named(value, names) if name in CANDIDATES else value for name, value in fields.items()}


def _named(value: Any, names: Mapping[str, str]) -> Any:
    match value:
        case str():
            return names.get(value, value)
        case dict():
            return dict(sorted((names.get(id, id), one) for id, one in value.items()))
        case _:
            return [names.get(id, id) for id in value]


def _sequence(run: History, events: list[Event], index: int) -> int | None:
    if index >= len(events):
        return None
    return next(stored.sequence for stored in run.everything if stored.subject == events[index].subject)


def _generations(first: Report, second: Report) -> Iterator[tuple[int, dict[str, tuple[Any, Any]]]]:
    for number in range(max(len(first.generations), len(second.generations))):
        rows = [
            report.generations[number] if number < len(report.generations) else Generation(generation=-1)
            for report in (first, second)
        ]
        fields = {key: (getattr(rows[0], key), getattr(rows[1], key)) for key in COMPARED_FIELDS}
        if differing := {key: pair for key, pair in fields.items() if pair[0] != pair[1]}:
            yield number, differing


class _Scaffolds(NamedTuple):
    """The scaffolds of a run's population by generation; of those that were accepted, and of those that were kept."""

    accepted: dict[int, str]
    kept: dict[int, str]

    def at(self, generation: int) -> str:
        """The scaffold of a generation's candidate, or else of the best that there was by then; empty for none."""
        best = max((number for number in self.accepted if number <= generation), default=None)
        return self.kept.get(generation, "" if best is None else self.accepted[best])


def _population(run: History) -> _Scaffolds:
    scaffolds: dict[int, str] = {}
    found = _Scaffolds({}, {})
    for event in run.events:
        match event.data:
            case CandidateEvaluated(generation=generation, scaffold=scaffold):
                scaffolds[generation] = scaffold
            case CandidateAccepted(generation=generation):
                found.accepted[generation] = scaffolds[generation]
            case CandidateKept(generation=generation):
                found.kept[generation] = scaffolds[generation]
    return found


def _scaffolds(first: History, second: History) -> Iterator[tuple[int, str]]:
    """The unified diff of each pair of different scaffolds, at the generation where the pair first stands."""
    populations = [_population(run) for run in (first, second)]
    seen: set[tuple[str, ...]] = set()
    for number in sorted({number for one in populations for number in (*one.accepted, *one.kept)}):
        pair = tuple(one.at(number) for one in populations)
        if pair[0] != pair[1] and pair not in seen:
            seen.add(pair)
            yield number, _code(first, second, *pair)


def _code(first: History, second: History, first_scaffold: str, second_scaffold: str) -> str:
    try:
        trees = [
            run.blobs.get_tree(digest) if digest else {}
            for run, digest in ((first, first_scaffold), (second, second_scaffold))
        ]
    except UserError as wrong:
        return f"{first_scaffold[:12]} | {second_scaffold[:12]}: the code cannot be shown. {wrong}"
    text: list[str] = []
    for path in sorted(trees[0].keys() | trees[1].keys()):
        first_lines, second_lines = (
            tree.get(path, b"").decode(errors="replace").splitlines(keepends=True) for tree in trees
        )
        text += difflib.unified_diff(first_lines, second_lines, f"{first.run}/{path}", f"{second.run}/{path}")
    return "".join(line if line.endswith("\n") else line + "\n" for line in text)


def _scores(first: Report, second: Report) -> Iterator[tuple[str, tuple[float | None, float | None]]]:
    first_scores, second_scores = (
        {f"{cell_label(cell.cell, first, second)}, {cell.split}": cell.score for cell in sort_cells(report.cells)}
        for report in (first, second)
    )
    for cell_name in dict.fromkeys([*first_scores, *second_scores]):
        pair = first_scores.get(cell_name), second_scores.get(cell_name)
        if pair[0] != pair[1]:
            yield cell_name, pair
