"""Writes the tables of an archive as Parquet: one folder for each table, in it one for each run."""

from pathlib import Path

import duckdb

from events.errors import UsageError

BOOKKEEPING = ("cursor", "made")
"""Tables of an archive that describe the file and hold no events."""


def require_empty(folder: Path) -> None:
    """Raise `UsageError` for a folder that holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} is not an empty folder, and Parquet files of another time would be mixed with these: name "
            "another."
        )


def write_parquet(archive: Path, folder: Path) -> None:
    """Write each table that has rows to FOLDER/TABLE/run=RUN/*.parquet, compressed by zstd, in the order of the log.

    Raises `UsageError` where the folder holds something.
    """
    require_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # a connection of its own: an archive's own reaches no files
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH {_quoted(archive)} AS archive (READ_ONLY)").fetchall()
        for table in filled_tables(archive):
            run = ", split_part(subject, '.', 2) AS run" if table == "unreadable" else ""
            target = _quoted(folder / table)
            rows = f'SELECT *{run} FROM archive."{table}" ORDER BY seq'
            connection.execute(
                f"COPY ({rows}) TO {target} (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (run))"
            ).fetchall()


def filled_tables(archive: Path) -> list[str]:
    """The names of an archive's tables that have rows, in alphabetical order, without `BOOKKEEPING`."""
    with duckdb.connect(str(archive), read_only=True) as connection:
        names = connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'main' ORDER BY table_name"
        ).fetchall()
        tables = [name for (name,) in names if name not in BOOKKEEPING]
        return [name for name in tables if connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()]


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
