"""What the answer to a query looks like: as wide as there is room, and not longer than anybody reads."""

import sys

import pytest

from events.errors import UsageError
from replay.archive.query import QueryResult
from services.views.query_result import MOST_ROWS, render, require_writable

NAME = "a-run-with-a-long-name-that-one-wants-to-copy"


def printed(
    capfdbinary: pytest.CaptureFixture[bytes], result: QueryResult, width: int | None, patch: pytest.MonkeyPatch
) -> list[str]:
    if width:
        patch.setenv("COLUMNS", str(width))
    render(result, "table")
    return capfdbinary.readouterr().out.decode().splitlines()


RESULT = QueryResult(("run", "why", "n"), ("VARCHAR", "VARCHAR", "BIGINT"), [(NAME, "one and two " * 12, 7)])


@pytest.mark.parametrize(("width", "lines"), [(None, 1), (200, 1), (100, 4)])
def test_words_are_wrapped_and_names_are_not(
    width: int | None,
    lines: int,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    text = printed(capfdbinary, RESULT, width, monkeypatch)
    assert sum(NAME in line for line in text) == 1 and sum("one and" in line for line in text) >= min(lines, 2)
    assert width is None or max(map(len, text)) <= width


def test_where_the_columns_do_not_fit_each_row_is_lines_of_column_and_value(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(capfdbinary, RESULT, 60, monkeypatch)
    assert text[:2] == ["row 1", f"  run  {NAME}"] and text[3] == "  n    7"


def test_a_long_answer_is_cut_and_says_so(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = QueryResult(("n",), ("BIGINT",), [(number,) for number in range(13_592)])
    text = printed(capfdbinary, result, 80, monkeypatch)
    assert text[-1].startswith("12,592 of 13,592 rows are left out: --format csv, json or ndjson has all")
    assert sum(line.strip().isdecimal() for line in text) == MOST_ROWS
    text = printed(capfdbinary, result._replace(rows=result.rows[:MOST_ROWS]), 80, monkeypatch)
    assert not any("left out" in line for line in text)


def test_parquet_is_not_printed_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    require_writable("parquet")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(UsageError, match="write it to a file"):
        require_writable("parquet")
    require_writable("csv")
