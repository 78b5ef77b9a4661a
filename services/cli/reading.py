"""`evolog watch`, `ls` and `show`: what stands in the log, for a person or as JSON."""

import asyncio
from pathlib import Path

import click
import msgspec
from rich.table import Table

from events import codec, subjects
from events.run import DecisionMade, RunFinished, RunStarted
from events.subjects import GOLD, LOG
from events.time import rfc3339
from replay import history
from replay.exports import folder
from replay.report import Report, collect
from runtime.log.port import Log, Stored, readable
from services.host.node import Node
from services.host.sources import find_export, find_run, imported, recorded, runs_of, with_logs
from services.views.progress import stdout
from services.views.run import final_table, generations_table

PAGE_SIZE = 2000
POLL_SECONDS = 0.1


class Listed(msgspec.Struct, kw_only=True):
    """One run in a list."""

    run: str
    task: str
    seed: int
    levers: tuple[str, ...]
    started: str
    state: str
    decisions: int
    score: float | None
    reason: str


def list_runs(directory: Path, as_json: bool) -> None:
    """Print the runs, oldest first, and then those that were imported."""

    async def look(log: Log, gold: Log) -> list[Listed]:
        del gold
        ends = await log.last([subjects.subject(LOG, "*", "*", RunFinished.tag()), subjects.head("*")])
        listed = []
        for run, stored in (await runs_of(log)).items():
            started = _data(stored)
            if not isinstance(started, RunStarted):
                continue
            mine = [_data(end) for where, end in ends.items() if subjects.run_of(where) == run]
            finished = next((end for end in mine if isinstance(end, RunFinished)), None)
            made = next((end.number for end in mine if isinstance(end, DecisionMade)), 0)
            listed.append(_listed(run, started, rfc3339(stored.time), finished, made, "finished" if finished else "running"))
        return listed

    node = Node(directory)
    listed = with_logs(directory, look) if node.nats_dir.is_dir() or not imported(node) else []
    for name in imported(node):
        of = folder.manifest_of(node.imports / name)
        listed.append(_listed(name, of.started, of.began, of.finished, of.decisions, "imported"))
    if as_json:
        click.echo(msgspec.json.encode({"version": 1, "runs": listed}).decode())
        return
    table = Table()
    for column in ("run", "task", "seed", "levers", "started", "state", "decisions", "dev", "why it ended"):
        table.add_column(column, overflow="fold")
    for row in listed:
        score = "" if row.score is None else f"{row.score:.4f}"
        table.add_row(row.run, row.task, str(row.seed), "+".join(row.levers), row.started, row.state, str(row.decisions), score, row.reason)
    stdout().print(table)


def _listed(run: str, started: RunStarted, began: str, finished: RunFinished | None, decisions: int, state: str) -> Listed:
    return Listed(
        run=run,
        task=started.task,
        seed=started.seed,
        levers=started.levers,
        started=began[:19] + "Z",
        state=state,
        decisions=decisions,
        score=finished.score if finished and finished.candidate else None,
        reason=finished.reason if finished else "",
    )


def show_run(directory: Path, name: str, as_json: bool) -> None:
    """Print one run."""

    async def look(log: Log, gold: Log) -> Report:
        return await collect(log, gold, await find_run(log, name))

    node = Node(directory)
    if find_export(node, name) is not None:
        run = recorded(directory, name)
        report = asyncio.run(collect(run.log, history.RecordedLog(run.gold, GOLD), run.run))
    else:
        report = with_logs(directory, look)
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
        return
    console = stdout()
    generations_table(console, report)
    if report.cells:
        final_table(console, report)
    if report.set_aside:
        console.print(
            f'{report.set_aside} messages could not be read and were set aside: evolog sql "from event_set_aside"', soft_wrap=True
        )


def watch(directory: Path, name: str | None, since: int, follow: bool, as_json: bool) -> int:
    """Print events from a sequence on; ends with the run, or when interrupted."""

    Node(directory).require_up()

    async def look(log: Log, gold: Log) -> int:
        del gold
        run = await find_run(log, name) if name else None
        position = since - 1
        while True:
            read = await log.read(position + 1, PAGE_SIZE)
            for stored in read:
                position = stored.sequence
                if run is not None and subjects.run_of(stored.subject) != run:
                    continue
                click.echo(_line(stored, as_json))
                if run is not None and subjects.tag_of(stored.subject) == RunFinished.tag():
                    return 0
            if not read:
                if not follow:
                    return 0
                await asyncio.sleep(POLL_SECONDS)

    try:
        return with_logs(directory, look)
    except KeyboardInterrupt:
        return 130


def _data(stored: Stored) -> object:
    return next((event.data for event in readable([stored])), None)


def _line(stored: Stored, as_json: bool) -> str:
    if as_json:
        envelope = {"sequence": stored.sequence, "stored": rfc3339(stored.time), "subject": stored.subject}
        try:
            codec.decode_at(stored.subject, stored.data)
            return msgspec.json.encode(envelope | {"event": msgspec.Raw(stored.data)}).decode()
        except codec.Unreadable as wrong:
            return msgspec.json.encode(envelope | {"unreadable": str(wrong)}).decode()
    try:
        event = codec.decode_at(stored.subject, stored.data)
    except codec.Unreadable as wrong:
        return f"{stored.sequence:>8}  {rfc3339(stored.time)[11:23]}  {stored.subject}  UNREADABLE: {wrong}"
    shown = msgspec.json.encode(event.data).decode()
    short = shown if len(shown) <= 160 else shown[:157] + "..."
    return f"{stored.sequence:>8}  {rfc3339(stored.time)[11:23]}  {event.run}  {event.tag:<22}  {short}"
