"""Prints the result of a query as a table, JSON, CSV or Parquet."""

import base64
import csv
import sys
import tempfile
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from events.errors import UsageError
from replay.archive.projection import error_sentence
from replay.archive.query import JSON_ENCODER, QueryResult
from services.host.visible import visible
from services.views.progress import UNBOUNDED, VisibleConsole, stdout
from services.views.tables import LEAST_SENTENCE

FORMATS = ("table", "json", "ndjson", "csv", "parquet")
MOST_ROWS = 1000
"""Rows of a table that are printed; a longer answer says how many it leaves out."""
_NUMBERS = ("BIGINT", "INTEGER", "HUGEINT", "DOUBLE", "FLOAT", "DECIMAL")


def render(result: QueryResult, format: str, file: Path | None = None) -> None:
    """Write a result in one of `FORMATS` to a file, or to standard output.

    In CSV, NULL is an empty field and nested values are JSON.

    Raises `UsageError` for another format, and for a type that Parquet cannot hold.
    """
    match format:
        case "table":
            data = _table(result, to_terminal=file is None)
        case "json":
            data = _visible(msgspec.json.format(JSON_ENCODER.encode(_objects(result))) + b"\n")
        case "ndjson":
            data = _visible(b"".join(JSON_ENCODER.encode(row) + b"\n" for row in _objects(result)))
        case "csv":
            data = as_csv(result)
            data = _visible(data) if file is None and sys.stdout.isatty() else data
        case "parquet":
            try:
                data = _parquet(result)
            except duckdb.Error as wrong:
                raise UsageError(
                    f"The result does not fit into Parquet ({error_sentence(wrong)}): cast that column to VARCHAR."
                ) from wrong
        case _:
            raise UsageError(f"{format!r} is no format of a table: use one of {', '.join(FORMATS)}.")
    if file is not None:
        file.write_bytes(data)
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def require_writable(format: str) -> None:
    """Raise `UsageError` for a format whose bytes are nothing for a terminal, where that is what they would go to."""
    if format == "parquet" and sys.stdout.isatty():
        raise UsageError("Parquet is not printed on a terminal: write it to a file, as in `> result.parquet`.")


def _objects(result: QueryResult) -> list[dict[str, Any]]:
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows]


def _field(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case _:
            return JSON_ENCODER.encode(value).decode()


def _visible(data: bytes) -> bytes:
    return visible(data.decode()).encode()


def as_csv(result: QueryResult) -> bytes:
    """The result as CSV, whole: NULL is an empty field, and nested values are JSON."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(result.columns)
    writer.writerows([_field(value) for value in row] for row in result.rows)
    return text.getvalue().encode()


def _table(result: QueryResult, *, to_terminal: bool) -> bytes:
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    console = stdout() if to_terminal else VisibleConsole(width=UNBOUNDED)
    names = [visible(name) for name in result.columns]
    rows = [[None if value is None else visible(_field(value)) for value in row] for row in result.rows[:MOST_ROWS]]
    cells = [[row[at] or "" for row in rows] for at in range(len(names))]
    widths = [max(map(cell_len, [name, *column])) for name, column in zip(names, cells, strict=True)]
    sentences = [any(" " in cell for cell in column) for column in cells]
    least = [
        min(width, LEAST_SENTENCE) if sentence else width for width, sentence in zip(widths, sentences, strict=True)
    ]
    with console.capture() as text:
        if sum(least) + 3 * len(least) + 1 > console.width:
            for number, row in enumerate(rows, 1):
                console.print(f"row {number}", style="bold", highlight=False)
                for name, value in zip(names, row, strict=True):
                    shown = "NULL" if value is None else value
                    console.print(f"  {name:<{max(map(len, names))}}  {shown}", soft_wrap=True, highlight=False)
        else:
            table = Table(box=box.SIMPLE_HEAD)
            for at, kind in enumerate(result.types):
                right = kind.startswith(_NUMBERS)
                table.add_column(
                    Text(names[at]),
                    justify="right" if right else "left",
                    overflow="fold",
                    no_wrap=not sentences[at],
                    min_width=least[at],
                )
            for row in rows:
                table.add_row(*(Text("NULL", style="dim") if value is None else Text(value) for value in row))
            console.print(table)
        if (more := len(result.rows) - len(rows)) > 0:
            console.print(
                f"{more:,} of {len(result.rows):,} rows are left out: --format csv, json or ndjson has all, and LIMIT "
                "asks for fewer.",
                soft_wrap=True,
                highlight=False,
            )
    return text.get().encode()


def _parquet(result: QueryResult) -> bytes:
    types = ["VARCHAR" if kind in ("INTERVAL", '"NULL"') else kind for kind in result.types]
    names = ['"' + name.replace('"', '""') + '"' for name in result.columns]
    blobs = {index for index, kind in enumerate(types) if kind == "BLOB"}
    with tempfile.TemporaryDirectory() as directory, duckdb.connect() as connection:
        path = Path(directory) / "result.parquet"
        connection.execute(
            f"CREATE TABLE result ({', '.join(map(' '.join, zip(names, types, strict=True)))})"
        ).fetchall()
        appender = connection.appender("result")
        appender.append_rows(
            tuple(
                base64.b64decode(value) if value is not None and index in blobs else value
                for index, value in enumerate(row)
            )
            for row in result.rows
        )
        appender.flush()
        connection.execute(f"COPY result TO '{path}' (FORMAT parquet, COMPRESSION zstd)").fetchall()
        return path.read_bytes()
