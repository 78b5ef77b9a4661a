"""A recorded run, decided again to the byte, folded to any point, and exported as files."""

import copy
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from algorithms import statistics
from events import codec
from events.codec import Event
from events.errors import CheckFailed, NotFound, UsageError
from events.fact import Fact
from events.population import CandidateRejected
from events.run import RunPaused
from events.subjects import HEAD, entity_of
from replay.exports import folder
from replay.history import History
from replay.replayer import OutOfLine, Redecision, decisions, find_sequence, redecide, state_at
from runtime.blobs.directory import Blobs
from runtime.log.port import Stored, readable
from runtime.run import flight
from runtime.run.decide import DECIDER
from runtime.run.decider import Decider
from runtime.run.state import RunState
from tests.harness.decided_log import DecidedLog, as_history, long_run, short_run, wide_run
from tests.harness.facts import RUN, started


@pytest.fixture(scope="module")
def whole() -> list[Stored]:
    """A run of five generations with both levers."""
    return long_run()


def changed(messages: Sequence[Stored], place: int, old: bytes, new: bytes) -> list[Stored]:
    assert old in messages[place].data
    return [
        msgspec.structs.replace(of, data=of.data.replace(old, new, 1)) if of is messages[place] else of
        for of in messages
    ]


def place_of(messages: Sequence[Stored], tag: str, number: int = 0) -> int:
    return [place for place, stored in enumerate(messages) if stored.subject.endswith(f".{tag}")][number]


def test_a_recorded_run_is_decided_again_to_its_last_byte(whole: list[Stored]) -> None:
    found = redecide(as_history(whole))
    assert found.difference is None and found.finished and found.decisions == len(decisions(whole)) > 15


def test_a_run_under_way_is_decided_again_as_far_as_it_has_come(whole: list[Stored]) -> None:
    for end in range(1, len(whole)):
        found = redecide(as_history(whole[:end]))
        in_a_decision = any(one.sequence <= end < one.sequence + one.made.outputs for one in decisions(whole).values())
        assert in_a_decision or (found.difference is None and not found.finished), (end, found)


def test_a_changed_constant_is_found_at_the_first_decision_that_it_changes(
    whole: list[Stored], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "Z95", 1.96)
    found = redecide(as_history(whole)).difference
    first = whole[place_of(whole, "candidate_evaluated")]
    assert found and found.sequence == first.sequence and found.recorded == first.data.decode()
    assert found.decided != found.recorded and '"low":' in found.decided


def test_a_rule_that_decides_nothing_any_more_is_found_where_its_decision_stands(
    whole: list[Stored], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "_hints", lambda *given: [])
    found = redecide(as_history(whole)).difference
    hint = next(
        place
        for place, stored in enumerate(whole)
        if b'"purpose":"hint"' in stored.data and b"rollouts_requested" in stored.data
    )
    assert found and found.sequence == whole[hint].sequence and "training_batch_sealed" in found.decided


def test_a_decision_that_this_code_does_not_make_is_named(whole: list[Stored]) -> None:
    silent = DECIDER._replace(
        decide=lambda state, event, version: [] if state.generation else DECIDER.decide(state, event, version)
    )
    found = redecide(as_history(whole), silent).difference
    assert found and found.decided == "" and "this code decides nothing there" in found.why


@pytest.mark.parametrize("tag", ["candidate_evaluated", "rollouts_requested", "run_finished", "training_batch_sealed"])
def test_one_changed_byte_of_a_decision_is_found_where_it_stands(tag: str, whole: list[Stored]) -> None:
    place = place_of(whole, tag)
    data = whole[place].data
    at = data.index(b'"data":{') + 12
    wrong = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    messages = [*whole[:place], msgspec.structs.replace(whole[place], data=wrong), *whole[place + 1 :]]
    found = redecide(as_history(messages)).difference
    assert found and found.sequence == whole[place].sequence and found.decided == data.decode()


def test_a_decision_whose_head_cannot_be_read_is_a_difference(whole: list[Stored]) -> None:
    head = decisions(whole)[5]
    place = whole.index(head.messages[0])
    wrong = msgspec.structs.replace(whole[place], data=whole[place].data.replace(b'"number":5', b'"number":x'))
    found = redecide(as_history([*whole[:place], wrong, *whole[place + 1 :]]))
    assert found.difference and found.difference.sequence == head.sequence and found.decisions == 4


def test_one_changed_byte_of_what_a_service_said_is_found_at_the_next_decision(whole: list[Stored]) -> None:
    place = place_of(whole, "trajectory_scored", 40)
    head = next(stored for stored in whole[place:] if stored.subject.endswith("decision_made"))
    found = redecide(as_history(changed(whole, place, b'"verifier":"v1"', b'"verifier":"v2"'))).difference
    assert found and found.sequence == head.sequence and "was made on other events" in found.why
    span = re.search(r"sequences (\d+) to (\d+)", found.why)
    assert span
    first, last = map(int, span.groups())
    assert first <= whole[place].sequence < last == head.sequence


def test_a_message_that_cannot_be_read_is_not_folded(whole: list[Stored]) -> None:
    place = place_of(whole, "trajectory_scored", 3)
    poison = msgspec.structs.replace(whole[place], subject=f"evolog.{RUN}.x.unheard_of", data=b"{}")
    found = redecide(as_history([*whole[:place], poison, *whole[place:]]))
    assert found.difference is None and found.finished


class Counting(msgspec.Struct):
    """How many pauses a decider has seen, and at which of them it last spoke."""

    run: str
    count: int = 0
    spoken: int = 0


def speaking(version: int) -> Decider[Counting]:
    """Speaks at every second pause; from version 2 on at every third."""

    def evolve(state: Counting, event: Event) -> Counting:
        match event.data:
            case RunPaused():
                return msgspec.structs.replace(state, count=state.count + 1)
            case CandidateRejected(generation=number):
                return msgspec.structs.replace(state, spoken=number)
        return state

    def decide(state: Counting, event: Event, version: int) -> list[Fact]:
        due = state.count % (2 if version == 1 else 3) == 0 and state.spoken < state.count
        return [CandidateRejected(generation=state.count, candidate="", reason="")] if due else []

    return Decider(version, Counting, evolve, decide)


def test_a_deliberate_change_is_a_version_step_that_holds_from_the_next_decision_on() -> None:
    told = DecidedLog(decider=speaking(1))
    told.say(started(), *(RunPaused(number=number, reason="") for number in range(1, 6)))
    told.session.decider = speaking(2)
    told.say(*(RunPaused(number=number, reason="") for number in range(6, 13)))
    made = [one.made.decider for one in decisions(told.messages).values()]
    spoken = [event.data.generation for event in readable(told.messages) if isinstance(event.data, CandidateRejected)]
    assert made == [1, 1, 2, 2, 2] and spoken == [2, 4, 6, 9, 12]
    assert redecide(as_history(told.messages), speaking(2)).difference is None
    newer = redecide(as_history(told.messages), speaking(1)).difference
    assert (
        newer and newer.sequence == decisions(told.messages)[3].sequence and "this code knows them up to 1" in newer.why
    )


@pytest.mark.parametrize("recorded", [long_run, wide_run])
def test_the_state_at_a_sequence_is_the_one_that_the_decider_had(recorded: Callable[[], list[Stored]]) -> None:
    whole = recorded()
    told = DecidedLog()
    seen: dict[int, RunState] = {}
    for stored in whole:
        told.session.feed(stored, codec.decode(stored.data))
        seen[stored.sequence] = copy.deepcopy(told.session.state)
    answered = {
        one.sequence - 1 for one in decisions(whole).values()
    }  # the decision at these is in the decider, and not yet on the log
    for sequence in seen.keys() - answered:
        at = find_sequence(whole, str(sequence))
        assert state_at(as_history(whole), at) == seen[at], sequence


def test_a_point_is_a_sequence_or_a_time_and_never_the_middle_of_a_decision(whole: list[Stored]) -> None:
    second = decisions(whole)[2]
    assert second.made.outputs == 2
    for at in (second.sequence, second.sequence + 1, second.sequence + 2):
        assert find_sequence(whole, str(at)) == second.sequence + 2
    assert find_sequence(whole, "1970-01-01T00:00:02Z") == find_sequence(whole, "1970-01-01T00:00:02.5") == 3
    for wrong in ("0", "soon", "1969-01-01"):
        with pytest.raises(UsageError):
            find_sequence(whole, wrong)


def shaken(messages: Sequence[Stored]) -> list[Stored]:
    """With a gap in the sequences, and messages that are no events, among them bytes that are no text."""
    odd = [
        (b"{", "x.unheard_of"),
        (bytes(range(256)), "y.unheard_of"),
        (b'{"a":\n1}', "z.unheard_of"),
        (b"", "w.unheard_of"),
    ]
    end = messages[-1].sequence + 100
    return [
        *messages,
        *(Stored(end + place, 7, f"evolog.{RUN}.{tail}", data) for place, (data, tail) in enumerate(odd)),
    ]


def test_an_export_holds_a_run_to_the_byte_and_is_replayed_alone(tmp_path: Path) -> None:
    blobs, gold_blobs = Blobs(tmp_path / "blobs"), Blobs(tmp_path / "gold_blobs")
    tree = blobs.put_tree({"agent.py": b"pass", "steps/one.py": b"1"})
    blobs.put(b"of another run")
    log = DecidedLog()
    log.say(msgspec.structs.replace(started(generations=1), base_model=tree))
    told = [Stored(4, 9, f"gold.{RUN}.x.gold_scored", f'{{"blob":"{gold_blobs.put(b"answers")}"}}'.encode())]
    before = History(RUN, [], shaken(log.go_on().messages), told, blobs, gold_blobs)
    manifest = folder.write(before, tmp_path / "out", "1.2.3")
    (tmp_path / "blobs").rename(tmp_path / "elsewhere")
    after = folder.read(tmp_path / "out")
    assert (after.run, after.past, after.messages, after.gold) == (RUN, before.past, before.messages, before.gold)
    assert after.blobs.get_tree(tree) == {"agent.py": b"pass", "steps/one.py": b"1"}
    assert manifest.blobs == 4 == folder.check_blobs(after) and manifest.events == len(before.messages)
    assert redecide(after).finished


def test_an_export_that_was_changed_is_refused(whole: list[Stored], tmp_path: Path) -> None:
    folder.write(as_history(whole, tmp_path), tmp_path / "out", "1.2.3")
    with pytest.raises(UsageError, match="there already"):
        folder.write(as_history(whole, tmp_path), tmp_path / "out", "1.2.3")
    for name in ("events.ndjson", "gold.ndjson", "export.json"):
        file = tmp_path / "out" / name
        kept = file.read_bytes()
        file.write_bytes(kept[:-20] + b"?" * 20)
        with pytest.raises(CheckFailed):
            folder.read(tmp_path / "out")
        file.unlink()
        with pytest.raises(NotFound):
            folder.read(tmp_path / "out")
        file.write_bytes(kept)
    assert redecide(folder.read(tmp_path / "out")).finished


def test_a_damaged_blob_of_an_export_is_named(whole: list[Stored], tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    digest = blobs.put(b"adapter")
    named = Stored(9999, 1, f"evolog.{RUN}.x.y", f'{{"adapter":"{digest}"}}'.encode())
    folder.write(as_history([*whole, named], blobs.root), tmp_path / "out", "1.2.3")
    exported = folder.read(tmp_path / "out")
    exported.blobs.path(digest).write_bytes(b"adaptor")
    with pytest.raises(CheckFailed, match=digest):
        folder.check_blobs(exported)
    exported.blobs.path(digest).unlink()
    with pytest.raises(CheckFailed, match="has 0 blobs, and 1 were exported"):
        folder.check_blobs(exported)


def test_an_export_cannot_name_a_place_elsewhere(whole: list[Stored], tmp_path: Path) -> None:
    folder.write(as_history(whole, tmp_path), tmp_path / "out", "1.2.3")
    manifest = tmp_path / "out" / "export.json"
    manifest.write_bytes(manifest.read_bytes().replace(f'"run": "{RUN}"'.encode(), b'"run": "../../out"'))
    with pytest.raises(UsageError, match="cannot name a run"):
        folder.read(tmp_path / "out")


def gone_by(messages: list[Stored]) -> Redecision:
    """The redecision of messages that have gone by."""
    redecision = Redecision(RUN, [stored for stored in messages if entity_of(stored.subject) == HEAD])
    for stored in messages:
        redecision.take(stored, next(iter(readable([stored])), None))
    redecision.end()
    return redecision


@pytest.mark.parametrize("recorded", [short_run, lambda: short_run(late=True), long_run, wide_run])
def test_a_run_that_goes_by_comes_out_the_same(recorded: Callable[[], list[Stored]]) -> None:
    whole = recorded()
    gone_by(whole)
    ends = [one.messages[-1].sequence for one in decisions(whole).values()]
    for end in (*ends[:3], ends[-2] + 1):  # of a run that goes on
        gone_by(whole[:end])


@pytest.mark.parametrize("recorded", [short_run, long_run, wide_run])
def test_what_goes_by_otherwise_than_it_is_decided_is_out_of_line(recorded: Callable[[], list[Stored]]) -> None:
    whole = recorded()
    heads = list(decisions(whole).values())
    last, place = heads[-1].messages[-1], heads[len(heads) // 2].messages[-1].sequence - 1
    changed = msgspec.structs.replace(whole[place], data=whole[place].data.replace(b'"time":"', b'"time":"9'))
    scored = place_of(whole, "trajectory_scored", 1)
    reward = b'"reward":1.0' if b'"reward":0.0' in whole[scored].data else b'"reward":0.0'
    other = msgspec.structs.replace(whole[scored], data=re.sub(rb'"reward":[0-9.]+', reward, whole[scored].data))
    for bad in (
        [*whole[:place], changed, *whole[place + 1 :]],
        [*whole[:scored], other, *whole[scored + 1 :]],
        [*whole[:scored], *whole[scored + 1 :]],
        [stored for stored in whole if stored is not last],
        [*whole, heads[0].messages[0]],
    ):
        with pytest.raises(OutOfLine):
            gone_by(bad)
