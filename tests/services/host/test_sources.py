"""Runs are found by their names, or by how these begin."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from events import codec
from events.errors import NotFound, UsageError
from events.secret import Scanner
from replay.exports import folder
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import Stored, append_once
from runtime.run.child import child_name
from services.host import imports
from services.host.imports import find_export
from services.host.node import Node
from services.host.sources import find_run
from tests.harness.facts import TIME, example, started

LONG = "l" * 60
RUNS = {
    "r": "",
    child_name("r", 1): "r",
    child_name("r", 2): "r",
    "one": "",
    child_name("one", 1): "one",
    "other": "",
    LONG: "",
    child_name(LONG, 3): LONG,
    "lost-child-1": "lost",
    "lost-child-2": "lost",
}
"""Each run's owner."""


class NarrowLog(MemoryLog):
    """A log in which nobody looks at all runs."""

    async def last(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """As `Log.last`."""
        assert not any(".*.*." in subject for subject in subjects)
        return await super().last(subjects)


def found(name: str, kind: type[MemoryLog] = MemoryLog) -> str:
    async def find() -> str:
        log = kind(MemoryStream())
        for run, owner in reversed(RUNS.items()):
            fact = msgspec.structs.replace(started(), owner=owner)
            event = codec.event(fact, run=run, source="operator", cause="", time=TIME)
            await append_once(log, [event], Scanner([]))
        return await find_run(log, name)

    return asyncio.run(find())


MEANT = [("r", "r"), ("on", "one"), ("one", "one"), ("one-", "one-child-1"), ("r-child-2", "r-child-2"), ("ll", LONG)]


@pytest.mark.parametrize(("name", "run"), MEANT)
def test_a_prefix_of_a_run_and_of_those_that_belong_to_it_means_that_run(name: str, run: str) -> None:
    assert found(name) == run


def test_a_run_by_its_whole_name_is_found_without_a_look_at_all_others() -> None:
    assert found("other", NarrowLog) == "other"
    with pytest.raises(AssertionError):
        found("oth", NarrowLog)


@pytest.mark.parametrize("name", ["", "*", "r.>", "r *", "../r"])
def test_what_is_no_name_of_a_run_is_not_found(name: str) -> None:
    with pytest.raises(NotFound if name else UsageError):
        found(name)


@pytest.mark.parametrize(
    ("name", "several"),
    [("o", "2 runs (other, one)"), ("r-", "2 runs (r-child-2, r-child-1)"), ("lost", "2 runs")],
)
def test_a_prefix_of_several_runs_means_none_of_them(name: str, several: str) -> None:
    with pytest.raises(UsageError) as raised:
        found(name)
    assert several in str(raised.value)


def test_a_name_that_no_run_begins_with_is_not_found() -> None:
    with pytest.raises(NotFound):
        found("x")


@pytest.mark.parametrize(("name", "run"), [*MEANT, ("o", None), ("r-", None), ("x", None)])
def test_imported_runs_are_found_in_the_same_way(
    name: str, run: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def manifest(path: Path) -> folder.Manifest:
        about = msgspec.structs.replace(started(), owner=RUNS[path.name])
        made: folder.Manifest = example(folder.Manifest, started=about)
        return made

    node = Node(tmp_path)
    monkeypatch.setattr(imports, "imported_runs", lambda node: sorted(RUNS))
    monkeypatch.setattr(folder, "read_manifest", manifest)
    assert find_export(node, name) == (node.imports / run if run else None)
