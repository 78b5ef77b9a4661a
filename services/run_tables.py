"""One run's tables as an agent may query them: copied out of the archive into a database of their own, without dev, test or other runs.

What is not in it cannot be asked for, whatever the SQL.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path

import duckdb

from events.errors import TryAgain, UserError
from replay.projection import connect
from runtime.agents.dialogue import Unfit
from runtime.agents.feedback import ROWS, Table
from runtime.lineage import Span
from services.query import Result, answer, collect
from tasks.contract import Example

SECONDS = 10.0
"""How long one query of an agent may take."""
CURRENT = 15.0
"""Seconds that the archive is given to come up to date."""
MOST = 200_000
"""Most rows of one table, the latest."""
END = b'{"end":0}'
"""Ends an answer that is not read to its own end."""
TABLES = {
    "trajectories": "SELECT seq, generation, purpose, item, attempt, trajectory, scaffold, adapter, answer, reward, outcome, failure, "
    "seconds FROM trajectories WHERE ({mine}) AND split = 'train' ORDER BY seq DESC",
    "rewards": "SELECT * EXCLUDE (run) FROM rewards WHERE ({mine}) AND purpose <> 'dev'",
    "candidates": "SELECT * EXCLUDE (run) FROM candidates WHERE ({mine})",
    "generations": "SELECT * EXCLUDE (run) FROM generations WHERE ({mine})",
    "levers": "SELECT * EXCLUDE (run, diagnosis), CAST(diagnosis AS VARCHAR) AS diagnosis FROM levers WHERE ({mine})",
    "adapters": "SELECT * EXCLUDE (run, hyper, requests), CAST(hyper AS VARCHAR) AS hyper FROM adapters WHERE ({mine})",
    "elections": "SELECT * EXCLUDE (run) FROM elections WHERE ({mine})",
    "steps": "SELECT * EXCLUDE (run, seq, id, cause, time) FROM optimizer_step_applied WHERE ({mine})",
    "cost": "SELECT * EXCLUDE (run) FROM cost WHERE ({mine})",
}

Ask = Callable[[str], Result]


class RunTables:
    """The tables of one run, copied when they are first asked for. `ask` answers SQL over the archive; `event` must stand in it by then.

    Of a forked run's `past`, the generations before the run's own first are in them.
    """

    def __init__(self, ask: Ask, run: str, past: Sequence[Span], event: str, train: Sequence[Example]) -> None:
        self._ask, self._run, self._past, self._event, self._train = ask, run, past, event, train
        self._connection: duckdb.DuckDBPyConnection | None = None

    def query(self, sql: str) -> Table:
        """The answer to one SELECT, with one row more than is shown where there are more; raises `Unfit` where there is none, with why."""
        try:
            if self._connection is None:
                self._connection = self._copied()
            with contextlib.closing(answer(self._connection, sql, SECONDS)) as lines:
                found = collect(chain(islice(lines, 2), [END]))  # columns, and one fetch of more rows than are shown
        except UserError as wrong:
            raise Unfit(f"The query cannot be answered: {wrong}") from wrong
        return Table(found.columns, found.rows[: ROWS + 1])

    def close(self) -> None:
        """Forget the tables."""
        if self._connection is not None:
            self._connection.close()

    def _copied(self) -> duckdb.DuckDBPyConnection:
        end = time.monotonic() + CURRENT
        while not self._ask(f"SELECT 1 FROM events WHERE run = '{self._run}' AND id = '{self._event}'").rows:
            if time.monotonic() > end:
                raise TryAgain("the archive is not up to date; ask again later, or do without.")
            time.sleep(0.1)
        connection = connect(Path(":memory:"))
        mine = _mine(self._run, self._past)
        for name, sql in TABLES.items():
            found = self._ask(f"SELECT * FROM ({sql.format(mine=mine)}) LIMIT {MOST}")
            types = ["VARCHAR" if kind in ("INTERVAL", '"NULL"') else kind for kind in found.types]
            _make(connection, name, found.columns, types, found.rows)
        items = [(example.id, example.prompt, example.label, example.fold) for example in self._train]
        _make(connection, "items", ("item", "prompt", "label", "fold"), ("VARCHAR", "VARCHAR", "VARCHAR", "BIGINT"), items)
        return connection


def _mine(run: str, past: Sequence[Span]) -> str:
    """The condition on rows of this run and its past."""
    found = [f"run = '{run}'"]
    for span in past:
        asked = ("rollouts_requested", "feedback_requested")
        own = " UNION ALL ".join(f"SELECT generation FROM {table} WHERE run = '{run}'" for table in asked)
        found.append(f"run = '{span.run}' AND generation < (SELECT min(generation) FROM ({own}))")
        run = span.run
    return " OR ".join(found)


def _make(
    connection: duckdb.DuckDBPyConnection, name: str, columns: Sequence[str], types: Sequence[str], rows: Sequence[tuple[object, ...]]
) -> None:
    fields = ", ".join(f'"{column}" {kind}' for column, kind in zip(columns, types, strict=True))
    connection.execute(f'CREATE TABLE "{name}" ({fields})').fetchall()
    if rows:
        appender = connection.appender(name)
        appender.append_rows(rows)
        appender.flush()
