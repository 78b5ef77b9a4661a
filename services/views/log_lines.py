"""Entries of the services' logs as lines of text."""

from services.host.log_lines import LogLine, in_pair
from services.host.visible import visible

SHORT_LEVEL = {"warning": "WARN "}


def log_line(entry: LogLine) -> str:
    """An entry as it is printed: time, process, level, what happened, and its names and values."""
    if not entry.time:
        return visible(f"{'':12} {entry.process:<16} {entry.text}")
    level = SHORT_LEVEL.get(entry.level, f"{entry.level.upper():<5}")
    pairs = "".join(f" {name}={in_pair(value)}" for name, value in entry.fields.items())
    return visible(f"{entry.time[11:]} {entry.process:<16} {level} {entry.text}{' ' if pairs else ''}{pairs}")
