"""Audits of finished runs, kept in the project directory, so that one of which nothing has changed is not computed
again.

A kept audit counts only where all that it was computed from is as it was: the files of both streams, byte for byte and
without a message of the run behind them, the code, the task's data, and what access was given. Anything else, a file
that is damaged or another run's too, is as if none were kept.
"""

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

import msgspec

from events.errors import UserError
from events.gold import DriftFlagged
from events.run import RunStarted
from events.subjects import GOLD, LOG, PREFIX, check_run_name
from replay.audit.audit import Audit, AuditReport
from runtime.broker import store
from runtime.run.loading import TaskAccess
from services.host.kept_files import ROOT, code_files, read_block, read_kept, write_kept
from services.host.node import Node
from tasks.contract import Public

MOST_FILES = 20_000
"""Files of which a `BlockMemory` remembers what was read."""


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a stream, as far as it was written: its bytes never change, and more are added behind the last."""

    name: str
    size: int
    sha256: str


Blocks = Mapping[str, tuple[Block, ...]]
"""The files of each stream, by its name."""


class Basis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the audit of a run was computed from."""

    run: str
    code: str
    blocks: Blocks
    task: str
    """Of the task's data its digest; or why they are not to be had."""
    exported: bool
    folder: str
    trusted: bool


class KeptAudit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An audit with its basis."""

    basis: Basis
    started: RunStarted
    audit: Audit
    flags: tuple[DriftFlagged, ...]
    notes: tuple[str, ...]
    unchecked: tuple[str, ...]

    @property
    def report(self) -> AuditReport:
        """The audit as it was made."""
        return AuditReport(self.audit, self.flags, self.notes, self.unchecked)


_encoder = msgspec.json.Encoder()


def blocks_now(node: Node) -> Blocks:
    """The files of both streams as they are now."""
    return {stream: tuple(map(_block, store.blocks(node.directory, stream))) for stream in (LOG, GOLD)}


def _block(path: Path) -> Block:
    with path.open("rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Block(path.name, file.tell(), digest)


def data_of(started: RunStarted, access: TaskAccess) -> tuple[Public | None, str]:
    """The public data of a run's task on this host, if there are any, and their digest or why there are none."""
    try:
        public = access.load_task(started.task).public(started.seed)
    except UserError as wrong:
        return None, str(wrong)
    return public, hashlib.sha256(_encoder.encode(public)).hexdigest()


class BlockMemory:
    """What was read of the streams' files, for as long as a file has the size and the time of change that it had.

    It is for who asks again and again. It holds an entry for each file, and forgets them all at `MOST_FILES`.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, bytes], tuple[tuple[int, int, int], str, bool]] = {}

    def read(self, path: Path, size: int, place: bytes) -> tuple[str, bool]:
        """The digest of the first so many bytes of a file, and whether `place` stands behind them."""
        now = path.stat()
        whole = now.st_size == size
        key, state = (path, size, b"" if whole else place), (now.st_ino, now.st_size, now.st_mtime_ns)
        if (known := self._known.get(key)) and known[0] == state:
            return known[1:]
        found = read_block(path, size, place)
        if len(self._known) >= MOST_FILES:
            self._known.clear()
        self._known[key] = (state, *found)
        return found


def kept_audit(
    node: Node, run: str, access: TaskAccess, read: Callable[[Path, int, bytes], tuple[str, bool]] = read_block
) -> AuditReport | None:
    """The audit of a run that is kept, if all is as it was; None otherwise. `read` may remember, as `BlockMemory`."""
    try:
        kept = read_kept(_path(node, run), KeptAudit)
    except UserError:
        kept = None
    if kept is None:
        return None
    basis = kept.basis
    if (basis.run, basis.code) != (run, code_digest()) or _access(basis) != access:
        return None
    if not all(_unchanged(node, stream, run, basis.blocks.get(stream, ()), read) for stream in (LOG, GOLD)):
        return None
    return kept.report if data_of(kept.started, access)[1] == basis.task else None


def keep_audit(
    node: Node,
    started: RunStarted,
    access: TaskAccess,
    report: AuditReport,
    blocks: Blocks,
    task: str,
) -> None:
    """Keep the audit of a finished run, which was computed after the streams' files were `blocks`; nothing where there
    is no room, or where it would not be read as it is.
    """
    run = report.audit.run
    basis = Basis(run, code_digest(), blocks, task, access.exported, access.folder, access.trusted)
    kept = KeptAudit(basis, started, report.audit, tuple(report.flags), tuple(report.notes), tuple(report.unchecked))
    if blocks[LOG]:
        write_kept(_path(node, run), kept)


@cache
def code_digest() -> str:
    """The digest of the code that makes audits, with the versions of Python, numpy and scipy."""
    versions = [platform.python_version(), *map(metadata.version, ("numpy", "scipy"))]
    total = hashlib.sha256(" ".join(versions).encode())
    for path in code_files():
        total.update(f"{path.relative_to(ROOT)} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _access(basis: Basis) -> TaskAccess:
    return TaskAccess(basis.exported, basis.folder, basis.trusted)


def _path(node: Node, run: str) -> Path:
    return node.audits / f"{check_run_name(run)}.json"


def _unchanged(
    node: Node,
    stream: str,
    run: str,
    blocks: Sequence[Block],
    read: Callable[[Path, int, bytes], tuple[str, bool]],
) -> bool:
    """Whether the files of a stream begin with these, and what stands behind them is not of the run."""
    paths = store.blocks(node.directory, stream)
    if [path.name for path in paths[: len(blocks)]] != [block.name for block in blocks]:
        return False
    place = f"{PREFIX[stream]}.{run}.".encode()
    for index, path in enumerate(paths):
        known = blocks[index] if index < len(blocks) else Block(path.name, 0, hashlib.sha256().hexdigest())
        if index < len(blocks) - 1 and path.stat().st_size != known.size:
            return False
        if read(path, known.size, place) != (known.sha256, False):
            return False
    return True
