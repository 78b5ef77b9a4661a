"""What `evolog watch` shows on a terminal, as it goes on: a picture that is drawn anew a few times a second."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from replay.report import Report
from replay.run_state import state_in_words
from services.host.hints import with_directory
from services.host.visible import one_line
from services.views.events import message_line
from services.views.progress import VisibleConsole
from services.views.run import GENERATIONS, RUNS, generation_rows, run_rows, short_task
from services.views.spent import money, tokens
from services.views.tables import Column, fitted_table
from services.views.waiting import QUIET, present, quiet_line, seconds_in_words

if TYPE_CHECKING:
    from replay.run_state import ListedRun
    from runtime.log.port import Stored
    from services.host.watched import WatchedMoment

EVENTS = 8
"""Most of the last events that are shown."""
LINES = 6
"""Most lines of what the services do."""
_TABLE_FRAME = 4
"""Lines of a table besides its rows."""


def run_picture(report: Report, done: int, watched: "WatchedMoment", width: int, height: int) -> RenderableType:
    """One run in a window of so many characters and lines: its generations, work, rates, cost, what the services do,
    and its last events. `done` of its rollouts are done.
    """
    began = report.generations[0].began / 1e9 if report.generations else watched.now
    head = f"{report.run}: task {short_task(report.task)}: {state_in_words(report.state, report.audit)}"
    if report.ended:
        head += f": {report.reason}"
    elif report.generations:
        head += f" for {seconds_in_words(watched.now - began)}"
    if report.score is not None:
        head += f", best dev {report.score:.4f}"
    below = [
        f"work: {done:,} of {report.rollouts:,} rollouts that were asked for are done{_rates(watched.rates)}",
        f"cost: {report.own.rollouts:,} rollouts, {tokens(report.own)}, {money(report.own)}",
        *([] if report.audit == "done" else _services(report.run, watched, report.state == "paused")),
        *event_lines(watched.recent),
    ]
    rows = generation_rows(report.generations)
    return _picture(head, GENERATIONS, rows, "earlier generations", below, width, height)


def runs_picture(runs: "Sequence[ListedRun]", watched: "WatchedMoment", width: int, height: int) -> RenderableType:
    """All runs of a directory in a window of so many characters and lines, those that go on last."""
    order = sorted(runs, key=_goes_on)
    going = sum(map(_goes_on, runs))
    below = [
        f"work: {going:,} of {len(runs):,} runs go on{_rates(watched.rates)}",
        *_services("", watched, False),
        *event_lines(watched.recent),
    ]
    head = f"{len(runs):,} runs"
    return _picture(head, RUNS, run_rows(order), "other runs", below, width, height)


def _goes_on(row: "ListedRun") -> bool:
    return row.state in ("running", "paused") or row.audit == "under way"


def event_lines(recent: "Sequence[Stored]") -> list[str]:
    """The last messages; of several of one type in a row, the last one and how many they are."""
    together = [list(group) for _, group in groupby(recent, lambda stored: stored.subject.split(".")[1::2])]
    return [message_line(group[-1], len(group)) for group in together[-EVENTS:]]


def _picture(
    head: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    others: str,
    below: Sequence[str],
    width: int,
    height: int,
) -> RenderableType:
    room = height - len(below) - 3  # the first line, that of the notes, and the one on which the cursor stands
    shown = min(len(rows), max(1, room - _TABLE_FRAME))
    table, left_out = fitted_table(columns, rows[-shown:], width)
    console = VisibleConsole(width=width)
    while shown > 1 and len(console.render_lines(table)) > room:  # sentences are wrapped
        shown -= 1
        table, left_out = fitted_table(columns, rows[-shown:], width)
    notes = [f"{len(rows) - shown:,} {others} are not shown"] if len(rows) > shown else []
    notes += [left_out.partition(";")[0]] if left_out else []
    lines = [_line(text, width) for text in ("; ".join(notes), *below) if text]
    return Group(_line(head, width), *([table] if rows else []), *lines)


def _services(run: str, watched: "WatchedMoment", paused: bool) -> list[str]:
    if paused:
        return [quiet_line(run, watched.quiet, watched.statuses, watched.now, paused=True)]
    said = present(run, watched.statuses, watched.now)
    if not said and watched.quiet >= QUIET:
        return [quiet_line(run, watched.quiet, watched.statuses, watched.now)]
    more = [f"and {len(said) - LINES} more"] if len(said) > LINES else []
    return [f"now: {sentence}" for sentence in (*said[:LINES], *more)]


def _rates(rates: tuple[float, ...]) -> str:
    words = [f"{rate:,.1f} {what} a second" for rate, what in zip(rates, ("events", "rollouts"), strict=False)]
    return f"; {', '.join(words)}" if words else ""


def _line(text: str, width: int) -> Text:
    line = Text(one_line(with_directory(text)), no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line
