"""`evolog doctor --integrity`."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from events.errors import CheckFailed
from replay.integrity import Health
from runtime.broker.store import bytes_lost
from services.host.context import operator
from services.host.integrity import examine
from services.host.node import Node
from services.host.sources import copied, require_log, temporary_server
from services.views.integrity import lines
from services.views.progress import working


def check_integrity(directory: Path, *, as_json: bool) -> int:
    """Print whether the log is whole, else what is wrong from the first bad event on; the exit code."""
    node = Node(directory)

    async def within(said: Callable[[str], None]) -> Health:
        if node.alive():
            async with operator(node) as connection:
                return await examine(connection, node, said, {})
        require_log(node)
        # a copy: a server that starts on damaged files cuts them, and they may be all there is
        async with copied(node) as copy, temporary_server(copy) as connection:
            return await examine(connection, node, said, bytes_lost(node.nats_dir, copy.nats_dir))

    with working("opening the log") as said:
        health = asyncio.run(within(said))
    if as_json:
        click.echo(msgspec.json.encode({"version": 1, "whole": not health.faults, **msgspec.structs.asdict(health)}).decode())
    else:
        for line in lines(health):
            click.echo(line)
    return CheckFailed.code if health.faults else 0
