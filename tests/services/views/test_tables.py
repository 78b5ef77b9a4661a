"""Tables fit where they are printed, and never break a name."""

from io import StringIO

import pytest
from rich.console import Console

from replay.run_state import ListedRun
from services.views.run import RUNS, runs_table
from services.views.tables import Column, print_table

NAME = "lawbench-s0-with-a-name-that-is-as-long-as-names-of-runs-may-be"
COLUMNS = (Column("run"), Column("why", drop=1, sentence=True), Column("seed", drop=2, right=True), Column("dev"))


def lines(width: int, *rows: tuple[str, ...], columns: tuple[Column, ...] = COLUMNS) -> list[str]:
    text = StringIO()
    print_table(Console(file=text, width=width), columns, rows)
    return text.getvalue().splitlines()


def heads(printed: list[str]) -> list[str]:
    return [cell.strip() for cell in printed[1].split("┃")[1:-1]]


ROW = ("a-run", "it had nothing more to try, and said so in a long sentence", "7", "0.5000")


def test_columns_are_left_out_in_the_stated_order_and_said() -> None:
    assert heads(lines(100, ROW)) == ["run", "why", "seed", "dev"]
    assert heads(lines(50, ROW)) == ["run", "why", "seed", "dev"]  # the sentence is wrapped
    narrow, narrower = lines(42, ROW), lines(30, ROW)
    assert heads(narrow) == ["run", "why", "dev"]
    assert narrow[-1].startswith("left out for want of room: seed; --json has all, and so has a width of ")
    assert heads(narrower) == ["run", "dev"] and "left out for want of room: why, seed;" in narrower[-1]
    full = int(narrower[-1].rpartition(" ")[2])
    assert len(lines(full, ROW)) == 5 and len(lines(full - 1, ROW)) > 5, "at that width no sentence is wrapped"


@pytest.mark.parametrize("width", [1, 20, 60, 80, 200])
def test_a_name_is_never_broken(width: int) -> None:
    assert sum(NAME in line for line in lines(width, (NAME, "x", "7", "0.5"))) == 1


def test_an_empty_column_is_left_out_without_a_word() -> None:
    printed = lines(100, ("a", "", "7", ""))
    assert heads(printed) == ["run", "seed", "dev"] and len(printed) == 5


def test_a_row_is_a_line_where_no_sentence_has_to_be_wrapped() -> None:
    assert [line for line in lines(100_000, ROW) if ROW[1] in line and ROW[3] in line]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_list_of_runs_fits_a_narrow_terminal(width: int) -> None:
    row = ListedRun(
        run="lawbench-s0-1a2b",
        task="/home/somebody/evolog/tasks/lawbench",
        seed=0,
        levers=("scaffold", "weights"),
        started="2026-11-30T10:00:00Z",
        state="budget exhausted",
        audit="under way",
        decisions=61,
        score=0.8022,
        reason="budget exhausted",
        strategy="chain",
        width=1,
        owner="",
    )
    text = StringIO()
    runs_table(Console(file=text, width=width), [row])
    table = [line for line in text.getvalue().splitlines() if line[0] in "┏┃┡│└"]
    assert len(table) == 5 and max(map(len, table)) <= width
    for words in ("lawbench-s0-1a2b", "budget exhausted", "0.8022"):
        assert words in table[3]
    assert ("under way" in table[3]) == (width >= 80)


def test_the_columns_of_the_list_of_runs_have_an_order_each_of_its_own() -> None:
    drops = [column.drop for column in RUNS if column.drop]
    assert len(drops) == len(set(drops))
