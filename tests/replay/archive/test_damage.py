"""A damaged archive is put aside with DuckDB's log of writes and filled again from the log; readers get a sentence."""

import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from events import codec
from events.errors import CheckFailed, NotFound, TryAgain, UserError
from events.run import RunPaused
from events.subjects import GOLD
from replay.archive.projection import Archive, open_archive
from replay.archive.query import ARCHIVE, query
from runtime.log.port import Stored
from tests.harness.few import few

LAST, IN_FILE = 300, 200
"""Events of the log, and those of them that are in the file; the others are in DuckDB's log of writes."""


def paused(number: int) -> Stored:
    fact = RunPaused(number=number, reason=f"for {number} reasons")
    event = codec.event(fact, run="demo", source="test", cause="", time="2026-01-01T00:00:00Z")
    return Stored(number, 1_700_000_000_000_000_000 + number * 1_000, event.subject, codec.encode(event))


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of an archive whose service was killed."""
    here = tmp_path_factory.mktemp("crashed")
    (here / "open").mkdir()
    archive = Archive(here / "open" / ARCHIVE, checkpoint_by_hand=True)
    archive.apply([paused(number) for number in range(1, IN_FILE + 1)])
    archive.connection.execute("CHECKPOINT")
    archive.apply([paused(number) for number in range(IN_FILE + 1, LAST + 1)])
    shutil.copytree(here / "open", here / "left")
    archive.close()
    return here / "left"


def noise(start: int, length: int) -> Callable[[Path], None]:
    """Random bytes in a file."""

    def write(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[start : start + length] = random.Random(0).randbytes(len(data[start : start + length]))
        path.write_bytes(data)

    return write


def sql(text: str) -> Callable[[Path], None]:
    """Statements on the file, after what is in the log of writes."""

    def run(path: Path) -> None:
        with duckdb.connect(str(path)) as connection:
            connection.execute(text)

    return run


def in_its_place(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something else where the file was."""

    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


FILE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in its header": lambda path: os.truncate(path, 100),
    "cut behind its headers": lambda path: os.truncate(path, 13_000),
    "noise at its beginning": noise(0, 64),
    "noise in its version": noise(12, 8),
    "noise in its second header": noise(4096, 8192),
    "noise all over": noise(12_288, 1 << 30),
    "a folder": in_its_place(Path.mkdir),
    "a pipe": in_its_place(os.mkfifo),
    "a link to a device": in_its_place(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": in_its_place(lambda path: path.symlink_to(path)),
    "a text": lambda path: path.write_text("hello\n" * 10_000),
    "a file of SQLite": lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(5000)),
}
TABLES: dict[str, Callable[[Path], object]] = {
    "another program's tables": sql("DROP VIEW runs; DROP TABLE made; CREATE TABLE x (a INT)"),
    "another shape of its own": sql("DROP TABLE made; CREATE TABLE made (x INT)"),
    "no cursor": sql("DELETE FROM cursor"),
    "nothing of how it was made": sql("DELETE FROM made"),
    "tables of a version to come": sql("UPDATE made SET tables = 'x'; ALTER TABLE cursor ADD COLUMN x INT"),
    "another run's": sql("UPDATE cursor SET run = 'x'"),
}
WRITES: dict[str, Callable[[Path], object]] = {
    "noise in the writes": noise(4000, 64),
    "noise at the beginning of the writes": noise(0, 1000),
    "noise instead of the writes": noise(0, 1 << 30),
    "writes cut": lambda path: os.truncate(path, 4000),
    "no writes": lambda path: path.unlink(),
    "a folder instead of the writes": in_its_place(Path.mkdir),
}
DAMAGES = {
    **{name: (damage, "") for name, damage in (FILE | TABLES).items()},
    **{name: (damage, ".wal") for name, damage in WRITES.items()},
    "writes without a file": (Path.unlink, ""),
}


def damaged(crashed: Path, tmp_path: Path, name: str) -> Path:
    folder = Path(shutil.copytree(crashed, tmp_path / "project"))
    damage, end = DAMAGES[name]
    damage(folder / (ARCHIVE + end))
    return folder


@pytest.mark.parametrize("name", few(DAMAGES, *list(DAMAGES)[::3]))
def test_the_service_goes_on_from_what_is_whole(name: str, crashed: Path, tmp_path: Path) -> None:
    folder = damaged(crashed, tmp_path, name)
    log = [paused(number) for number in range(1, LAST + 11)]
    for end in (LAST, LAST + 10):  # the second time it is whole
        archive = open_archive(folder / ARCHIVE)
        archive.apply(log[:end])
        assert archive.connection.execute("SELECT count(*), sum(number) FROM run_paused").fetchall() == [
            (end, end * (end + 1) // 2)
        ]
        archive.close()
    assert query(folder, "SELECT seq FROM cursor").rows == [(LAST + 10,)]
    if name in FILE:
        assert os.path.lexists(folder / "archive.damaged") and (folder / "archive.damaged.wal").exists()


@pytest.mark.parametrize("name", DAMAGES)
def test_without_the_service_a_reader_gets_an_answer_or_a_sentence(name: str, crashed: Path, tmp_path: Path) -> None:
    folder = damaged(crashed, tmp_path, name)
    try:
        assert query(folder, "SELECT seq FROM cursor").rows in ([(LAST,)], [(IN_FILE,)], [])
        assert name not in FILE
    except NotFound:
        assert name == "writes without a file"
    except UserError as wrong:
        assert str(folder / ARCHIVE) in str(wrong) or name in TABLES
        assert wrong.code == CheckFailed.code or name in TABLES


def test_a_file_damaged_while_it_is_open_is_put_aside_at_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = open_archive(tmp_path / ARCHIVE)
    archive.apply([paused(1)])

    def broken(parsed: object) -> None:
        raise duckdb.FatalException("FATAL Error: Corrupt database file: computed checksum 1 does not match 2")

    monkeypatch.setattr(archive, "add", broken)
    with pytest.raises(TryAgain, match=r"kept as .*archive\.damaged, and a new one is filled"):
        archive.apply([paused(2)])
    archive.close()
    again = open_archive(tmp_path / ARCHIVE)
    assert again.cursor == 0
    again.close()


def test_no_room_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, **options: object) -> None:
        raise duckdb.IOException(f'IO Error: Could not write file "{path}": No space left on device')

    open_archive(tmp_path / ARCHIVE).close()
    monkeypatch.setattr(duckdb, "connect", full)
    with pytest.raises(TryAgain, match="cannot be opened now"):
        open_archive(tmp_path / ARCHIVE)
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


def test_what_was_put_aside_before_gives_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        (tmp_path / "gold.duckdb").mkdir()
        (tmp_path / "gold.duckdb" / str(number)).touch()
        with caplog.at_level(logging.ERROR, "evolog"):
            open_archive(tmp_path / "gold.duckdb", GOLD).close()
        (tmp_path / "gold.duckdb").unlink()
    assert [path.name for path in (tmp_path / "gold.damaged").iterdir()] == ["2"]
    assert "filled from the log" in caplog.text
