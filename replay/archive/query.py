"""Read-only SQL over the archive: answered by the archivist while it runs, else from the file itself.

Either way the query runs in a process of its own. An answer is lines of JSON, the same from the archivist's socket as
from the file: the columns, chunks of rows, then the end or an error.
"""

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec

from events.errors import TryAgain, UsageError, UserError
from replay.archive.projection import MEMORY, connect, damage, error_sentence
from replay.archive.query_process import QueryLimits, QueryProcess, spill_folder
from replay.archive.statement import body, refused_name

ARCHIVE = "archive.duckdb"
SOCKET = "query.sock"
QUERIES = "archive.query"
"""The subject on which the archivist answers queries over the broker."""
SECONDS = 30.0
"""The longest that one query may take, the sending of its rows included."""
_CHUNK = 1000
_LONGEST_SOCKET_PATH = 100
_READS = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_DUCKDB_SHARE = 0.75
"""The part of a query's memory that DuckDB plans with; beyond it, it spills to the disk."""


class QueryResult(NamedTuple):
    """A query's answer.

    Values are as in JSON: times are ISO 8601 in UTC, bytes are base64, a non-finite number is None.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    """The columns' types, by DuckDB's names."""
    rows: list[tuple[Any, ...]]


class QueryRequest(msgspec.Struct, frozen=True):
    """The one line that a client sends."""

    sql: str


class AnswerLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of an answer; `end` counts the rows sent, `error` is a sentence and `code` its exit code."""

    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    rows: Sequence[tuple[Any, ...]] = ()
    end: int = -1
    error: str = ""
    code: int = 0


JSON_ENCODER = msgspec.json.Encoder(enc_hook=str, decimal_format="number")
_ERRORS = {error.code: error for error in UserError.__subclasses__() if error.__module__ == UserError.__module__}
_decoder = msgspec.json.Decoder(AnswerLine)


def text_literal(text: str) -> str:
    """A text as a literal of SQL, which nothing that it holds closes."""
    return "'" + text.replace("'", "''") + "'"


def query(directory: Path, sql: str) -> QueryResult:
    """The answer to one SELECT or EXPLAIN over the archive in this directory.

    Raises `UsageError` for SQL that is wrong or not allowed, `NotFound` where there is no archive, `TryAgain` where it
    is busy, and `UserError` with code 124 where the query takes too long.
    """
    with contextlib.closing(_asked(directory, sql)) as lines:
        return collect(lines)


def first_rows(directory: Path, sql: str, limit: int) -> tuple[QueryResult, bool]:
    """As `query`, with the first `limit` rows alone, and whether there are more: the rest is never read."""
    with contextlib.closing(_asked(directory, sql)) as lines:
        return _collect(lines, limit)


def _asked(directory: Path, sql: str) -> Generator[bytes]:
    """The lines of the answer by the archivist, or from the file while none is listening."""
    client = _dial(directory / SOCKET)
    if client is None:
        archive = directory / ARCHIVE
        with contextlib.closing(answer(lambda: connect(archive, read_only=True), archive, sql)) as lines:
            yield from lines
        return
    try:
        with client, client.makefile("rwb") as stream:
            stream.write(JSON_ENCODER.encode(QueryRequest(sql)) + b"\n")
            stream.flush()
            yield from stream
    except OSError as wrong:
        raise TryAgain(f"The archivist does not answer to the end ({wrong}); ask again.") from wrong


def query_over(ask: Callable[[bytes], bytes], sql: str) -> QueryResult:
    """As `query`, of the archivist wherever it runs; `ask` gives the answer to a question on `QUERIES`."""
    return collect(ask(sql.encode()).splitlines())


def query_file(archive: Path, sql: str) -> QueryResult:
    """As `query`, over a file that no process holds, such as a rebuilt archive."""
    with contextlib.closing(answer(lambda: connect(archive, read_only=True), archive, sql)) as lines:
        return collect(lines)


def answer(
    open_database: Callable[[], duckdb.DuckDBPyConnection],
    path: Path,
    sql: str,
    limits: QueryLimits = QueryLimits(SECONDS),
) -> Generator[bytes]:
    """Answer a query over the database at `path`, line by line, in a process of its own.

    `open_database` is called there. It may give a connection of this process, which nothing may work with until the
    first line has come.
    """
    with contextlib.closing(start(open_database, path, sql, limits)) as process:
        yield from sent(process)


def start(
    open_database: Callable[[], duckdb.DuckDBPyConnection], path: Path, sql: str, limits: QueryLimits
) -> QueryProcess:
    """Begin to answer a query in a process of its own, to be closed by the caller."""
    return QueryProcess(lambda: _answer(open_database, path, sql, limits), path, limits)


def sent(process: QueryProcess) -> Iterator[bytes]:
    """The lines of a query's process, and how it ended where it could not say so itself."""
    try:
        yield from process.lines()
    except UserError as wrong:
        yield refusal(wrong)


def refusal(wrong: UserError) -> bytes:
    """The line that ends an answer with an error."""
    return _line(AnswerLine(error=str(wrong), code=wrong.code))


def listen_path(socket_path: Path) -> Path:
    """The path to listen at, so that clients who look at `socket_path` find the socket. Removes what an earlier
    listener left there.

    A path too long for a unix socket is replaced by one in a new directory that only this user can enter; a file beside
    `socket_path` then names it.
    """
    stop_listening(socket_path)
    socket_path.parent.mkdir(parents=True, exist_ok=True)
    if len(bytes(socket_path)) <= _LONGEST_SOCKET_PATH:
        return socket_path
    path = Path(tempfile.mkdtemp(prefix="evolog-")) / socket_path.name
    _note_path(socket_path).write_text(str(path))
    return path


def connect_path(socket_path: Path) -> Path:
    """The path of the socket that clients look for at `socket_path`."""
    note = _note_path(socket_path)
    return Path(note.read_text()) if note.exists() else socket_path


def stop_listening(socket_path: Path) -> None:
    """Remove the socket at `socket_path`, with the directory and the file that `listen_path` made for it."""
    path = connect_path(socket_path)
    path.unlink(missing_ok=True)
    if path != socket_path:
        if path.parent.exists():
            path.parent.rmdir()
        _note_path(socket_path).unlink()


def _answer(
    open_database: Callable[[], duckdb.DuckDBPyConnection], path: Path, sql: str, limits: QueryLimits
) -> Iterator[bytes]:
    """In the query's process: the lines of its answer, the last one an end or an error."""
    size = 0
    try:
        connection = open_database().cursor()  # without the temporary tables of the one that is open
        _confine(connection, path, limits)
        for line in _lines(connection, sql):
            size += len(line)
            if size > limits.answer:
                raise UserError(
                    f"The answer is longer than {limits.answer >> 20} MiB: ask for fewer rows or columns, or write "
                    "the tables with `evolog replay --into FILE --parquet DIR`."
                )
            yield line
    except (duckdb.OutOfMemoryException, MemoryError):
        yield refusal(limits.too_much_memory())
    except duckdb.Error as wrong:
        yield refusal(damage(path, wrong) or UsageError(error_sentence(wrong)))
    except UserError as wrong:
        yield refusal(wrong)


def _confine(connection: duckdb.DuckDBPyConnection, path: Path, limits: QueryLimits) -> None:
    """Put files, extensions and settings out of the reach of a database's SQL, once and for all."""
    spill = "" if path == MEMORY else str(spill_folder(path, os.getpid()))
    for setting, value in (
        ("memory_limit", f"{int(limits.memory * _DUCKDB_SHARE)}B"),
        ("temp_directory", spill),
        ("max_temp_directory_size", f"{limits.disk}B"),
        ("enable_external_access", False),
        ("lock_configuration", True),
    ):
        connection.execute(f"SET GLOBAL {setting} = $1", [value]).fetchall()


def _lines(connection: duckdb.DuckDBPyConnection, sql: str) -> Iterator[bytes]:
    statements = connection.extract_statements(sql)
    kinds = [_kind(statement) for statement in statements]
    if len(kinds) != 1 or kinds[0] not in _READS:
        names = ", ".join(kind.name if kind else "a statement without a name" for kind in kinds) or "nothing"
        raise UsageError(f"The archive is read-only and takes one SELECT or EXPLAIN at a time; found {names}.")
    statement = statements[0]
    if refused := refused_name(statement.query):
        raise UsageError(
            f"{refused} is refused: a query reads the archive's tables, and no file, setting or other text."
        )
    connection.execute("BEGIN TRANSACTION READ ONLY").fetchall()
    if kinds[0] == duckdb.StatementType.SELECT:
        relation = connection.sql(statement)
        columns, types = relation.columns, [str(kind) for kind in relation.types]
        values = ", ".join(_portable(f"#{number}", kind) for number, kind in enumerate(types, 1))
        connection.execute(f"SELECT {values} FROM (\n{body(statement.query)}\n)")
    else:
        connection.execute(statement)
        columns, types = (
            [column[0] for column in connection.description],
            [str(column[1]) for column in connection.description],
        )
    yield _line(AnswerLine(columns=_distinct(columns), types=tuple(types)))
    count = 0
    while rows := connection.fetchmany(_CHUNK):
        count += len(rows)
        yield _line(AnswerLine(rows=rows))
    yield _line(AnswerLine(end=count))


def _kind(statement: duckdb.Statement) -> duckdb.StatementType | None:
    """None for a kind that DuckDB's Python does not know, such as UPDATE EXTENSIONS."""
    try:
        return statement.type
    except ValueError:
        return None


def _line(line: AnswerLine) -> bytes:
    try:
        return JSON_ENCODER.encode(line) + b"\n"
    except TypeError as wrong:
        raise UsageError(f"A value cannot be given out as it is ({wrong}): cast it to VARCHAR.") from wrong


def _portable(value: str, kind: str) -> str:
    """The expression for a column's value as something that Python and JSON can both hold."""
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"strftime({value} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"
    if kind in ("INTERVAL", "TIME WITH TIME ZONE", "TIMESTAMPTZ_NS"):
        return f"CAST({value} AS VARCHAR)"
    if "TIMESTAMP WITH TIME ZONE" in kind:
        return f"CAST({value} AS {kind.replace('TIMESTAMP WITH TIME ZONE', 'VARCHAR')})"
    return value


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    """The names, made unique by a number behind those that repeat."""
    distinct_names: dict[str, None] = {}
    for name in names:
        unique, number = name, 0
        while unique in distinct_names:
            number += 1
            unique = f"{name}_{number}"
        distinct_names[unique] = None
    return tuple(distinct_names)


def collect(lines: Iterable[bytes]) -> QueryResult:
    """The result in the lines of an answer; raises the error that they end with."""
    return _collect(lines, None)[0]


def _collect(lines: Iterable[bytes], limit: int | None) -> tuple[QueryResult, bool]:
    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    rows: list[tuple[Any, ...]] = []
    for text in lines:
        line = _decoder.decode(text)
        match line:
            case AnswerLine(error="", end=-1):
                columns, types = columns or line.columns, types or line.types
                rows.extend(line.rows)
                if limit is not None and len(rows) > limit:
                    return QueryResult(columns, types, rows[:limit]), True
            case AnswerLine(error=""):
                return QueryResult(columns, types, rows), False
            case _:
                raise _ERRORS.get(line.code, UserError)(line.error, code=line.code)
    raise TryAgain("The archivist stopped in the middle of its answer; ask again.")


def _dial(socket_path: Path) -> socket.socket | None:
    """A connection to the archivist; None where none is listening."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(SECONDS + 10)
    try:
        client.connect(str(connect_path(socket_path)))
    except (FileNotFoundError, ConnectionRefusedError):
        client.close()
        return None
    return client


def _note_path(socket_path: Path) -> Path:
    return socket_path.with_name(socket_path.name + ".path")
