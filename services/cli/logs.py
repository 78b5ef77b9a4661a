"""`evolog logs`."""

import time
from pathlib import Path

import click

from services.cli.options import as_json, directory, examples

POLL_SECONDS = 0.2


@click.command(epilog=examples("evolog logs", "evolog logs executor -f", "evolog logs --level warning --run toy-s0"))
@click.argument("service", required=False)
@directory
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on, until Ctrl-C.")
@click.option("--lines", "-n", type=click.IntRange(0), default=50, show_default=True, help="Entries from before.")
@click.option(
    "--level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least grave entries to print; services write what EVOLOG_LOG_LEVEL says.",
)
@click.option("--run", default="", help="Only entries that name this run.")
@as_json
def logs(service: str | None, directory: Path, follow: bool, lines: int, level: str, run: str, as_json: bool) -> int:
    """Print what the services log.

    Of all, or of SERVICE, such as executor, or executor-1 for one process of it.
    """
    import msgspec

    from services.host.log_lines import LEVELS, LogFollower, LogLine
    from services.host.node import Node
    from services.views.log_lines import log_line

    node = Node(directory)
    follower = LogFollower(lambda: node.log_files(service or ""))
    node.require_logs(service or "")

    def wanted(entry: LogLine) -> bool:
        grave = not entry.level or LEVELS.index(level) <= LEVELS.index(
            entry.level if entry.level in LEVELS else "error"
        )
        return grave and (not run or entry.fields.get("run") == run)

    entries = [entry for entry in follower.read() if wanted(entry)]
    cut = max(0, len(entries) - lines)
    if cut and not as_json:
        click.echo(f"{cut:,} earlier entries are not shown; --lines {len(entries)} shows all.", err=True)
    entries = entries[cut:]
    try:
        while True:
            for entry in entries:
                click.echo(msgspec.json.encode(entry).decode() if as_json else log_line(entry))
            if not follow:
                return 0
            time.sleep(POLL_SECONDS)
            entries = [entry for entry in follower.read() if wanted(entry)]
    except KeyboardInterrupt:
        return 130
