"""The console of a command, and the spinner or bar that it shows while it works."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.text import Text

from services.host.visible import raw, visible

UNBOUNDED = 100_000
"""Columns of a table where the output is no terminal: as many as a row needs, so that a line is a row."""


class VisibleConsole(Console):
    """A console on standard output, or on stderr, for text that a model may have written.

    Control characters in the text are made visible, and no markup and no names of emoji are looked for in it.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(file=raw(sys.stderr if stderr else sys.stdout), width=width, markup=False, emoji=False)
        self.stderr = stderr

    def on_broken_pipe(self) -> None:
        """Whoever read the output has gone: the command is to end as one that prints by other means."""
        raise BrokenPipeError

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as it is measured and laid out."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """What is written of anything; only what styles and cursor need is not text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def stdout() -> Console:
    """The console for tables: as wide as the terminal, or as COLUMNS says; in a pipe no row is wrapped or cut."""
    return VisibleConsole() if sys.stdout.isatty() or "COLUMNS" in os.environ else VisibleConsole(width=UNBOUNDED)


@contextlib.contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr with the time so far, and a function that changes its words; nothing where stderr is no
    terminal.
    """
    if not sys.stderr.isatty():
        yield lambda words: None
        return
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=VisibleConsole(stderr=True), transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda words: progress.update(task, description=words)


@contextlib.contextmanager
def counting(text: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, with a function to call with the amount done and the total; nothing where stderr is
    no terminal.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=VisibleConsole(stderr=True), transient=True) as progress:
        bar = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def pretraining_progress(say: Callable[[str], None]) -> Callable[[int, int, float], None]:
    """A callback for pre-training a base model, which says the step, the number of steps and the loss in words."""
    return lambda done, total, loss: say(f"pre-training the base model: step {done} of {total}, loss {loss:.3f}")
