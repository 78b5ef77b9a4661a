"""Read-only SQL over the archive: answered by the archivist while it runs, else from the file itself.

An answer is lines of JSON, the same from the archivist's socket as from the file: the columns, chunks of rows, then the
end or an error.
"""

import contextlib
import socket
import tempfile
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec

from events.errors import TryAgain, UsageError, UserError
from replay.archive.projection import connect

ARCHIVE = "archive.duckdb"
SOCKET = "query.sock"
SECONDS = 30.0
"""The longest that one query may take, the sending of its rows included."""
_CHUNK = 1000
_LONGEST_SOCKET_PATH = 100
_READS = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


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
_decoder = msgspec.json.Decoder(AnswerLine)


def query(directory: Path, sql: str) -> QueryResult:
    """The answer to one SELECT or EXPLAIN over the archive in this directory.

    Raises `UsageError` for SQL that is wrong or not allowed, `NotFound` where there is no archive, `TryAgain` where it
    is busy, and `UserError` with code 124 where the query takes too long.
    """
    client = _dial(directory / SOCKET)
    if client is None:
        return query_file(directory / ARCHIVE, sql)
    with client, client.makefile("rwb") as stream:
        stream.write(JSON_ENCODER.encode(QueryRequest(sql)) + b"\n")
        stream.flush()
        return collect(stream)


def query_file(archive: Path, sql: str) -> QueryResult:
    """As `query`, over a file that no process holds, such as a rebuilt archive."""
    with connect(archive, read_only=True) as connection, contextlib.closing(answer(connection, sql)) as lines:
        return collect(lines)


def answer(connection: duckdb.DuckDBPyConnection, sql: str, seconds: float = SECONDS) -> Generator[bytes]:
    """Answer a query, line by line. It runs on a cursor of its own, in a transaction that cannot write.

    The connection must come from `replay.archive.projection.connect`, which puts files, extensions and settings out of
    reach.
    """
    cursor = connection.cursor()
    late = threading.Event()

    def stop() -> None:
        late.set()
        cursor.interrupt()

    clock = threading.Timer(seconds, stop)
    clock.daemon = True
    clock.start()
    try:
        for line in _lines(cursor, sql):
            yield line
            if late.is_set():
                raise duckdb.InterruptException
    except duckdb.InterruptException:
        yield refusal(
            UserError(f"The query was stopped after {seconds:g} s: narrow it, or ask for fewer rows.", code=124)
        )
    except duckdb.Error as wrong:
        yield refusal(UsageError(error_sentence(wrong)))
    except UserError as wrong:
        yield refusal(wrong)
    finally:
        clock.cancel()
        cursor.close()


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


def _lines(cursor: duckdb.DuckDBPyConnection, sql: str) -> Iterator[bytes]:
    statements = cursor.extract_statements(sql)
    kinds = [_kind(statement) for statement in statements]
    if len(kinds) != 1 or kinds[0] not in _READS:
        names = ", ".join(kind.name if kind else "a statement without a name" for kind in kinds) or "nothing"
        raise UsageError(f"The archive is read-only and takes one SELECT or EXPLAIN at a time; found {names}.")
    statement = statements[0]
    cursor.execute("BEGIN TRANSACTION READ ONLY").fetchall()
    if kinds[0] == duckdb.StatementType.SELECT:
        relation = cursor.sql(statement)
        columns, types = relation.columns, [str(kind) for kind in relation.types]
        values = ", ".join(_portable(f"#{number}", kind) for number, kind in enumerate(types, 1))
        cursor.execute(f"SELECT {values} FROM (\n{_body(statement.query)}\n)")
    else:
        cursor.execute(statement)
        columns, types = [column[0] for column in cursor.description], [str(column[1]) for column in cursor.description]
    yield _line(AnswerLine(columns=_distinct(columns), types=tuple(types)))
    count = 0
    while rows := cursor.fetchmany(_CHUNK):
        count += len(rows)
        yield _line(AnswerLine(rows=rows))
    yield _line(AnswerLine(end=count))


def _kind(statement: duckdb.Statement) -> duckdb.StatementType | None:
    """None for a kind that DuckDB's Python does not know, such as UPDATE EXTENSIONS."""
    try:
        return statement.type
    except ValueError:
        return None


def _body(sql: str) -> str:
    """One statement, without its closing semicolon and what follows it."""
    operator = duckdb.token_type.operator
    return sql[
        : next((offset for offset, kind in duckdb.tokenize(sql) if kind == operator and sql[offset] == ";"), len(sql))
    ]


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


def error_sentence(wrong: duckdb.Error) -> str:
    """DuckDB's message as one line, without its excerpt of the SQL."""
    return " ".join(str(wrong).split("\n\nLINE")[0].split())


def collect(lines: Iterable[bytes]) -> QueryResult:
    """The result in the lines of an answer; raises the error that they end with."""
    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    rows: list[tuple[Any, ...]] = []
    for text in lines:
        line = _decoder.decode(text)
        match line:
            case AnswerLine(error="", end=-1):
                columns, types = columns or line.columns, types or line.types
                rows.extend(line.rows)
            case AnswerLine(error=""):
                return QueryResult(columns, types, rows)
            case AnswerLine(code=UsageError.code):
                raise UsageError(line.error)
            case _:
                raise UserError(line.error, code=line.code)
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
