"""The archive rebuilt from the log: it equals the live one, survives being killed, and finds what is missing or was
changed.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from events.errors import CheckFailed, NotFound, UsageError
from replay.archive import rebuild as module
from replay.archive.projection import Archive
from replay.archive.query import query_file
from replay.archive.rebuild import ReadMessages, RebuildResult, rebuild
from runtime.log.port import Stored, require_contiguous
from services.cli.replay import rebuild as rebuild_command
from services.host import rebuild as host
from services.host.node import Node
from tests.harness.archives import dump
from tests.harness.few import few
from tests.harness.generator import log
from tests.harness.paths import ROOT
from tests.harness.polling import PATIENCE

SMALL: dict[str, Any] = {"runs": 2, "items": 20, "generations": 2}
Tables = dict[str, list[tuple[Any, ...]]]


def reader(rows: Sequence[Stored]) -> ReadMessages:
    """Rows as a log that finds gaps, as the broker's does."""

    def read(start: int, limit: int) -> list[Stored]:
        found = [row for row in rows if row.sequence >= start][:limit]
        require_contiguous(found, start)
        return found

    return read


def tables(path: Path, run: str = "") -> Tables:
    archive = Archive(path, run=run)
    found = dump(archive)
    archive.close()
    return found


@pytest.fixture(scope="module")
def rows() -> list[Stored]:
    """A log with what no program can read in it."""
    rows = [*log(4000, **SMALL)]
    bad = [
        Stored(len(rows) + 1 + place, 10**18, subject, b"{}")
        for place, subject in enumerate(("evolog.run-0.x.unheard_of", "evolog.odd"))
    ]
    return [*rows, *bad]


@pytest.fixture(scope="module")
def live(rows: list[Stored], tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """What the archivist's way of filling leaves."""
    archive = Archive(tmp_path_factory.mktemp("live") / "live.duckdb")
    for at in range(0, len(rows), 333):
        archive.apply(rows[at : at + 333])
    archive.close()
    return tables(archive.path)


def made(rows: Sequence[Stored], into: Path, run: str = "") -> RebuildResult:
    return rebuild(reader(rows), into, run, end=rows[-1].sequence)


@pytest.mark.parametrize(
    ("read", "commit"), few([(20_000, 250_000), (700, 1000), (1300, 1)], (20_000, 250_000), (700, 1000))
)
def test_a_rebuilt_archive_equals_the_live_one(
    read: int, commit: int, rows: list[Stored], live: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE_SIZE", read)
    monkeypatch.setattr(module, "COMMIT_ROWS", commit)
    found = made(rows, tmp_path / "a.duckdb")
    assert (found.events, found.broken, found.gap) == (len(rows), None, "")
    assert found.decisions > 10
    assert tables(tmp_path / "a.duckdb") == live


def test_rows_stand_in_the_order_of_the_log(
    rows: list[Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE_SIZE", 700)
    made(rows, tmp_path / "a.duckdb")
    with duckdb.connect(str(tmp_path / "a.duckdb")) as connection:
        for table in ("events", "trajectory_scored", "model_called", "decision_made"):
            sequences = [sequence for (sequence,) in connection.execute(f'SELECT seq FROM "{table}"').fetchall()]
            assert sequences == sorted(sequences) != []


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
from replay.archive import rebuild as module
rows = pickle.loads(Path(sys.argv[1]).read_bytes())
module.PAGE_SIZE, module.COMMIT_ROWS = 700, 1000

def read(start, limit):
    if start > 3000:
        os.kill(os.getpid(), signal.SIGKILL)
    return rows[start - 1 : start - 1 + limit]

module.rebuild(read, Path(sys.argv[2]), end=len(rows))
"""


def killed(rows: Sequence[Stored], tmp_path: Path) -> Path:
    """A rebuild that was killed in the middle."""
    import pickle

    (tmp_path / "rows").write_bytes(pickle.dumps(list(rows)))
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "rows"), str(tmp_path / "a.duckdb")], cwd=ROOT, timeout=PATIENCE
    )
    assert ended.returncode == -signal.SIGKILL
    return tmp_path / "a.duckdb"


def test_a_killed_rebuild_goes_on_where_its_cursor_stands(rows: list[Stored], live: Tables, tmp_path: Path) -> None:
    path = killed(rows, tmp_path)
    asked: list[int] = []

    def read(start: int, limit: int) -> list[Stored]:
        asked.append(start)
        return reader(rows)(start, limit)

    found = rebuild(read, path, end=len(rows))
    assert min(asked) > 1000 and 0 < found.events < len(rows) - 1000
    assert found.broken is None and found.decisions == made(rows, tmp_path / "whole.duckdb").decisions
    assert tables(path) == live


def changed(rows: Sequence[Stored], at: int) -> list[Stored]:
    """The log with another reward in the first score from a place on."""
    place = next(place for place, row in enumerate(rows) if place >= at and row.subject.endswith(".trajectory_scored"))
    right = b'"reward":1.0' in rows[place].data
    data = rows[place].data.replace(
        *((b'"reward":1.0', b'"reward":0.0') if right else (b'"reward":0.0', b'"reward":1.0'))
    )
    return [*rows[:place], msgspec.structs.replace(rows[place], data=data), *rows[place + 1 :]]


def test_a_changed_event_is_found_and_the_rebuild_goes_on(rows: list[Stored], tmp_path: Path) -> None:
    found = made(changed(changed(rows, 3000), 100), tmp_path / "a.duckdb")
    assert found.events == len(rows) and found.broken is not None
    assert found.broken.first <= 1000 and "was made on other events" in str(found.broken)


def test_a_change_between_a_kill_and_the_next_decision_is_found(rows: list[Stored], tmp_path: Path) -> None:
    path = killed(rows, tmp_path)
    archive = Archive(path)
    cursor = archive.cursor
    archive.close()
    found = made(changed(rows, cursor), path)
    assert found.broken is not None and found.broken.last > cursor


def test_a_break_that_was_found_before_a_kill_is_still_reported(rows: list[Stored], tmp_path: Path) -> None:
    bad = changed(rows, 100)
    path = killed(bad, tmp_path)
    assert made(bad, path).broken == made(bad, tmp_path / "whole.duckdb").broken is not None


def test_the_archivists_own_file_is_gone_on_with_and_its_part_is_checked(
    rows: list[Stored], live: Tables, tmp_path: Path
) -> None:
    archive = Archive(tmp_path / "a.duckdb")
    archive.apply(rows[:2000])
    archive.close()
    found = made(changed(rows, 100), tmp_path / "a.duckdb")
    assert found.events == len(rows) - 2000
    assert found.broken is not None and found.broken.first < 2000
    assert tables(tmp_path / "a.duckdb")["events"] == live["events"]


def test_what_stands_before_a_gap_is_kept_and_the_gap_is_reported(rows: list[Stored], tmp_path: Path) -> None:
    found = made([*rows[:1234], *rows[1235:]], tmp_path / "a.duckdb")
    assert (found.events, found.gap[:60]) == (1234, "The log has a gap: sequence 1236 came where 1235 was expecte")
    assert tables(tmp_path / "a.duckdb")["cursor"] == [("EVOLOG", "1234", "")]
    assert made(rows, tmp_path / "a.duckdb").events == len(rows) - 1234


def test_one_run_has_its_rows_alone_and_the_cursor_of_the_log(rows: list[Stored], live: Tables, tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    found = made(rows, path, "run-0")
    assert found.events == len(rows) and found.broken is None
    one = tables(path, "run-0")
    assert one["cursor"] == [("EVOLOG", str(len(rows)), "run-0")]
    for name in ("events", "trajectory_recorded", "unreadable"):
        assert (
            one[name]
            == [row for row in live[name] if any(part in ("run-0", "evolog.run-0.x.unheard_of") for part in row)]
            != []
        )
    with pytest.raises(UsageError, match="holds run run-0 and cannot go on with run run-1"):
        made(rows, path, "run-1")
    with pytest.raises(UsageError, match="cannot go on with all runs"):
        made(rows, path)


def test_an_export_of_one_run_is_no_log_with_gaps(rows: list[Stored], tmp_path: Path) -> None:
    export = [row for row in rows if row.subject.startswith("evolog.run-1.")]

    def read(start: int, limit: int) -> list[Stored]:
        return [row for row in export if row.sequence >= start][:limit]

    found = rebuild(read, tmp_path / "a.duckdb", "run-1", end=export[-1].sequence, whole=False)
    assert (found.gap, found.broken) == ("", None) and found.decisions > 5


def test_a_file_that_another_log_filled_is_left_alone(rows: list[Stored], tmp_path: Path) -> None:
    made(rows, tmp_path / "a.duckdb")
    with pytest.raises(UsageError, match="was filled from another log"):
        made(list(log(6000, **SMALL | {"items": 30})), tmp_path / "a.duckdb")


def test_a_database_that_is_no_archive_is_left_alone(rows: list[Stored], tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "a.duckdb")) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1").fetchall()
    with pytest.raises(UsageError, match="evolog did not make"):
        made(rows, tmp_path / "a.duckdb")
    with duckdb.connect(str(tmp_path / "a.duckdb")) as connection:
        assert connection.execute("FROM mine").fetchall() == [(1,)]


def test_progress_is_told_up_to_the_end(rows: list[Stored], tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    rebuild(
        reader(rows), tmp_path / "a.duckdb", end=len(rows), progress=lambda done, total: heard.append((done, total))
    )
    assert heard[-1] == (len(rows), len(rows))


@pytest.fixture
def ordered(rows: list[Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command over these rows in place of a directory that is up."""

    def order(*, of: Sequence[Stored] = rows, run: str = "", parquet: Path | None = None, as_json: bool = False) -> int:
        async def from_log(
            node: Node, run: str, into: Path, progress: Any
        ) -> tuple[str, int, RebuildResult, host.CheckedRuns]:
            result = rebuild(reader(of), into, run, end=of[-1].sequence, progress=progress)
            return run, of[-1].sequence, result, host.CheckedRuns([], None)

        monkeypatch.setattr(host, "_from_log", from_log)
        return rebuild_command(tmp_path, run, tmp_path / "into" / "a.duckdb", parquet, as_json)

    return order


def test_the_command_says_what_it_did(
    ordered: Callable[..., int], rows: list[Stored], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ordered() == 0
    said = capsys.readouterr().out
    assert (
        f"all runs up to sequence {len(rows):,}; {len(rows):,} events read" in said and "their hash chains hold" in said
    )


def test_the_command_speaks_json_and_exits_3_where_the_log_was_changed(
    ordered: Callable[..., int], rows: list[Stored], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ordered(of=changed(rows, 100), as_json=True) == CheckFailed.code == 3
    said = json.loads(capsys.readouterr().out)
    assert said["events"] == len(rows) and said["broken"]["run"] in ("run-0", "run-1") and said["gap"] == ""


def test_the_command_exits_3_at_a_gap(
    ordered: Callable[..., int], rows: list[Stored], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ordered(of=[*rows[:10], *rows[11:]]) == 3
    assert "The log has a gap" in capsys.readouterr().out


def test_parquet_holds_the_same_rows_one_folder_a_run(
    ordered: Callable[..., int], tmp_path: Path, live: Tables
) -> None:
    folder = tmp_path / "parquet"
    assert ordered(parquet=folder) == 0
    assert {path.name for path in (folder / "trajectory_scored").iterdir()} == {
        f"run={row[1]}" for row in live["run_started"]
    }
    with duckdb.connect() as connection:
        for table in ("events", "trajectory_scored", "model_called", "run_started", "unreadable"):
            count = connection.execute(f"SELECT count(*) FROM read_parquet('{folder}/{table}/*/*.parquet')").fetchone()
            assert count == (len(live[table]),)
        (codecs,) = connection.execute(
            f"SELECT list(DISTINCT compression) FROM parquet_metadata('{folder}/events/*/*.parquet')"
        ).fetchall()
        assert codecs == (["ZSTD"],)
    with pytest.raises(UsageError, match="not an empty folder"):
        ordered(parquet=folder)


def test_a_rebuilt_file_answers_sql_and_only_that(
    ordered: Callable[..., int], tmp_path: Path, rows: list[Stored]
) -> None:
    ordered()
    path = tmp_path / "into" / "a.duckdb"
    assert query_file(path, "SELECT max(seq) FROM events").rows == [(len(rows) - 2,)]
    assert len(query_file(path, "FROM generations").rows) > 2
    for sql in (
        "SELECT * FROM read_text('/etc/passwd')",
        f"COPY events TO '{tmp_path}/out.csv'",
        "SET threads = 4",
        f"ATTACH '{tmp_path}/b'",
    ):
        with pytest.raises(UsageError):
            query_file(path, sql)
    with pytest.raises(NotFound):
        query_file(tmp_path / "none.duckdb", "FROM runs")
