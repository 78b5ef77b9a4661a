"""What an audit keeps of events that go by: little, and enough to say the same as of all of them."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

pytest.importorskip("numpy")

from events.codec import Event
from events.judgement import TrajectoryScored
from events.rollouts import ModelCalled, TrajectoryRecorded
from events.run import RunStarted
from replay.audit.audit import audit
from replay.audit.passing import Passing, passed
from replay.audit.provenance.checks import Known, examine
from replay.exports import folder
from replay.recorded import EventIndex, SeenIds, StoredEvent
from runtime.log.port import Stored
from tests.harness.generator import run_batches
from tests.harness.made_up_runs import HACKED, HONEST, export


def rows(items: int = 10, generations: int = 3) -> list[Stored]:
    messages: list[Stored] = []
    batches = run_batches("run-0", items=items, generations=generations, seed=0)
    batch = next(batches)
    try:
        while True:
            for subject, data in batch:
                messages.append(Stored(len(messages) + 1, 0, subject, data))
            batch = batches.send(0)
    except StopIteration:
        return messages


@pytest.fixture(scope="module")
def messages() -> list[Stored]:
    return rows()


def gone_by(events: Sequence[StoredEvent]) -> Passing:
    passing = Passing()
    for stored in events:
        passing.take(stored)
    return passing


@pytest.mark.parametrize("name", ["hacked", "honest"])
@pytest.mark.parametrize("lineage_only", [False, True])
def test_an_audit_of_what_went_by_is_that_of_all_events(name: str, lineage_only: bool, tmp_path: Path) -> None:
    run = folder.read(export(tmp_path, "run", HACKED if name == "hacked" else HONEST))
    events, gold = EventIndex(run.everything).events, EventIndex(run.gold).events
    passing = gone_by(events)
    whole = audit(events, gold, run.blobs.get, Known(), lineage_only=lineage_only)
    assert audit(passing.events, gold, run.blobs.get, Known(), lineage_only=lineage_only, passing=passing) == whole


def test_what_is_kept_grows_with_candidates_and_dev_and_not_with_attempts(messages: list[Stored]) -> None:
    kept = passed(messages).events
    facts = [stored.event.data for stored in kept]
    assert not any(isinstance(fact, TrajectoryRecorded) for fact in facts)
    calls = [fact for fact in facts if isinstance(fact, ModelCalled)]
    assert len({call.body for call in calls}) == len(calls) and not any(call.texts or call.logprobs for call in calls)
    scores = sum(isinstance(fact, TrajectoryScored) for fact in facts)
    assert 0 < scores < sum(b"trajectory_scored" in stored.data for stored in messages) / 2
    assert not any(stored.stored.data for stored in kept)


def read(digest: str) -> bytes:
    """A scaffold of no files, whichever."""
    return b'{"files":{}}'


FAULTS: dict[str, dict[str, Any]] = {
    "trajectory_recorded": {"adapter": "another"},
    "model_called": {"model": "another"},
    "trajectory_scored": {"reward": 7.0, "verifier": "another"},
}


@pytest.mark.parametrize("tag", FAULTS)
def test_faults_among_the_many_are_found_as_among_all_events(messages: list[Stored], tag: str) -> None:
    draw = Random(0)
    events = [
        changed(stored, **FAULTS[tag]) if stored.event.tag == tag and draw.random() < 0.2 else stored
        for stored in EventIndex(messages).events
    ]
    passing = gone_by(events)
    known = Known(low=0.0, high=1.0)
    found = examine(passing.events, read, known, book=passing.book)
    assert found == examine(events, read, known)
    kept = {stored.sequence for stored in passing.events}
    assert all(fault.sequence in kept for faults in found.values() for fault in faults)
    assert sum(map(len, found.values())) >= 2


def changed(stored: StoredEvent, **fields: Any) -> StoredEvent:
    event: Event = replace(stored.event, data=replace(stored.event.data, **fields))
    return StoredEvent(stored.stored, event)


def test_rewards_of_another_range_are_not_noted_one_by_one(messages: list[Stored]) -> None:
    events = [
        changed(stored, reward=50.0) if isinstance(stored.event.data, TrajectoryScored) else stored
        for stored in EventIndex(messages).events
    ]
    passing = gone_by(events)
    assert len(passing.events) < len(events) / 2
    assert passing.book.faults(-1e9, 1e9)["out_of_range"] == []


def test_ids_are_seen_once() -> None:
    ids = [f"{Random(number).getrandbits(96):024x}" for number in range(5000)] + ["0" * 24]
    seen = SeenIds()
    assert all(seen.add(id) for id in ids)
    assert not any(seen.add(id) for id in ids)
    assert seen.add("f" * 24)


def test_of_two_events_with_one_id_the_first_is_kept(messages: list[Stored]) -> None:
    twice = [*messages, Stored(len(messages) + 1, 0, messages[0].subject, messages[0].data)]
    starts = [stored for stored in passed(twice).events if isinstance(stored.event.data, RunStarted)]
    assert [stored.sequence for stored in starts] == [1]
