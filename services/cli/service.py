"""`evolog service`."""

import os
import sys
from pathlib import Path

import click

from events.errors import UsageError
from services.cli.options import directory, examples


@click.command(epilog=examples("evolog service executor --index 2"))
@click.argument("name")
@directory
@click.option("--index", type=int, default=0, help="Tells several processes of one service apart.")
@click.option(
    "--nats",
    default=None,
    help="The broker's address, where it is not the one in the account's file: nats:// or tls://.",
)
def service(name: str, directory: Path, index: int, nats: str | None) -> None:
    """Run one service in the foreground, as on a host of its own."""
    from events.catalogue import SERVICES

    if name not in SERVICES:
        raise UsageError(f"There is no service {name!r}; expected one of {', '.join(SERVICES)}.")
    if nats:
        os.environ["EVOLOG_NATS_URL"] = nats
    os.execv(
        sys.executable,
        [sys.executable, "-P", "-m", "services.host.main", name, "--dir", str(directory), "--index", str(index)],
    )
