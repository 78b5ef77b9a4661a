"""A real nats-server for one test, on a free port, with all accounts and streams."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from events.subjects import BLOBS
from runtime.blobs.stream import ChunkSocket
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


@contextlib.contextmanager
def broker_beside(directory: Path) -> Iterator[EmbeddedServer]:
    """The same, for code that has no event loop: the server is looked after in a thread."""
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    servers: list[EmbeddedServer] = []

    async def keep() -> None:
        async with broker(directory) as server:
            servers.append(server)
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(keep())
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        yield servers[0]
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended already
            loop.call_soon_threadsafe(stop.set)
        thread.join()


def chunk_socket(server: EmbeddedServer, user: str, stream: str = BLOBS) -> ChunkSocket:
    """A connection to a stream of blobs as one of the accounts."""
    return ChunkSocket(read_credentials(credentials_file(server.directory, user)), stream)
