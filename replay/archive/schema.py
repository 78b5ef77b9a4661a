"""What each table and view of the archive is, and what each of its columns means: `.schema` of `evolog sql`.

The words are not written here: those of a table of events are the docstrings of its event, those of a view and of
`events` and `unreadable` stand in this room's page. The types are those that DuckDB gives them.
"""

import functools
import re
from pathlib import Path
from typing import NamedTuple

from events import docstrings
from events.catalogue import ENTRIES
from events.errors import NotFound
from events.subjects import LOG
from replay.archive.projection import MEMORY, Archive
from replay.archive.query import QueryResult

PAGE = Path(__file__).with_name("README.md")
EVERYTHING = "*"
"""In the place of a name: all tables and views with their columns."""
HIDDEN = ("cursor", "made")
"""Tables in which the archive keeps its own accounts."""
_SECTION = re.compile(r"^### `(\w+)`\n(.*?)(?=^##)", re.M | re.S)
_ROW = re.compile(r"^\| (`.*?) \| (.*) \|$", re.M)
_LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")


class TableText(NamedTuple):
    """A table or view in words."""

    name: str
    kind: str
    """`view`, or `table` for one row an event."""
    meaning: str
    columns: list[tuple[str, str, str]]
    """Name, type and meaning of each."""


@functools.cache
def tables() -> list[TableText]:
    """All tables and views: the views first, then `events` and `unreadable`, then a table for each type of event."""
    archive = Archive(MEMORY)
    types: dict[str, list[tuple[str, str]]] = {}
    try:
        views = {name for (name,) in archive.connection.execute("SELECT view_name FROM duckdb_views()").fetchall()}
        for table, column, kind in archive.connection.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal "
            "ORDER BY table_name, column_index"
        ).fetchall():
            types.setdefault(table, []).append((column, kind))
    finally:
        archive.close()
    sections = dict(_SECTION.findall(PAGE.read_text(encoding="utf-8")))
    found = []
    for name in sections:
        meanings = _meanings(sections[name])
        columns = [(column, kind, meanings.get(column, "")) for column, kind in types[name]]
        opening = _flat(sections[name].strip().partition("\n\n")[0])
        found.append(TableText(name, "view" if name in views else "table", opening, columns))
    common = _meanings(sections["events"])
    for entry in ENTRIES:
        tag = entry.fact.tag()
        if entry.stream == LOG and tag in types:
            own = {field.name: field.meaning for field in docstrings.fields(entry.fact)}
            columns = [(column, kind, own.get(column) or common.get(column, "")) for column, kind in types[tag]]
            found.append(TableText(tag, "table", docstrings.summary(entry.fact).partition("\n")[0], columns))
    return [one for one in found if one.name not in HIDDEN]


def schema(names: str) -> QueryResult:
    """What the tables of these names are, a row a column; without a name, a row a table. `*` stands for all.

    Raises `NotFound` for a name that is none.
    """
    wanted = names.split()
    if not wanted:
        rows = [(one.name, one.kind, one.meaning) for one in tables()]
        return QueryResult(("table", "kind", "meaning"), ("VARCHAR",) * 3, list(rows))
    known = {one.name: one for one in tables()}
    if unknown := [name for name in wanted if name not in known and name != EVERYTHING]:
        raise NotFound(f"There is no table {unknown[0]!r} in the archive; `.schema` lists those that there are.")
    chosen = tables() if EVERYTHING in wanted else [known[name] for name in wanted]
    lines = [(one.name, *column) for one in chosen for column in one.columns]
    return QueryResult(("table", "column", "type", "meaning"), ("VARCHAR",) * 4, list(lines))


def _meanings(section: str) -> dict[str, str]:
    """The meaning of each column that a section's table names."""
    return {name: _flat(meaning) for names, meaning in _ROW.findall(section) for name in re.findall(r"`(\w+)`", names)}


def _flat(text: str) -> str:
    return _LINK.sub(r"\1", " ".join(text.split()))
