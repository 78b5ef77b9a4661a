"""`evolog up`."""

from pathlib import Path

import click

from services.cli.options import credentials_option, directory, examples
from services.cli.ui import dashboard_beside, ui_option


@click.command(
    epilog=examples(
        "evolog up --executors 4",
        "evolog up --listen 0.0.0.0:4222",
        "evolog up --only executor,verifier --credentials gpu-1.json",
    )
)
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
    "--listen",
    default=None,
    metavar="HOST:PORT",
    help="Where other hosts reach the broker, by TLS; it takes `evolog credentials init`.",
)
@click.option(
    "--listen-leaf",
    default=None,
    metavar="HOST:PORT",
    help="Where leaf nodes of other sites reach the broker, beside --listen.",
)
@click.option(
    "--only",
    default="",
    metavar="SERVICES",
    help="Services to run here, with commas between them; by default all, or those of --credentials.",
)
@click.option(
    "--blobs",
    type=click.Choice(["directory", "stream"]),
    default=None,
    help="Where blobs stand; stream moves them to the broker for good, where other hosts reach them.",
)
@credentials_option
@ui_option
def up(
    directory: Path,
    executors: int,
    verifiers: int,
    nats: str | None,
    listen: str | None,
    listen_leaf: str | None,
    only: str,
    blobs: str | None,
    credentials: Path | None,
    with_ui: bool,
) -> None:
    """Start the broker and every service, and keep them running.

    Unfinished runs go on. With --credentials the broker is another host's, and none is started here.
    """
    import asyncio
    import os
    import sys

    from events.catalogue import SERVICES
    from events.errors import UsageError
    from services.host.log_lines import LEVEL_VARIABLE, level_of
    from services.host.supervisor import supervise, to_log, to_stderr

    level_of(os.environ.get(LEVEL_VARIABLE))  # said here, once, rather than by every service

    names = [name.strip() for name in only.split(",") if name.strip()]
    if "dashboard" in names:
        raise UsageError("The dashboard is no part of --only: add --ui, or start `evolog ui` by itself.")
    if unknown := [name for name in names if name not in SERVICES]:
        raise UsageError(f"There is no service {unknown[0]!r}; expected some of {', '.join(SERVICES)}.")
    if sum(map(bool, (nats, listen, credentials))) > 1:
        raise UsageError(
            "--nats, --listen and --credentials exclude one another: they name a broker of your own, one that is "
            "started here, and one of another host's `evolog up`."
        )
    if listen_leaf and not listen:
        raise UsageError("--listen-leaf goes with --listen: a leaf node shows the same certificates as any other host.")
    if blobs and credentials:
        raise UsageError("The bundle of --credentials says where blobs stand: say --blobs on the broker's host.")
    with dashboard_beside(directory, wanted=with_ui):
        asyncio.run(
            supervise(
                directory,
                executors=executors,
                verifiers=verifiers,
                embedded=nats is None,
                nats_url=nats,
                listen=listen,
                leaf=listen_leaf,
                only=names,
                bundle=credentials,
                blobs=blobs,
                on_event=to_stderr if sys.stderr.isatty() else to_log,
            )
        )
