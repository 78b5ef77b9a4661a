"""What the archive's own way makes of messages, whatever they hold, is what the slow way makes of them, one by one."""

import json
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events import codec
from events.catalogue import BY_TAG, ENTRIES
from events.subjects import LOG
from replay.archive.projection import Archive
from replay.exports import folder
from runtime.log.port import Stored
from tests.harness.archives import dump, slow_dump
from tests.harness.facts import example, publisher
from tests.harness.generator import log
from tests.harness.paths import HISTORIES

Rows = list[tuple[str, bytes]]
"""Subjects and payloads."""


def written(tag: str, **fields: Any) -> tuple[str, bytes]:
    """An example of a type, whose key no type has that excludes it."""
    entry = BY_TAG[tag]
    hints = typing.get_type_hints(entry.fact)
    number = ENTRIES.index(entry)
    key = {name: hints[name](number) for name in entry.fact.KEY[:1] if hints[name] in (str, int)}
    fact = example(entry.fact, **key | fields)
    event = codec.event(fact, run="demo", source=publisher(fact), cause="because", time="2026-01-01T00:00:00Z")
    return event.subject, codec.encode(event)


def score(number: int = 0) -> tuple[str, bytes]:
    return written("trajectory_scored", trajectory=f"t{number}", item="café \u0000 \U0001f600", reward=0.1)


def in_order(rows: Sequence[tuple[str, bytes]]) -> list[Stored]:
    start = 1_700_000_000_123_456_789
    return [Stored(number, start + number * 10**9, *row) for number, row in enumerate(rows, 1)]


def fast_dump(rows: Sequence[Stored], path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The tables by the archive's own way."""
    archive = Archive(path)
    for at in range(0, len(rows), 5000):
        archive.apply(rows[at : at + 5000])
    found = dump(archive)
    archive.close()
    return found


@pytest.mark.slow
def test_every_type_of_event_and_every_recorded_history_gives_the_same_tables(tmp_path: Path) -> None:
    rows = [written(tag) for tag, entry in BY_TAG.items() if entry.stream == LOG]
    rows += [(stored.subject, stored.data) for stored in log(3000, runs=2, items=20, generations=2)]
    for path in sorted(path for path in HISTORIES.iterdir() if path.is_dir()):
        rows += [(stored.subject, stored.data) for stored in folder.read(path).everything]
    messages = in_order(rows)
    found = fast_dump(messages, tmp_path / "fast.duckdb")
    assert found == slow_dump(messages, tmp_path / "slow.duckdb")
    empty = [tag for tag, entry in BY_TAG.items() if entry.stream == LOG and not found[tag]]
    assert empty == [] and found["unreadable"]


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(payload: bytes) -> bytes:
        changed = payload.replace(old.encode(), new.encode("utf-8", "surrogatepass"), 1)
        assert changed != payload, (old, payload)
        return changed

    return change


def without(name: str) -> Callable[[bytes], bytes]:
    def change(payload: bytes) -> bytes:
        envelope = json.loads(payload)
        del envelope["data"][name]
        return msgspec.json.encode(envelope)

    return change


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "an unknown field": replaced('"data":{', '"data":{"unknown":1,'),
    "an unknown field of the envelope": replaced('{"specversion"', '{"unknown":{},"specversion"'),
    "a field twice, other": replaced('"outcome":', '"outcome":"first","outcome":'),
    "a field twice, of another type": replaced('"attempt":', '"attempt":"first","attempt":'),
    "data twice": replaced('"data":{', '"data":{"reward":5},"data":{'),
    "the id twice": replaced('"id":', '"id":"another","id":'),
    "a field with a default is missing": without("micro_usd"),
    "a field without a default is missing": without("verifier"),
    "a text for an integer": replaced('"attempt":', '"attempt":"5","nothing":'),
    "an integer as text": lambda payload: _scored(payload, attempt="5"),
    "an integer beyond 64 bits": lambda payload: payload.replace(b'"attempt":', b'"attempt":99999999999999'),
    "a fraction for an integer": replaced('"attempt":', '"attempt":5.5,"x":'),
    "a whole float for an integer": lambda payload: _scored(payload, attempt=5.0),
    "an integer for a float": lambda payload: _scored(payload, reward=1),
    "more digits than a float has": replaced('"reward":0.1', '"reward":0.1000000000000000055511151231257827'),
    "a float in other words": replaced('"reward":0.1', '"reward":1E-1'),
    "a float beyond all": replaced('"reward":0.1', '"reward":1e999'),
    "no number": replaced('"reward":0.1', '"reward":NaN'),
    "a number for a text": replaced('"item":"', '"item":5,"x":"'),
    "null for a text": replaced('"item":"', '"item":null,"x":"'),
    "null alone": lambda payload: _scored(payload, outcome=None),
    "true for a float": replaced('"reward":0.1', '"reward":true'),
    "spaces": lambda payload: json.dumps(json.loads(payload), indent=1).encode(),
    "escapes": lambda payload: json.dumps(json.loads(payload), separators=(",", ":")).encode(),
    "another order": lambda payload: msgspec.json.encode(dict(reversed(json.loads(payload).items()))),
    "another order of the data": lambda payload: _data(payload, lambda data: dict(reversed(data.items()))),
    "a later version": replaced('"version":1', '"version":2'),
    "no version": replaced('"version":1,', ""),
    "another source": replaced('"source":"verifier"', '"source":"auditor"'),
    "another subject": replaced('"subject":"evolog.demo', '"subject":"evolog.demi'),
    "another run": replaced('"run":"demo"', '"run":"demi"'),
    "another type": replaced('"type":"trajectory_scored"', '"type":"scoring_failed"'),
    "another cause": replaced('"cause":"because"', '"cause":""'),
    "an id that does not follow": replaced('"id":"', '"id":"0'),
    "another key": replaced('"trajectory":"t', '"trajectory":"u'),
    "a trace context": replaced('"traceparent":""', '"traceparent":"00-a-b-01"'),
    "no trace context": replaced(',"traceparent":""', ""),
    "a lone surrogate": replaced('"outcome":"', '"outcome":"\\ud800'),
    "no UTF-8": lambda payload: payload.replace(b'"outcome":"', b'"outcome":"\xff'),
    "a surrogate in UTF-8": replaced('"outcome":"', '"outcome":"\ud800'),
    "a control character": replaced('"outcome":"', '"outcome":"\n'),
    "broken off": lambda payload: payload[:-10],
    "more behind it": lambda payload: payload + b"{}",
    "a mark before it": lambda payload: b"\xef\xbb\xbf" + payload,
    "nothing": lambda payload: b"",
    "a list": lambda payload: b"[]",
}


def _data(payload: bytes, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    envelope = json.loads(payload)
    return msgspec.json.encode(envelope | {"data": change(envelope["data"])})


def _scored(payload: bytes, **fields: Any) -> bytes:
    return _data(payload, lambda data: data | fields)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """For each change the rows with its sequence in all tables, by the fast way and by the slow one; between them stand
    whole events, and at the end each whole event once more.
    """
    rows: Rows = []
    for number, change in enumerate(CHANGES.values()):
        subject, payload = score(number)
        rows += [(subject, change(payload)), score(number + 1000)]
    rows += [score(number) for number in range(len(CHANGES))]
    directory = tmp_path_factory.mktemp("changed")
    messages = in_order(rows)
    found, expected = fast_dump(messages, directory / "fast.duckdb"), slow_dump(messages, directory / "slow.duckdb")
    assert found == expected
    assert len(found["unreadable"]) > len(CHANGES) // 2
    tables = ("events", "unreadable", "trajectory_scored")

    def at(dumped: dict[str, list[tuple[Any, ...]]], sequence: int) -> Any:
        return [row for table in tables for row in dumped[table] if row[0] == str(sequence)]

    return {name: (at(found, 2 * n + 1), at(expected, 2 * n + 1)) for n, name in enumerate(CHANGES)}


@pytest.mark.parametrize("name", CHANGES)
def test_a_message_that_is_not_as_it_would_be_written_is_read_as_strictly(
    name: str, changed: dict[str, tuple[Any, Any]]
) -> None:
    found, expected = changed[name]
    assert found == expected != []


def test_lists_maps_and_numbers_of_any_size_are_taken_from_the_payload_as_from_the_fact(tmp_path: Path) -> None:
    called = written("model_called", logprobs=((-1e-300, 5e-324, -0.0), ()), tokens=((0, 2**63 - 1, 2**64), ()))
    chosen = written("lever_chosen", diagnosis={"z": 1.0, "a\u0000": 1e300, "": 0.5}, propensities={})
    rows = [
        called,
        chosen,
        (chosen[0], replaced('"diagnosis":{', '"diagnosis":{"z":7.0,')(chosen[1])),
        (called[0], replaced('"seconds":', '"seconds":1e2,"seconds":')(called[1])),
    ]
    for order in (rows, rows[::-1]):
        messages = in_order(order)
        found = fast_dump(messages, tmp_path / f"fast{order is rows}.duckdb")
        assert found == slow_dump(messages, tmp_path / f"slow{order is rows}.duckdb")
