"""Serves the dashboard by uvicorn until it is interrupted."""

import secrets
import socket
from pathlib import Path

import click
import uvicorn

from events.errors import TryAgain
from services.dashboard.app import create_app
from services.dashboard.broker import Broker
from services.dashboard.source import Source
from services.host.node import Node

TOKEN_BYTES = 24


def serve(
    directory: Path,
    host: str,
    port: int,
    token: str,
    tls: tuple[Path, Path] | None,
    *,
    gold: bool,
    bundle: Path | None = None,
) -> None:
    """Serve a directory's runs at an address, and print where; with a `bundle`, those of another host, of which the
    directory keeps blobs. Raises `TryAgain` where the port is taken.
    """
    node = Node(directory)
    source = Source(directory, with_gold=gold, broker=Broker(bundle, node.blobs) if bundle else None)
    token = token or secrets.token_urlsafe(TOKEN_BYTES)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as wrong:
        raise TryAgain(f"Port {port} at {host} cannot be had ({wrong.strerror}): give another --port.") from wrong
    with listener:
        shown = f"[{host}]" if ":" in host else host
        address = f"{'https' if tls else 'http'}://{shown}:{listener.getsockname()[1]}/?token={token}"
        click.echo(address)
        click.echo("Open this address in a browser; Ctrl-C ends it.", err=True)
        app = create_app(source, token, [host, "localhost", "127.0.0.1", "[::1]"])
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            ssl_certfile=tls and tls[0],
            ssl_keyfile=tls and tls[1],
            timeout_graceful_shutdown=1,
        )
        uvicorn.Server(config).run(sockets=[listener])
