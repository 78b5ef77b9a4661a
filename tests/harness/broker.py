"""A real nats-server for one test, on a free port, with all accounts and streams."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from runtime.broker import issuing
from runtime.broker.accounts import BOOTSTRAP, OPERATOR
from runtime.broker.children import free_port
from runtime.broker.credentials import Login, bundle_login, credentials_file, read_credentials
from runtime.broker.server import EmbeddedServer
from runtime.broker.streams import bootstrap
from runtime.log.jetstream import Connection, connect


@contextlib.asynccontextmanager
async def broker(directory: Path) -> AsyncIterator[EmbeddedServer]:
    """A server on `directory`, with its streams and consumers."""
    server = EmbeddedServer(directory, port=free_port())
    await server.start()
    try:
        await bootstrap(server.credentials(BOOTSTRAP))
        yield server
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def tls_broker(directory: Path) -> AsyncIterator[EmbeddedServer]:
    """A server that other hosts reach by TLS, with a bundle for each account that may have one."""
    address = f"127.0.0.1:{free_port()}"
    issuing.start_issuing(directory, address)
    issuing.add_bundle(directory, OPERATOR, [OPERATOR])
    server = EmbeddedServer(directory, listen=address)
    await server.start()
    try:
        await bootstrap(server.credentials(BOOTSTRAP))
        yield server
    finally:
        await server.stop()


def bundled(server: EmbeddedServer, user: str) -> Login:
    """The login of an account by its bundle."""
    return bundle_login(issuing.bundle_file(server.directory, user), user)


@contextlib.asynccontextmanager
async def account(server: EmbeddedServer, user: str) -> AsyncIterator[Connection]:
    """A connection as one of the accounts."""
    connection = await connect(lambda: read_credentials(credentials_file(server.directory, user)))
    try:
        yield connection
    finally:
        await connection.close()
