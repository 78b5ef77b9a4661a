"""The digests that close a finished run are kept, and read from the log again once anything of it was touched."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from events import codec
from events.gold import AuditFinished
from replay.closing import PENDING, Closing
from runtime.broker import store
from runtime.log.jetstream import Connection
from services.host import closings
from services.host.node import Node
from services.host.sources import open_logs
from tests.harness.facts import example
from tests.harness.generator import fill, log_batches

pytestmark = pytest.mark.slow


def audited(run: str) -> Iterator[tuple[str, bytes]]:
    event = codec.event(example(AuditFinished), run=run, source="auditor", cause="", time="2026-01-01T00:00:00Z")
    yield event.subject, codec.encode(event)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one run to its end, and another that goes on."""
    directory = tmp_path_factory.mktemp("closed")
    fill(directory, log_batches(500, runs=2, items=6, generations=1), lambda: audited("run-0"))
    return directory


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs whose messages are read."""
    found: list[str] = []
    read = closings.read_closing

    async def counted(connection: Connection, run: str) -> Closing:
        found.append(run)
        return await read(connection, run)

    monkeypatch.setattr(closings, "read_closing", counted)
    return found


def closing_of(directory: Path, run: str = "run-0") -> Closing:
    async def ask() -> Closing:
        async with open_logs(Node(directory)) as connection:
            return await closings.kept_closing(connection, Node(directory), run)

    return asyncio.run(ask())


def test_a_run_that_is_audited_is_read_once(directory: Path, reads: list[str]) -> None:
    first = closing_of(directory)
    assert PENDING not in (first.log, first.gold)
    assert closing_of(directory) == first
    assert reads == ["run-0"]


def test_a_file_of_its_events_that_was_touched_has_it_read_again(directory: Path, reads: list[str]) -> None:
    first = closing_of(directory)
    reads.clear()
    (block, *_) = store.blocks(directory, "EVOLOG")
    os.utime(block)
    assert (closing_of(directory), closing_of(directory), reads) == (first, first, ["run-0"])


@pytest.mark.parametrize("wrong", [None, '"run":"run-1"'])
def test_what_is_no_digest_of_this_run_counts_for_nothing(directory: Path, reads: list[str], wrong: str | None) -> None:
    first = closing_of(directory)
    reads.clear()
    path = Node(directory).closings / "run-0.json"
    path.write_text(path.read_text().replace('"run":"run-0"', wrong) if wrong else "{")
    assert (closing_of(directory), reads) == (first, ["run-0"])


def test_a_later_decision_or_audit_has_it_read_again(directory: Path, reads: list[str]) -> None:
    first = closing_of(directory)
    reads.clear()
    path = Node(directory).closings / "run-0.json"
    kept = path.read_text()
    assert kept.count('"gold.run-0.') == kept.count('"evolog.run-0.head.decision_made":') == 1
    path.write_text(kept.replace('"evolog.run-0.head.decision_made":', '"evolog.run-0.head.decision_made":1'))
    assert (closing_of(directory), reads) == (first, ["run-0"])


def test_nothing_is_kept_of_a_run_that_goes_on(directory: Path, reads: list[str]) -> None:
    assert closing_of(directory, "run-1").gold == closing_of(directory, "run-1").gold == PENDING
    assert reads == ["run-1", "run-1"]
