"""`evolog audit`: whether a run's score still means anything, from what is recorded, for a person, a script or a browser."""

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import click
import msgspec
from rich import table as rich_table
from rich.text import Text

from events.errors import UserError
from events.gold import DriftFlagged, GoldFailed
from events.subjects import GOLD, LOG
from replay.audit import audit as of_run
from replay.audit.audit import Audit
from replay.audit.known import known_of
from replay.exports import folder
from replay.history import History, read_history
from replay.recorded import EventIndex
from runtime.blobs.directory import Blobs
from services.cli.reading import read_run
from services.host.node import Node
from services.host.sources import imported_runs, open_logs, run_starts
from services.views.progress import stdout, working

F = TypeVar("F")


COLOURS: Mapping[str, str] = {"green": "bold green", "suspect": "bold yellow", "drift": "bold red"}


FailOn = Literal["suspect", "drift"]


FAILED = 3


OF_HIDDEN = ("hidden_in_sight", "trained_on_audited")
"""The checks that need the task's hidden items."""


class Audited(NamedTuple):
    """An audit, and what the auditor had said while the run went on."""

    audit: Audit
    flags: Sequence[DriftFlagged]
    notes: Sequence[str]
    """What could not be looked at, as sentences."""
    unchecked: Collection[str]
    """The rules that were therefore not held against the log."""


class Listed(msgspec.Struct, kw_only=True):
    """One run of `--all`. `error` is why it could not be audited, and empty where it could."""

    run: str
    task: str = ""
    state: str = ""
    rule: str = ""
    lever: str = ""
    generation: int | None = None
    measured: int = 0
    """Pairs of scaffold and adapter that gold is known of; without any, `state` rests on the checks of the log alone."""
    error: str = ""


def audit_run(directory: Path, name: str, *, as_json: bool, fail_on: FailOn, html: Path | None, plots: Path | None) -> int:
    """Print the audit of a run, and write its pictures and page where they are wanted; the exit code."""
    run = read_run(directory, name)
    with working(f"auditing {run.run}"):
        found = audited(run)
    if html or plots:
        write(found, html, plots)
    if as_json:
        click.echo(msgspec.json.encode(found.audit).decode())
        for note in found.notes:
            click.echo(f"note: {note}", err=True)
    else:
        show(found)
    return exit_code(found.audit.state, fail_on)


def audit_all(directory: Path, *, as_json: bool, fail_on: FailOn) -> int:
    """Print a line for each run of a directory, and for each that was imported; the exit code of the worst."""
    with working(f"auditing the runs of {directory}"):
        listed = asyncio.run(_listed(Node(directory)))
    if as_json:
        click.echo(msgspec.json.encode({"version": 1, "runs": listed}).decode())
    else:
        _show_all(listed)
    if any(exit_code(row.state, fail_on) for row in listed):
        return FAILED
    return 1 if any(row.error for row in listed) else 0


def exit_code(state: str, fail_on: FailOn) -> int:
    """3 for drift, and for suspect too where that is asked for."""
    return FAILED if state == "drift" or state == fail_on else 0


def audited(run: History) -> Audited:
    """The audit of a run as it stands; raises `CheckFailed` where what began it cannot be read."""
    log, gold = EventIndex(run.everything), EventIndex(run.gold)
    known, notes = known_of(run.started, log.events, gold.events)
    unchecked = () if known.hidden else OF_HIDDEN
    notes += [f"The auditor could not score {failed.cell} on {failed.split}: {failed.reason}" for failed in _of(gold, GoldFailed)]
    found = of_run.audit(log.events, gold.events, run.blobs.get, known, run.started.seed)
    return Audited(found, _of(gold, DriftFlagged), notes, unchecked)


def show(found: Audited) -> None:
    """The audit for people."""
    audit, console = found.audit, stdout()
    console.print(Text(audit.headline(audit), style=COLOURS[audit.state]), soft_wrap=True)
    for line in opening(found):
        console.print(line, soft_wrap=True, highlight=False)
    for of in audit.tables(audit):
        shown = rich_table.Table(title=of.title, title_justify="left")
        for column in of.columns:
            shown.add_column(column, justify="left" if column in audit.WORDS else "right", no_wrap=column not in audit.WORDS)
        for row in of.rows:
            shown.add_row(*row)
        console.print(shown)
        for note in of.notes:
            console.print(note, soft_wrap=True, highlight=False)
    for title, lines in closing(found):
        console.print(title, highlight=False)
        for line in lines:
            console.print(f"  {line}", soft_wrap=True, highlight=False)


def opening(found: Audited) -> list[str]:
    """The sentences below the headline."""
    audit = found.audit
    said = (audit.sentence, audit.unmeasured(audit), audit.looks(found.flags), audit.optimism(audit))
    return [line for line in said if line]


def closing(found: Audited) -> list[tuple[str, list[str]]]:
    """Titles with the lines below them: what fired, what did not, and what could not be looked at."""
    audit = found.audit
    parts = [
        ("Fired as well:", audit.fired(audit)),
        ("Did not fire:", list(audit.quiet(audit, found.unchecked))),
        ("Told by the verifier:", [line for line in [audit.information(audit)] if line]),
        ("Not looked at:", list(found.notes)),
    ]
    return [part for part in parts if part[1]]


def write(found: Audited, html: Path | None, plots: Path | None) -> None:
    """Write the page, and the pictures as PNG into a folder; raises `UserError` where a path cannot be written."""
    from services.views.audit_html import page
    from services.views.audit_pictures import pictures  # with matplotlib, which takes a second

    drawn = pictures(found.audit)
    files = {plots / f"{picture.name}.png": picture.png for picture in drawn} if plots else {}
    if html:
        files[html] = page(found.audit, opening(found), closing(found), drawn).encode()
    for path, data in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as wrong:
            raise UserError(f"{path} cannot be written ({wrong.strerror}): name another place for --html and --plots.") from wrong
        click.echo(f"wrote {path}", err=True)


def _of(gold: EventIndex, kind: type[F]) -> list[F]:
    return [told.event.data for told in gold.events if isinstance(told.event.data, kind)]


async def _listed(node: Node) -> list[Listed]:
    """The runs on the log, the oldest first, and then those that were imported."""
    names = imported_runs(node)
    rows: list[Listed] = []
    if node.nats_dir.is_dir() or not names:
        async with open_logs(node) as connection:
            log, gold = connection.log(LOG), connection.log(GOLD)
            blobs = Blobs(node.blobs), Blobs(node.gold_blobs)
            rows = [await _row(name, read_history(log, gold, name, *blobs)) for name in await run_starts(log)]
    return rows + [await _row(name, asyncio.to_thread(folder.read, node.imports / name)) for name in names]


async def _row(name: str, reading: Awaitable[History]) -> Listed:
    try:
        audit = (await asyncio.to_thread(audited, await reading)).audit  # so that the connection stays alive meanwhile
    except UserError as wrong:
        return Listed(run=name, error=str(wrong))
    return Listed(
        run=audit.run,
        task=audit.task,
        state=audit.state,
        rule=audit.rule,
        lever=audit.lever,
        generation=audit.generation,
        measured=audit.measured,
    )


def _show_all(listed: Sequence[Listed]) -> None:
    table = rich_table.Table()
    for column in ("run", "task", "state", "rule", "lever", "generation"):
        table.add_column(column, justify="right" if column == "generation" else "left", overflow="fold")
    for row in listed:
        if row.error:
            table.add_row(row.run, row.task, "not audited", row.error)
            continue
        rule = row.rule if row.rule or row.measured else "gold was not measured"
        colour = COLOURS[row.state] if row.rule or row.measured else ""
        generation = "" if row.generation is None else str(row.generation)
        table.add_row(row.run, row.task, Text(row.state, style=colour), rule, row.lever, generation)
    stdout().print(table)
