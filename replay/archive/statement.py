"""The text of one SQL statement: where it ends, and whether it names what no query may use."""

import itertools
import re
from collections.abc import Iterator

import duckdb

_READABLE = "columns|constraints|functions|indexes|keywords|schemas|sequences|tables|types|views"
REFUSED_FUNCTIONS = re.compile(
    "(read|parquet|pragma|arrow|python|pandas|add|create|register|deregister|destroy|remove|enable|disable|truncate)"
    rf"_(?!sort_key)\w+|duckdb_(?!({_READABLE})$)\w+|checkpoint|force_checkpoint|glob|query|query_table|seq_scan|"
    "sniff_csv|which_secret|current_setting|write_log|json_execute_serialized_sql|json_serialize_plan",
    re.IGNORECASE,
)
"""They reach files or settings, write, or run what a query holds as text."""
REFUSED_VIEWS = ("duckdb_databases", "duckdb_logs", "pragma_database_list", "pg_settings")
"""Views of DuckDB that show files and settings."""


def body(sql: str) -> str:
    """One statement, without its closing semicolon and what follows it."""
    return "".join(itertools.takewhile(lambda text: not text.startswith(";"), (text for text, _ in _tokens(sql))))


def refused_name(sql: str) -> str:
    """The first function or view that a statement names and no query may use; empty for none."""
    words = [text.strip() for text, is_comment in _tokens(sql) if not is_comment]
    for word, following in itertools.pairwise([*words, ""]):
        name = word.strip('"')
        if name.lower() in REFUSED_VIEWS or (following.startswith("(") and REFUSED_FUNCTIONS.fullmatch(name)):
            return name
    return ""


def _tokens(sql: str) -> Iterator[tuple[str, bool]]:
    """Each token as it is written, with the space behind it, and whether it is a comment."""
    text, tokens = sql.encode(), duckdb.tokenize(sql)  # DuckDB counts bytes
    ends = [start for start, _ in tokens[1:]] + [len(text)]
    for (start, kind), end in zip(tokens, ends, strict=True):
        yield text[start:end].decode(), kind == duckdb.token_type.comment
