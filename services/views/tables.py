"""Tables that fit where they are printed: names are never broken over lines, and columns go in a stated order.

A name is there to be copied. So only sentences are wrapped, and where a row does not fit, the columns that matter least
are left out, which a line below the table says.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.host.visible import visible

LEAST_SENTENCE = 18
"""Characters a line that a sentence gets at least."""
_FRAME = 3
"""Characters between two columns; the frame of a whole table is one more."""


class Column(NamedTuple):
    """A column of a table."""

    name: str
    drop: int = 0
    """When it is left out where there is no room: the highest number first; 0 never."""
    right: bool = False
    """Whether its cells stand on the right, as numbers do."""
    sentence: bool = False
    """Whether its cells may be wrapped."""
    least: int = LEAST_SENTENCE
    """Of sentences: the fewest characters a line."""
    styles: Mapping[str, str] = {}
    """The style of a cell, by its text."""


def print_table(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print rows below their columns, in as many columns as the console has room for.

    A column that is empty in every row is left out without a word.
    """
    table, left_out = fitted_table(columns, rows, console.width)
    if title:
        console.print(title, style="table.title", soft_wrap=True, highlight=False)
    console.print(table, crop=False, no_wrap=True, overflow="ignore")
    if left_out:
        console.print(left_out, soft_wrap=True, highlight=False)


def fitted_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> tuple[Table, str]:
    """The table that has room in so many characters a line, and what was left out of it, in words."""
    cells = [[visible(cell).replace("\n", " ") for cell in row] for row in rows]
    there = [at for at, column in enumerate(columns) if not column.drop or any(row[at] for row in cells)]
    widths = {
        at: max((cell_len(text) for text in (columns[at].name, *(row[at] for row in cells))), default=0) for at in there
    }
    needs = {at: min(widths[at], columns[at].least) if columns[at].sentence else widths[at] for at in there}
    shown = _fitting(columns, needs, room)
    table = Table()
    for at in shown:
        column = columns[at]
        table.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=not column.sentence,
            min_width=needs[at],
            overflow="fold",
        )
    for row in cells:
        table.add_row(*(Text(row[at], style=columns[at].styles.get(row[at], "")) for at in shown))
    if (least := _width([needs[at] for at in shown])) > room:
        table.width = least  # a name that is too long is printed whole
    left_out = [columns[at].name for at in there if at not in shown]
    full = _width([widths[at] for at in there])
    words = f"left out for want of room: {', '.join(left_out)}; --json has all, and so has a width of {full}"
    return table, words if left_out else ""


def _fitting(columns: Sequence[Column], needs: dict[int, int], room: int) -> list[int]:
    """The places of the columns that are shown."""
    shown = list(needs)
    for at in sorted(needs, key=lambda at: -columns[at].drop):
        if _width([needs[at] for at in shown]) <= room or not columns[at].drop:
            break
        shown.remove(at)
    return shown


def _width(widths: Sequence[int]) -> int:
    return sum(widths) + _FRAME * len(widths) + 1
