"""What the processes of all services of a directory are and do, and how much work waits for each service."""

import asyncio
import socket
from collections.abc import Mapping, Sequence

import msgspec

from events.catalogue import CAPABLE_CONSUMERS, DURABLES, SERVICES
from events.subjects import LOG
from runtime.log.jetstream import Backlog
from runtime.status import Status
from services.host.context import operator
from services.host.node import Node, Running
from services.host.statuses import ask_statuses

TRIES = 3
"""Questions after which a process counts as silent: its interpreter may be held up by an import."""


class ServiceLoad(msgspec.Struct, frozen=True, kw_only=True):
    """How many processes of a service answer, and how many events wait for them."""

    processes: int
    pending: int | None
    """Events that nobody has been handed yet. Of the controller and the archivist, which read the whole log: those that
    the foremost of its processes has not read; null where none answers.
    """
    unacknowledged: int
    """Events that somebody has in hand, or has put off."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """All services at present."""

    services: dict[str, ServiceLoad]
    """By the name of the service, in the order of the catalogue; then by that of the consumer the work that only some
    processes of a service are handed, with those alone that can do it.
    """
    processes: tuple[Status, ...]
    """Those that answer."""
    silent: tuple[str, ...]
    """The processes that `evolog up` of this directory keeps running, and that do not answer, such as executor-1."""
    troubles: tuple[str, ...]
    """What keeps ending, or cannot work on this host, in a sentence each."""


async def look_at_services(node: Node) -> Overview:
    """Ask everybody at once, and again as long as one of this directory's own processes has not answered, some times.

    Raises `Unavailable` where nothing is up.
    """
    running, host = node.require_up(), socket.gethostname()
    seen: dict[tuple[str, str], Status] = {}
    async with operator(node) as connection:
        for _ in range(TRIES):
            statuses, backlogs, end = await asyncio.gather(
                ask_statuses(connection), connection.backlogs([*DURABLES]), connection.log(LOG).end()
            )
            seen |= {(status.host, status.process): status for status in statuses}
            found = overview(running, list(seen.values()), backlogs, end, host)
            if not found.silent:
                break
    return found


def overview_json(found: Overview) -> bytes:
    """What `evolog services --json` prints."""
    processes = [{"process": status.process, **msgspec.to_builtins(status)} for status in found.processes]
    for process in processes:
        del process["silent"]
    return msgspec.json.encode({"version": 1, **msgspec.to_builtins(found), "processes": processes})


def overview(
    running: Running, statuses: Sequence[Status], backlogs: Mapping[str, Backlog], end: int, host: str
) -> Overview:
    """The overview, where the log ends at sequence `end`, and the directory's own services run on `host`."""
    statuses = sorted(
        (status for status in statuses if status.service in SERVICES),
        key=lambda status: (SERVICES.index(status.service), status.index, status.host),
    )
    here = {status.process for status in statuses if status.host == host}
    unfit = tuple(f"{name} cannot work here: {sentence}" for name, sentence in running.unfit.items())
    return Overview(
        services={name: _load(name, statuses, backlogs.get(name), end) for name in (*SERVICES, *CAPABLE_CONSUMERS)},
        processes=tuple(statuses),
        silent=tuple(name for name in running.processes if name not in here),
        troubles=unfit + running.troubles,
    )


def _load(name: str, statuses: Sequence[Status], backlog: Backlog | None, end: int) -> ServiceLoad:
    processes = [status for status in statuses if status.service == name]
    if capable := CAPABLE_CONSUMERS.get(name):
        able = [status for status in statuses if capable.capability in status.capabilities]
        processes = [status for status in able if status.service == capable.service]
    if backlog is not None:
        return ServiceLoad(processes=len(processes), pending=backlog.pending, unacknowledged=backlog.unacknowledged)
    read = [status.position for status in processes if status.position is not None]
    return ServiceLoad(processes=len(processes), pending=max(0, end - max(read)) if read else None, unacknowledged=0)
