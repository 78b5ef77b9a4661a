"""The console of a command, and the spinner or bar that it shows while it works."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

WIDTH = 120
"""Columns of a table where the output is no terminal."""


def stdout() -> Console:
    """The console for tables. Markup is off, since a model may have written the text."""
    return Console(markup=False) if sys.stdout.isatty() else Console(width=WIDTH, markup=False)


@contextlib.contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr, with a function that changes its words; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda words: None
        return
    with Console(stderr=True).status(text) as status:
        yield lambda words: status.update(words)


@contextlib.contextmanager
def counting(text: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, with a function to call with the amount done and the total; nothing where stderr is
    no terminal.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, markup=False), transient=True) as progress:
        bar = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def pretraining_progress(say: Callable[[str], None]) -> Callable[[int, int, float], None]:
    """A callback for pre-training a base model, which says the step, the number of steps and the loss in words."""
    return lambda done, total, loss: say(f"pre-training the base model: step {done} of {total}, loss {loss:.3f}")
