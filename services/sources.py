"""Where a command reads the log: the broker that is up, or one started for as long as the command lasts."""

import contextlib
from collections.abc import AsyncIterator

from events.errors import NotFound
from runtime.jetstream import Connection
from runtime.server import BOOTSTRAP, EmbeddedServer, bootstrap
from services.context import operator
from services.node import Node


@contextlib.asynccontextmanager
async def opened(node: Node) -> AsyncIterator[Connection]:
    """The operator's connection; raises `NotFound` for a directory without a log and `TryAgain` while evolog is starting in it."""
    if node.alive():
        async with operator(node) as connection:
            yield connection
        return
    if not node.nats_dir.exists():
        raise NotFound(f"There is no log in {node.directory}: name a directory that `evolog up` made, with --dir.")
    with node.hold():
        server = EmbeddedServer(node.directory)
        try:
            await server.start()
            await bootstrap(server.url, BOOTSTRAP, server.passwords[BOOTSTRAP])
            async with operator(node) as connection:
                yield connection
        finally:
            await server.stop()
