"""What an archive holds, to be compared; and what it should hold, made slowly."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from events import codec
from events.catalogue import BY_TAG
from replay.archive.projection import Archive, _fields
from runtime.log.port import Stored


def dump(archive: Archive) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, as text and in one order."""
    names = archive.connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE NOT temporary AND schema_name = 'main'"
    ).fetchall()
    return {
        name: archive.connection.execute(f'SELECT COLUMNS(*)::VARCHAR FROM "{name}" ORDER BY ALL').fetchall()
        for (name,) in names
    }


def slow_dump(messages: Sequence[Stored], path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The `dump` of an archive of these messages, made the slow way: each is decoded to its fact, which is written as
    JSON anew, and DuckDB reads that alone.
    """
    archive, seen = Archive(path), set[str]()
    unreadable: list[tuple[Any, ...]] = []
    readable: list[tuple[Any, ...]] = []
    for stored in messages:
        try:
            event = codec.decode_at(stored.subject, stored.data)
            if event.stream != archive.stream:
                raise codec.Unreadable(f"{event.tag} belongs on the stream {event.stream}, found on {archive.stream}")
            if event.id in seen:
                raise codec.Unreadable(f"the first event {event.id} stands before it, and counts")
        except (codec.Unreadable, RecursionError) as wrong:
            unreadable.append((stored.sequence, stored.time // 1000, stored.subject, str(wrong), stored.data))
            continue
        seen.add(event.id)
        head = (stored.sequence, stored.time // 1000, stored.subject, event.run, event.tag, event.id, event.cause)
        readable.append((*head, event.source, len(stored.data), msgspec.json.encode(event.data).decode()))
    _fill(archive, "wrong (seq BIGINT, time BIGINT, subject VARCHAR, reason VARCHAR, payload BLOB)", unreadable)
    _fill(
        archive,
        "facts (seq BIGINT, time BIGINT, subject VARCHAR, run VARCHAR, tag VARCHAR, id VARCHAR, cause VARCHAR, "
        "source VARCHAR, size BIGINT, data VARCHAR)",
        readable,
    )
    ask, time = archive.connection.execute, "make_timestamptz(time)"
    ask(f"INSERT INTO unreadable SELECT * REPLACE ({time} AS time) FROM wrong")
    ask(f"INSERT INTO events SELECT * EXCLUDE (data) REPLACE ({time} AS time) FROM facts")
    for tag in {row[4] for row in readable}:
        columns = _fields(inspect.type_info(BY_TAG[tag].fact))
        structure = json.dumps({name: column.structure for name, column in columns.items()}).replace("'", "''")
        values = ", ".join(column.value.format(f'fact."{name}"') for name, column in columns.items())
        ask(
            f'INSERT INTO "{tag}" SELECT seq, run, id, {time}, cause, {values} '
            f"FROM (SELECT *, from_json(data, '{structure}') AS fact FROM facts WHERE tag = '{tag}')"
        )
    ask(f"UPDATE cursor SET seq = {messages[-1].sequence}")
    found = dump(archive)
    archive.close()
    return found


def _fill(archive: Archive, table: str, rows: list[tuple[Any, ...]]) -> None:
    archive.connection.execute(f"CREATE TEMP TABLE {table}")
    if rows:
        appender = archive.connection.appender(table.split()[0])
        appender.append_rows(rows)
        appender.flush()
