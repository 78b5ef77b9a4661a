"""One run's tables as an agent may query them: copied out of the archive into a database of their own, without dev, test or other runs.

What is not in it cannot be asked for, whatever the SQL.
"""

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path

import duckdb

from events.catalogue import BY_TAG
from events.errors import TryAgain, UserError
from events.subjects import LOG
from replay.archive.projection import VIEWS, connect
from replay.archive.query import Result, answer, collect
from runtime.agents.feedback import ROWS, Table
from runtime.agents.session import Unfit
from runtime.log.lineage import Span
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
"""Over the events of the run and its past alone, and the archive's views of those."""
_EVENTS = sorted(tag for tag, entry in BY_TAG.items() if entry.stream == LOG)
_VIEWS = re.findall(r"^CREATE VIEW (\w+) AS\n(.*?);$", VIEWS[LOG].read_text(), re.MULTILINE | re.DOTALL)

Ask = Callable[[str], Result]


class RunTables:
    """The tables of one run, copied when they are first asked for. `ask` answers SQL over the archive; `event` must stand in it by then.

    A forked run's `past` is in them, as if it were the run's own; nothing is of what its ancestors did later.
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
        views = _views(self._run, self._past)
        for name, sql in TABLES.items():
            found = self._ask(f"{views} SELECT * FROM ({sql}) LIMIT {MOST}")
            types = ["VARCHAR" if kind in ("INTERVAL", '"NULL"') else kind for kind in found.types]
            _make(connection, name, found.columns, types, found.rows)
        items = [(example.id, example.prompt, example.label, example.fold) for example in self._train]
        _make(connection, "items", ("item", "prompt", "label", "fold"), ("VARCHAR", "VARCHAR", "VARCHAR", "BIGINT"), items)
        return connection


def _views(run: str, past: Sequence[Span]) -> str:
    """Tables and views of the archive, by their names, as they were if there were nothing in it but this run and its past."""
    spans = [Span(run), *past]
    mine = " OR ".join(f"run = '{span.run}' AND seq <= {span.last}" for span in spans)
    events = (f'"{tag}" AS (SELECT * REPLACE (\'{run}\' AS run) FROM main."{tag}" WHERE {mine})' for tag in _EVENTS)
    return "WITH " + ", ".join(chain(events, (f"{name} AS ({body})" for name, body in _VIEWS if name != "runs")))


def _make(
    connection: duckdb.DuckDBPyConnection, name: str, columns: Sequence[str], types: Sequence[str], rows: Sequence[tuple[object, ...]]
) -> None:
    fields = ", ".join(f'"{column}" {kind}' for column, kind in zip(columns, types, strict=True))
    connection.execute(f'CREATE TABLE "{name}" ({fields})').fetchall()
    if rows:
        appender = connection.appender(name)
        appender.append_rows(rows)
        appender.flush()
