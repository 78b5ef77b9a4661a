"""`evolog watch`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from services.cli.options import as_json, directory, examples

if TYPE_CHECKING:
    from replay.report import Report
    from services.host.node import Node

REFRESH_SECONDS = 0.5
"""Seconds between two pictures."""


@click.command(epilog=examples("evolog watch lawbench-s0", "evolog watch --json --no-follow > events.ndjson"))
@click.argument("run", required=False)
@directory
@click.option("--since", type=click.IntRange(1), help="The sequence to begin at: lines, from 1 on without it.")
@click.option("--follow/--no-follow", default=True, help="Wait for what is still to come, until the run has ended.")
@click.option("--lines", is_flag=True, help="A line an event on a terminal too.")
@as_json
def watch(run: str | None, directory: Path, since: int | None, follow: bool, lines: bool, as_json: bool) -> int:
    """Follow a run, or all, as events are appended.

    On a terminal: generations, work, rates, cost, services and last events, always up to date. Elsewhere, and with
    --since, --no-follow or --json: events, one line each.
    """
    import asyncio

    from services.host.node import Node

    node = Node(directory)
    node.require_up()
    draws = sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    live = draws and follow and since is None and not lines and not as_json
    try:
        asyncio.run(_show(node, run) if live else _print(node, run, since or 1, follow, as_json))
    except KeyboardInterrupt:
        return 130
    return 0


async def _print(node: "Node", run: str | None, since: int, follow: bool, as_json: bool) -> None:
    import time

    from events.run import RunPaused, RunResumed
    from events.subjects import GOLD, LOG, tag_of
    from replay.report import follow_both
    from runtime.log.lineage import run_start
    from services.host.orders import output_is_gone
    from services.host.sources import find_run, open_logs, tail
    from services.host.statuses import StatusBoard
    from services.views.events import message_json, message_line
    from services.views.waiting import QuietLines, present

    in_words = message_json if as_json else message_line
    async with open_logs(node) as connection, StatusBoard(connection) as board:
        log = connection.log(LOG)
        name = await find_run(log, run) if run else None
        started = (await run_start(log, name))[1] if name else None
        quiet, last, paused = QuietLines(name or ""), time.time(), False

        def while_nothing_comes() -> None:
            if name and started:
                node.require_fit(name, started)
            statuses, now = board.statuses(), time.time()
            if name or present("", statuses, now):
                for line in quiet.lines(now - last, statuses, now, paused=paused):
                    click.echo(line, err=True)
            if output_is_gone():
                raise BrokenPipeError

        async for stored in tail(log, since, run=name, follow=follow, waiting=while_nothing_comes):
            last = stored.time / 1e9
            if name and (tag := tag_of(stored.subject)) in (RunPaused.tag(), RunResumed.tag()):
                paused = tag == RunPaused.tag()
            click.echo(in_words(stored))
        if name:
            _say_state((await follow_both(log, connection.log(GOLD), name)).report)
        if since > (end := await log.end()):
            click.echo(f"The log ends at sequence {end:,}, before --since {since:,}.", err=True)


async def _show(node: "Node", run: str | None) -> None:
    """Draw what is watched anew and again, until a run's audit has ended."""
    import asyncio

    from rich.live import Live

    from events.errors import Unavailable
    from services.host.orders import output_is_gone
    from services.host.sources import open_logs
    from services.host.statuses import StatusBoard
    from services.host.watched import AllRuns, OneRun
    from services.views.progress import stdout
    from services.views.watch import run_picture, runs_picture

    async with open_logs(node) as connection, StatusBoard(connection) as board:
        watched = await OneRun.find(connection, run) if run else AllRuns(connection)
        console = stdout()
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                try:
                    await watched.follow()
                except Unavailable:
                    if not node.alive():
                        raise
                size, now = (console.width, console.height), watched.present(board.statuses())
                if isinstance(watched, OneRun):
                    live.update(run_picture(watched.report, watched.done, now, *size), refresh=True)
                    if watched.report.audit == "done":
                        break
                    node.require_fit(watched.name, watched.started)
                else:
                    live.update(runs_picture(watched.runs, now, *size), refresh=True)
                if output_is_gone():
                    raise BrokenPipeError
                await asyncio.sleep(REFRESH_SECONDS)
    if isinstance(watched, OneRun):
        _say_state(watched.report)


def _say_state(report: "Report") -> None:
    from replay.run_state import state_in_words

    ended = f": {report.reason}" if report.reason else ""
    click.echo(f"{report.run}: {state_in_words(report.state, report.audit)}{ended}", err=True)
