"""Writes and reads exports: a recorded run as a folder of files.

- `export.json` says what the export holds.
- `events.ndjson` has a line for each message: sequence and time by the log, subject, and the event as it was written,
  to the byte.
- `gold.ndjson` has the same for the stream GOLD.
- `blobs` and `gold_blobs` are laid out as in a project directory.
"""

import base64
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from events.errors import CheckFailed, NotFound, UsageError
from events.run import RunFinished, RunStarted
from events.subjects import check_run_name, head, run_of
from events.time import nanoseconds, rfc3339
from replay.closing import Closing, closing, marks_of
from replay.history import History
from replay.soundness import MARK_GOLD, MARK_LOG, Marks, require_described, require_recorded
from runtime.blobs.directory import Blobs, Tree
from runtime.log.port import Stored

MANIFEST, EVENTS, GOLD_EVENTS, BLOBS, GOLD_BLOBS = "export.json", "events.ndjson", "gold.ndjson", "blobs", "gold_blobs"
FORMAT = 1
_DIGEST = re.compile(rb"\b[0-9a-f]{64}\b")


class Manifest(msgspec.Struct, kw_only=True):
    """The description of an export, `export.json`. `sha256` holds the digest of each file of messages."""

    format: int
    version: str
    run: str
    ancestors: tuple[str, ...]
    """The runs whose messages are a fork's past, the oldest first; none for a run that is no fork."""
    events: int
    gold: int
    blobs: int
    sha256: dict[str, str]
    started: RunStarted
    began: str
    """When the first message was stored, in RFC 3339."""
    finished: RunFinished | None
    decisions: int
    closing: Closing | None = None
    """The digests that close the run; None in an export of an evolog that did not write them."""
    marks: Marks = ((), ())
    """Digests on the way, to find what was changed."""


class ExportLine(msgspec.Struct, omit_defaults=True):
    """One message of an export.

    `event` is the event as it was written; a message that is no JSON has its `bytes` in base64 instead.
    """

    sequence: int
    stored: str
    subject: str
    event: msgspec.Raw = msgspec.Raw(b"")
    bytes: str = ""


def is_export(path: Path) -> bool:
    """Whether there is an export at this path."""
    return (path / MANIFEST).is_file()


def write(history: History, target: Path, version: str) -> Manifest:
    """Export a run into a new folder, which appears at once and whole.

    Raises `UsageError` for a folder that is not empty, and `CheckFailed` for a run that is not as it was recorded.
    """
    require_recorded(history)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already, and an export is written into a new folder: name another.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        sums = {
            name: _write_lines(temporary / name, messages)
            for name, messages in ((EVENTS, history.everything), (GOLD_EVENTS, history.gold))
        }
        copied = _copy(history.everything, history.blobs, temporary / BLOBS)
        copied += _copy(history.gold, history.gold_blobs, temporary / GOLD_BLOBS)
        manifest = Manifest(
            format=FORMAT,
            version=version,
            run=history.run,
            ancestors=tuple(dict.fromkeys(run_of(stored.subject) for stored in history.past)),
            events=len(history.past) + len(history.messages),
            gold=len(history.gold),
            blobs=copied,
            sha256=sums,
            started=history.started,
            began=rfc3339(history.messages[0].time),
            finished=history.finished,
            decisions=sum(stored.subject == head(history.run) for stored in history.messages),
            closing=closing(history),
            marks=(marks_of(history.messages, MARK_LOG), marks_of(history.gold, MARK_GOLD)),
        )
        (temporary / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        if target.exists():
            target.rmdir()
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return manifest


def read(folder: Path) -> History:
    """Read an export.

    Raises `NotFound` where there is none, `CheckFailed` where its files are not as they were written.
    """
    manifest = read_manifest(folder)
    messages = {}
    for name, expected in ((EVENTS, manifest.events), (GOLD_EVENTS, manifest.gold)):
        data = _bytes(folder / name)
        digest = hashlib.sha256(data).hexdigest()
        if digest != manifest.sha256.get(name):
            raise CheckFailed(
                f"{folder / name} is not as it was exported: its SHA-256 is {digest[:12]}. Export the run again."
            )
        messages[name] = [_stored(line, folder / name, number) for number, line in enumerate(data.split(b"\n")[:-1], 1)]
        if len(messages[name]) != expected:
            raise CheckFailed(
                f"{folder / name} has {len(messages[name])} lines, and {expected} were exported. Export the run again."
            )
    past = [stored for stored in messages[EVENTS] if run_of(stored.subject) != manifest.run]
    own = [stored for stored in messages[EVENTS] if run_of(stored.subject) == manifest.run]
    run = History(manifest.run, past, own, messages[GOLD_EVENTS], Blobs(folder / BLOBS), Blobs(folder / GOLD_BLOBS))
    _require_as_described(run, manifest, folder)
    return run


def _require_as_described(history: History, manifest: Manifest, folder: Path) -> None:
    """Raise `CheckFailed` unless description and events say the same, and the events are as they were recorded."""
    if strangers := {run_of(stored.subject) for stored in history.past} - {*manifest.ancestors}:
        raise CheckFailed(
            f"{folder / EVENTS} has events of run {min(strangers)}, which is neither {manifest.run} nor its past."
        )
    if strangers := {run_of(stored.subject) for stored in history.gold} - {manifest.run}:
        raise CheckFailed(f"{folder / GOLD_EVENTS} has events of run {min(strangers)}, which is not {manifest.run}.")
    if manifest.closing:
        require_described(history, manifest.closing, manifest.marks)
    require_recorded(history)
    decided = sum(stored.subject == head(history.run) for stored in history.messages)
    for what, described, recorded in (
        ("started", manifest.started, history.started),
        ("finished", manifest.finished, history.finished),
        ("decisions", manifest.decisions, decided),
        ("began", manifest.began, rfc3339(history.messages[0].time)),
    ):
        if described != recorded:
            raise CheckFailed(
                f"{folder / MANIFEST} says otherwise than the events of run {manifest.run}: {what} is {described!r} "
                f"there, and {recorded!r} by the events. Export the run again."
            )


def read_manifest(folder: Path) -> Manifest:
    """Read and check the description of the export in a folder; raises as `read`."""
    try:
        manifest = msgspec.json.decode(_bytes(folder / MANIFEST), type=Manifest)
    except msgspec.DecodeError as wrong:
        raise CheckFailed(
            f"{folder / MANIFEST} does not describe an export ({wrong}): export the run again."
        ) from wrong
    check_run_name(manifest.run)
    if manifest.format != FORMAT:
        raise CheckFailed(
            f"{folder} is an export of format {manifest.format}, this evolog reads {FORMAT}: use the evolog that "
            "wrote it."
        )
    return manifest


def check_blobs(history: History) -> int:
    """Read every blob of an export and return their number; raises `CheckFailed` for a damaged or missing one."""
    count = 0
    for blobs in (history.blobs, history.gold_blobs):
        for path in sorted(blobs.root.glob("sha256/*/*")):
            blobs.get(path.name)
            count += 1
    if count != (expected := read_manifest(history.blobs.root.parent).blobs):
        raise CheckFailed(
            f"{history.blobs.root.parent} has {count} blobs, and {expected} were exported: export the run again."
        )
    return count


def named_blobs(messages: Iterable[Stored], blobs: Blobs) -> set[str]:
    """The digests of the blobs that messages name and that exist, with those of the files in folders."""
    digests = {digest.decode() for stored in messages for digest in _DIGEST.findall(stored.data)}
    existing = {digest for digest in digests if blobs.path(digest).exists()}
    for digest in list(existing):
        if blobs.path(digest).stat().st_size < 1 << 20 and (data := blobs.get(digest)).startswith(b'{"files":'):
            with suppress(msgspec.DecodeError):  # else it is no folder
                existing |= set(msgspec.json.decode(data, type=Tree).files.values())
    return existing


def _copy(messages: Iterable[Stored], blobs: Blobs, target: Path) -> int:
    digests = named_blobs(messages, blobs)
    copies = Blobs(target)
    for digest in sorted(digests):
        blobs.get(digest)  # which checks it
        copies.path(digest).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(blobs.path(digest), copies.path(digest))
    return len(digests)


def _write_lines(path: Path, messages: Iterable[Stored]) -> str:
    total = hashlib.sha256()
    with path.open("wb") as file:
        for stored in messages:
            line = msgspec.json.encode(_line(stored)) + b"\n"
            total.update(line)
            file.write(line)
    return total.hexdigest()


def _line(stored: Stored) -> ExportLine:
    line = ExportLine(stored.sequence, rfc3339(stored.time), stored.subject)
    if _one_line(stored.data):
        line.event = msgspec.Raw(stored.data)
    else:
        line.bytes = base64.b64encode(stored.data).decode()
    return line


def _one_line(data: bytes) -> bool:
    """Whether the bytes are a JSON object that fits on a line as they are."""
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return data.startswith(b"{") and data.endswith(b"}") and b"\n" not in data and b"\r" not in data


def _stored(line: bytes, path: Path, number: int) -> Stored:
    try:
        export_line = msgspec.json.decode(line, type=ExportLine)
        data = bytes(export_line.event) or base64.b64decode(export_line.bytes, validate=True)
        return Stored(export_line.sequence, nanoseconds(export_line.stored), export_line.subject, data)
    except (msgspec.DecodeError, ValueError) as wrong:
        raise CheckFailed(
            f"{path}, line {number}, is no message of an export ({wrong}): export the run again."
        ) from wrong


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as wrong:
        raise NotFound(f"There is no {path}: an export has {MANIFEST}, {EVENTS} and {GOLD_EVENTS}.") from wrong
