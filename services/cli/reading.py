"""Reads a recorded run by its name, for the commands that show one."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

from events.errors import CheckFailed, UserError
from replay.history import History
from services.host.imports import find_export
from services.host.node import Node
from services.host.visible import shortened
from services.views.progress import working


def read_run(directory: Path, name: str) -> History:
    """As `load_history`, with a spinner on stderr meanwhile."""
    from services.host.sources import load_history  # with the client of the broker, which takes half a second

    with working(f"reading {name}"):
        return load_history(directory, name)


@contextlib.contextmanager
def exports_in_words(directory: Path, *names: str) -> Iterator[None]:
    """Do something with runs. Where one of them is here as files, what its events make the code trip over becomes a
    `CheckFailed`: anyone may have written them, in ways that no check foresees.
    """
    try:
        yield
    except (UserError, OSError, ImportError):
        raise
    except Exception as wrong:
        exports = [name for name in names if find_export(Node(directory), name) is not None]
        if not exports:
            raise
        place = traceback.extract_tb(wrong.__traceback__)[-1]
        raise CheckFailed(
            f"The events of {' or '.join(exports)} are not such as evolog writes: {type(wrong).__name__} "
            f"({shortened(str(wrong), 200)}), at {Path(place.filename).name}:{place.lineno}. Export the run again."
        ) from wrong
