"""Audits one run or all and prints the result, in the words and tables of `services/views/audit.py`; gives the exit
code.

The list that `--all` prints and the JSON are made here.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import click
import msgspec
from rich import table as rich_table
from rich.text import Text

from events.errors import UserError
from events.subjects import GOLD, LOG
from replay.audit.audit import AuditReport, audit_history
from replay.exports import folder
from replay.history import History, read_history
from replay.soundness import require_decided
from runtime.blobs.directory import Blobs
from runtime.log.lineage import run_starts
from runtime.run.loading import OWN, TaskAccess
from services.cli.reading import exports_in_words, read_run
from services.host.node import Node
from services.host.sources import imported_runs, open_logs
from services.host.visible import visible
from services.views import audit as words
from services.views.progress import stdout, working

COLOURS: Mapping[str, str] = {"green": "bold green", "suspect": "bold yellow", "drift": "bold red"}
FailOn = Literal["suspect", "drift"]
FAILED = 3
"""The exit code of a run that is in drift, or suspect where that is to fail too."""


class AuditListing(msgspec.Struct, kw_only=True):
    """One run of `--all`. `error` is why it could not be audited, and empty where it could."""

    run: str
    task: str = ""
    state: str = ""
    rule: str = ""
    lever: str = ""
    generation: int | None = None
    measured: int = 0
    """Pairs of scaffold and adapter with a gold score; without any, `state` rests on the checks of the log alone."""
    error: str = ""


def audit_run(
    directory: Path,
    name: str,
    access: TaskAccess,
    *,
    as_json: bool,
    fail_on: FailOn,
    html: Path | None,
    plots: Path | None,
) -> int:
    """Print the audit of a run, and write its pictures and page where they are wanted; the exit code."""
    run = read_run(directory, name)
    with working(f"auditing {run.run}"):
        require_decided(run)
        report = audit_history(run, access._replace(exported=run.exported))
    if html or plots:
        _write(report, html, plots)
    if as_json:
        click.echo(msgspec.json.encode(report.audit).decode())
        for note in report.notes:
            click.echo(f"note: {note}", err=True)
    else:
        _show(report)
    return exit_code(report.audit.state, fail_on)


def audit_all(directory: Path, *, as_json: bool, fail_on: FailOn, trusted: bool) -> int:
    """Print a line for each run of a directory, and for each that was imported; the exit code of the worst."""
    with working(f"auditing the runs of {directory}"):
        listings = asyncio.run(_listings(Node(directory), trusted))
    if as_json:
        click.echo(msgspec.json.encode({"version": 1, "runs": listings}).decode())
    else:
        _show_all(listings)
    if any(exit_code(listing.state, fail_on) for listing in listings):
        return FAILED
    return 1 if any(listing.error for listing in listings) else 0


def exit_code(state: str, fail_on: FailOn) -> int:
    """3 for drift, and for suspect too with `fail_on` "suspect"; otherwise 0."""
    return FAILED if state == "drift" or state == fail_on else 0


def _show(report: AuditReport) -> None:
    """Print the audit for people."""
    audit, console = report.audit, stdout()
    console.print(Text(visible(words.headline(audit)), style=COLOURS[audit.state]), soft_wrap=True)
    for line in words.opening(report):
        console.print(line, soft_wrap=True, highlight=False)
    for table in words.tables(audit):
        grid = rich_table.Table(title=table.title, title_justify="left")
        for column in table.columns:
            grid.add_column(
                column, justify="left" if column in words.WORDS else "right", no_wrap=column not in words.WORDS
            )
        for row in table.rows:
            grid.add_row(*row)
        console.print(grid)
        for note in table.notes:
            console.print(note, soft_wrap=True, highlight=False)
    for title, lines in words.closing(report):
        console.print(title, highlight=False)
        for line in lines:
            console.print(f"  {line}", soft_wrap=True, highlight=False)


def _write(report: AuditReport, html: Path | None, plots: Path | None) -> None:
    """Write the page, and the pictures as PNG into a folder. Raises `UserError` where a path cannot be written."""
    from services.views.audit_html import page
    from services.views.audit_pictures import pictures  # with matplotlib, which takes a second

    images = pictures(report.audit)
    files = {plots / f"{picture.name}.png": picture.png for picture in images} if plots else {}
    if html:
        files[html] = page(report, images).encode()
    for path, data in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as wrong:
            raise UserError(
                f"{path} cannot be written ({wrong.strerror}): name another place for --html and --plots."
            ) from wrong
        click.echo(f"wrote {path}", err=True)


async def _listings(node: Node, trusted: bool) -> list[AuditListing]:
    """The runs on the log, the oldest first, and then those that were imported."""
    names = imported_runs(node)
    listings: list[AuditListing] = []
    if node.nats_dir.is_dir() or not names:
        async with open_logs(node) as connection:
            log, gold = connection.log(LOG), connection.log(GOLD)
            blobs = Blobs(node.blobs), Blobs(node.gold_blobs)
            listings = [
                await _listing(node, name, read_history(log, gold, name, *blobs), OWN) for name in await run_starts(log)
            ]
    access = TaskAccess(trusted=trusted)
    return listings + [
        await _listing(node, name, asyncio.to_thread(folder.read, node.imports / name), access) for name in names
    ]


async def _listing(node: Node, name: str, reading: Awaitable[History], access: TaskAccess) -> AuditListing:
    try:
        with exports_in_words(node.directory, *([name] if access.exported else [])):
            # in a thread, so that the connection stays alive meanwhile
            history = await reading
            await asyncio.to_thread(require_decided, history)
            audit = (await asyncio.to_thread(audit_history, history, access)).audit
    except UserError as wrong:
        return AuditListing(run=name, error=str(wrong))
    return AuditListing(
        run=audit.run,
        task=audit.task,
        state=audit.state,
        rule=audit.rule,
        lever=audit.lever,
        generation=audit.generation,
        measured=audit.measured,
    )


def _show_all(listings: Sequence[AuditListing]) -> None:
    table = rich_table.Table()
    for column in ("run", "task", "state", "rule", "lever", "generation"):
        table.add_column(column, justify="right" if column == "generation" else "left", overflow="fold")
    for listing in listings:
        if listing.error:
            table.add_row(listing.run, listing.task, "not audited", listing.error)
            continue
        rule = listing.rule if listing.rule or listing.measured else "gold was not measured"
        colour = COLOURS[listing.state] if listing.rule or listing.measured else ""
        generation = "" if listing.generation is None else str(listing.generation)
        table.add_row(listing.run, listing.task, Text(listing.state, style=colour), rule, listing.lever, generation)
    stdout().print(table)
