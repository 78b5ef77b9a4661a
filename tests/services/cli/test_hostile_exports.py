"""Whatever somebody has written into an export: each verb that reads one ends in a sentence and the right exit code,
and nothing half imported is left.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from tests.harness.decided_log import DecidedLog, missing_answers
from tests.harness.facts import RUN, proposed, started

pytest.importorskip("numpy")

from events import codec
from events.errors import CheckFailed
from events.gold import GoldScored
from replay.exports import contents, folder
from replay.exports.contents import check_contents
from replay.history import History
from runtime.blobs.directory import Blobs
from runtime.log.port import Stored
from services.cli.main import main
from services.host.node import Node

GOLDEN: dict[str, Any] = {
    "cell": "start",
    "split": "dev",
    "score": 0.5,
    "low": 0.4,
    "high": 0.6,
    "items": 4,
}
"""Of the auditor's one fact."""
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a run that is finished and audited, with all blobs that its events name."""
    place = tmp_path_factory.mktemp("whole")
    blobs, gold_blobs = Blobs(place / "blobs"), Blobs(place / "gold_blobs")
    base, scaffold = blobs.put_tree({"base.json": b"{}"}), blobs.put_tree({"agent.py": b"pass"})
    log = DecidedLog()
    log.say(msgspec.structs.replace(started(generations=0), base_model=base))
    log.say(proposed(scaffold=scaffold))
    log.say(*missing_answers(log.messages))
    scored = GoldScored(
        **GOLDEN, scaffold=scaffold, adapter="", policy="p", failed=0, rollouts=4, blob=gold_blobs.put(b"answers")
    )
    gold = codec.event(scored, run=RUN, source="auditor", cause="", time="")
    told = [Stored(1, 1, gold.subject, codec.encode(gold))]
    folder.write(History(RUN, [], log.messages, told, blobs, gold_blobs), place / "out", "1")
    return place / "out"


@pytest.fixture
def export(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def lines(export: Path, change: Callable[[list[bytes]], list[bytes]], name: str = folder.EVENTS) -> None:
    """Change the lines of a file, and have the description fit: whoever writes an export writes all of it."""
    (export / name).write_bytes(b"".join(change((export / name).read_bytes().splitlines(keepends=True))))
    fit(export, name)


def fit(export: Path, name: str) -> None:
    text = (export / name).read_bytes()
    described(
        export,
        sha256=json.loads((export / folder.MANIFEST).read_bytes())["sha256"] | {name: hashlib.sha256(text).hexdigest()},
        **{"gold" if name == folder.GOLD_EVENTS else "events": max(1, text.count(b"\n"))},
        closing=None,
        marks=((), ()),
    )


def described(export: Path, **fields: object) -> None:
    path = export / folder.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))


def line(pattern: bytes, new: bytes, number: int = 5) -> Change:
    """Another text in one line, which must be there once at least."""

    def change(export: Path) -> None:
        def changed(found: list[bytes]) -> list[bytes]:
            assert re.search(pattern, found[number]), found[number]
            return [*found[:number], re.sub(pattern, lambda match: new, found[number]), *found[number + 1 :]]

        lines(export, changed)

    return change


def fact(tag: str, **fields: object) -> Change:
    """Other values in the first event of a type, in the description of the run too."""

    def change(export: Path) -> None:
        def changed(found: list[bytes]) -> list[bytes]:
            place = next(number for number, text in enumerate(found) if f'.{tag}"'.encode() in text)
            row = json.loads(found[place])
            row["event"]["data"] |= fields
            return [*found[:place], json.dumps(row, separators=(",", ":")).encode() + b"\n", *found[place + 1 :]]

        lines(export, changed)
        if tag == "run_started":
            old = json.loads((export / folder.MANIFEST).read_bytes())["started"]
            described(export, started=old | fields)

    return change


def blob(put: Callable[[Path], object]) -> Change:
    """Something else in a blob's place."""

    def change(export: Path) -> None:
        path = sorted((export / folder.BLOBS).glob("sha256/*/*"))[0]
        path.unlink()
        put(path)

    return change


def as_if_freed(path: Path) -> None:
    """Say that `evolog gc` freed a blob, which it does to optimiser states alone."""
    freed = path.parents[2] / "freed"
    freed.mkdir()
    (freed / path.name).touch()


def blobs_said(number: int) -> Change:
    return lambda export: described(export, blobs=number)


def instead(name: str, put: Callable[[Path], object]) -> Change:
    def change(export: Path) -> None:
        (export / name).unlink()
        put(export / name)

    return change


def both(first: Change, second: Change) -> Change:
    def change(export: Path) -> None:
        first(export)
        second(export)

    return change


def sized(size: int) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return put


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)
        server.bind(path.name)
        os.chdir(here)


def linked_folder(export: Path) -> None:
    (export / folder.BLOBS).rename(export.parent / "elsewhere")
    (export / folder.BLOBS).symlink_to(export.parent / "elsewhere")


def to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


DEEP = b"[" * 100_000
FILES: dict[str, tuple[Change, str]] = {
    "events link to zeros": (instead(folder.EVENTS, to_zero), "is a link"),
    "events are a pipe": (instead(folder.EVENTS, os.mkfifo), "is a pipe"),
    "events are a folder": (instead(folder.EVENTS, os.mkdir), "is a folder"),
    "events are a socket": (instead(folder.EVENTS, listening), "is a socket"),
    "events are missing": (instead(folder.EVENTS, lambda path: None), "There is no"),
    "events are one line of zeros": (
        both(lambda export: sized(8 * 1024**2)(export / folder.EVENTS), lambda export: fit(export, folder.EVENTS)),
        "line 1, is no message of an export \\(it has more than",
    ),
    "gold's events are a link": (instead(folder.GOLD_EVENTS, to_zero), "is a link"),
    "description is a link": (instead(folder.MANIFEST, to_zero), "is a link"),
    "description is a pipe": (instead(folder.MANIFEST, os.mkfifo), "is a pipe"),
    "description is endless": (instead(folder.MANIFEST, sized(2**42)), "has more than 16,777,216 bytes"),
    "description nests": (instead(folder.MANIFEST, lambda path: path.write_bytes(b'{"x":' + DEEP)), "recursion"),
    "description is no text": (instead(folder.MANIFEST, lambda path: path.write_bytes(b'{"run":"\xff"}')), "utf-8"),
    "blob links to zeros": (blob(to_zero), "is a link"),
    "blob is a pipe": (blob(os.mkfifo), "is a pipe"),
    "blob is vast": (blob(sized(2**42)), "has 4,398,046,511,104 bytes"),
    "blobs lie behind a link": (linked_folder, "is a link"),
    "a link lies beside": (lambda export: (export / "more").symlink_to("/etc"), "is a link"),
}
"""Files that are none, and a part of what is said of each."""
EVENTS: dict[str, tuple[Change, str]] = {
    "a line nests": (line(rb'"event":\{', b'"event":{"x":' + DEEP + b","), "recursion"),
    "a line is no text": (line(rb'"source":"\w+"', b'"source":"\xff"'), "utf-8"),
    "a line is no JSON": (line(rb"\{", b"?"), "malformed"),
    "a line is a number": (line(rb".*", b"5"), "Expected `object`"),
    "a sequence beyond 64 bits": (line(rb'"sequence":\d+', b'"sequence":%d' % 10**25), "Expected `int` <="),
    "a sequence of 5,000 digits": (line(rb'"sequence":\d+', b'"sequence":' + b"9" * 5000), "out of range"),
    "a sequence of 0": (line(rb'"sequence":\d+', b'"sequence":0'), "Expected `int` >= 1"),
    "a sequence twice": (line(rb'"sequence":\d+', b'"sequence":5'), "its sequence is 5, and the one before it has 5"),
    "sequences out of order": (
        lambda export: lines(export, lambda found: [*found[:3], found[4], found[3], *found[5:]]),
        "its sequence is 4, and the one before it has 5",
    ),
    "a time that is none": (line(rb'"stored":"[^"]*"', b'"stored":"2026-13-99T99:99:99.000000000Z"'), "is no message"),
    "a time of many digits": (line(rb'"stored":"[^"]*"', b'"stored":"2026-01-01T00:00:00.%sZ"' % (b"9" * 5000)), "reg"),
    "bytes that are no base64": (line(rb'"event":.*', b'"bytes":"!"}'), "is no message"),
    "an event that nests in bytes": (line(rb'"sequence":6', b'"sequence":99999'), "its sequence is 7"),
    "the subject of another run": (line(rb'"subject":"evolog\.r\.', b'"subject":"evolog.other.'), "is no subject of r"),
    "a subject of another stream": (line(rb'"subject":"evolog\.', b'"subject":"gold.'), "is no subject of r"),
    "a subject with a wildcard": (
        line(rb'"subject":"evolog\.r\.\w+', b'"subject":"evolog.r.*'),
        "is no subject of r",
    ),
    "a subject of three tokens": (line(rb'"subject":"evolog\.r\.\w+', b'"subject":"evolog.r'), "is no subject of r"),
    "a subject with a line end": (line(rb'"subject":"evolog\.r\.', b'"subject":"evolog.r.\\n'), "is no subject of r"),
    "a generation of 10^12": (
        fact("scaffold_proposed", generation=10**12),
        "its 'generation' is 1000000000000, expected -1 to 10,000",
    ),
    "a generation below -1": (fact("scaffold_proposed", generation=-(10**9)), "its 'generation' is -1000000000"),
    "10^9 attempts": (fact("rollouts_requested", attempts=10**9), "its 'attempts' is"),
    "4 million attempts": (fact("rollouts_requested", attempts=10**6), "attempts, at most 10,000"),
    "a group of a million": (
        fact("run_started", group_size=10**6, items={"dev": ["d"] * 20, "folds": [], "probe": []}),
        "it asks for 20,000,000 attempts",
    ),
    "outputs of 10^18": (fact("decision_made", outputs=10**18), "its 'outputs' is"),
    "more lines than are described": (lambda export: described(export, events=5), "more than 5 lines, and 5 were"),
    "fewer lines than are described": (lambda export: described(export, events=10**25), "lines, and 10{25} were"),
    "no beginning": (lambda export: lines(export, lambda found: found[1:]), "hold no run_started"),
    "another beginning": (lambda export: described(export, started=described_start(export) | {"seed": 8}), "'started'"),
    "another end": (lambda export: described(export, finished=None), "another 'finished'"),
    "another number of decisions": (lambda export: described(export, decisions=9), "another 'decisions'"),
    "a vast number of decisions": (lambda export: described(export, decisions=10**4000), "another 'decisions'"),
    "a round of 4,000 digits": (fact("scaffold_proposed", round=10**4000), "its 'round' is 1000"),
    "another time": (lambda export: described(export, began="x"), "another 'began'"),
    "an ancestor that is none": (lambda export: described(export, ancestors=["other"]), "another 'ancestors'"),
    "a run that is a path": (lambda export: described(export, run="../../r"), "cannot name a run"),
    "a format to come": (lambda export: described(export, format=10**25), "reads 1"),
    "what was changed": (
        lambda export: (export / folder.EVENTS).write_bytes((export / folder.EVENTS).read_bytes()[:-5]),
        "line 17, is no message of an export",
    ),
    "gold of another run": (
        lambda export: lines(export, lambda found: [found[0].replace(b"gold.r.", b"gold.q.")], folder.GOLD_EVENTS),
        "is no subject of r",
    ),
}
"""Events and descriptions that no evolog writes, and a part of what is said of each."""
ODD: dict[str, Change] = {
    "its own parent": fact("run_started", parent_run=RUN, parent_sequence=3),
    "a parent that is not there": fact("run_started", parent_run="q", parent_sequence=3),
    "groups of nothing": fact("run_started", group_size=0),
    "shards of nothing": fact("run_started", shard_size=0),
    "a seed of 4,000 digits": fact("run_started", seed=10**4000),
    "half of a surrogate pair": line(rb'"source":"\w+"', b'"source":"\\ud800"'),
    "a score beyond all numbers": line(rb'"reward":[\d.]+', b'"reward":1e999', 12),
    "outputs below 0": fact("decision_made", outputs=-1),
    "no outputs": fact("decision_made", outputs=0),
    "the end alone": both(
        lambda export: lines(export, lambda found: [found[0], found[-1]]), lambda export: described(export, decisions=0)
    ),
    "a blob that is no folder": fact("scaffold_proposed", scaffold=hashlib.sha256(b"pass").hexdigest()),
    "a blob that is no digest": fact("scaffold_proposed", scaffold="../../../../etc/passwd"),
    "an order of words": fact("run_started", levers=["scaffold"] * 1000, strategy="\x1b[2J"),
    "gold of a cell that is none": lambda export: lines(
        export, lambda found: [found[0].replace(b'"split":"dev"', b'"split":"x"')], folder.GOLD_EVENTS
    ),
}
"""What only some of the readers trip over, if at all."""


def described_start(export: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((export / folder.MANIFEST).read_bytes())["started"]
    return found


def said(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exc_info)
    return result.exit_code, result.stdout, result.stderr


def verbs(export: Path) -> Iterator[tuple[object, ...]]:
    """All that reads an export, but for importing it."""
    yield "replay", export
    yield "replay", export, "--to", "3"
    yield "replay", export, "--perform", "verifier"
    yield "replay", export, "--swap", f"verifier={__file__}"
    yield "replay", export, "--export", export.parent / "again"
    yield "show", export
    yield "diff", export, export
    yield "audit", export


def test_the_export_as_it_was_written_is_read_by_every_verb(export: Path, tmp_path: Path) -> None:
    codes = {arguments[:: len(arguments) - 1][-1]: said(*arguments)[0] for arguments in verbs(export)}
    assert [*codes.values()].count(0) >= 3 and codes[export] in (0, 6), codes
    assert said("replay", export, "--into", tmp_path / "all.duckdb")[0] == 0
    assert said("import", export, "--dir", tmp_path / "place")[0] == 0
    assert "1 import: whole" in said("doctor", "--integrity", "--dir", tmp_path / "place")[1]
    assert said("audit", "--all", "--dir", tmp_path / "place")[0] == 6  # its gold and its task are not known here


@pytest.mark.parametrize("what", [*FILES, *EVENTS])
def test_what_no_export_holds_is_refused_by_every_verb_in_the_same_words(
    export: Path, tmp_path: Path, what: str
) -> None:
    change, words = (FILES | EVENTS)[what]
    change(export)
    place = Node(tmp_path / "place")
    for arguments in (*verbs(export), ("import", export, "--dir", place.directory)):
        code, out, err = said(*arguments)
        assert (code, out) == (4 if "missing" in what else 2 if "path" in what else 3, ""), (arguments, err)
        assert re.fullmatch(rf"evolog: [^\n]*{words}[^\n]*\.\n", err), (arguments, err)
        assert "Traceback" not in err and len(err) < 1000
    assert list(place.imports.glob("*")) == []


@pytest.mark.parametrize("what", ODD)
def test_events_that_no_check_foresees_end_in_a_sentence(export: Path, tmp_path: Path, what: str) -> None:
    ODD[what](export)
    for arguments in (*verbs(export), ("replay", export, "--into", tmp_path / "a.duckdb")):
        code, _, err = said(*arguments)
        assert code in (0, 1, 2, 3, 4, 6, 77) and "Traceback" not in err and err.count("\n") <= 1, (arguments, err)
    said("import", export, "--dir", tmp_path / "place")
    assert said("doctor", "--integrity", "--dir", tmp_path / "place")[0] in (0, 3, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (blob(lambda path: path.write_bytes(b"other")), "is damaged"),
        (blob(lambda path: None), "has 4 blobs, and 5 were exported"),
        (both(blob(lambda path: None), blobs_said(4)), "names a blob that the export does not hold"),
        (both(blob(as_if_freed), blobs_said(4)), "names a blob that the export does not hold"),
    ],
)
def test_a_blob_that_is_named_must_be_there_as_it_was(
    export: Path, tmp_path: Path, change: Change, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, check in ((folder, "require_recorded"), (contents, "require_decided")):
        monkeypatch.setattr(module, check, lambda history: None)  # the chain would be the first to notice
    place = Node(tmp_path / "place")
    assert said("import", export, "--dir", place.directory)[0] == 0
    change(export)
    code, out, err = said("import", export, "--dir", tmp_path / "other")
    assert (code, out) == (3, "") and re.search(words, err) and not [*Node(tmp_path / "other").imports.glob("*")], err
    shutil.rmtree(place.imports / RUN)
    shutil.copytree(export, place.imports / RUN)
    code, out, err = said("doctor", "--integrity", "--dir", place.directory)
    assert code == 3 and re.search(words, out) and f"import {RUN}: " in out


def test_an_import_carries_over_neither_modes_nor_what_lies_beside(export: Path, tmp_path: Path) -> None:
    task = export / "task"
    task.mkdir()
    (task / "task.py").write_text("")
    for path in export.rglob("*"):
        path.chmod(0o6777)
    place = Node(tmp_path / "place")
    assert said("import", export, "--dir", place.directory)[0] == 0
    copied = place.imports / RUN
    assert sorted(path.name for path in copied.iterdir()) == sorted(
        (folder.BLOBS, folder.EVENTS, folder.MANIFEST, folder.GOLD_BLOBS, folder.GOLD_EVENTS)
    )
    assert not [path for path in copied.rglob("*") if path.is_file() and path.stat().st_mode & 0o7133]


def test_a_vast_line_takes_little_memory_and_time(export: Path) -> None:
    sized(2**42)(export / folder.EVENTS)
    tracemalloc.start()
    try:
        with pytest.raises(CheckFailed, match="it has more than"):
            folder.read(export)
        assert tracemalloc.get_traced_memory()[1] < 32 * 1024**2
    finally:
        tracemalloc.stop()


def test_an_export_with_bytes_that_are_no_event_is_whole(whole: Path, tmp_path: Path) -> None:
    run = folder.read(whole)
    odd = [b"{" * 100_000, b"\xff", b"", b'{"data":{"attempts":"x"}}', json.dumps({"data": {"items": {}}}).encode()]
    end = run.messages[-1].sequence
    more = [Stored(end + place, 7, f"evolog.{RUN}.x{place}.y", data) for place, data in enumerate(odd, 1)]
    folder.write(run._replace(messages=[*run.messages, *more]), tmp_path / "out", "1")
    again = folder.read(tmp_path / "out")
    assert again.messages == [*run.messages, *more] and check_contents(again) == 5
