"""The state of a log and its blobs as text, for `evolog doctor --integrity`."""

from events.subjects import LOG
from replay.integrity import Health
from services.views.replayed import closing_lines

SHOWN_FAULTS = 10
"""Faults that are printed; all of them are in the JSON."""


def health_lines(health: Health) -> list[str]:
    """A line for each stream, then for the blobs or the first faults."""
    lines = [
        f"{summary.stream}: {_count(summary.events, 'event')} of {_count(summary.runs, 'run')}"
        + (f", {_count(summary.decisions, 'decision')}" if summary.stream == LOG else "")
        + (f", {summary.set_aside:,} set aside" if summary.set_aside else "")
        + ("" if any(fault.stream == summary.stream for fault in health.faults) else ": whole")
        for summary in health.streams
    ]
    if not health.faults:
        lines += [f"{_count(health.blobs, 'blob')}: whole"] if health.streams else []
        lines += [f"{_count(health.imports, 'import')}: whole"] if health.imports else []
        return lines + [f"{one.run}: {line}" for one in health.closings for line in closing_lines(one)]
    first, *more = health.faults
    lines += [f"The first bad event: {first}", *map(str, more[: SHOWN_FAULTS - 1])]
    if len(more) >= SHOWN_FAULTS:
        lines.append(f"And {len(more) - SHOWN_FAULTS + 1:,} more; --json has them all.")
    return lines


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"
