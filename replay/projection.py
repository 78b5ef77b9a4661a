"""The archive: the log as typed DuckDB tables, one for each type of event, appended exactly once and ready for SQL."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
from msgspec import inspect

from events.catalogue import BY_TAG, Entry
from events.codec import Unreadable, decode_at, encode_fact
from events.errors import NotFound, TryAgain
from events.subjects import LOG
from runtime.log import Stored, require_contiguous

SETTINGS: dict[str, str] = {
    "memory_limit": "2GB",
    "max_temp_directory_size": "8GB",
    "threads": "1",
    "checkpoint_threshold": "64MB",
    "enable_external_access": "false",
    "python_enable_replacements": "false",
}
"""Bounded memory, and no file, extension or Python variable within reach of SQL."""

VIEWS = {LOG: Path(__file__).with_name("views.sql")}

_HEADER = "seq BIGINT, time TIMESTAMPTZ, subject VARCHAR, run VARCHAR, tag VARCHAR, id VARCHAR, cause VARCHAR, source VARCHAR, size BIGINT"
_STAGED = _HEADER.replace("TIMESTAMPTZ", "BIGINT") + ", data VARCHAR"


def connect(path: Path, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """A connection to the file under `SETTINGS`, locked, in UTC; `TryAgain` where another process holds the file."""
    try:
        connection = duckdb.connect(str(path), read_only=read_only, config=SETTINGS)
    except duckdb.IOException as failed:
        if "lock on file" in str(failed):
            raise TryAgain(f"{path} is held by another process, most likely an archivist that is starting or stopping; try again.") from failed
        if read_only and not path.exists():
            raise NotFound(f"There is no archive at {path}; start the services, which make it, or name another directory with --dir.") from failed
        raise
    connection.execute("SET GLOBAL TimeZone = 'UTC'").fetchall()
    connection.execute("SET GLOBAL lock_configuration = true").fetchall()
    return connection


def tables(stream: str) -> dict[str, str]:
    """For each type of event of a stream its table's definition, by tag."""
    return {tag: f'CREATE TABLE "{tag}" ({_LEADING}, {_columns(entry)})' for tag, entry in BY_TAG.items() if entry.stream == stream}


class Archive:
    """One stream as tables in one DuckDB file, which this process holds until `close`.

    A file whose tables were made by another version of the catalogue is emptied, to be filled again from the log's beginning:
    `cursor` says from where. Raises `TryAgain` where another process holds the file.
    """

    def __init__(self, path: Path, stream: str = LOG) -> None:
        self.stream = stream
        self.connection = connect(path)
        definitions = tables(stream)
        self._inserts = {tag: _insert(tag, BY_TAG[tag]) for tag in definitions}
        self._prepare(definitions)
        self.connection.execute(f"CREATE TEMP TABLE incoming ({_STAGED})").fetchall()

    @property
    def cursor(self) -> int:
        """The sequence of the last message in the archive; 0 where there is none."""
        found = self.connection.execute("SELECT seq FROM cursor").fetchall()
        return int(found[0][0])

    def apply(self, rows: Sequence[Stored]) -> int:
        """Append messages and move the cursor in one transaction; how many were new. Those at or below the cursor are skipped.

        Raises `CheckFailed` where sequences are missing; then, as after any other error, nothing was changed.
        """
        cursor = self.cursor
        fresh = [row for row in rows if row.sequence > cursor]
        if not fresh:
            return 0
        require_contiguous(fresh, cursor + 1)
        staged, unreadable, tags = self._stage(fresh)
        self.connection.begin()
        try:
            self._append("incoming", staged)
            self._append("unreadable", unreadable)
            self._run(f"INSERT INTO events SELECT * EXCLUDE (data) REPLACE (make_timestamptz(time) AS time) FROM incoming")
            for tag in tags:
                self._run(self._inserts[tag])
            self._run("TRUNCATE incoming")
            self._run(f"UPDATE cursor SET seq = {fresh[-1].sequence}")
            self.connection.commit()
        except BaseException:
            self.connection.rollback()
            raise
        return len(fresh)

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    def _stage(self, rows: Sequence[Stored]) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], list[str]]:
        """Rows for `incoming`, rows for `unreadable`, and the tags among the first."""
        staged, unreadable, tags = [], [], set()
        for row in rows:
            try:
                event = decode_at(row.subject, row.data)
                if event.stream != self.stream:
                    raise Unreadable(f"{event.tag} belongs to the stream {event.stream}, found on {self.stream}")
            except (Unreadable, RecursionError) as wrong:
                unreadable.append((row.sequence, _micros(row), row.subject, str(wrong), row.data))
                continue
            tags.add(event.tag)
            data = encode_fact(event.data).decode()
            staged.append(
                (row.sequence, _micros(row), row.subject, event.run, event.tag, event.id, event.cause, event.source, len(row.data), data)
            )
        return staged, unreadable, sorted(tags)
