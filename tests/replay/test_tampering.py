"""Exports that were changed: whoever changes one and puts the sums of its description right is found out, and where."""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events import codec
from events.errors import CheckFailed, UserError
from events.gold import AuditFinished, DriftFlagged, GoldScored
from events.run import DecisionMade, RunFinished
from replay.closing import PENDING, RunDigest, closing, closing_of, digest_of, require_expected
from replay.exports import folder
from replay.exports.contents import check_contents
from replay.history import History
from replay.replayer import redecide
from replay.report import collect
from replay.soundness import require_decided
from runtime.blobs.directory import Blobs
from runtime.log import lineage
from runtime.log.port import Stored
from services.views.replayed import replay_lines
from tests.harness.decided_log import DecidedLog
from tests.harness.facts import RUN, event_of, example, started
from tests.harness.made_up_runs import stored as told

Lines = list[dict[str, Any]]
Change = Callable[[Lines], object]


@pytest.fixture(scope="module")
def history() -> History:
    """A run with both levers and an audit."""
    log = DecidedLog()
    log.say(started(generations=3))
    facts = [
        example(GoldScored, cell="start", score=0.25, items=4, failed=0, rollouts=4, blob="", attempts=1),
        example(DriftFlagged, look=-1, generation=-1),
        example(AuditFinished),
    ]
    return History(RUN, [], log.go_on().messages, told(RUN, "GOLD", facts), Blobs(Path()), Blobs(Path()))


@pytest.fixture
def export(history: History, tmp_path: Path) -> Path:
    folder.write(history, tmp_path / "out", "1.2.3")
    return tmp_path / "out"


def forge(export: Path, change: Change, name: str = folder.EVENTS, *, forget: bool = False) -> None:
    """Change an export's lines and put sums and counts right.

    With `forget`, the closing digests are left out, and what is said of the run's end agrees.
    """
    manifest = json.loads((export / "export.json").read_text())
    file = export / name
    lines: Lines = [json.loads(line) for line in file.read_text().splitlines()]
    change(lines)
    file.write_text("".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n" for line in lines))
    manifest["sha256"][name] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest["events" if name == folder.EVENTS else "gold"] = len(lines)
    if forget:
        del manifest["closing"], manifest["marks"]
        ends = [one["event"]["data"] for one in lines if one["subject"].endswith("run_finished")]
        manifest["finished"] = ends[0] if ends else None
        manifest["decisions"] = sum(one["subject"].endswith("decision_made") for one in lines)
    (export / "export.json").write_text(json.dumps(manifest))


def line(lines: Lines, tag: str, number: int = 0) -> dict[str, Any]:
    """The number-th line of a type."""
    return [one for one in lines if one["subject"].endswith(f".{tag}")][number]


def set_data(tag: str, field: str, value: object, number: int = 0) -> Change:
    """Give a field of an event another value."""

    def change(lines: Lines) -> None:
        line(lines, tag, number)["event"]["data"][field] = value

    return change


def refused(export: Path) -> str:
    """What reading the export, and deciding it again, is refused with."""
    with pytest.raises(CheckFailed) as wrong:
        require_decided(folder.read(export))
    return str(wrong.value)


CHANGES: dict[str, tuple[str, int, Change]] = {
    "a reward": ("trajectory_scored", 5, set_data("trajectory_scored", "reward", 0.5, 5)),
    "the last reward": ("trajectory_scored", -1, set_data("trajectory_scored", "reward", 0.5, -1)),
    "the score of a candidate": ("candidate_evaluated", 1, set_data("candidate_evaluated", "score", 0.99, 1)),
    "the score at the end": ("run_finished", 0, set_data("run_finished", "score", 0.99)),
    "the tokens at the end": ("run_finished", 0, set_data("run_finished", "tokens", 1)),
    "a time": ("trajectory_scored", 3, lambda lines: line(lines, "trajectory_scored", 3)["event"].update(time="2030")),
}


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_value_is_found_within_a_range(what: str, forget: bool, export: Path) -> None:
    tag, number, change = CHANGES[what]
    sequence = line([json.loads(text) for text in (export / folder.EVENTS).read_text().splitlines()], tag, number)
    forge(export, change, forget=forget)
    found = re.search(r"sequences? (\d+)(?: to (\d+))?(?!.*sequences? \d)", refused(export))
    assert found
    assert int(found[1]) <= sequence["sequence"] <= int(found[2] or found[1])


@pytest.mark.parametrize("forget", [False, True])
def test_when_the_log_stored_an_event_is_part_of_what_closes(forget: bool, export: Path) -> None:
    """Without the closing digests nothing knows it."""
    forge(export, lambda lines: lines[4].update(stored="2030-01-01T00:00:00.000000000Z"), forget=forget)
    if forget:
        require_decided(folder.read(export))
    else:
        assert "sequences 1 to" in refused(export)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("forget", [False, True])
def test_dropped_last_lines_are_missed(count: int, forget: bool, export: Path) -> None:
    forge(export, lambda lines: [lines.pop() for _ in range(count)], forget=forget)
    refused(export)


def test_a_replay_does_not_call_a_decision_without_its_last_events_the_end(history: History) -> None:
    difference = redecide(history._replace(messages=history.messages[:-1])).difference
    assert difference and "the last 1 events of decision" in difference.why


def test_a_run_that_was_renamed_in_the_text_is_refused(export: Path) -> None:
    for name in (folder.EVENTS, folder.GOLD_EVENTS):
        file = export / name
        file.write_text(
            file.read_text()
            .replace(f"evolog.{RUN}.", "evolog.other.")
            .replace(f"gold.{RUN}.", "gold.other.")
            .replace(f'"run":"{RUN}"', '"run":"other"')
        )
    forge(export, len)
    forge(export, len, folder.GOLD_EVENTS)
    text = (export / "export.json").read_text()
    (export / "export.json").write_text(text.replace(f'"run": "{RUN}"', '"run": "other"'))
    refused(export)


def test_two_exports_in_one_are_refused(export: Path) -> None:
    """An ancestor that the description does not know, and one that it does though the run is no fork."""

    def add(lines: Lines) -> None:
        last = lines[-1]["sequence"]
        for other in [json.loads(json.dumps(one)) for one in lines]:
            other["subject"] = other["subject"].replace(f".{RUN}.", ".other.")
            lines.append({**other, "sequence": last + other["sequence"]})

    forge(export, add)
    assert "other" in refused(export)
    manifest = json.loads((export / "export.json").read_text())
    (export / "export.json").write_text(json.dumps({**manifest, "ancestors": ["other"]}))
    assert "it is no fork" in refused(export)


def test_a_second_end_does_not_count_and_is_refused(export: Path, history: History) -> None:
    def add(lines: Lines) -> None:
        second = json.loads(json.dumps(line(lines, "run_finished")))
        second["event"]["data"]["score"] = 0.99
        lines.append({**second, "sequence": lines[-1]["sequence"] + 1})

    forge(export, add)
    assert re.search(rf"sequences \d+ to {history.messages[-1].sequence + 1}", refused(export))
    forge(export, len, forget=True)
    read = folder.read(export)
    again = redecide(read)
    assert read.finished == history.finished and again.finished
    assert [text for text in replay_lines(again) if "is a second event on a place that was taken" in text]
    with pytest.raises(CheckFailed, match=f"^Sequence {history.messages[-1].sequence + 1} on .* is a second event"):
        check_contents(read)


def test_a_second_beginning_end_or_score_of_gold_is_nowhere_read(history: History) -> None:
    start, end, scored = history.messages[0], history.messages[-1], history.gold[0]
    second = [
        Stored(end.sequence + 1, 1, start.subject, start.data.replace(b'"seed":', b'"seed":9')),
        Stored(end.sequence + 2, 1, end.subject, end.data.replace(b'"score":', b'"score":9')),
    ]
    more = Stored(history.gold[-1].sequence + 1, 1, scored.subject, scored.data.replace(b'"score":', b'"score":9'))
    forged = history._replace(messages=[*history.messages, *second], gold=[*history.gold, more])
    before, after = (asyncio.run(collect(run.log, run.gold_log, RUN)) for run in (history, forged))
    assert after == before and len(before.cells) == 1
    assert asyncio.run(lineage.run_starts(forged.log)) == {RUN: start}
    assert asyncio.run(lineage.firsts(forged.log, RunFinished)) == {RUN: end}
    assert asyncio.run(lineage.run_start(forged.log, RUN))[0] == start


def test_a_decision_after_the_end_is_refused(export: Path) -> None:
    def add(lines: Lines) -> None:
        head = line(lines, "decision_made", -1)
        event = event_of(example(DecisionMade, number=head["event"]["data"]["number"] + 1, outputs=1))
        lines.append({**head, "event": json.loads(codec.encode(event)), "sequence": lines[-1]["sequence"] + 1})

    forge(export, add, forget=True)
    assert "comes after the run's end" in refused(export)


def test_a_changed_score_of_gold_is_named(export: Path, history: History) -> None:
    forge(export, set_data("gold_scored", "score", 0.99), folder.GOLD_EVENTS)
    assert f"changed, added or lost lies at sequence {history.gold[0].sequence}." in refused(export)


@pytest.mark.parametrize(
    ("field", "value"),
    [("finished", {"score": 0.99}), ("started", {"seed": 8}), ("decisions", 1), ("closing", {"log": "0" * 64})],
)
def test_a_description_that_says_otherwise_than_the_events_is_refused(field: str, value: Any, export: Path) -> None:
    manifest = json.loads((export / "export.json").read_text())
    manifest[field] = {**manifest[field], **value} if isinstance(value, dict) else value
    (export / "export.json").write_text(json.dumps(manifest))
    assert field in refused(export) or "closes with log" in refused(export)


def test_the_digests_are_those_worked_out_by_hand_and_what_comes_after_the_end_moves_neither(history: History) -> None:
    digest = b""
    for stored in history.messages:
        entry = f"{stored.sequence} {stored.time} {stored.subject} ".encode() + hashlib.sha256(stored.data).digest()
        digest = hashlib.sha256(digest + entry).digest()
    assert closing(history).log == digest.hex() and closing(history).sequence == history.messages[-1].sequence
    late = Stored(history.messages[-1].sequence + 1, 1, f"evolog.{RUN}.x.trajectory_scored", b"{}")
    assert closing_of(RUN, [*history.messages, late], history.gold) == closing(history)
    assert closing_of(RUN, history.messages, history.gold[:-1]).gold == PENDING
    head = next(place for place, one in enumerate(history.messages) if one.subject.endswith("decision_made"))
    assert digest_of(history.messages[: head + 1]).closed == PENDING


def test_a_digest_goes_on_from_where_it_was_saved(history: History) -> None:
    half = digest_of(history.messages[:10])
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(half), type=RunDigest)
    for stored in history.messages[10:]:
        again.take(stored)
    assert again == digest_of(history.messages)


def test_expected_digests(history: History) -> None:
    closed = closing(history)
    require_expected(closed, [closed.log, closed.gold])
    for wrong, code in (("0" * 64, 3), ("abc", 2)):
        with pytest.raises(UserError) as said:
            require_expected(closed, [closed.log, wrong])
        assert said.value.code == code
