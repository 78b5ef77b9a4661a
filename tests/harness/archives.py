"""What an archive holds, to be compared."""

from typing import Any

from replay.archive.projection import Archive


def dump(archive: Archive) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, as text and in one order."""
    names = archive.connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE NOT temporary AND schema_name = 'main'"
    ).fetchall()
    return {
        name: archive.connection.execute(f'SELECT COLUMNS(*)::VARCHAR FROM "{name}" ORDER BY ALL').fetchall()
        for (name,) in names
    }
