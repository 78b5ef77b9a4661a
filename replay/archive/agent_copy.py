"""The tables of one run that its Feedback-Agent may query, copied out of the archive into a database of their own.

The copy holds no dev or test item and no other run, so no SQL can reach them.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from itertools import chain, islice

import duckdb

from events.catalogue import BY_TAG
from events.errors import TryAgain, UserError
from events.subjects import LOG
from replay.archive.projection import MEMORY, VIEW_BODIES, connect
from replay.archive.query import QueryResult, answer, collect
from replay.archive.query_process import QueryLimits
from runtime.agents.feedback import ROWS, Table
from runtime.agents.session import UnfitRequest
from runtime.log.lineage import Span
from tasks.contract import Example

LIMITS = QueryLimits(seconds=10, memory=512 << 20, answer=16 << 20)
"""What one query of an agent may use."""
CATCH_UP_SECONDS = 15.0
"""The longest wait for the archive to come up to date."""
ROW_LIMIT = 200_000
"""Most rows of one table; the latest are copied."""
END = b'{"end":0}'
"""Stands for the last line of an answer that is read in part."""
TABLES = {
    "trajectories": "SELECT seq, generation, purpose, item, attempt, trajectory, scaffold, adapter, answer, reward, "
    "outcome, failure, "
    "seconds FROM trajectories WHERE split = 'train' ORDER BY seq DESC",
    "rewards": "SELECT * EXCLUDE (run) FROM rewards WHERE purpose <> 'dev'",
    "candidates": "SELECT * EXCLUDE (run) FROM candidates",
    "generations": "SELECT * EXCLUDE (run) FROM generations",
    "levers": "SELECT * EXCLUDE (run, diagnosis), CAST(diagnosis AS VARCHAR) AS diagnosis FROM levers",
    "adapters": "SELECT * EXCLUDE (run, hyper, requests), CAST(hyper AS VARCHAR) AS hyper FROM adapters",
    "elections": "SELECT * EXCLUDE (run) FROM elections",
    "steps": "SELECT * EXCLUDE (run, seq, id, cause, time) FROM optimizer_step_applied",
    "cost": "SELECT * EXCLUDE (run) FROM cost",
}
"""The SELECT that fills each table, from generations that may be known. Its tables and views hold the events of the run
and its past alone.
"""
_EVENTS = sorted(tag for tag, entry in BY_TAG.items() if entry.stream == LOG)

QueryFunction = Callable[[str], QueryResult]


class RunTables:
    """The tables of one run, copied at the first query.

    `ask` answers SQL over the archive. The copy waits until the event with id `event` is in the archive. The `past` of
    a forked run is copied as if it were the run's own; what its ancestors did later is left out, and so is what
    generations after `known` did, which are under way.
    """

    def __init__(
        self, ask: QueryFunction, run: str, past: Sequence[Span], event: str, train: Sequence[Example], known: int
    ) -> None:
        self._ask, self._run, self._past, self._event, self._train = ask, run, past, event, train
        self._known = known
        self._connection: duckdb.DuckDBPyConnection | None = None

    def query(self, sql: str) -> Table:
        """The answer to one SELECT: at most `ROWS` rows, and one more as a sign of more.

        Raises `UnfitRequest` where there is no answer.
        """
        try:
            if self._connection is None:
                self._connection = self._copy()
            connection = self._connection
            with contextlib.closing(answer(lambda: connection, MEMORY, sql, LIMITS)) as lines:
                result = collect(chain(islice(lines, 2), [END]))  # columns, and one fetch of more rows than are shown
        except UserError as wrong:
            raise UnfitRequest(f"The query cannot be answered: {wrong}") from wrong
        return Table(result.columns, result.rows[: ROWS + 1])

    def close(self) -> None:
        """Drop the tables."""
        if self._connection is not None:
            self._connection.close()

    def _copy(self) -> duckdb.DuckDBPyConnection:
        end = time.monotonic() + CATCH_UP_SECONDS
        while not self._ask(f"SELECT 1 FROM events WHERE run = '{self._run}' AND id = '{self._event}'").rows:
            if time.monotonic() > end:
                raise TryAgain("the archive is not up to date; ask again later, or do without.")
            time.sleep(0.1)
        connection = connect(MEMORY)
        views = _views(self._run, self._past)
        for name, sql in TABLES.items():
            result = self._ask(f"{views} SELECT * FROM ({sql}) WHERE generation <= {self._known} LIMIT {ROW_LIMIT}")
            types = ["VARCHAR" if kind in ("INTERVAL", '"NULL"') else kind for kind in result.types]
            _make(connection, name, result.columns, types, result.rows)
        items = [(example.id, example.prompt, example.label, example.fold) for example in self._train]
        _make(
            connection, "items", ("item", "prompt", "label", "fold"), ("VARCHAR", "VARCHAR", "VARCHAR", "BIGINT"), items
        )
        return connection


def _views(run: str, past: Sequence[Span]) -> str:
    """A WITH clause that gives the archive's tables and views as if it held this run and its past alone."""
    spans = [Span(run), *past]
    own = " OR ".join(f"run = '{span.run}' AND seq <= {span.last}" for span in spans)
    events = (f'"{tag}" AS (SELECT * REPLACE (\'{run}\' AS run) FROM main."{tag}" WHERE {own})' for tag in _EVENTS)
    return "WITH " + ", ".join(
        chain(events, (f"{name} AS ({body})" for name, body in VIEW_BODIES.items() if name != "runs"))
    )


def _make(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    columns: Sequence[str],
    types: Sequence[str],
    rows: Sequence[tuple[object, ...]],
) -> None:
    fields = ", ".join(f'"{column}" {kind}' for column, kind in zip(columns, types, strict=True))
    connection.execute(f'CREATE TABLE "{name}" ({fields})').fetchall()
    if rows:
        appender = connection.appender(name)
        appender.append_rows(rows)
        appender.flush()
