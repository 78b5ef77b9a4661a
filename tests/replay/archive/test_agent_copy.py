"""What a language model may ask about its run in SQL: the run and its past, and nothing else of the archive."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import pytest

from events.subjects import run_of
from replay.archive.agent_copy import TABLES, RunTables
from replay.archive.projection import MEMORY, Archive
from replay.archive.query import QueryResult, answer, collect
from replay.exports import folder
from runtime.log.lineage import Span
from runtime.log.port import Stored
from tests.harness.few import few
from tests.harness.paths import HISTORIES


@contextmanager
def tables(messages: Sequence[Stored], run: str, past: Sequence[Span], known: int = 99) -> Iterator[RunTables]:
    """Those of a run, over an archive that holds these messages and the event that is waited for."""
    archive = Archive(MEMORY)
    archive.add(archive.read(messages))
    archive.commit()
    archive.connection.execute(f"INSERT INTO events (run, id) VALUES ('{run}', 'awaited')")

    def ask(sql: str) -> QueryResult:
        with closing(answer(lambda: archive.connection, MEMORY, sql)) as lines:
            return collect(lines)

    found = RunTables(ask, run, past, "awaited", (), known)
    try:
        yield found
    finally:
        found.close()
        archive.close()


def contents(of: RunTables) -> dict[str, list[str]]:
    found = {name: of.query(f"SELECT row::VARCHAR FROM {name} AS row ORDER BY 1") for name in TABLES}
    return {name: [row[0] for row in table.rows] for name, table in found.items()}


@pytest.mark.parametrize("part", few([0.2, 0.45, 0.7, 0.9], 0.9))
def test_a_forks_past_ends_where_its_parent_was_left(part: float) -> None:
    parent = folder.read(HISTORIES / "decider-version-2")
    before = parent.messages[: int(part * len(parent.messages))]
    with tables(before, parent.run, ()) as then:
        expected = contents(then)
    assert expected["trajectories"] and expected["generations"]
    with tables(parent.messages, "fork", (Span(parent.run, before[-1].sequence),)) as fork:
        assert contents(fork) == expected


def test_each_generation_of_a_fork_of_a_fork_is_there_once() -> None:
    run = folder.read(HISTORIES / "fork-of-a-fork")
    names = list(dict.fromkeys(run_of(stored.subject) for stored in reversed(run.past)))
    last = {run_of(stored.subject): stored.sequence for stored in run.past}
    assert len(names) == 2
    with tables(run.everything, run.run, [Span(name, last[name]) for name in names]) as found:
        numbers = [row[0] for row in found.query("SELECT generation FROM generations ORDER BY 1").rows]
        assert numbers == list(range(len(numbers))) and len(numbers) > 2
    with tables(run.everything, run.run, ()) as alone:
        assert len(alone.query("FROM generations").rows) < len(numbers)


def test_what_is_not_settled_cannot_be_asked_for() -> None:
    run = folder.read(HISTORIES / "decider-version-2")
    with tables(run.messages, run.run, ()) as found:
        whole = {name: found.query(f"SELECT max(generation) FROM {name}").rows[0][0] for name in TABLES}
    with tables(run.messages, run.run, (), known=1) as found:
        early = {name: found.query(f"SELECT max(generation) FROM {name}").rows[0][0] for name in TABLES}
    assert whole["trajectories"] == whole["candidates"] == whole["cost"] == 2
    assert early["trajectories"] == early["candidates"] == early["cost"] == 1
    assert all(number is None or number <= 1 for number in early.values())
