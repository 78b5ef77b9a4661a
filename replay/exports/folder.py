"""Writes and reads exports: a recorded run as a folder of files.

- `export.json` says what the export holds.
- `events.ndjson` has a line for each message: sequence and time by the log, subject, and the event as it was written,
  to the byte.
- `gold.ndjson` has the same for the stream GOLD.
- `blobs` and `gold_blobs` are laid out as in a project directory. Of a run whose prompts are private, what the policy
  was asked is left out, and marked as freed.

Anyone may have written an export. So it is read within limits, from regular files alone, and nothing of it is believed
that its own events do not say.
"""

import base64
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from events.errors import CheckFailed, NotFound, UsageError
from events.rollouts import ModelCalled
from events.run import RunFinished, RunStarted
from events.subjects import GOLD, LOG, PREFIX, RUN_NAME, check_run_name, head, run_of
from events.time import nanoseconds, rfc3339
from replay.closing import Closing
from replay.history import History
from replay.soundness import Digests, Marks, digests_of, require_described, require_recorded
from runtime.blobs.directory import Blobs, Tree
from runtime.blobs.files import open_regular, regular_files
from runtime.log.port import Stored, readable

MANIFEST, EVENTS, GOLD_EVENTS, BLOBS, GOLD_BLOBS = "export.json", "events.ndjson", "gold.ndjson", "blobs", "gold_blobs"
FORMAT = 1
LINE_LIMIT = 4 * 1024**2
"""Bytes of a line: the largest message that a server takes, in base64, with room for the rest."""
MANIFEST_LIMIT = 16 * 1024**2
"""Bytes of `export.json`, which holds one event laid out over lines."""
MESSAGES_LIMIT = 10_000_000
"""Messages of one stream."""
FILES_LIMIT = 1_000_000
BLOB_LIMIT = 4 * 1024**3
"""Bytes of one blob, which is read as a whole."""
GENERATIONS_LIMIT = 10_000
"""The highest generation that an event may name; readers make a row for each."""
COUNT_LIMIT = 1_000_000
"""The highest round or shard that an event may name, and the most attempts or outputs."""
REQUEST_LIMIT = 10_000
"""Attempts that one event may ask for."""
RUN_LIMIT = 10_000_000
"""Attempts at all items of a run, once each item is played by a whole group."""
_DIGEST = re.compile(rb"\b[0-9a-f]{64}\b")
_TOKEN = r"[^\s.*>\x00-\x1f\x7f]+"
_SUBJECTS = {stream: re.compile(rf"{PREFIX[stream]}\.{RUN_NAME}\.{_TOKEN}\.{_TOKEN}") for stream in (LOG, GOLD)}
TREE = b'{"files":'
"""How the blob of a folder begins."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


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


CLOSING_FIELDS = ("closing", "marks")
"""What older exports lack."""


class ExportLine(msgspec.Struct, omit_defaults=True):
    """One message of an export.

    `event` is the event as it was written; a message that is no JSON has its `bytes` in base64 instead.
    """

    sequence: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    stored: Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{9}Z\Z")]
    subject: str
    event: msgspec.Raw = msgspec.Raw(b"")
    bytes: str = ""


class _Counts(msgspec.Struct):
    """The fields of events, whatever their type, by which a reader loops or makes room."""

    generation: Any = 0
    generations: Any = 0
    round: Any = 0
    rounds: Any = 0
    shard: Any = 0
    attempt: Any = 0
    attempts: Any = 0
    group_size: Any = 0
    shard_size: Any = 0
    width: Any = 0
    recheck: Any = 0
    outputs: Any = 0
    items: Any = ()


class _Counted(msgspec.Struct):
    data: _Counts


_NUMBERS = tuple(name for name in _Counts.__struct_fields__ if name != "items")
"""Of `items` it is the list that takes room; of some events it is a number, which takes none."""
_line_decoder = msgspec.json.Decoder(ExportLine)
_counted_decoder = msgspec.json.Decoder(_Counted)


def is_export(path: Path) -> bool:
    """Whether there is an export at this path."""
    return os.path.lexists(path / MANIFEST)


def require_new(target: Path) -> None:
    """Raise `UsageError` where an export cannot be written, since something is there."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already, and an export is written into a new folder: name another.")


def write(history: History, target: Path, version: str) -> Manifest:
    """Export a run into a new folder, which appears at once and whole.

    Raises `UsageError` for a folder that is not empty, and `CheckFailed` for a run that is not as it was recorded.
    """
    require_recorded(history)
    require_new(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        sums = {
            name: _write_lines(temporary / name, messages)
            for name, messages in ((EVENTS, history.everything), (GOLD_EVENTS, history.gold))
        }
        private = _requests(history.everything) if history.started.private_prompts else set()
        copied = _copy(history.everything, history.blobs, temporary / BLOBS, private)
        copied += _copy(history.gold, history.gold_blobs, temporary / GOLD_BLOBS, private)
        manifest = _describe(history, digests_of(history), version, copied, sums)
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

    Raises `NotFound` where there is none, `CheckFailed` where its files are not as they were written, disagree, or are
    beyond the limits.
    """
    manifest = read_manifest(folder)
    for _ in files(folder):
        pass  # each is looked at before one is read
    runs = {manifest.run, *manifest.ancestors}
    messages = _read_lines(folder / EVENTS, LOG, runs, manifest.events, manifest.sha256.get(EVENTS, ""))
    gold = _read_lines(folder / GOLD_EVENTS, GOLD, {manifest.run}, manifest.gold, manifest.sha256.get(GOLD_EVENTS, ""))
    past = [stored for stored in messages if run_of(stored.subject) != manifest.run]
    own = [stored for stored in messages if run_of(stored.subject) == manifest.run]
    history = History(manifest.run, past, own, gold, Blobs(folder / BLOBS), Blobs(folder / GOLD_BLOBS), exported=True)
    digests = digests_of(history)
    if manifest.closing:
        require_described(history, digests, Digests(manifest.closing, manifest.marks))
    require_recorded(history)
    said = _describe(history, digests, manifest.version, manifest.blobs, manifest.sha256)
    for field in manifest.__struct_fields__:
        if (field not in CLOSING_FIELDS or manifest.closing) and getattr(manifest, field) != getattr(said, field):
            raise CheckFailed(
                f"{folder / MANIFEST} says another {field!r} than the events do ({_brief(getattr(manifest, field))}; "
                f"expected {_brief(getattr(said, field))}): export the run again."
            )
    return history


def files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Each file of an export, and what else lies beside them, with its size in bytes; none is opened.

    Raises `CheckFailed` for a link or anything else that is no file, and beyond the limits.
    """
    for number, (path, status) in enumerate(regular_files(folder), 1):
        if number > FILES_LIMIT:
            raise CheckFailed(f"{folder} holds more than {FILES_LIMIT:,} files, more than an export may have.")
        if status.st_size > BLOB_LIMIT and path.name not in (EVENTS, GOLD_EVENTS):
            raise CheckFailed(f"{path} has {status.st_size:,} bytes; a file of an export has {BLOB_LIMIT:,} at most.")
        yield path, status.st_size


def _describe(history: History, digests: Digests, version: str, blobs: int, sums: dict[str, str]) -> Manifest:
    """The description of a run, as its events have it."""
    return Manifest(
        format=FORMAT,
        version=version,
        run=history.run,
        ancestors=tuple(dict.fromkeys(run_of(stored.subject) for stored in history.past)),
        events=len(history.past) + len(history.messages),
        gold=len(history.gold),
        blobs=blobs,
        sha256=sums,
        started=history.started,
        began=rfc3339(history.messages[0].time),
        finished=history.finished,
        decisions=sum(stored.subject == head(history.run) for stored in history.messages),
        closing=digests.closing,
        marks=digests.marks,
    )


def _brief(value: object) -> str:
    return f"{msgspec.json.encode(value).decode():.80}"


def read_manifest(folder: Path) -> Manifest:
    """Read and check the description of the export in a folder; raises as `read`."""
    with _open(folder / MANIFEST) as file:
        text = file.read(MANIFEST_LIMIT + 1)
    if len(text) > MANIFEST_LIMIT:
        raise CheckFailed(f"{folder / MANIFEST} has more than {MANIFEST_LIMIT:,} bytes; it describes no export.")
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except _UNREADABLE as wrong:
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
            blobs.check(path.name)
            count += 1
    if count != (expected := read_manifest(history.blobs.root.parent).blobs):
        raise CheckFailed(
            f"{history.blobs.root.parent} has {count} blobs, and {expected} were exported: export the run again."
        )
    return count


def copy(folder: Path, target: Path) -> None:
    """Copy the files that an export is made of into a new folder: their bytes, and neither their modes nor what else
    lies beside them.
    """
    target.mkdir(mode=0o700)
    blobs = (path for path, _ in files(folder) if path.relative_to(folder).parts[0] in (BLOBS, GOLD_BLOBS))
    for path in (folder / MANIFEST, folder / EVENTS, folder / GOLD_EVENTS, *blobs):
        copied = target / path.relative_to(folder)
        copied.parent.mkdir(parents=True, exist_ok=True)
        with _open(path) as source, copied.open("xb") as file:
            shutil.copyfileobj(source, file)


def named_blobs(messages: Iterable[Stored], blobs: Blobs) -> set[str]:
    """The digests of the blobs that messages name and that exist, with those of the files in folders."""
    existing = {digest for digest in digests_in(messages) if blobs.path(digest).exists()}
    for digest in list(existing):
        if blobs.path(digest).stat().st_size < 1 << 20 and (data := blobs.get(digest)).startswith(TREE):
            with suppress(*_UNREADABLE):  # else it is no folder
                existing |= set(msgspec.json.decode(data, type=Tree).files.values())
    return existing


def digests_in(messages: Iterable[Stored]) -> set[str]:
    """All that messages hold that looks like the digest of a blob."""
    return {digest.decode() for stored in messages for digest in _DIGEST.findall(stored.data)}


def _requests(messages: Iterable[Stored]) -> set[str]:
    """The digests of the blobs that hold what the policy was asked."""
    called = (event.data for event in readable(list(messages)))
    return {fact.body for fact in called if isinstance(fact, ModelCalled)}


def _copy(messages: Sequence[Stored], blobs: Blobs, target: Path, private: Set[str]) -> int:
    """Copy the blobs that messages name, but those that are `private`; their number."""
    digests = named_blobs(messages, blobs) - private
    copies = Blobs(target)
    for digest in digests_in(messages):
        if blobs.freed(digest) or digest in private:
            copies.free(digest)
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
    except _UNREADABLE:
        return False
    return data.startswith(b"{") and data.endswith(b"}") and b"\n" not in data and b"\r" not in data


def _read_lines(path: Path, stream: str, runs: Collection[str], expected: int, digest: str) -> list[Stored]:
    """The messages of a file, which are those of these runs on a stream, in the order of their sequences."""
    messages: list[Stored] = []
    actual = hashlib.sha256()  # line by line: the first bad one ends the reading, however long the file is
    with _open(path) as file:
        while line := file.readline(LINE_LIMIT + 1):
            actual.update(line)
            number, last = len(messages) + 1, messages[-1].sequence if messages else 0
            if number > min(expected, MESSAGES_LIMIT):
                break
            try:
                messages.append(_stored(line, stream, runs, last))
            except (ValueError, msgspec.DecodeError, RecursionError) as wrong:
                raise CheckFailed(
                    f"{path}, line {number}, is no message of an export ({wrong}): export the run again."
                ) from wrong
    if line or len(messages) != expected:
        count = f"more than {len(messages):,}" if line else f"{len(messages):,}"
        raise CheckFailed(f"{path} has {count} lines, and {expected} were exported. Export the run again.")
    if actual.hexdigest() != digest:
        raise CheckFailed(
            f"{path} is not as it was exported: its SHA-256 is {actual.hexdigest()[:12]}. Export the run again."
        )
    return messages


def _stored(line: bytes, stream: str, runs: Collection[str], last: int) -> Stored:
    """The message of a line; raises ValueError or what decoding raises for any that no export holds after `last`."""
    if len(line) > LINE_LIMIT:
        raise ValueError(f"it has more than {LINE_LIMIT:,} bytes")
    export_line = _line_decoder.decode(line.decode())
    subject = export_line.subject
    if not _SUBJECTS[stream].fullmatch(subject) or run_of(subject) not in runs:
        raise ValueError(f"it stands on {subject!r:.100}, which is no subject of {' or '.join(sorted(runs)[:3])}")
    if export_line.sequence <= last:
        raise ValueError(f"its sequence is {export_line.sequence}, and the one before it has {last}")
    data = bytes(export_line.event) or base64.b64decode(export_line.bytes, validate=True)
    if fault := _counts_fault(data):
        raise ValueError(fault)
    return Stored(export_line.sequence, nanoseconds(export_line.stored), subject, data)


def _counts_fault(data: bytes) -> str:
    """The number of an event by which a reader would never end, in words; empty where there is none."""
    try:
        counts = _counted_decoder.decode(data).data
    except _UNREADABLE:
        return ""  # no event, which every reader passes over
    numbers = {name: number for name in _NUMBERS if isinstance(number := getattr(counts, name), int)}
    for name, number in numbers.items():
        most = GENERATIONS_LIMIT if name in ("generation", "generations") else COUNT_LIMIT
        if not -1 <= number <= most:
            return f"its {name!r} is {number!s:.20}, expected -1 to {most:,}"
    items = _leaves(counts.items)
    for factor, limit in (("attempts", REQUEST_LIMIT), ("group_size", RUN_LIMIT), ("recheck", RUN_LIMIT)):
        if items * numbers.get(factor, 0) > limit:
            return f"it asks for {items * numbers[factor]:,} attempts, at most {limit:,}"
    return ""


def _leaves(items: Any) -> int:
    if isinstance(items, dict | list):
        return sum(map(_leaves, items.values() if isinstance(items, dict) else items))
    return 1


def _open(path: Path) -> BufferedReader:
    try:
        return open_regular(path)
    except FileNotFoundError as wrong:
        raise NotFound(f"There is no {path}: an export has {MANIFEST}, {EVENTS} and {GOLD_EVENTS}.") from wrong
