"""`evolog ui`."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from events.errors import Misconfigured, NotFound, UsageError
from services.cli.options import credentials_option, directory, examples

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCAL = ("127.0.0.1", "localhost", "::1")


@click.command(
    epilog=examples("evolog ui", "evolog ui --port 8500 --no-gold", "evolog ui --credentials dashboard.json")
)
@directory
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8484, show_default=True, help="0: one that is free.")
@click.option("--token", default="", help="What a browser must bring; one is made where none is given.")
@click.option(
    "--tls-cert", type=click.Path(path_type=Path, dir_okay=False), help="The certificate, needed beyond this machine."
)
@click.option("--tls-key", type=click.Path(path_type=Path, dir_okay=False), help="The certificate's key.")
@click.option("--gold/--no-gold", default=True, show_default=True, help="Whether what the auditor knows is shown.")
@credentials_option
def ui(
    directory: Path,
    host: str,
    port: int,
    token: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    gold: bool,
    credentials: Path | None,
) -> None:
    """Show the runs in a browser.

    Scores, lineage, trajectories, audit, training, history and SQL; it only reads. With --credentials the runs are
    another host's, and --dir keeps what is read of their blobs.
    """
    from services.dashboard.server import serve  # with the packages of the extra
    from services.host.node import Node

    if (tls_cert is None) != (tls_key is None):
        raise UsageError("A certificate and its key belong together: give both --tls-cert and --tls-key, or neither.")
    if host not in LOCAL and not (tls_cert and token):
        raise Misconfigured(
            f"{host} can be reached from other machines: give --tls-cert and --tls-key, and a --token of your own."
        )
    if token and len(token) < 16:
        raise UsageError("A token has at least 16 characters; leave --token out, and one is made.")
    if credentials:
        Node(directory).make()
    if not directory.is_dir():
        raise NotFound(f"There is no project directory {directory}: `evolog run TASK` makes one.")
    tls = (tls_cert, tls_key) if tls_cert and tls_key else None
    serve(directory, host, port, token, tls, gold=gold, bundle=credentials)


def ui_option(function: Any) -> Any:
    """The flag of the commands that may show the dashboard beside what they do."""
    return click.option("--ui", "with_ui", is_flag=True, help="Show the runs in a browser meanwhile: `evolog ui`.")(
        function
    )


@contextlib.contextmanager
def dashboard_beside(directory: Path, *, wanted: bool) -> "Iterator[None]":
    """The dashboard of a directory in a process of its own for as long as this lasts, its address said on stderr."""
    if not wanted:
        yield
        return
    import services.dashboard.server  # noqa: F401  what is missing is said before anything is started

    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-m", "services.cli", "ui", "--dir", str(directory), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        click.echo(f"dashboard: {process.stdout.readline().strip() or 'it did not start'}", err=True)
        yield
    finally:
        process.terminate()
        process.wait()
