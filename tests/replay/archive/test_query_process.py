"""A query is held to its time and memory whatever function it calls, and reaches nothing but the archive's tables."""

import os
import random
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import duckdb
import pytest

from events.errors import UsageError, UserError
from replay.archive.projection import MEMORY, Archive, connect
from replay.archive.query import ARCHIVE, SOCKET, QueryResult, answer, collect, query
from replay.archive.query_process import QueryLimits
from replay.archive.statement import REFUSED_FUNCTIONS
from services.archivist import QueryServer

MIB = 1 << 20
SMALL = QueryLimits(seconds=0.5, memory=128 * MIB, disk=16 * MIB, answer=4 * MIB)
READS = {
    *("duckdb_columns", "duckdb_constraints", "duckdb_functions", "duckdb_indexes", "duckdb_keywords"),
    *("duckdb_schemas", "duckdb_sequences", "duckdb_tables", "duckdb_types", "duckdb_views"),
    *("generate_series", "range", "repeat", "repeat_row", "unnest", "summary", "json_each", "json_tree"),
    *("histogram", "histogram_values", "icu_calendar_names", "pg_timezone_names"),
    *("test_all_types", "test_vector_types"),
}
"""The table functions that a query may call."""
HOSTILE = {
    "VARCHAR": ("''", "'x'", "'%_%'", "'(a+)+$'", "repeat('ab', 100000)", "chr(0)", "'{\"a\": [1]}'", "'2000-01-01'"),
    "BIGINT": ("0", "-1", "4000000000", "9223372036854775807", "-9223372036854775808", "1000000"),
    "DOUBLE": ("0.0", "-1.5", "'nan'::DOUBLE", "'inf'::DOUBLE", "1e308"),
    "BOOLEAN": ("true", "NULL"),
    "BLOB": ("''::BLOB", "'\\x00\\xff'::BLOB"),
    "DATE": ("'infinity'::DATE", "'-290000-01-01'::DATE"),
    "TIMESTAMP": ("'290000-01-01'::TIMESTAMP", "'-infinity'::TIMESTAMP"),
    "INTERVAL": ("INTERVAL 1 MICROSECOND", "INTERVAL 200000 YEARS"),
    "LIST": ("[]", "range(1000000)", "[[1], NULL]", "['x']"),
    "MAP": ("MAP {}", "MAP {'a': 1}"),
    "STRUCT": ("{'a': 1}", "row(1, 'x')"),
    "LAMBDA": ("lambda x: x", "lambda x, y: x || y"),
    "BIT": ("'101'::BIT",),
    "JSON": ("'[1]'::JSON", "'{}'::JSON"),
}


def asked(sql: str, limits: QueryLimits = SMALL, connection: duckdb.DuckDBPyConnection | None = None) -> QueryResult:
    """The answer over an empty database in memory, or over one that is open."""
    with closing(answer(lambda: connection or connect(MEMORY), MEMORY, sql, limits)) as lines:
        return collect(lines)


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that each query's process held at most."""
    found: list[int] = []

    def waitpid(pid: int, options: int) -> tuple[int, int]:
        pid, status, usage = os.wait4(pid, options)
        found.append(usage.ru_maxrss * 1024)
        return pid, status

    monkeypatch.setattr(os, "waitpid", waitpid)
    return found


def held_bytes() -> int:
    """What this process holds now, which a forked one holds too."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT repeat('x', 4000000000)",
        "SELECT len(range(4000000000))",
        "SELECT list_resize([1], 2000000000)",
        "SELECT list(a || repeat('x', 10000)) FROM range(10000000) t(a)",
        "WITH RECURSIVE r AS (SELECT 'x' s UNION ALL SELECT s || s FROM r WHERE length(s) < 4e9) SELECT max(s) FROM r",
        "EXPLAIN ANALYZE SELECT repeat('x', 4000000000)",
    ],
)
def test_memory_is_bounded_whatever_asks_for_it(sql: str, peaks: list[int]) -> None:
    limits = QueryLimits(seconds=30, memory=128 * MIB)
    with pytest.raises(UserError, match=r"128 MiB of memory.*: narrow it, or ask"):
        asked(sql, limits)
    assert peaks.pop() < held_bytes() + limits.memory + 32 * MIB


def test_one_value_that_takes_too_long_is_stopped() -> None:
    with pytest.raises(UserError, match=r"stopped after 0\.5 s") as late:
        asked("SELECT length(repeat('x', 300000000))", QueryLimits(0.5))
    assert late.value.code == 124


def test_an_answer_has_a_length() -> None:
    with pytest.raises(UserError, match="longer than 4 MiB"):
        asked("SELECT repeat('x', 1000) FROM range(100000)", QueryLimits(30, answer=4 * MIB))


def test_a_query_that_breaks_its_process_leaves_the_archivist_and_its_archive_whole(tmp_path: Path) -> None:
    archive = Archive(tmp_path / ARCHIVE)
    server = QueryServer(archive, tmp_path / SOCKET, SMALL._replace(seconds=30))
    for _ in range(3):
        with pytest.raises(UserError, match="memory"):
            query(tmp_path, "SELECT repeat('x', 4000000000)")
    assert query(tmp_path, "SELECT count(*) FROM events").rows == [(0,)]
    server.close()
    archive.close()
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


@pytest.mark.slow
def test_a_sort_beyond_the_memory_goes_to_the_disk_and_leaves_nothing_there(tmp_path: Path) -> None:
    archive = Archive(tmp_path / ARCHIVE)
    sql = "SELECT count(*) FROM (SELECT range AS a, random() AS b FROM range(8000000) ORDER BY b LIMIT 7900000)"
    with closing(answer(lambda: archive.connection, archive.path, sql, QueryLimits(60, 96 * MIB))) as lines:
        assert collect(lines).rows == [(7_900_000,)]
    archive.close()
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


def test_no_query_writes_even_where_a_function_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.archive.query.refused_name", lambda sql: "")
    archive = Archive(tmp_path / ARCHIVE)
    archive.connection.execute("INSERT INTO unreadable (seq) VALUES (1)")
    before = (tmp_path / ARCHIVE).read_bytes()
    with (
        closing(answer(lambda: archive.connection, archive.path, "FROM checkpoint()")) as lines,
        pytest.raises(UserError),
    ):
        collect(lines)
    assert (tmp_path / ARCHIVE).read_bytes() == before
    archive.close()
    with duckdb.connect(tmp_path / ARCHIVE) as again:
        assert again.execute("SELECT count(*) FROM unreadable").fetchall() == [(1,)]


def table_functions() -> list[str]:
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type IN ('table', 'table_macro')"
        ).fetchall()
    return sorted(name for (name,) in found)


def test_each_table_function_reads_the_archive_or_is_refused() -> None:
    unknown = [name for name in table_functions() if name not in READS and not REFUSED_FUNCTIONS.fullmatch(name)]
    assert not unknown, f"say in READS or in REFUSED_FUNCTIONS whether a query may call {unknown}"
    assert not [name for name in READS if REFUSED_FUNCTIONS.fullmatch(name)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_blob('{path}')",
        "SELECT * FROM \"READ_text\" /* ( */ ('{path}')",
        "SELECT * FROM system.main.glob('{path}')",
        "EXPLAIN SELECT * FROM sniff_csv('{path}')",
        "PIVOT (FROM read_blob('{path}')) ON filename IN ('x') USING count(*)",
        "FROM query('FROM read_blob(''{path}'')')",
        "SELECT json_serialize_plan('SELECT 1')",
        "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
        "SELECT * FROM checkpoint()",
        "SELECT (SELECT count(*) FROM force_checkpoint('archive'))",
        "FROM pragma_database_list",
        "FROM duckdb_settings()",
        "FROM pg_catalog.pg_settings",
        "SELECT current_setting('temp_directory')",
        "FROM duckdb_databases()",
        "FROM write_log('x')",
    ],
)
def test_files_settings_and_statements_in_text_are_refused(sql: str, tmp_path: Path) -> None:
    Archive(tmp_path / ARCHIVE).close()
    with pytest.raises(UsageError, match="is refused: a query reads the archive's tables"):
        query(tmp_path, sql.format(path=tmp_path / ARCHIVE))
    assert "refused" not in query(tmp_path, "SELECT 'read_text(' AS query, 'checkpoint()' AS \"glob\"").columns


def _values(type: str) -> tuple[str, ...]:
    """Hostile values of a parameter's type; none for a type that takes any."""
    if type.endswith("]"):
        return HOSTILE["LIST"]
    return next(
        (values for name, values in HOSTILE.items() if name in type), HOSTILE["BIGINT"] if "INT" in type else ()
    )


def calls(seed: int) -> Iterator[str]:
    """Calls of all of DuckDB's functions with hostile arguments."""
    draw = random.Random(seed)
    every = [value for values in HOSTILE.values() for value in values]
    with duckdb.connect() as connection:
        functions = connection.execute(
            "SELECT DISTINCT function_type, function_name, parameter_types FROM duckdb_functions() "
            "WHERE function_name NOT SIMILAR TO '(icu_)?collate_.*' AND function_type <> 'pragma' ORDER BY ALL"
        ).fetchall()
    by_name = {(kind, name): types for kind, name, types in draw.sample(functions, len(functions))}
    for (kind, name), types in sorted(by_name.items()):
        arguments = [draw.choice(_values(of or "") or every) for of in types]
        call = f'"{name}"({", ".join(arguments)})'
        yield f"SELECT * FROM {call}" if kind.startswith("table") else f"SELECT {call} FROM range(3)"


@pytest.mark.slow
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.long), 4])
def test_every_function_of_duckdb_ends_in_an_answer_or_a_sentence(every: int, peaks: list[int]) -> None:
    """Every one by hand, since that takes two minutes, and else every fourth."""
    broken, answered = [], 0
    with connect(MEMORY) as connection:
        for sql in islice(calls(seed=1), 0, None, every):
            try:
                asked(sql, connection=connection)
                answered += 1
            except UserError as wrong:
                if "\n" in str(wrong) or not str(wrong).strip():
                    broken.append(f"{sql}: {wrong!r}")
            if (peak := peaks.pop()) > held_bytes() + SMALL.memory + 32 * MIB:
                broken.append(f"{sql}: held {peak / MIB:.0f} MiB")
    assert not broken, "\n".join(broken)
    assert answered > 100 / every
