"""Audits one run or all and prints the result, in the words and tables of `services/views/audit.py`; gives the exit
code.

The list that `--all` prints and the JSON are made here.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Literal

import click
import msgspec
from rich.text import Text

from events.errors import UserError
from events.subjects import LOG
from replay.audit.audit import Audit, AuditReport, PassedRun, audit_history, audit_passed
from replay.audit.verdict import listed
from replay.exports import folder
from replay.history import History
from replay.soundness import require_decided
from runtime.log.lineage import run_starts
from runtime.run.controller import uncollected
from runtime.run.loading import OWN, TaskAccess
from services.cli.reading import exports_in_words, read_run
from services.host.imports import find_export, imported_runs
from services.host.kept_audits import Blocks, blocks_now, data_of, keep_audit, kept_audit
from services.host.node import Node
from services.host.visible import visible
from services.views import audit as words
from services.views.progress import counting, stdout, working
from services.views.tables import Column, print_table
from tasks.contract import Public

COLOURS: Mapping[str, str] = {
    "green": "bold green",
    "unknown": "bold blue",
    "attenuated": "bold cyan",
    "suspect": "bold yellow",
    "drift": "bold red",
}
FailOn = Literal["suspect", "drift"]
FAILED = 3
"""The exit code of a run that is in drift, or suspect where that is to fail too."""
UNKNOWN = 6
"""The exit code where something that the task could have shown is not known."""


class AuditListing(msgspec.Struct, kw_only=True):
    """One run of `--all`. `error` is why it could not be audited, and empty where it could."""

    run: str
    task: str = ""
    state: str = ""
    rule: str = ""
    lever: str = ""
    generation: int | None = None
    families: dict[str, str] = {}
    """The state of each family of checks."""
    unknown: list[str] = []
    """The families of which nothing can be said though the task could have shown it."""
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
    fresh: bool,
) -> int:
    """Print the audit of a run, and write its pictures and page where they are wanted; the exit code."""
    node = Node(directory)
    report = None if fresh or find_export(node, name) else kept_audit(node, name, access._replace(exported=False))
    if report:
        click.echo(f"{name} has not changed since it was audited last: --fresh audits it anew.", err=True)
    else:
        report = _audited(node, name, access)
    if html or plots:
        _write(report, html, plots)
    if as_json:
        click.echo(msgspec.json.encode(report.audit).decode())
        for note in report.notes:
            click.echo(f"note: {note}", err=True)
    else:
        _show(report)
    return exit_code(report.audit.state, fail_on, unknown=bool(unknown(report.audit)))


def load_audit(directory: Path, name: str, access: TaskAccess) -> AuditReport:
    """The audit of a run: the one that is kept, where nothing has changed since, or else computed anew."""
    node = Node(directory)
    kept = None if find_export(node, name) else kept_audit(node, name, access._replace(exported=False))
    return kept or _audited(node, name, access)


def _audited(node: Node, name: str, access: TaskAccess) -> AuditReport:
    """The audit of a run, computed anew; one that has finished is kept."""
    if find_export(node, name):
        export = read_run(node.directory, name)
        with working(f"auditing {export.run}"):
            return _checked(export, access)
    from services.host.passed_runs import load_passed  # with the client of the broker, which takes half a second

    @cache
    def blocks() -> Blocks:
        """The files as they are before they are read."""
        import_module("scipy.special")  # which the audit needs, and which takes a quarter of a second
        return blocks_now(node)

    with counting(f"deciding {name} again", "events") as progress:
        run = load_passed(node.directory, name, progress, meanwhile=blocks)
    with working(f"auditing {name}"):
        return _report(node, run, access._replace(exported=False), blocks())


def _report(node: Node, run: PassedRun | History, access: TaskAccess, blocks: Blocks) -> AuditReport:
    """The audit of a run of the log, which is kept where it has finished; `blocks` are the files of the streams as they
    were before it was read.
    """
    public, task = data_of(run.started, access)
    with uncollected():
        report = _checked(run, access, public) if isinstance(run, History) else audit_passed(run, access, public)
    if run.finished:
        keep_audit(node, run.started, access, report, blocks, task)
    return report


def _checked(run: History, access: TaskAccess, public: Public | None = None) -> AuditReport:
    require_decided(run)
    return audit_history(run, access._replace(exported=run.exported), public)


def audit_all(directory: Path, *, as_json: bool, fail_on: FailOn, trusted: bool, fresh: bool) -> int:
    """Print a line for each run of a directory, and for each that was imported; the exit code of the worst."""
    with working(f"auditing the runs of {directory}"):
        listings = asyncio.run(_listings(Node(directory), trusted, fresh))
    if as_json:
        click.echo(msgspec.json.encode({"version": 2, "runs": listings}).decode())
    else:
        _show_all(listings)
    codes = {exit_code(listing.state, fail_on, unknown=bool(listing.unknown)) for listing in listings}
    if FAILED in codes:
        return FAILED
    return 1 if any(listing.error for listing in listings) else max(codes, default=0)


def exit_code(state: str, fail_on: FailOn, *, unknown: bool) -> int:
    """3 for drift, and for suspect too with `fail_on` "suspect"; else 6 where something that the task could have shown
    is `unknown`; otherwise 0.
    """
    return FAILED if state == "drift" or state == fail_on else UNKNOWN if unknown else 0


def unknown(audit: Audit) -> list[str]:
    """The families of which nothing can be said though the task could have shown it."""
    return [one.family for one in audit.families if one.unmeasured or (one.state == "unknown" and one.possible)]


def _show(report: AuditReport) -> None:
    """Print the audit for people."""
    audit, console = report.audit, stdout()
    console.print(Text(visible(words.headline(audit)), style=COLOURS[audit.state]), soft_wrap=True)
    for line in words.opening(report):
        console.print(line, soft_wrap=True, highlight=False)
    for table in words.tables(audit):
        columns = [
            Column(name, words.drop(name, at), right=name not in words.WORDS, sentence=name in words.WORDS)
            for at, name in enumerate(table.columns)
        ]
        print_table(console, columns, table.rows, table.title)
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

    with working("drawing"):
        images = pictures(report.audit)
    files = {plots / f"{picture.name}.png": picture.png for picture in images} if plots else {}
    if html:
        files[html] = page(report, images).encode()
    write_files(files, "for --html and --plots")


def write_files(files: Mapping[Path, bytes], where: str) -> None:
    """Write files and say so; raises `UserError` where one cannot be written, with the flags that name its place."""
    for path, data in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as wrong:
            raise UserError(f"{path} cannot be written ({wrong.strerror}): name another place {where}.") from wrong
        click.echo(f"wrote {path}", err=True)


async def _listings(node: Node, trusted: bool, fresh: bool) -> list[AuditListing]:
    """The runs on the log, the oldest first, and then those that were imported."""
    names = imported_runs(node)
    listings: list[AuditListing] = []
    if node.nats_dir.is_dir() or not names:
        from services.host.passed_runs import pass_run
        from services.host.sources import open_logs

        async with open_logs(node) as connection:
            for name in await run_starts(connection.log(LOG)):

                async def of_log(name: str = name) -> AuditReport:
                    if not fresh and (kept := await asyncio.to_thread(kept_audit, node, name, OWN)):
                        return kept
                    blocks = await asyncio.to_thread(blocks_now, node)
                    return await asyncio.to_thread(_report, node, await pass_run(connection, node, name), OWN, blocks)

                listings.append(await _listing(node, name, of_log()))
    access = TaskAccess(trusted=trusted)
    return listings + [
        await _listing(node, name, asyncio.to_thread(_of_import, node, name, access), name) for name in names
    ]


def _of_import(node: Node, name: str, access: TaskAccess) -> AuditReport:
    return _checked(folder.read(node.imports / name), access)


async def _listing(node: Node, name: str, auditing: Awaitable[AuditReport], *exports: str) -> AuditListing:
    try:
        with exports_in_words(node.directory, *exports):
            # in a thread, so that the connection stays alive meanwhile
            audit = (await auditing).audit
    except UserError as wrong:
        return AuditListing(run=name, error=str(wrong))
    return AuditListing(
        run=audit.run,
        task=audit.task,
        state=audit.state,
        rule=audit.rule,
        lever=audit.lever,
        generation=audit.generation,
        families={one.family: one.state for one in audit.families},
        unknown=unknown(audit),
    )


def _show_all(listings: Sequence[AuditListing]) -> None:
    columns = (
        Column("run"),
        Column("task", drop=3),
        Column("state", styles=COLOURS),
        Column("rule", sentence=True),
        Column("lever", drop=2),
        Column("generation", drop=1, right=True),
    )
    rows: list[tuple[str, ...]] = []
    for listing in listings:
        if listing.error:
            rows.append((listing.run, listing.task, "not audited", listing.error, "", ""))
            continue
        unknown_families = [family for family, state in listing.families.items() if state == "unknown"]
        rule = listing.rule or (f"nothing is known of {listed(unknown_families)}" if unknown_families else "")
        generation = "" if listing.generation is None else str(listing.generation)
        rows.append((listing.run, listing.task, listing.state, rule, listing.lever, generation))
    print_table(stdout(), columns, rows)
