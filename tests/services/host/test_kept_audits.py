"""The audit of a finished run is kept, and taken from there only where nothing has changed that it was made of."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("numpy")

from events.gold import GoldFailed
from events.run import RunPaused
from events.subjects import GOLD, LOG
from replay.audit.audit import AuditReport, PassedRun, audit_history, audit_passed
from replay.history import History, read_history
from runtime.blobs.directory import Blobs
from runtime.broker import store
from runtime.run.loading import OWN, TaskAccess
from services.cli.main import main
from services.host import kept_audits
from services.host.kept_audits import KeptAudit, kept_audit
from services.host.node import Node
from services.host.passed_runs import load_passed
from services.host.sources import open_logs
from tests.bench.audits import RUN, make
from tests.harness.generator import append_facts

TAKEN = f"{RUN} has not changed since it was audited last: --fresh audits it anew.\n"


def evolog(directory: Path, *flags: str) -> Result:
    said = CliRunner().invoke(main, ["audit", RUN, "--dir", str(directory), *flags])
    assert said.exit_code in (0, 3, 6), (said.output, said.exception)
    return said


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A directory with a finished run and the auditor's measures of it, and its first audit."""
    directory = tmp_path_factory.mktemp("audited") / "project"
    make(directory, 10, 2)
    return directory, evolog(directory, "--json")


@pytest.fixture
def directory(made: tuple[Path, Result], tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(made[0], tmp_path / "project")
    return tmp_path / "project"


def test_a_second_audit_says_the_same_to_the_byte_and_so_does_a_fresh_one(made: tuple[Path, Result]) -> None:
    directory, first = made
    assert TAKEN not in first.stderr
    second, fresh = evolog(directory, "--json"), evolog(directory, "--json", "--fresh")
    assert second.stdout == fresh.stdout == first.stdout and first.stdout.startswith('{"version"')
    assert second.exit_code == fresh.exit_code == first.exit_code
    assert TAKEN in second.stderr and TAKEN not in fresh.stderr
    assert TAKEN in evolog(directory).stderr


def test_one_pass_says_what_the_whole_history_says(made: tuple[Path, Result]) -> None:
    passed, whole = load_passed(made[0], RUN, lambda done, total: None), history(made[0])
    assert isinstance(passed, PassedRun) and passed.finished and len(passed.passing.events) < len(whole.messages) / 3
    one, other = audit_passed(passed, OWN), audit_history(whole, OWN)
    assert as_bytes(one) == as_bytes(other)


def history(directory: Path) -> History:
    async def read() -> History:
        async with open_logs(Node(directory)) as connection:
            return await read_history(
                connection.log(LOG),
                connection.log(GOLD),
                RUN,
                Blobs(Node(directory).blobs),
                Blobs(Node(directory).gold_blobs),
            )

    return asyncio.run(read())


def as_bytes(report: AuditReport) -> bytes:
    return msgspec.json.encode(report)


def byte_of(stream: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = store.blocks(directory, stream)[0]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    return change


def cut(directory: Path) -> None:
    path = store.blocks(directory, LOG)[-1]
    path.write_bytes(path.read_bytes()[:-1])


def gone(directory: Path) -> None:
    store.blocks(directory, LOG)[-1].unlink()


CHANGES: dict[str, Callable[[Path], None]] = {
    "a byte of EVOLOG": byte_of(LOG),
    "a byte of GOLD": byte_of(GOLD),
    "the end of EVOLOG": cut,
    "a file of EVOLOG": gone,
    "an event of the run on EVOLOG": lambda directory: append_facts(directory, RunPaused(number=9, reason=""), run=RUN),
    "an event of the run on GOLD": lambda directory: append_facts(
        directory, GoldFailed(cell="final", split="test", reason="r"), run=RUN, stream=GOLD
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_audited_has_changed_since(directory: Path, change: str) -> None:
    node = Node(directory)
    assert kept_audit(node, RUN, OWN)
    CHANGES[change](directory)
    assert kept_audit(node, RUN, OWN) is None


def test_what_another_run_appends_changes_nothing(directory: Path) -> None:
    append_facts(directory, RunPaused(number=9, reason=""), run="longer")
    append_facts(directory, GoldFailed(cell="final", split="test", reason="r"), run="longer", stream=GOLD)
    assert kept_audit(Node(directory), RUN, OWN)


def test_other_code_other_data_and_other_access_are_no_basis(
    made: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(made[0])
    assert kept_audit(node, RUN, OWN)
    assert kept_audit(node, RUN, TaskAccess(exported=False, folder=str(made[0].with_name("cases")))) is None
    with monkeypatch.context() as patch:
        patch.setattr(kept_audits, "code_digest", lambda: "another")
        assert kept_audit(node, RUN, OWN) is None
    with monkeypatch.context() as patch:
        patch.setattr(kept_audits, "data_of", lambda started, access: (None, "no data"))
        assert kept_audit(node, RUN, OWN) is None


def damages(text: bytes) -> Iterator[bytes]:
    yield b""
    yield text[: len(text) // 2]
    yield text.replace(b'"rule":""', b'"rule":"gap"', 1)
    yield text.replace(b'"measured":', b'"measured":1')
    yield b"[]"
    yield b"\xff" + text


def test_a_damaged_or_foreign_file_is_not_believed(directory: Path) -> None:
    node = Node(directory)
    path = node.audits / f"{RUN}.json"
    text = path.read_bytes()
    for damaged in damages(text):
        assert damaged != text
        path.write_bytes(damaged)
        assert kept_audit(node, RUN, OWN) is None
    path.write_bytes(text)
    shutil.copyfile(path, node.audits / "other.json")
    assert kept_audit(node, "other", OWN) is None and kept_audit(node, "../audits/long", OWN) is None
    said = evolog(directory)
    assert TAKEN in said.stderr
    path.write_bytes(text[:-2])
    assert TAKEN not in evolog(directory).stderr
    assert path.read_bytes() == text


def test_a_run_that_goes_on_is_not_kept(tmp_path: Path) -> None:
    make(tmp_path / "project", 10, 3, most=60)
    for _ in range(2):
        assert TAKEN not in evolog(tmp_path / "project").stderr
    assert not Node(tmp_path / "project").audits.exists()


def test_a_kept_audit_holds_all_of_a_report() -> None:
    assert set(AuditReport._fields) < set(KeptAudit.__struct_fields__)
