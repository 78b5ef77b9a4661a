"""The archive: projects the log into a DuckDB file with one typed table for each type of event, each event exactly
once.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import duckdb
import msgspec
from msgspec import inspect

from events.catalogue import BY_TAG
from events.choice import AgentCalled, TrialFinished
from events.codec import Event, Unreadable, UntypedEvent, plain_at
from events.errors import CheckFailed, NotFound, TryAgain, UsageError, UserError
from events.fact import Fact
from events.judgement import JudgeCalled, TrajectoryScored
from events.rollouts import ModelCalled, RolloutFailed, TrajectoryRecorded
from events.subjects import LOG, run_of
from replay.archive.arrow import Columns
from runtime.log.port import Stored, require_contiguous

logger = logging.getLogger("evolog")
T = TypeVar("T")

SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "2GB",
    "max_temp_directory_size": "8GB",
    "threads": "2",
    "async_threads": "0",
    "checkpoint_threshold": "64MB",
    "python_enable_replacements": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
}
"""DuckDB's settings for our own statements; what a query may do is confined in its process, `query.py`."""
_BY_HAND = {"checkpoint_threshold": "1TB", "auto_checkpoint_skip_wal_threshold": str(10**15)}
"""Settings under which DuckDB never moves its log of writes into the file by itself: while a query's process reads the
file, that would write over what it reads.
"""
CHECKPOINT_BYTES = 64_000_000
"""The length of that log from which on it is moved into the file when no query reads."""
MEMORY = Path(":memory:")
"""The path of a database that is no file."""

VIEWS = {LOG: Path(__file__).with_name("views.sql")}
VIEW_BODIES = dict(re.findall(r"^CREATE VIEW (\w+) AS\n(.*?);$", VIEWS[LOG].read_text(), re.MULTILINE | re.DOTALL))
"""The SELECT of each view."""
KEPT_EVENTS, KEPT_SHARE = 20_000, 8
"""The joined attempts are kept anew once so many events are behind them, and one in so many of all events."""
_PARTS, _SUMS = VIEW_BODIES["cost"].removeprefix("WITH parts AS (\n").split("\n)\n")
_COSTS = (ModelCalled, TrajectoryScored, TrajectoryRecorded, RolloutFailed, AgentCalled, JudgeCalled, TrialFinished)
_LATER = ", ".join(f"{kind.tag()} AS (FROM main.{kind.tag()} WHERE seq > {{until}})" for kind in _COSTS)
_KEEP = f"""
CREATE SCHEMA IF NOT EXISTS kept;
CREATE OR REPLACE TABLE kept.attempts AS FROM ({VIEW_BODIES["trajectories"]}) ORDER BY run, seq;
CREATE OR REPLACE TABLE kept.costs AS FROM ({_PARTS});
CREATE OR REPLACE TABLE kept.until AS FROM cursor;
CREATE OR REPLACE VIEW trajectories AS
WITH trajectory_recorded AS (
    FROM main.trajectory_recorded WHERE seq > {{until}}
    UNION ALL FROM main.trajectory_recorded WHERE seq IN (SELECT seq FROM kept.attempts WHERE outcome IS NULL)
), rollout_failed AS (FROM main.rollout_failed WHERE seq > {{until}}),
trajectory_scored AS (FROM main.trajectory_scored WHERE seq > {{until}}),
scoring_failed AS (FROM main.scoring_failed WHERE seq > {{until}})
FROM kept.attempts WHERE outcome IS NOT NULL UNION ALL {VIEW_BODIES["trajectories"]};
CREATE OR REPLACE VIEW cost AS
WITH {_LATER}, parts AS (FROM kept.costs UNION ALL FROM ({_PARTS}))
{_SUMS}"""
"""Keeps the rows of the view `trajectories` as a table, sorted by run, and the parts of the view `cost`. The views then
join what came later, and what was open, alone.
"""

_TIME = "make_timestamptz(time)"
_EVENTS = "SELECT seq, {time} AS time, subject, run, '{tag}' AS tag, id, cause, source, size FROM incoming_{tag}"
_BOOKKEEPING = (
    "CREATE TABLE events (seq BIGINT, time TIMESTAMPTZ, subject VARCHAR, run VARCHAR, tag VARCHAR, id VARCHAR, cause "
    "VARCHAR, "
    "source VARCHAR, size BIGINT)",
    "CREATE TABLE unreadable (seq BIGINT, time TIMESTAMPTZ, subject VARCHAR, reason VARCHAR, payload BLOB)",
    "CREATE TABLE cursor (stream VARCHAR, seq BIGINT, run VARCHAR)",
    "CREATE TABLE made (tables VARCHAR, views VARCHAR)",
)
_PASSING = re.compile("lock on file|No space left|Disk quota|Too many open files|Cannot allocate memory|Out of Memory")
"""Errors that are no fault of the file: it can be opened, or written, later."""
_DAMAGE = re.compile("[Cc]orrupt|checksum|Could not read|invalidated")
"""Errors over an open file that are its own fault."""
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


ReadableMessage = tuple[Stored, UntypedEvent | Event, bytes]
"""A message, the event in it, and the event's data as JSON: of what was stored, no more than was understood."""


class ParsedMessages(NamedTuple):
    """Messages parsed into what is appended."""

    last: int
    """The sequence of the last of them."""
    readable: dict[str, list[ReadableMessage]]
    """By tag, each in the order of the log."""
    unreadable: list[tuple[Any, ...]]
    """Rows of the table of that name."""


def connect(path: Path, *, read_only: bool = False, checkpoint_by_hand: bool = False) -> duckdb.DuckDBPyConnection:
    """A connection to a DuckDB file under `SETTINGS`, in UTC.

    Raises `TryAgain` where another process holds the file or the disk is full, `NotFound` where it is to be read and is
    not there, `CheckFailed` where it is damaged or no file, and `UserError` with code 77 where permission is missing.
    """
    if read_only and not path.exists() and not path.is_symlink():
        raise NotFound(
            f"There is no archive at {path}: start the services, which make it, or name the directory that it is in."
        )
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise _damaged(path, "it is no file")
    try:
        connection = duckdb.connect(
            str(path), read_only=read_only, config=SETTINGS | (_BY_HAND if checkpoint_by_hand else {})
        )
    except duckdb.Error as failed:
        if "lock on file" in str(failed):
            raise TryAgain(
                f"{path} is held by another process, such as an archivist that is starting or stopping; try again."
            ) from failed
        if _PASSING.search(str(failed)):
            raise TryAgain(f"{path} cannot be opened now ({error_sentence(failed)}); try again.") from failed
        if "Permission denied" in str(failed):
            raise UserError(f"{path} may not be opened by this user: let its owner ask.", code=77) from failed
        raise _damaged(path, error_sentence(failed)) from failed
    connection.execute("SET GLOBAL TimeZone = 'UTC'").fetchall()
    return connection


def error_sentence(wrong: duckdb.Error) -> str:
    """DuckDB's message as one line, without its excerpt of the SQL."""
    return " ".join(str(wrong).split("\n\nLINE")[0].split())


def damage(path: Path, wrong: duckdb.Error) -> CheckFailed | None:
    """What to say where an error over the open file at `path` comes from its damage; None where it does not."""
    of_the_file = type(wrong) in (duckdb.Error, duckdb.IOException, duckdb.FatalException, duckdb.InternalException)
    if not of_the_file or not _DAMAGE.search(str(wrong)) or _PASSING.search(str(wrong)):
        return None
    return _damaged(path, error_sentence(wrong))


def _damaged(path: Path, reason: str) -> CheckFailed:
    return CheckFailed(
        f"{path} is damaged ({reason.removesuffix('.')}); all that it held is in the log, so delete it to have it made "
        "anew."
    )


def require_duckdb(file: Path) -> None:
    """Raise `UsageError` for a file that is there and is no DuckDB file."""
    if file.is_file() and file.stat().st_size and file.open("rb").read(12)[8:] != b"DUCK":
        raise UsageError(f"{file} is no DuckDB file, and is left as it is: name another.")


class Archive:
    """The tables of one stream, or of one run of it, in one DuckDB file, which this process holds until `close`.

    A file whose tables another version of the catalogue made is emptied, to be filled again from the log: `cursor` says
    from where. An integer that does not fit 64 bits is NULL here. Raises `UsageError` for a file that is something
    else. With `checkpoint_by_hand`, processes that `reading` forks may read it while it is written.
    """

    def __init__(self, path: Path, stream: str = LOG, run: str = "", *, checkpoint_by_hand: bool = False) -> None:
        self.path, self.stream, self.run = path, stream, run
        self.connection = connect(path, checkpoint_by_hand=checkpoint_by_hand)
        self._alone = threading.Lock()
        """Held while the connection is worked with, or a process forked that reads."""
        self._readers, self._readers_changed = 0, threading.Condition()
        self._tables = {tag: _table(entry.fact) for tag, entry in BY_TAG.items() if entry.stream == stream}
        self._open = False
        """Whether a transaction has begun."""
        self.taken: set[int] = set()
        """The ids of all events that were read, as numbers."""
        try:
            self._prepare()
            self._load_taken()
            self._cursor = self._added = int(self._run("SELECT seq FROM cursor")[0][0])
            self._kept = self._kept_until()
        except (duckdb.Error, ValueError, IndexError, TypeError) as wrong:
            self.close()
            reason = error_sentence(wrong) if isinstance(wrong, duckdb.Error) else "its own tables are not as they were"
            raise _damaged(path, reason) from wrong
        except BaseException:
            self.close()
            raise

    @property
    def cursor(self) -> int:
        """The sequence up to which the stream was projected; 0 at first."""
        return self._cursor

    def apply(self, rows: Sequence[Stored]) -> int:
        """Append messages and move the cursor in one transaction. Returns how many were new: those at or below the
        cursor are skipped.

        Raises `CheckFailed` where sequences are missing; then, as after any other error, nothing has changed. Raises
        `TryAgain` where the file turns out to be damaged: it is put aside, and `open_archive` begins a new one.
        """
        cursor = self.cursor
        new_rows = [row for row in rows if row.sequence > cursor]
        if not new_rows:
            return 0
        require_contiguous(new_rows, cursor + 1)
        parsed = self.read(new_rows)
        with self._alone:
            try:
                self.add(parsed)
                self.commit()
                if self._cursor - self._kept > max(KEPT_EVENTS, self._cursor // KEPT_SHARE):
                    self.keep_attempts()
                if self._log_bytes() > CHECKPOINT_BYTES and not self._readers:
                    self._run("CHECKPOINT")
            except duckdb.Error as wrong:
                if (found := damage(self.path, wrong)) is None:
                    raise
                self.close()
                raise TryAgain(_put_aside(self.path, found)) from wrong
        return len(new_rows)

    @contextlib.contextmanager
    def reading(self, fork: Callable[[], contextlib.AbstractContextManager[T]]) -> Iterator[T]:
        """Let `fork` make a process that reads what is committed now, and keep the file as that process needs it.

        May be called by several threads, also while another one calls `apply`.
        """
        with self._alone:
            if self._log_bytes() > 2 * CHECKPOINT_BYTES:  # too long for readers to follow on readers
                with self._readers_changed:
                    self._readers_changed.wait_for(lambda: not self._readers)
                self._run("CHECKPOINT")
            process = fork()
            self._count_readers(1)
        try:
            with process as reader:
                yield reader
        finally:
            self._count_readers(-1)

    def read(self, rows: Sequence[Stored]) -> ParsedMessages:
        """Parse messages. Touches no file, so another thread may do it."""
        parsed = ParsedMessages(rows[-1].sequence, {}, [])
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
            message = row, event, _encode(event.data)
            try:
                parsed.readable[tag].append(message)
            except KeyError:
                parsed.readable[tag] = [message]
        return parsed

    def add(self, parsed: ParsedMessages) -> None:
        """Append the messages that follow the cursor, within a transaction that `commit` ends; an error rolls all of it
        back.
        """
        if not self._open:
            self.connection.begin()
            self._open = True
        try:
            if parsed.unreadable:
                appender = self.connection.appender("unreadable")
                appender.append_rows(parsed.unreadable)
                appender.flush()
            if parsed.readable:
                for tag, messages in parsed.readable.items():
                    self.connection.register(f"incoming_{tag}", _columns(messages))
                events = " UNION ALL ".join(_EVENTS.format(time=_TIME, tag=tag) for tag in parsed.readable)
                inserts = (self._tables[tag].insert for tag in parsed.readable)
                # in one call, which gives up Python's lock once
                self._run(";".join([f"INSERT INTO events FROM ({events}) ORDER BY seq", *inserts]))
                for tag in parsed.readable:
                    self.connection.unregister(f"incoming_{tag}")
            self._run(f"UPDATE cursor SET seq = {parsed.last}")
            self._added = parsed.last
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
        self._open, self._cursor = False, self._added

    def keep_attempts(self) -> None:
        """Keep the joined attempts, as they are now, for the view `trajectories`; what it shows stays the same."""
        if self.stream != LOG or self._kept == self._cursor:
            return
        self.connection.begin()
        try:
            self._run(_KEEP.format(until=self._cursor))
            self.connection.commit()
        except BaseException:
            self.connection.rollback()
            raise
        self._kept = self._cursor

    def _kept_until(self) -> int:
        """The sequence up to which attempts are kept; 0 for none."""
        kept = self._run("SELECT 1 FROM duckdb_tables() WHERE schema_name = 'kept' AND table_name = 'until'")
        return int(self._run("SELECT seq FROM kept.until")[0][0]) if kept else 0

    def _undo(self) -> None:
        self.connection.rollback()
        self._open = False
        self._load_taken()

    def _load_taken(self) -> None:
        self.taken = {int(id, 16) for (id,) in self._run("SELECT id FROM events")}

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def _log_bytes(self) -> int:
        """The length of DuckDB's log of writes that are not in the file yet."""
        log = self.path.with_name(f"{self.path.name}.wal")
        return log.stat().st_size if log.exists() else 0

    def _count_readers(self, change: int) -> None:
        with self._readers_changed:
            self._readers += change
            self._readers_changed.notify_all()

    def _run(self, sql: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql).fetchall()

    def _prepare(self) -> None:
        """Make the tables and views that are missing; both are made anew if their definitions have changed."""
        definitions = [*_BOOKKEEPING, *(table.create for table in self._tables.values())]
        views = VIEWS[self.stream].read_text() if self.stream in VIEWS else ""
        digests = (_digest("\n".join(definitions)), _digest(f"{views}{_KEEP}" if views else ""))
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
            self._run("DROP SCHEMA IF EXISTS kept CASCADE")
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


def _columns(messages: Sequence[ReadableMessage]) -> Columns:
    """The columns of the view from which a type's table is filled; `time` is in microseconds since 1970."""
    stored, events, data = zip(*messages, strict=True)
    return Columns(
        {
            "seq": [message.sequence for message in stored],
            "time": [message.time // 1000 for message in stored],
            "size": [len(message.data) for message in stored],
        },
        {
            "subject": [message.subject.encode() for message in stored],
            "run": [event.run.encode() for event in events],
            "id": [event.id.encode() for event in events],
            "cause": [event.cause.encode() for event in events],
            "source": [event.source.encode() for event in events],
            "data": data,
        },
    )


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
        f"FROM (SELECT *, from_json(data, '{structure}') AS fact FROM incoming_{tag})",
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
    """A service's archive at `path`, which processes forked by `reading` may read. What cannot be gone on with there is
    renamed to `.damaged`, with DuckDB's log of writes, and a new one is begun, which the log can fill.

    Raises `TryAgain` where another process holds the file, or the disk is full.
    """
    try:
        archive = Archive(path, stream, checkpoint_by_hand=True)
    except TryAgain:
        raise
    except UserError as wrong:
        logger.error("%s", _put_aside(path, wrong))
        archive = Archive(path, stream, checkpoint_by_hand=True)
    for left_over in path.parent.glob(f"{path.name}.tmp*"):
        shutil.rmtree(left_over, ignore_errors=True)
    return archive


def _put_aside(path: Path, wrong: Exception) -> str:
    """Rename what is at `path`, and say so in a sentence."""
    aside = path.with_suffix(".damaged")
    for end in ("", ".wal"):
        here, there = path.with_name(path.name + end), aside.with_name(aside.name + end)
        if there.is_dir() and not there.is_symlink():
            shutil.rmtree(there)
        there.unlink(missing_ok=True)
        if os.path.lexists(here):
            here.rename(there)
    return f"{path} cannot be gone on with: it is kept as {aside}, and a new one is filled from the log. ({wrong})"
