"""What is said of a log's integrity to a person."""

from events.subjects import LOG
from replay.integrity import Health

SHOWN = 10
"""Faults that are printed; all of them are in the JSON."""


def lines(health: Health) -> list[str]:
    """The sentences for a person."""
    said = [
        f"{of.stream}: {_count(of.events, 'event')} of {_count(of.runs, 'run')}"
        + (f", {_count(of.decisions, 'decision')}" if of.stream == LOG else "")
        + (f", {of.set_aside:,} set aside" if of.set_aside else "")
        + ("" if any(fault.stream == of.stream for fault in health.faults) else ": whole")
        for of in health.streams
    ]
    if not health.faults:
        return [*said, f"{_count(health.blobs, 'blob')}: whole"]
    first, *more = health.faults
    said += [f"The first bad event: {first}", *map(str, more[: SHOWN - 1])]
    if len(more) >= SHOWN:
        said.append(f"And {len(more) - SHOWN + 1:,} more; --json has them all.")
    return said


def _count(number: int, of: str) -> str:
    return f"{number:,} {of}{'' if number == 1 else 's'}"
