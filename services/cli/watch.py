"""`evolog watch`."""

from pathlib import Path

import click

from services.cli.options import as_json, directory, examples


@click.command(epilog=examples("evolog watch lawbench-s0", "evolog watch --json --no-follow > events.ndjson"))
@click.argument("run", required=False)
@directory
@click.option("--since", type=click.IntRange(1), default=1, show_default=True, help="The sequence to begin at.")
@click.option("--follow/--no-follow", default=True, help="Wait for what is still to come, until the run has ended.")
@as_json
def watch(run: str | None, directory: Path, since: int, follow: bool, as_json: bool) -> int:
    """Print events as they are appended, one line each.

    Of one run, or of all.
    """
    import asyncio
    import time

    from events.run import RunPaused, RunResumed
    from events.subjects import GOLD, LOG, tag_of
    from replay.report import follow_both
    from replay.run_state import state_in_words
    from runtime.log.lineage import run_start
    from services.host.node import Node
    from services.host.orders import output_is_gone
    from services.host.sources import find_run, open_logs, tail
    from services.host.statuses import StatusBoard
    from services.views.events import message_json, message_line
    from services.views.waiting import QuietLines, present

    node = Node(directory)
    node.require_up()
    in_words = message_json if as_json else message_line

    async def work() -> None:
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
                report = (await follow_both(log, connection.log(GOLD), name)).report
                ended = f": {report.reason}" if report.reason else ""
                click.echo(f"{name}: {state_in_words(report.state, report.audit)}{ended}", err=True)
            if since > (end := await log.end()):
                click.echo(f"The log ends at sequence {end:,}, before --since {since:,}.", err=True)

    try:
        asyncio.run(work())
    except KeyboardInterrupt:
        return 130
    return 0
