"""The answer to a query as a DuckDB relation, which gives Arrow, pandas and more.

The relation stands on a database in memory, and holds no file: a notebook that keeps one keeps nobody from `evolog up`.
"""

import re

import duckdb
import msgspec

from replay.archive.query import QueryResult

AS_IN_JSON = re.compile(
    r"BOOLEAN|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?\b|FLOAT|DOUBLE|DECIMAL|VARCHAR|DATE\Z|TIMESTAMP|STRUCT|MAP"
)
"""How the types begin that JSON's values are turned into again; those of other types stay texts."""


def relation(result: QueryResult, name: str) -> duckdb.DuckDBPyRelation:
    """The rows of an answer as the table `name` of a database of its own, with the columns' types."""
    connection = duckdb.connect()
    connection.execute("SET GLOBAL TimeZone = 'UTC'").fetchall()
    connection.execute("CREATE TABLE lines (line VARCHAR)").fetchall()
    if result.rows:
        appender = connection.appender("lines")
        appender.append_rows([(msgspec.json.encode(dict(enumerate(row))).decode(),) for row in result.rows])
        appender.flush()
    kinds = [kind if AS_IN_JSON.match(kind) else "VARCHAR" for kind in result.types]
    structure = msgspec.json.encode(dict(enumerate(kinds))).decode().replace("'", "''")
    columns = ", ".join(
        f'{"from_base64" if kind == "BLOB" else ""}(row."{number}") AS {quoted(column)}'
        for number, (column, kind) in enumerate(zip(result.columns, result.types, strict=True))
    )
    connection.execute(
        f"CREATE TABLE {quoted(name)} AS SELECT {columns} FROM "
        f"(SELECT from_json_strict(line, '{structure}') AS row FROM lines)"
    ).fetchall()
    connection.execute("DROP TABLE lines").fetchall()
    return connection.table(quoted(name))


def quoted(name: str) -> str:
    """A name as SQL writes it, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'
