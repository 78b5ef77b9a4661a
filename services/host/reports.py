"""What `evolog show` and `evolog ls` tell of a project directory. It is kept there, and told again for as long as it is
true, without a server and without the log.

The report of a run that was audited is kept until a file of the streams that it was read from is another, or a message
of the run stands behind them. The list of runs is kept while nothing is up and no file has changed. What other code
made counts for nothing, nor does a file that is damaged. The best answers of a run with graded rewards come from the
archive, which may lag: its report is not kept.
"""

import hashlib
import re
from functools import cache
from pathlib import Path

import msgspec

from events.subjects import GOLD, LOG, PREFIX, RUN_NAME
from replay.exports import folder
from replay.report import Report
from replay.run_state import ListedRun, listed_run
from runtime.broker import store
from services.host.imports import find_export, imported_runs
from services.host.kept_files import ROOT, code_files, read_block, read_kept, write_kept
from services.host.node import Node, version

STREAMS = (LOG, GOLD)
LIST = ".runs.json"
"""The file of the list: no run has a name that begins with a full stop."""


class _Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a stream; `changed` is when it last did in any way, in nanoseconds since 1970."""

    name: str
    inode: int
    size: int
    changed: int


class _Basis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What something was read from."""

    code: str
    blocks: dict[str, tuple[_Block, ...]]
    """The files of each stream, by its name."""
    last: dict[str, str]
    """The SHA-256 of the last of them, which may grow."""


class _KeptReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    basis: _Basis
    report: Report


class _KeptList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    basis: _Basis
    runs: list[ListedRun]


def load_report(directory: Path, name: str) -> Report:
    """The report of the run of that name: an export's folder, an imported run, or one on the directory's log, by the
    beginning of its name too.
    """
    node = Node(directory)
    basis = None
    if find_export(node, name) is None:
        if report := _kept_report(node, name):
            return report
        basis = _basis(node)
    from services.host.sources import read_report  # with the client of the broker, which takes long to import

    report = read_report(directory, name)
    if basis and report.audit == "done" and not report.graded:
        write_kept(_report_path(node, report.run), _KeptReport(basis, report))
    return report


def list_runs(directory: Path) -> list[ListedRun]:
    """The runs of a directory, the oldest first, and then those that were imported."""
    node = Node(directory)
    names = imported_runs(node)
    listed = _on_log(node) if node.nats_dir.is_dir() or not names else []
    return listed + [_imported(name, folder.read_manifest(node.imports / name)) for name in names]


def _on_log(node: Node) -> list[ListedRun]:
    path = node.reports / LIST
    basis = _basis(node) if _at_rest(node) else None
    if basis and (kept := read_kept(path, _KeptList)) and kept.basis == basis:
        return kept.runs
    from services.host.sources import list_log, with_logs

    listed = with_logs(node.directory, list_log)
    if basis and _at_rest(node):
        write_kept(path, _KeptList(basis, listed))
    return listed


def _at_rest(node: Node) -> bool:
    """Whether nothing is up in a directory, and all that was has ended in good order."""
    return not node.alive() and store.ended_well(node.directory)


def _imported(name: str, manifest: folder.Manifest) -> ListedRun:
    audited = manifest.closing is not None and manifest.closing.audit_ended
    one = listed_run(name, manifest.started, manifest.began, manifest.finished, manifest.decisions, audited=audited)
    one.imported = True
    return one


def _kept_report(node: Node, run: str) -> Report | None:
    if not re.fullmatch(RUN_NAME, run):
        return None
    kept = read_kept(_report_path(node, run), _KeptReport)
    return kept.report if kept and kept.report.run == run and _holds(node, run, kept.basis) else None


def _report_path(node: Node, run: str) -> Path:
    return node.reports / f"{run}.json"


def _basis(node: Node) -> _Basis:
    paths = {stream: store.blocks(node.directory, stream) for stream in STREAMS}
    blocks = {stream: tuple(map(_block, found)) for stream, found in paths.items()}
    last = {stream: read_block(found[-1], blocks[stream][-1].size, b"")[0] for stream, found in paths.items() if found}
    return _Basis(_code(), blocks, last)


def _holds(node: Node, run: str, basis: _Basis) -> bool:
    """Whether the streams' files are as they were, but for messages of other runs behind them."""
    if basis.code != _code():
        return False
    for stream in STREAMS:
        paths, known = store.blocks(node.directory, stream), basis.blocks[stream]
        place = f"{PREFIX[stream]}.{run}.".encode()
        now = [_block(path) for path in paths]
        whole = max(0, len(known) - 1)
        if tuple(now[:whole]) != known[:whole] or len(now) < len(known):
            return False
        if known and now[whole] != known[whole]:
            before, path = known[whole], paths[whole]
            if path.name != before.name or read_block(path, before.size, place) != (basis.last[stream], False):
                return False
        if any(place in path.read_bytes() for path in paths[len(known) :]):
            return False
    return True


def _block(path: Path) -> _Block:
    found = path.stat()
    return _Block(path.name, found.st_ino, found.st_size, found.st_ctime_ns)


@cache
def _code() -> str:
    """The version of evolog, and a digest of when each file of it was written."""
    total = hashlib.sha256(version().encode())
    for path in code_files():
        found = path.stat()
        total.update(f" {path.relative_to(ROOT)} {found.st_size} {found.st_mtime_ns}".encode())
    return total.hexdigest()
