"""`evolog service`."""

import os
import sys
from pathlib import Path

import click

from events.errors import UsageError
from services.cli.options import credentials_option, directory, examples


@click.command(
    epilog=examples("evolog service executor --index 2", "evolog service executor --credentials executor.json")
)
@click.argument("name")
@directory
@click.option("--index", type=int, default=0, help="Tells several processes of one service apart.")
@click.option(
    "--nats",
    default=None,
    help="The broker's address, where it is not the one in the account's file: nats:// or tls://.",
)
@credentials_option
def service(name: str, directory: Path, index: int, nats: str | None, credentials: Path | None) -> None:
    """Run one service in the foreground, as on a host of its own.

    There it needs a bundle of `evolog credentials`, and makes --dir to work in.
    """
    from events.catalogue import SERVICES

    if name == "dashboard":
        raise UsageError("The dashboard is started by `evolog ui`, which takes --credentials too.")
    if name not in SERVICES:
        raise UsageError(f"There is no service {name!r}; expected one of {', '.join(SERVICES)}.")
    if nats:
        os.environ["EVOLOG_NATS_URL"] = nats
    arguments = ["--dir", str(directory), "--index", str(index)]
    if credentials:
        from runtime.broker.credentials import bundle_login

        bundle_login(credentials, name)()
        arguments += ["--credentials", str(credentials.resolve())]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "services.host.main", name, *arguments])
