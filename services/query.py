"""SQL over the archive that can only read: asked of the archivist while it runs, else of the file itself.

An answer is a stream of JSON lines, the same on the archivist's socket as from the file: the columns, chunks of rows, then the end or an error.
"""

import base64
import csv
import json
import socket
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec

from events.errors import NotFound, TryAgain, UsageError, UserError
from replay.projection import connect

ARCHIVE = "archive.duckdb"
SOCKET = "query.sock"
SECONDS = 30.0
"""How long one query may take, the sending of its rows included."""
FORMATS = ("table", "json", "ndjson", "csv", "parquet")

_CHUNK = 1000
_LONGEST_SOCKET_PATH = 100
_READS = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


class Result(NamedTuple):
    """A query's answer. Values are those of JSON; times are ISO 8601 in UTC, bytes are base64, a number that is not finite is None."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    """DuckDB's names of the columns' types."""
    rows: list[tuple[Any, ...]]


class Question(msgspec.Struct, frozen=True):
    """What a client sends, as one line."""

    sql: str


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of an answer; `end` counts the rows sent, `error` is a sentence and `code` its exit code."""

    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    rows: Sequence[tuple[Any, ...]] = ()
    end: int = -1
    error: str = ""
    code: int = 0


_encoder = msgspec.json.Encoder(enc_hook=str, decimal_format="number")
_decoder = msgspec.json.Decoder(Line)


def query(directory: Path, sql: str) -> Result:
    """The answer to one SELECT or EXPLAIN over the archive in this directory.

    Raises `UsageError` for SQL that is wrong or not allowed, `NotFound` where there is no archive, `TryAgain` where it is busy.
    """
    client = _dial(directory / SOCKET)
    if client is None:
        connection = connect(directory / ARCHIVE, read_only=True)
        try:
            return _collect(answer(connection, sql))
        finally:
            connection.close()
    with client, client.makefile("rwb") as stream:
        stream.write(_encoder.encode(Question(sql)) + b"\n")
        stream.flush()
        return _collect(stream)


def answer(connection: duckdb.DuckDBPyConnection, sql: str, seconds: float = SECONDS) -> Iterator[bytes]:
    """The lines of the answer to a query, which runs on a cursor of its own in a transaction that cannot write.

    The connection must come from `replay.projection.connect`, which puts files, extensions and settings out of reach.
    """
    cursor = connection.cursor()
    late = threading.Event()
    clock = threading.Timer(seconds, lambda: (late.set(), cursor.interrupt()))
    clock.daemon = True
    clock.start()
    try:
        yield from _lines(cursor, sql, late)
    except UserError as wrong:
        yield _line(Line(error=str(wrong), code=wrong.code))
    except duckdb.Error as wrong:
        if late.is_set():
            yield _line(Line(error=_too_long(seconds), code=124))
        else:
            yield _line(Line(error=_sentence(wrong), code=UsageError.code))
    finally:
        clock.cancel()
        cursor.close()
