"""The processes of all services as a table, for `evolog services`."""

from collections.abc import Sequence

from rich.console import Console

from events.catalogue import CAPABLE_CONSUMERS
from runtime.status import Status
from services.host.overview import Overview, ServiceLoad
from services.views.tables import Column, print_table
from services.views.waiting import activity_phrase, waiting_phrase

COLUMNS = (
    Column("process"),
    Column("does now", sentence=True, least=24),
    Column("pending", right=True),
    Column("in hand", right=True),
    Column("last error", drop=1, sentence=True),
    Column("host", drop=2),
    Column("version", drop=3),
    Column("up for", drop=4, right=True),
    Column("pid", drop=5, right=True),
)
UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def print_services(console: Console, found: Overview, now: float) -> None:
    """A row for each process, and for each service of which none answers; then what keeps going wrong."""
    rows: list[Sequence[str]] = []
    for name, load in found.services.items():
        own = [_row(status, now) for status in found.processes if status.service == name]
        silent = [process for process in found.silent if process.rpartition("-")[0] == name]
        own += [(process, "does not answer", *[""] * 5) for process in silent]
        if capable := CAPABLE_CONSUMERS.get(name):
            if not (load.processes or load.pending or load.unacknowledged):
                continue  # nobody needs it
            able = [status.process for status in found.processes if capable.capability in status.capabilities]
            own = [(name, f"taken by {', '.join(able)}", *[""] * 5)] if able else []
        own = own or [(name, "no process answers", *[""] * 5)]
        for first, (process, does, *rest) in enumerate(own):
            rows.append((process, does, *(["", ""] if first else _waiting_work(load)), *rest))
    print_table(console, COLUMNS, rows)
    for trouble in found.troubles:
        console.print(trouble, soft_wrap=True, highlight=False)


def _row(status: Status, now: float) -> tuple[str, ...]:
    over = status.last_error not in ("", *(one.error for one in status.waiting))  # else it is said already
    error = f"{_age(now - (status.last_error_at or now))} ago: {status.last_error}" if over else ""
    return (
        status.process,
        does_now(status, now),
        error,
        status.host,
        status.version,
        _age(now - status.since),
        str(status.pid),
    )


def does_now(status: Status, now: float) -> str:
    """What a process waits for and does, what goes wrong first, each with its run."""
    waiting = sorted(status.waiting, key=lambda one: not one.error)
    phrases = [waiting_phrase(one, now, run=True) for one in waiting]
    phrases += [activity_phrase(one, now, run=True) for one in status.activities]
    return "; ".join(phrases) or "idle"


def _waiting_work(load: ServiceLoad) -> list[str]:
    return ["" if load.pending is None else f"{load.pending:,}", f"{load.unacknowledged:,}"]


def _age(seconds: float) -> str:
    """The seconds in the largest unit of which there is one."""
    for size, unit in UNITS:
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
