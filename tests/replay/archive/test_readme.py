"""The archive's page names every view, with its columns in their order, and every table of events."""

import re
from pathlib import Path

from events.catalogue import ENTRIES
from events.subjects import LOG
from replay.archive.projection import Archive
from tests.harness.paths import ROOT

PAGE = (ROOT / "replay" / "archive" / "README.md").read_text(encoding="utf-8")
_CODE = re.compile(r"`(\w+)`")


def named(section: str) -> list[str]:
    """The names in code in the first column of the section's table."""
    return [name for row in re.findall(r"^\| (`.*?) \|", section, re.M) for name in _CODE.findall(row)]


def test_the_page_names_every_view_and_exactly_its_columns(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive.duckdb")
    views = archive.connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    columns = archive.connection.execute(
        "SELECT table_name, list(column_name ORDER BY column_index) FROM duckdb_columns() GROUP BY table_name"
    ).fetchall()
    archive.close()
    sections = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", PAGE, re.M | re.S))
    assert {view for (view,) in views} <= sections.keys()
    assert {name: named(section) for name, section in sections.items()} == {
        name: names for name, names in columns if name in sections
    }


def test_the_page_names_every_table_of_events() -> None:
    section = PAGE.partition("## Tables")[2].partition("###")[0]
    tags = [tag for row in re.findall(r"^\| \w+ \| (`.*) \|$", section, re.M) for tag in _CODE.findall(row)]
    expected = [entry.fact.tag() for entry in ENTRIES if entry.stream == LOG]
    missing = set(expected) - set(tags)
    assert tags == expected, f"write {missing} into the table of replay/archive/README.md, in the catalogue's order"
