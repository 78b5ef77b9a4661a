"""SQL over the archive: it can read everything in it, and do nothing else, whoever holds the file."""

import csv
import io
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import msgspec
import pytest

from events import codec
from events.errors import NotFound, TryAgain, UsageError, UserError
from events.run import RunPaused
from replay.archive.projection import Archive
from replay.archive.query import (
    ARCHIVE,
    SOCKET,
    QueryResult,
    connect_path,
    listen_path,
    query,
    query_over,
    stop_listening,
)
from replay.archive.query_process import QueryLimits
from runtime.log.port import Stored
from services.archivist import CONCURRENT, QueryServer
from services.views.query_result import FORMATS, render
from tests.harness.facts import publisher

FORBIDDEN = [
    "COPY events TO '{here}/out.csv'",
    "COPY (SELECT 1) TO '/dev/stdout'",
    "COPY events FROM '{here}/in.csv'",
    "EXPLAIN ANALYZE COPY events TO '{here}/out.csv'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('{here}/in.csv')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_parquet('/etc/passwd')",
    "SELECT * FROM sniff_csv('{here}/in.csv')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM parquet_metadata('{here}/in.csv')",
    "SELECT * FROM read_duckdb('{here}/archive.duckdb')",
    "SELECT * FROM read_ndjson_objects('/etc/passwd')",
    "FROM read_csv_auto('https://example.org/x.csv')",
    "SELECT * FROM which_secret('s3://x', 's3')",
    "SELECT set_config('threads', '4')",
    "SELECT current_setting('home_directory') || getenv('PATH')",
    "ATTACH ':memory:' AS other",
    "UPDATE EXTENSIONS",
    "FORCE INSTALL json FROM '{here}'",
    "LOAD '{here}/x.duckdb_extension'",
    "RESET GLOBAL lock_configuration",
    "SET SESSION search_path = 'temp'",
    "PRAGMA enable_profiling = 'json'",
    "PRAGMA profiling_output = '{here}/out.csv'",
    "PRAGMA import_database('{here}/dump')",
    "COPY FROM DATABASE archive TO memory",
    "EXECUTE p",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "SELECT getenv('HOME')",
    "SELECT * FROM archive",
    "ATTACH '{here}/other.duckdb'",
    "DETACH archive",
    "USE memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET threads = 4",
    "SET enable_external_access = true",
    "RESET memory_limit",
    "SET VARIABLE x = 1",
    "PRAGMA threads = 4",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CREATE TABLE mine (a INT)",
    "CREATE TEMP TABLE mine (a INT)",
    "CREATE OR REPLACE VIEW runs AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "CREATE SECRET s (TYPE s3)",
    "INSERT INTO cursor VALUES ('EVOLOG', 5)",
    "WITH new AS (INSERT INTO cursor VALUES ('EVOLOG', 5) RETURNING seq) SELECT * FROM new",
    "EXPLAIN ANALYZE DELETE FROM events",
    "DELETE FROM events",
    "UPDATE cursor SET seq = 0",
    "MERGE INTO cursor USING cursor AS c ON cursor.seq = c.seq WHEN MATCHED THEN DELETE",
    "TRUNCATE events",
    "ALTER TABLE events ADD COLUMN x INT",
    "DROP TABLE events",
    "COMMENT ON TABLE events IS 'x'",
    "EXPORT DATABASE '{here}/dump'",
    "IMPORT DATABASE '{here}/dump'",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "PREPARE p AS SELECT 1",
    "SELECT * FROM enable_logging()",
    "SELECT 1; SELECT 2",
    "COMMIT; DELETE FROM events",
    "SELECT 1) ; DELETE FROM events; (SELECT 1",
    "",
    "-- nothing",
    "SELEC 1",
    "SELECT * FROM no_such_table",
]


def paused(number: int) -> Stored:
    fact = RunPaused(number=number, reason=f"for {number} reasons")
    event = codec.event(fact, run="demo", source=publisher(fact), cause="", time="2026-01-01T00:00:00Z")
    return Stored(number, 1_700_000_000_000_000_000 + number * 1_000, event.subject, codec.encode(event))


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = Archive(tmp_path / ARCHIVE)
    archive.apply([paused(1), paused(2)])
    yield archive
    archive.close()


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Archive]]:
    """A directory that many tests share, whose archivist is up."""
    directory = tmp_path_factory.mktemp("busy")
    archive = Archive(directory / ARCHIVE)
    archive.apply([paused(1), paused(2)])
    server = QueryServer(archive, directory / SOCKET, QueryLimits(60))
    yield directory, archive
    server.close()
    archive.close()


def refused(directory: Path, sql: str) -> None:
    (directory / "in.csv").write_text("a\n1\n")
    with pytest.raises(UsageError) as wrong:
        query(directory, sql.format(here=directory))
    assert "\n" not in str(wrong.value)
    assert not any((directory / name).exists() for name in ("out.csv", "other.duckdb", "dump"))


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_the_archivist_refuses(sql: str, busy: tuple[Path, Archive]) -> None:
    directory, archive = busy
    last = archive.cursor
    refused(directory, sql)
    assert query(directory, "SELECT count(*), max(seq) FROM events").rows == [(last, last)]
    assert archive.apply([paused(last + 1)]) == 1


@pytest.mark.slow
def test_the_file_alone_refuses_the_same(archive: Archive, tmp_path: Path) -> None:
    archive.close()
    for sql in FORBIDDEN:
        refused(tmp_path, sql)
    assert query(tmp_path, "SELECT count(*), max(seq) FROM events").rows == [(2, 2)]


ALLOWED = [
    "FROM runs",
    "SELECT seq, time, tag FROM events ORDER BY seq; -- all of them",
    "WITH x AS (SELECT 1 AS a) SELECT * FROM x",
    "VALUES (now(), [now()], {'at': now()}, INTERVAL 1 DAY, 1.5::DECIMAL(4, 2), 'a'::BLOB, 2::HUGEINT ** 70, MAP "
    "{'a': 1})",
    "SELECT 1 AS a, 2 AS a",
    "SELECT '; --' AS \"a;b\" /* ; */ ;; -- ü; y",
    "SELECT 'ü' AS \"ü;\"; -- behind letters of two bytes",
    "DESCRIBE events",
    "SUMMARIZE events",
    "SHOW TABLES",
    "EXPLAIN SELECT * FROM events",
    "EXPLAIN ANALYZE SELECT * FROM events",
    "PIVOT events ON tag IN ('run_paused') USING count(*)",
]


def test_reading_is_answered_alike_by_the_archivist_and_from_the_file(archive: Archive, tmp_path: Path) -> None:
    server = QueryServer(archive, tmp_path / SOCKET)
    asked = [query(tmp_path, sql) for sql in ALLOWED]
    server.close()
    archive.close()
    for found, sql in zip(asked, ALLOWED, strict=True):
        alone = query(tmp_path, sql)
        assert (found.columns, found.types, len(found.rows)) == (alone.columns, alone.types, len(alone.rows))
        assert len(set(found.columns)) == len(found.columns)


def test_values_are_those_of_json(busy: tuple[Path, Archive]) -> None:
    found = query(
        busy[0],
        "SELECT time, [time], NULL, 'nan'::DOUBLE, 1.5::DECIMAL(4, 2), 'ab'::BLOB, MAP {'a': [1]} FROM events LIMIT 1",
    )
    assert found.types[:2] == ("TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITH TIME ZONE[]")
    assert found.rows == [
        ("2023-11-14T22:13:20.000001Z", ["2023-11-14 22:13:20.000001+00"], None, None, 1.5, "YWI=", {"a": [1]}),
    ]


def test_a_long_answer_comes_whole_and_in_order(busy: tuple[Path, Archive]) -> None:
    assert query(busy[0], "SELECT range FROM range(12345)").rows == [(number,) for number in range(12345)]


def test_what_is_asked_over_the_broker_is_answered_as_on_the_socket(archive: Archive, tmp_path: Path) -> None:
    server = QueryServer(archive, tmp_path / SOCKET)

    def ask(question: bytes) -> bytes:
        return server.answer(question.decode())

    for sql in ("SELECT range, 'a\u2028b' FROM range(2500)", "SELECT 1 WHERE false", "EXPLAIN SELECT 1"):
        assert query_over(ask, sql) == query(tmp_path, sql)
    for sql in ("SELECT nothing", "DROP TABLE events", ""):
        with pytest.raises(UsageError) as here:
            query_over(ask, sql)
        with pytest.raises(UsageError) as there:
            query(tmp_path, sql)
        assert str(here.value) == str(there.value)
    server.close()


def test_queries_are_answered_while_the_archive_is_written(archive: Archive, tmp_path: Path) -> None:
    server = QueryServer(archive, tmp_path / SOCKET)
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(query, tmp_path, "SELECT (SELECT count(*) FROM events), (SELECT seq FROM cursor)")
            for _ in range(40)
        ]
        for number in range(3, 40):
            archive.apply([paused(number)])
        counts = [future.result().rows[0] for future in asked]
    assert all(rows == cursor for rows, cursor in counts)
    assert query(tmp_path, "SELECT count(*) FROM events").rows == [(39,)]
    server.close()


@pytest.mark.parametrize("sql", ["SELECT count(*) FROM range(100000000000)", "SELECT range FROM range(100000000000)"])
def test_a_query_that_takes_too_long_is_stopped(sql: str, archive: Archive, tmp_path: Path) -> None:
    server = QueryServer(archive, tmp_path / SOCKET, QueryLimits(0.3))
    with pytest.raises(UserError, match=r"stopped after 0\.3 s") as late:
        query(tmp_path, sql)
    assert late.value.code == 124
    assert archive.apply([paused(3)]) == 1
    server.close()


def test_more_queries_than_places_are_asked_to_come_back(busy: tuple[Path, Archive]) -> None:
    seen: list[int] = []

    def ask() -> None:
        try:
            query(busy[0], "SELECT pg_sleep(4)")
        except UserError as wrong:
            seen.append(wrong.code)

    threads = [threading.Thread(target=ask) for _ in range(CONCURRENT + 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [TryAgain.code] * 2


def test_a_question_that_is_not_json_is_answered_with_a_sentence(busy: tuple[Path, Archive]) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(busy[0] / SOCKET))
        client.sendall(b"SELECT 1\n")
        answer = json.loads(client.makefile().readline())
    assert answer["code"] == UsageError.code
    assert answer["error"].startswith("A question is one line of JSON")


def test_a_client_that_goes_away_disturbs_nobody(busy: tuple[Path, Archive]) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(busy[0] / SOCKET))
        client.sendall(b'{"sql": "SELECT range FROM range(10000000)"}\n')
        client.recv(10)
    assert query(busy[0], "SELECT 1").rows == [(1,)]


def test_a_socket_left_by_a_dead_archivist_is_passed_over(archive: Archive, tmp_path: Path) -> None:
    archive.close()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(listen_path(tmp_path / SOCKET)))
    assert query(tmp_path, "SELECT count(*) FROM events").rows == [(2,)]
    stop_listening(tmp_path / SOCKET)


def test_a_directory_without_an_archive_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no archive"):
        query(tmp_path, "SELECT 1")


def test_a_socket_whose_path_is_too_long_is_put_elsewhere(archive: Archive, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    server = QueryServer(archive, deep / SOCKET)
    elsewhere = connect_path(deep / SOCKET)
    assert len(bytes(elsewhere)) <= 100
    assert elsewhere.parent.stat().st_mode & 0o077 == 0
    assert query(deep, "SELECT 1").rows == [(1,)]
    server.close()
    assert not elsewhere.parent.exists()
    assert connect_path(deep / SOCKET) == deep / SOCKET


RESULT = QueryResult(
    ("run", "score", "at", "names", "hyper", "bytes"),
    ("VARCHAR", "DOUBLE", "TIMESTAMP WITH TIME ZONE", "VARCHAR[]", "MAP(VARCHAR, DOUBLE)", "BLOB"),
    [
        ("a,[b]", 0.5, "2026-01-01T00:00:00.000000Z", ["x", "y"], {"lr": 0.1}, "YWI="),
        ("c", None, None, None, None, None),
    ],
)


def rendered(format: str, tmp_path: Path, result: QueryResult = RESULT) -> bytes:
    render(result, format, tmp_path / "out")
    return (tmp_path / "out").read_bytes()


def test_json_and_ndjson_hold_one_object_a_row(tmp_path: Path) -> None:
    rows = [dict(zip(RESULT.columns, row, strict=True)) for row in RESULT.rows]
    assert msgspec.json.decode(rendered("json", tmp_path)) == rows
    assert [msgspec.json.decode(line) for line in rendered("ndjson", tmp_path).splitlines()] == rows


def test_csv_quotes_what_needs_it_and_leaves_null_empty(tmp_path: Path) -> None:
    names, first, second = csv.reader(io.StringIO(rendered("csv", tmp_path).decode()))
    assert names == list(RESULT.columns)
    assert first == ["a,[b]", "0.5", "2026-01-01T00:00:00.000000Z", '["x","y"]', '{"lr":0.1}', "YWI="]
    assert second == ["c", "", "", "", "", ""]


def test_a_table_outside_a_terminal_is_not_cut_off(tmp_path: Path) -> None:
    wide = QueryResult(("text",), ("VARCHAR",), [("x" * 500,), (None,)])
    text = rendered("table", tmp_path, wide).decode()
    assert "x" * 500 in text and "NULL" in text
    assert "a,[b]" in rendered("table", tmp_path).decode()


def test_parquet_keeps_the_types(tmp_path: Path) -> None:
    rendered("parquet", tmp_path)
    with duckdb.connect() as connection:
        relation = connection.sql(f"SELECT * FROM read_parquet('{tmp_path}/out')")
        assert tuple(str(kind) for kind in relation.types) == RESULT.types
        found = relation.project("run, CAST(#3 AS VARCHAR), names, hyper, bytes").fetchall()
    assert [(row[0], row[1] is None, *row[2:]) for row in found] == [
        ("a,[b]", False, ["x", "y"], {"lr": 0.1}, b"ab"),
        ("c", True, None, None, None),
    ]


def test_every_type_that_duckdb_has_can_be_asked_for(busy: tuple[Path, Archive], tmp_path: Path) -> None:
    found = query(
        busy[0], 'SELECT * EXCLUDE (dec_18_6, dec38_10, empty_struct, "union", geometry, tuple) FROM test_all_types()'
    )
    for format in FORMATS:
        assert rendered(format, tmp_path, found)


def test_a_type_that_parquet_cannot_hold_is_named(busy: tuple[Path, Archive], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not fit into Parquet .* cast that column"):
        rendered("parquet", tmp_path, query(busy[0], "SELECT row(1, 'a') AS pair"))


def test_data_goes_to_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    render(RESULT, "parquet")
    found, errors = capfdbinary.readouterr()
    assert found.startswith(b"PAR1") and found.endswith(b"PAR1")
    assert errors == b""


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'xml' is no format"):
        render(RESULT, "xml", tmp_path / "out")
