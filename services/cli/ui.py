"""`evolog ui`."""

from pathlib import Path

import click

from events.errors import Misconfigured, NotFound, UsageError
from services.cli.options import directory, examples

LOCAL = ("127.0.0.1", "localhost", "::1")


@click.command(epilog=examples("evolog ui", "evolog ui --port 8500 --no-gold"))
@directory
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8484, show_default=True, help="0: one that is free.")
@click.option("--token", default="", help="What a browser must bring; one is made where none is given.")
@click.option(
    "--tls-cert", type=click.Path(path_type=Path, dir_okay=False), help="The certificate, needed beyond this machine."
)
@click.option("--tls-key", type=click.Path(path_type=Path, dir_okay=False), help="The certificate's key.")
@click.option("--gold/--no-gold", default=True, show_default=True, help="Whether what the auditor knows is shown.")
def ui(
    directory: Path, host: str, port: int, token: str, tls_cert: Path | None, tls_key: Path | None, gold: bool
) -> None:
    """Show the runs in a browser: scores, lineage, trajectories, audit, SQL. It reads only."""
    from services.dashboard.server import serve  # with the packages of the extra

    if (tls_cert is None) != (tls_key is None):
        raise UsageError("A certificate and its key belong together: give both --tls-cert and --tls-key, or neither.")
    if host not in LOCAL and not (tls_cert and token):
        raise Misconfigured(
            f"{host} can be reached from other machines: give --tls-cert and --tls-key, and a --token of your own."
        )
    if token and len(token) < 16:
        raise UsageError("A token has at least 16 characters; leave --token out, and one is made.")
    if not directory.is_dir():
        raise NotFound(f"There is no project directory {directory}: `evolog run TASK` makes one.")
    serve(directory, host, port, token, (tls_cert, tls_key) if tls_cert and tls_key else None, gold=gold)
