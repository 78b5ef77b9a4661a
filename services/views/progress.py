"""Where a command prints, and what it shows while it works."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

WIDTH = 120
"""Columns of a table where the output is no terminal."""


def stdout() -> Console:
    """Where tables go; what a model wrote is never taken for markup."""
    return Console(markup=False) if sys.stdout.isatty() else Console(width=WIDTH, markup=False)


@contextlib.contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr while something takes its time, and what changes its words; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda said: None
        return
    with Console(stderr=True).status(what) as status:
        yield lambda said: status.update(said)


@contextlib.contextmanager
def counting(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, and what says how much of it is done; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False), transient=True) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
