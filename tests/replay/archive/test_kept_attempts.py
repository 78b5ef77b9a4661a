"""Attempts are kept joined for the view `trajectories`, and sums for the view `cost`. Both show the same as without,
however far they are kept.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replay.archive import projection
from replay.archive.projection import VIEW_BODIES, Archive
from runtime.log.port import Stored
from tests.harness.generator import log


@pytest.fixture(scope="module")
def rows() -> list[Stored]:
    return [*log(2500, runs=2, items=20, generations=2)]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    opened = Archive(tmp_path / "archive.duckdb")
    yield opened
    opened.close()


def shown(archive: Archive, view: str = "trajectories") -> list[tuple[Any, ...]]:
    return archive.connection.execute(f"FROM {view} ORDER BY ALL").fetchall()


def joined(archive: Archive, view: str = "trajectories") -> list[tuple[Any, ...]]:
    return archive.connection.execute(f"FROM ({VIEW_BODIES[view]}) ORDER BY ALL").fetchall()


def costs(archive: Archive) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The rows of the view `cost` as it is, and from the events alone; the model's seconds to a microsecond."""
    as_kept, from_events = (
        [tuple(round(cell, 6) if isinstance(cell, float) else cell for cell in row) for row in rows]
        for rows in (shown(archive, "cost"), joined(archive, "cost"))
    )
    return as_kept, from_events


def kept(archive: Archive) -> list[tuple[Any, ...]]:
    return archive.connection.execute("SELECT outcome FROM kept.attempts").fetchall()


def middle(rows: list[Stored]) -> int:
    """A place at which attempts are recorded that are scored later."""
    return next(at for at in range(1000, len(rows)) if rows[at].subject.endswith("trajectory_scored")) + 5


def test_attempts_that_were_open_and_those_that_came_later_are_shown_as_without_kept_ones(
    archive: Archive, rows: list[Stored]
) -> None:
    cut = middle(rows)
    for end in (cut, cut + 1, cut + 300, len(rows)):
        archive.apply(rows[:end])
        assert shown(archive) == joined(archive)
        as_kept, from_events = costs(archive)
        assert as_kept == from_events != []
        if end == cut:
            archive.keep_attempts()
            open_attempts = sum(outcome is None for (outcome,) in kept(archive))
            assert 0 < open_attempts < len(kept(archive)) == len(shown(archive))
            assert shown(archive) == joined(archive)
    assert len(kept(archive)) < len(shown(archive))


def test_the_archivist_keeps_them_anew_as_the_log_grows_and_finds_them_when_it_is_opened_again(
    rows: list[Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "KEPT_EVENTS", 500)
    first = Archive(tmp_path / "a.duckdb")
    for end in (400, 900, 1000, 1600):
        first.apply(rows[:end])
    before = len(kept(first))
    first.close()
    again = Archive(tmp_path / "a.duckdb")
    assert (again._kept, len(kept(again))) == (1600, before)
    again.apply(rows[:1700])
    assert (again._kept, len(kept(again))) == (1600, before)
    assert shown(again) == joined(again)
    again.close()


def test_views_that_are_made_anew_do_without_until_attempts_are_kept_again(
    archive: Archive, rows: list[Stored], tmp_path: Path
) -> None:
    archive.apply(rows)
    archive.keep_attempts()
    archive._run("UPDATE made SET views = 'as they were once'")
    archive.close()
    again = Archive(tmp_path / "archive.duckdb")
    assert again._kept == 0
    assert shown(again) == joined(again) != []
    again.close()
