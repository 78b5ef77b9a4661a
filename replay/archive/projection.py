"""The archive: projects the log into a DuckDB file with one typed table for each type of event, each event exactly
once.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec
from msgspec import inspect

from events.catalogue import BY_TAG
from events.codec import Event, Unreadable, UntypedEvent, plain_at
from events.errors import CheckFailed, NotFound, TryAgain, UsageError
from events.fact import Fact
from events.subjects import LOG, run_of
from runtime.log.port import Stored, require_contiguous

logger = logging.getLogger("evolog")

SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "2GB",
    "max_temp_directory_size": "8GB",
    "threads": "2",
    "checkpoint_threshold": "64MB",
    "enable_external_access": "false",
    "python_enable_replacements": "false",
}
"""DuckDB's settings: memory has a bound, and SQL reaches no file, extension or Python variable."""

VIEWS = {LOG: Path(__file__).with_name("views.sql")}

_INCOMING = (
    "seq BIGINT, time BIGINT, subject VARCHAR, run VARCHAR, tag VARCHAR, id VARCHAR, cause VARCHAR, source VARCHAR, "
    "size BIGINT, data VARCHAR"
)
"""The columns appended for each message; `time` is in microseconds since 1970."""
_TIME = "make_timestamptz(time)"
_INSERT = f"INSERT INTO events SELECT seq, {_TIME}, subject, run, tag, id, cause, source, size FROM incoming"
_BOOKKEEPING = (
    "CREATE TABLE events (seq BIGINT, time TIMESTAMPTZ, subject VARCHAR, run VARCHAR, tag VARCHAR, id VARCHAR, cause "
    "VARCHAR, "
    "source VARCHAR, size BIGINT)",
    "CREATE TABLE unreadable (seq BIGINT, time TIMESTAMPTZ, subject VARCHAR, reason VARCHAR, payload BLOB)",
    "CREATE TABLE cursor (stream VARCHAR, seq BIGINT, run VARCHAR)",
    "CREATE TABLE made (tables VARCHAR, views VARCHAR)",
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder().encode


class _Column(NamedTuple):
    """The DuckDB type for values of one Python type, and how they are taken out of JSON."""

    type: str
    structure: Any
    """The structure that DuckDB's `from_json` expects."""
    value: str = "{}"
    """A SQL expression over the value from `from_json`, which stands in for {}."""


class _Table(NamedTuple):
    create: str
    insert: str


class ParsedMessages(NamedTuple):
    """Messages parsed into the rows that are appended."""

    last: int
    """The sequence of the last of them."""
    readable: list[tuple[Stored, UntypedEvent | Event]]
    incoming: list[tuple[Any, ...]]
    unreadable: list[tuple[Any, ...]]


def connect(path: Path, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """A connection to a DuckDB file under `SETTINGS`, which SQL cannot change any more, in UTC.

    Raises `TryAgain` where another process holds the file, `NotFound` where it is to be read and is not there, and
    `CheckFailed` where it is damaged.
    """
    if read_only and not path.exists():
        raise NotFound(
            f"There is no archive at {path}: start the services, which make it, or name the directory that it is in."
        )
    try:
        connection = duckdb.connect(str(path), read_only=read_only, config=SETTINGS)
    except duckdb.IOException as failed:
        if "lock on file" in str(failed):
            raise TryAgain(
                f"{path} is held by another process, such as an archivist that is starting or stopping; try again."
            ) from failed
        if "not a valid DuckDB database file" in str(failed):
            raise CheckFailed(
                f"{path} is damaged; all that it held is in the log, so delete it to have it made anew."
            ) from failed
        raise
    connection.execute("SET GLOBAL TimeZone = 'UTC'").fetchall()
    connection.execute("SET GLOBAL lock_configuration = true").fetchall()
    return connection


def require_duckdb(file: Path) -> None:
    """Raise `UsageError` for a file that is there and is no DuckDB file."""
    if file.is_file() and file.stat().st_size and file.open("rb").read(12)[8:] != b"DUCK":
        raise UsageError(f"{file} is no DuckDB file, and is left as it is: name another.")


class Archive:
    """The tables of one stream, or of one run of it, in one DuckDB file, which this process holds until `close`.

    A file whose tables another version of the catalogue made is emptied, to be filled again from the log: `cursor` says
    from where. An integer that does not fit 64 bits is NULL here. Raises `UsageError` for a file that is something
    else.
    """

    def __init__(self, path: Path, stream: str = LOG, run: str = "") -> None:
        self.path, self.stream, self.run = path, stream, run
        self.connection = connect(path)
        self._tables = {tag: _table(entry.fact) for tag, entry in BY_TAG.items() if entry.stream == stream}
        self._open = False
        """Whether a transaction has begun."""
        self.taken: set[int] = set()
        """The ids of all events that were read, as numbers."""
        try:
            self._prepare()
            self._load_taken()
            self._run(f"CREATE TEMP TABLE incoming ({_INCOMING})")
        except BaseException:
            self.close()
            raise

    @property
    def cursor(self) -> int:
        """The sequence up to which the stream was projected; 0 at first."""
        return int(self._run("SELECT seq FROM cursor")[0][0])

    def apply(self, rows: Sequence[Stored]) -> int:
        """Append messages and move the cursor in one transaction. Returns how many were new: those at or below the
        cursor are skipped.

        Raises `CheckFailed` where sequences are missing; then, as after any other error, nothing has changed.
        """
        cursor = self.cursor
        new_rows = [row for row in rows if row.sequence > cursor]
        if not new_rows:
            return 0
        require_contiguous(new_rows, cursor + 1)
        self.add(self.read(new_rows))
        self.commit()
        return len(new_rows)

    def read(self, rows: Sequence[Stored]) -> ParsedMessages:
        """Parse messages. Touches no file, so another thread may do it."""
        parsed = ParsedMessages(rows[-1].sequence, [], [], [])
        own_rows = [row for row in rows if run_of(row.subject) == self.run] if self.run else rows
        for row in own_rows:
            sequence, time, subject, data = row.sequence, row.time // 1000, row.subject, row.data
            try:
                event = plain_at(subject, data)
                tag = event.tag
                if tag not in self._tables:
                    raise Unreadable(f"{tag} belongs on the stream {BY_TAG[tag].stream}, found on {self.stream}")
                if (place := int(event.id, 16)) in self.taken:
                    raise Unreadable(f"the first event {event.id} stands before it, and counts")
            except (Unreadable, RecursionError) as wrong:
                parsed.unreadable.append((sequence, _EPOCH + timedelta(microseconds=time), subject, str(wrong), data))
                continue
            self.taken.add(place)
            parsed.readable.append((row, event))
            text = _encode(event.data).decode()
            parsed.incoming.append(
                (sequence, time, subject, event.run, tag, event.id, event.cause, event.source, len(data), text)
            )
        return parsed

    def add(self, parsed: ParsedMessages) -> None:
        """Append the messages that follow the cursor, within a transaction that `commit` ends; an error rolls all of it
        back.
        """
        if not self._open:
            self.connection.begin()
            self._open = True
        try:
            self._append("unreadable", parsed.unreadable)
            self._append("incoming", parsed.incoming)
            tags = sorted({row[4] for row in parsed.incoming})
            # in one call, which gives up Python's lock once
            self._run(";".join([_INSERT, *(self._tables[tag].insert for tag in tags), "TRUNCATE incoming"]))
            self._run(f"UPDATE cursor SET seq = {parsed.last}")
        except BaseException:
            self._undo()
            raise

    def commit(self) -> None:
        """Commit what was added since the last commit."""
        try:
            self.connection.commit()
        except BaseException:
            self._undo()
            raise
        self._open = False

    def _undo(self) -> None:
        self.connection.rollback()
        self._open = False
        self._load_taken()

    def _load_taken(self) -> None:
        self.taken = {int(id, 16) for (id,) in self._run("SELECT id FROM events")}

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def _append(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            appender = self.connection.appender(table)
            appender.append_rows(rows)
            appender.flush()

    def _run(self, sql: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql).fetchall()

    def _prepare(self) -> None:
        """Make the tables and views that are missing; both are made anew if their definitions have changed."""
        definitions = [*_BOOKKEEPING, *(table.create for table in self._tables.values())]
        views = VIEWS[self.stream].read_text() if self.stream in VIEWS else ""
        digests = (_digest("\n".join(definitions)), _digest(views))
        existing = {kind: [row[0] for row in self._run(_NAMES[kind])] for kind in _NAMES}
        if existing["TABLE"] and "made" not in existing["TABLE"]:
            raise UsageError(
                f"{self.path} is a DuckDB file that evolog did not make, and is left as it is: name another file."
            )
        existing_digests = self._run("SELECT tables, views FROM made")[0] if "made" in existing["TABLE"] else ("", "")
        if existing_digests == digests:
            ((stream, run),) = self._run("SELECT stream, run FROM cursor")
            if (stream, run) != (self.stream, self.run):
                raise UsageError(
                    f"{self.path} holds {_contents(stream, run)} and cannot go on with "
                    f"{_contents(self.stream, self.run)}: "
                    "name another file."
                )
            return
        self.connection.begin()
        try:
            for name in existing["VIEW"]:
                self._run(f'DROP VIEW "{name}"')
            if existing_digests[0] != digests[0]:
                for name in existing["TABLE"]:
                    self._run(f'DROP TABLE "{name}"')
                for definition in definitions:
                    self._run(definition)
                self._run(f"INSERT INTO cursor VALUES ('{self.stream}', 0, '{self.run}')")
                self._run("INSERT INTO made VALUES ('', '')")
            for statement in self.connection.extract_statements(views):
                self._run(statement.query)
            self._run(f"UPDATE made SET tables = '{digests[0]}', views = '{digests[1]}'")
            self.connection.commit()
        except BaseException:
            self.connection.rollback()
            raise


_NAMES = {
    "TABLE": "SELECT table_name FROM duckdb_tables() WHERE NOT internal AND NOT temporary AND schema_name = 'main'",
    "VIEW": "SELECT view_name FROM duckdb_views() WHERE NOT internal AND NOT temporary",
}


def _contents(stream: str, run: str) -> str:
    return f"run {run}" if run else f"all runs of {stream}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _table(fact: type[Fact]) -> _Table:
    """The table of one type of event: its definition, and the statement that fills it from `incoming`."""
    tag = fact.tag()
    columns = _fields(inspect.type_info(fact))
    types = ", ".join(f'"{name}" {column.type}' for name, column in columns.items())
    structure = json.dumps({name: column.structure for name, column in columns.items()}).replace("'", "''")
    values = ", ".join(column.value.format(f'fact."{name}"') for name, column in columns.items())
    return _Table(
        create=f'CREATE TABLE "{tag}" (seq BIGINT, run VARCHAR, id VARCHAR, time TIMESTAMPTZ, cause VARCHAR, {types})',
        insert=f'INSERT INTO "{tag}" SELECT seq, run, id, {_TIME}, cause, {values} '
        f"FROM (SELECT *, from_json(data, '{structure}') AS fact FROM incoming WHERE tag = '{tag}')",
    )


def _fields(struct: inspect.Type) -> dict[str, _Column]:
    if not isinstance(struct, inspect.StructType):
        raise TypeError(f"{struct} is no struct")
    return {field.name: _column(field.type) for field in struct.fields}


def _column(kind: inspect.Type) -> _Column:
    """The column for values of one type. Raises `TypeError` for a type that no event has used so far."""
    match kind:
        case inspect.StrType():
            return _Column("VARCHAR", "VARCHAR")
        case inspect.LiteralType(values=values) if all(isinstance(value, str) for value in values):
            return _Column("VARCHAR", "VARCHAR")
        case inspect.IntType():
            return _Column("BIGINT", "BIGINT")
        case inspect.FloatType():
            return _Column("DOUBLE", "DOUBLE")
        case inspect.BoolType():
            return _Column("BOOLEAN", "BOOLEAN")
        case inspect.UnionType(types=types) if (
            len(rest := [one for one in types if not isinstance(one, inspect.NoneType)]) == 1
        ):
            return _column(rest[0])
        case inspect.DictType(key_type=key, value_type=value):
            name = f"MAP({_column(key).type}, {_column(value).type})"
            return _Column(name, name)
        case inspect.VarTupleType(item_type=inspect.StructType(array_like=True) as struct):
            fields = _fields(struct)
            parts = ", ".join(
                f'"{name}" := TRY_CAST(part[{number}] AS {field.type})'
                for number, (name, field) in enumerate(fields.items(), 1)
            )
            return _Column(
                f"{_struct(fields)}[]", [["VARCHAR"]], f"list_transform({{}}, lambda part: struct_pack({parts}))"
            )
        case inspect.VarTupleType(item_type=item):
            inner = _column(item)
            return _Column(f"{inner.type}[]", [inner.structure])
        case inspect.StructType(array_like=False):
            fields = _fields(kind)
            return _Column(_struct(fields), {name: field.structure for name, field in fields.items()})
        case _:
            raise TypeError(f"events hold values of type {kind}, for which the archive has no column")


def _struct(fields: dict[str, _Column]) -> str:
    return "STRUCT(" + ", ".join(f'"{name}" {field.type}' for name, field in fields.items()) + ")"


def open_archive(path: Path, stream: str = LOG) -> Archive:
    """The archive at `path`. A damaged one is renamed to `.damaged`, and a new one is begun, which the log can fill."""
    try:
        return Archive(path, stream)
    except CheckFailed as wrong:
        aside = path.with_suffix(".damaged")
        logger.error("%s It is kept as %s, and a new one is filled from the log.", wrong, aside)
        path.replace(aside)
        return Archive(path, stream)
