"""What `evolog show` and `evolog ls` tell is kept, and read from the log again once it might be otherwise."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from events.gold import AuditFinished, GoldFailed
from events.run import RunPaused
from events.subjects import GOLD, LOG
from runtime.broker import store
from services.host import reports, sources
from services.host.node import Node
from services.host.reports import list_runs, load_report
from tests.harness.facts import example
from tests.harness.generator import append_facts, fill, log_batches

pytestmark = pytest.mark.slow

Change = Callable[[Path], None]
PAUSED = RunPaused(number=9, reason="")
FAILED = GoldFailed(cell="final", split="test", reason="r")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one audited run, and others that are not."""
    directory = tmp_path_factory.mktemp("told") / "project"
    fill(directory, log_batches(1500, runs=2, items=6, generations=1))
    append_facts(directory, example(AuditFinished), run="run-0", stream=GOLD)
    return directory


@pytest.fixture
def directory(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change, and in which both are kept."""
    shutil.copytree(made, tmp_path / "project")
    told(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def reads(directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read from the log from here on."""
    found: list[str] = []

    def counted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            found.append(name)
            return real(*arguments)

        return call

    for name in ("read_report", "with_logs"):
        monkeypatch.setattr(sources, name, counted(name, getattr(sources, name)))
    return found


def told(directory: Path) -> tuple[bytes, bytes]:
    return msgspec.json.encode(load_report(directory, "run-0")), msgspec.json.encode(list_runs(directory))


def test_what_was_told_once_is_told_again_without_the_log(
    directory: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = told(directory)
    assert reads == []
    shutil.rmtree(Node(directory).reports)
    assert told(directory) == again and reads == ["read_report", "with_logs"]


def touched(path: Callable[[Path], Path]) -> Change:
    return lambda directory: os.utime(path(directory))


def cut(directory: Path) -> None:
    os.truncate(store.blocks(directory, LOG)[-1], store.blocks(directory, LOG)[-1].stat().st_size - 1)


def changed(directory: Path) -> None:
    path = store.blocks(directory, LOG)[-1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data + b"more")


def damaged(name: str) -> Change:
    def change(directory: Path) -> None:
        path = Node(directory).reports / name
        path.write_text(path.read_text().replace('"seed":', '"seed": 1', 1))

    return change


def of_another(directory: Path) -> None:
    reports = Node(directory).reports
    append_facts(directory, example(AuditFinished), run="run-1", stream=GOLD)
    load_report(directory, "run-0")
    shutil.copyfile(reports / "run-0.json", reports / "run-1.json")


READ_AGAIN: dict[str, tuple[Change, list[str]]] = {
    "another run's event": (
        lambda there: append_facts(there, PAUSED, run="run-1"),
        ["with_logs"],
    ),
    "another run's event on GOLD": (
        lambda there: append_facts(there, FAILED, run="run-1", stream=GOLD),
        ["with_logs"],
    ),
    "its own": (
        lambda there: append_facts(there, PAUSED, run="run-0"),
        ["read_report", "with_logs"],
    ),
    "its own on GOLD": (
        lambda there: append_facts(there, FAILED, run="run-0", stream=GOLD),
        ["read_report", "with_logs"],
    ),
    "a file that was touched": (touched(lambda there: store.blocks(there, LOG)[0]), ["with_logs"]),
    "a report that was changed": (damaged("run-0.json"), ["read_report"]),
    "a list that was changed": (damaged(reports.LIST), ["with_logs"]),
}


@pytest.mark.parametrize("change", READ_AGAIN)
def test_what_might_be_otherwise_is_read_again(change: str, directory: Path, reads: list[str]) -> None:
    make, expected = READ_AGAIN[change]
    make(directory)
    told(directory)
    assert reads == expected
    told(directory)
    assert reads == expected


@pytest.mark.parametrize("change", [cut, changed])
def test_a_file_that_is_not_as_it_was_holds_nothing(change: Change, directory: Path) -> None:
    change(directory)
    assert reports._kept_report(Node(directory), "run-0") is None


def test_other_code_reads_anew(directory: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "_code", lambda: "another")
    told(directory)
    assert reads == ["read_report", "with_logs"]


def test_another_runs_report_is_not_taken_for_its_own(directory: Path, reads: list[str]) -> None:
    of_another(directory)
    reads.clear()
    assert load_report(directory, "run-1").run == "run-1" and reads == ["read_report"]


def test_a_run_whose_audit_is_under_way_is_read_each_time(directory: Path, reads: list[str]) -> None:
    load_report(directory, "run-1")
    load_report(directory, "run-1")
    assert reads == ["read_report", "read_report"]


@pytest.mark.parametrize("state", ["up", "killed"])
def test_a_list_holds_only_while_nothing_is_up_and_all_has_ended_in_good_order(
    state: str, directory: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (Node(directory).reports / reports.LIST).unlink()

    def read(directory: Path, work: object) -> list[object]:
        reads.append("the log")
        return []

    monkeypatch.setattr(sources, "with_logs", read)
    if state == "up":
        monkeypatch.setattr(Node, "alive", lambda node: True)
    else:
        monkeypatch.setattr(store, "ended_well", lambda directory: False)
    assert (list_runs(directory), list_runs(directory), reads) == ([], [], ["the log", "the log"])


def test_a_report_with_best_answers_is_read_each_time(
    directory: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graded = msgspec.structs.replace(load_report(directory, "run-0"), graded=True)
    shutil.rmtree(Node(directory).reports)
    monkeypatch.setattr(sources, "read_report", lambda directory, name: graded)
    assert load_report(directory, "run-0").graded and not (Node(directory).reports / "run-0.json").exists()
