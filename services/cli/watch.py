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
    from runtime.log.lineage import run_start
    from runtime.log.port import Log
    from services.host.node import Node
    from services.host.sources import find_run, tail, with_logs
    from services.views.events import message_json, message_line

    node = Node(directory)
    node.require_up()
    in_words = message_json if as_json else message_line

    async def work(log: Log, gold: Log) -> None:
        del gold
        name = await find_run(log, run) if run else None
        started = (await run_start(log, name))[1] if name else None

        def require_fit() -> None:
            if name and started:
                node.require_fit(name, started)

        async for stored in tail(log, since, run=name, follow=follow, waiting=require_fit):
            click.echo(in_words(stored))

    try:
        with_logs(directory, work)
    except KeyboardInterrupt:
        return 130
    return 0
