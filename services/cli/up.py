"""`evolog up`."""

from pathlib import Path

import click

from services.cli.options import directory, examples


@click.command(epilog=examples("evolog up --executors 4"))
@directory
@click.option(
    "--executors", type=click.IntRange(0, 64), default=2, show_default=True, help="Executor processes; 0: elsewhere."
)
@click.option(
    "--verifiers", type=click.IntRange(0, 64), default=1, show_default=True, help="Verifier processes; 0: elsewhere."
)
@click.option(
    "--nats", default=None, help="Use this broker instead of an embedded one, with the accounts in DIR/credentials."
)
@click.option(
    "--blobs",
    type=click.Choice(["directory", "stream"]),
    default=None,
    help="Where blobs stand; stream moves them to the broker for good, where other hosts reach them.",
)
def up(directory: Path, executors: int, verifiers: int, nats: str | None, blobs: str | None) -> None:
    """Start the broker and every service, and keep them running.

    Unfinished runs go on.
    """
    import asyncio

    from services.host.supervisor import supervise, to_stderr

    asyncio.run(
        supervise(
            directory,
            executors=executors,
            verifiers=verifiers,
            embedded=nats is None,
            nats_url=nats,
            blobs=blobs,
            on_event=to_stderr,
        )
    )
