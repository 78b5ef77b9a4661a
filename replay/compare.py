"""`evolog diff`: two runs beside each other, by what they were ordered with, decided, changed and scored."""

import asyncio
import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from events.codec import Event
from events.errors import UserError
from events.gold import GoldScored
from events.judgement import CandidateEvaluated
from events.population import CandidateAccepted
from events.subjects import GOLD
from replay.history import History, RecordedLog
from replay.report import CELL_NAMES, Generation, Report, collect, order_cells
from services.cli.replaying import read

OWN = frozenset({"candidate", "digest", "probe_requests", "dev_requests", "requests", "probabilities", "number", "input"})
"""Fields of decided facts that hold names and digests of one run, and differ in every other."""
COUNTED = ("lever", "change", "reason", "score", "low", "high", "items", "failed", "accepted", "verdict", "rollouts", "tokens", "micro_usd")


class Parting(msgspec.Struct, kw_only=True):
    """The first decision that differs: its place among the decided facts, with the sequences; None where a run has decided no more."""

    place: int
    first: str
    second: str
    first_sequence: int | None
    second_sequence: int | None


class Compared(msgspec.Struct, kw_only=True):
    """Two runs; each dict holds what differs, as (in the first, in the second). Seconds, times and names of runs are left out."""

    version: int = 1
    first: str
    second: str
    config: dict[str, tuple[Any, Any]]
    parting: Parting | None
    generations: dict[int, dict[str, tuple[Any, Any]]]
    scaffolds: dict[int, str]
    """By generation, the code of the kept candidate's scaffolds as a unified diff."""
    scores: dict[str, tuple[float | None, float | None]]
    """What the auditor found, by cell and split."""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.config or self.parting or self.generations or self.scaffolds or self.scores)


def compare_runs(directory: Path, first: str, second: str, as_json: bool) -> int:
    """Print how two runs differ; 1 if they do."""
    found = compare(read(directory, first), read(directory, second))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        for line in lines(found):
            click.echo(line)
    return 0 if found.same else 1


def compare(first: History, second: History) -> Compared:
    """How two runs differ."""
    both = first, second
    reports = [asyncio.run(collect(run.log, RecordedLog(run.gold, GOLD), run.run)) for run in both]
    configs = [_config(run) for run in both]
    return Compared(
        first=first.run,
        second=second.run,
        config={key: (configs[0][key], configs[1][key]) for key in configs[0] if configs[0][key] != configs[1][key]},
        parting=_parting(first, second),
        generations=dict(_generations(*reports)),
        scaffolds=dict(_scaffolds(first, second)),
        scores=dict(_scores(*reports)),
    )


def lines(found: Compared) -> list[str]:
    """The comparison for people."""
    if found.same:
        return [f"{found.first} and {found.second} are the same in configuration, decisions, scaffolds and scores."]
    said = [f"--- {found.first}", f"+++ {found.second}"]
    if found.config:
        said += ["configuration:"]
        for key, (one, other) in found.config.items():
            said += [f"  {key}: {_short(one)} | {_short(other)}"]
    if found.parting:
        parting = found.parting
        said += [f"decisions: the first {parting.place:,} are the same, then"]
        said += [f"  - {_at(parting.first_sequence)}{parting.first}", f"  + {_at(parting.second_sequence)}{parting.second}"]
    if found.generations:
        said += ["generations:"]
        for number, fields in found.generations.items():
            said += [f"  {number}: " + "; ".join(f"{key} {_short(one)} | {_short(other)}" for key, (one, other) in fields.items())]
    if found.scores:
        said += ["the auditor's scores:"]
        said += [f"  {what}: {_number(one)} | {_number(other)}" for what, (one, other) in found.scores.items()]
    for number, text in found.scaffolds.items():
        said += [f"scaffold of generation {number}:", text.rstrip("\n")]
    return said


def _config(run: History) -> dict[str, Any]:
    config: dict[str, Any] = msgspec.to_builtins(run.started)
    config["items"] = {name: _count(of) for name, of in config["items"].items()}
    return config


def _count(of: list[Any]) -> Any:
    return [_count(part) for part in of] if of and isinstance(of[0], list) else len(of)


def _parting(first: History, second: History) -> Parting | None:
    decided = [_decided(run) for run in (first, second)]
    said = [[_said(event) for event in events] for events in decided]
    longest = max(map(len, said))
    for place in range(longest):
        one, other = (words[place] if place < len(words) else "" for words in said)
        if one != other:
            where = [_sequence(run, events, place) for run, events in zip((first, second), decided, strict=True)]
            return Parting(
                place=place,
                first=one or "nothing more is decided",
                second=other or "nothing more is decided",
                first_sequence=where[0],
                second_sequence=where[1],
            )
    return None


def _decided(run: History) -> list[Event]:
    """What was decided, in order; what a fork asked for again is left out."""
    decided: dict[tuple[object, ...], Event] = {}
    for event in run.events:
        if event.source == "controller" and event.tag not in ("decision_made", "event_set_aside"):
            decided.setdefault((event.tag, *event.data.key()), event)
    return list(decided.values())


def _said(event: Event) -> str:
    fields = {name: value for name, value in msgspec.to_builtins(event.data).items() if name not in OWN}
    return f"{event.tag} {json.dumps(fields, ensure_ascii=False)}"


def _sequence(run: History, events: list[Event], place: int) -> int | None:
    if place >= len(events):
        return None
    return next(stored.sequence for stored in run.everything if stored.subject == events[place].subject)


def _generations(first: Report, second: Report) -> Iterator[tuple[int, dict[str, tuple[Any, Any]]]]:
    for number in range(max(len(first.generations), len(second.generations))):
        rows = [report.generations[number] if number < len(report.generations) else Generation(generation=-1) for report in (first, second)]
        fields = {key: (getattr(rows[0], key), getattr(rows[1], key)) for key in COUNTED}
        if differing := {key: pair for key, pair in fields.items() if pair[0] != pair[1]}:
            yield number, differing


def _kept(run: History) -> dict[int, str]:
    """The scaffold of each generation's kept candidate."""
    scaffolds: dict[int, str] = {}
    found: dict[int, str] = {}
    for event in run.events:
        match event.data:
            case CandidateEvaluated(generation=generation, scaffold=scaffold):
                scaffolds[generation] = scaffold
            case CandidateAccepted(generation=generation):
                found[generation] = scaffolds[generation]
    return found


def _scaffolds(first: History, second: History) -> Iterator[tuple[int, str]]:
    """Each pair of different scaffolds once, where it first comes up."""
    kept = [_kept(run) for run in (first, second)]
    latest = ["", ""]
    seen: set[tuple[str, ...]] = set()
    for number in sorted(kept[0].keys() | kept[1].keys()):
        latest = [of.get(number, before) for of, before in zip(kept, latest, strict=True)]
        pair = tuple(latest)
        if latest[0] != latest[1] and pair not in seen:
            seen.add(pair)
            yield number, _code(first, second, *latest)


def _code(first: History, second: History, one: str, other: str) -> str:
    try:
        trees = [run.blobs.get_tree(digest) if digest else {} for run, digest in ((first, one), (second, other))]
    except UserError as wrong:
        return f"{one[:12]} | {other[:12]}: the code cannot be shown. {wrong}"
    text = []
    for path in sorted(trees[0].keys() | trees[1].keys()):
        old, new = (tree.get(path, b"").decode(errors="replace").splitlines(keepends=True) for tree in trees)
        text += difflib.unified_diff(old, new, f"{first.run}/{path}", f"{second.run}/{path}")
    return "".join(line if line.endswith("\n") else line + "\n" for line in text)


def _scores(first: Report, second: Report) -> Iterator[tuple[str, tuple[float | None, float | None]]]:
    found, other = ({_cell(cell): cell.score for cell in order_cells(report.cells)} for report in (first, second))
    for what in dict.fromkeys([*found, *other]):
        pair = found.get(what), other.get(what)
        if pair[0] != pair[1]:
            yield what, pair


def _cell(scored: GoldScored) -> str:
    return f"{CELL_NAMES.get(scored.cell, scored.cell)}, {scored.split}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _at(sequence: int | None) -> str:
    return "" if sequence is None else f"sequence {sequence}: "
