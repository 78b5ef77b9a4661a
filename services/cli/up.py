"""`evolog up`."""

from pathlib import Path

import click

from services.cli.options import directory, examples
from services.cli.ui import dashboard_beside, ui_option


@click.command(epilog=examples("evolog up --executors 4"))
@directory
@click.option("--executors", type=click.IntRange(1, 64), default=2, show_default=True, help="Executor processes.")
@click.option("--verifiers", type=click.IntRange(1, 64), default=1, show_default=True, help="Verifier processes.")
@click.option(
    "--nats", default=None, help="Use this broker instead of an embedded one, with the accounts in DIR/credentials."
)
@ui_option
def up(directory: Path, executors: int, verifiers: int, nats: str | None, with_ui: bool) -> None:
    """Start the broker and every service, and keep them running.

    Unfinished runs go on.
    """
    import asyncio
    import os
    import sys

    from services.host.log_lines import LEVEL_VARIABLE, level_of
    from services.host.supervisor import supervise, to_log, to_stderr

    level_of(os.environ.get(LEVEL_VARIABLE))  # said here, once, rather than by every service

    with dashboard_beside(directory, wanted=with_ui):
        asyncio.run(
            supervise(
                directory,
                executors=executors,
                verifiers=verifiers,
                embedded=nats is None,
                nats_url=nats,
                on_event=to_stderr if sys.stderr.isatty() else to_log,
            )
        )
