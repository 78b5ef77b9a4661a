"""Reads a recorded run by its name, for the commands that show one."""

from pathlib import Path

from replay.history import History
from services.host.sources import load_history
from services.views.progress import working


def read_run(directory: Path, name: str) -> History:
    """As `load_history`, with a spinner on stderr meanwhile."""
    with working(f"reading {name}"):
        return load_history(directory, name)
