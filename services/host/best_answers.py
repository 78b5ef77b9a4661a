"""Finds the best answers of a run with graded rewards: in the archive, or among the events of an export."""

from pathlib import Path

from events.errors import UserError
from replay.best_answer import COLUMNS, BestAnswer
from replay.report import Reporter


def add_best_answers(directory: Path, reporter: Reporter) -> None:
    """Add the best answers to the report of a run on a directory's log, with gold's score of them where there is one;
    nothing where rewards are right or wrong.
    """
    if not reporter.report.graded:
        return
    try:
        reporter.put_best_answers(find_best_answers(directory, reporter.report.run))
    except UserError as wrong:
        reporter.report.best_answers_missing = f"since the archive does not say it: {wrong}"


def find_best_answers(directory: Path, run: str) -> list[BestAnswer]:
    """The best answer of each purpose that a run met itself, by the archive. Raises as `query`."""
    from replay.archive.query import query  # with DuckDB, which takes a tenth of a second

    result = query(directory, f"SELECT {', '.join(COLUMNS)} FROM best_answers WHERE run = '{run}'")
    return [BestAnswer(**dict(zip(COLUMNS, row, strict=True))) for row in result.rows]
