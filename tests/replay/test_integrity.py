"""`evolog doctor --integrity` on logs that are whole, on damaged stream files, and on what no server can notice."""

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest

from events import codec
from events.errors import NotFound
from events.fact import Fact
from events.gold import GoldModelCalled
from events.rollouts import ModelCalled
from events.run import RunResumed
from events.subjects import GOLD, LOG, tag_of
from events.weights import AdapterPublished
from replay.integrity import Examination, LogFault, forks_among
from runtime.blobs.directory import Blobs
from runtime.broker import accounts, server
from runtime.broker.credentials import Credentials, credentials_file
from runtime.broker.store import ended_well
from runtime.log import lineage
from runtime.log.port import Message, Stored
from runtime.log.socket import NatsSocket
from services.cli.doctor import check_integrity
from services.host.node import Node
from services.host.sources import open_logs
from tests.harness.broker import broker
from tests.harness.cli import CliHarness
from tests.harness.decided_log import DecidedLog, missing_answers, short_run
from tests.harness.facts import RUN, proposed, publisher, started
from tests.harness.faults import damage
from tests.harness.tasks.smaller import small_toy

NOW = "2026-01-01T00:00:00Z"


def examined(messages: Sequence[Stored], last: int | None = None, archived: int = 0) -> list[LogFault]:
    """What is wrong with these messages, of which the server says that the last one has the sequence `last`."""
    examination = Examination(
        LOG, forks_among(stored for stored in messages if tag_of(stored.subject) == "run_started")
    )
    for stored in messages:
        examination.take(stored)
    last = messages[-1].sequence if last is None else last
    return examination.end(last, last, archived)


def of(fact: Fact, sequence: int, run: str = RUN) -> Stored:
    event = codec.event(fact, run=run, source=publisher(fact), cause="", time=NOW)
    return Stored(sequence, 1, event.subject, codec.encode(event))


def model_called(ordinal: int, texts: tuple[str, ...] = (), temperature: float = 1.0, seconds: float = 0.0) -> Fact:
    """A call of a model whose other fields are empty."""
    return ModelCalled(
        request="",
        item="",
        ordinal=ordinal,
        provider="",
        model="",
        adapter="",
        body="",
        index=0,
        sampling_seed=0,
        temperature=temperature,
        texts=texts,
        tokens=(),
        logprobs=(),
        prompt_tokens=0,
        completion_tokens=0,
        micro_usd=0,
        seconds=seconds,
    )


def changed(messages: list[Stored], tag: str, old: bytes, new: bytes) -> tuple[int, list[Stored]]:
    """The first message of that type and with these bytes with others; its sequence."""
    place = next(place for place, stored in enumerate(messages) if tag_of(stored.subject) == tag and old in stored.data)
    other = msgspec.structs.replace(messages[place], data=messages[place].data.replace(old, new, 1))
    return other.sequence, [*messages[:place], other, *messages[place + 1 :]]


def test_a_log_as_it_was_appended_is_whole() -> None:
    assert examined(short_run()) == examined(short_run(late=True)) == []


def test_a_gap_is_named_by_its_first_sequence_and_is_the_only_fault() -> None:
    messages = short_run()
    (fault,) = examined([*messages[:5], *messages[8:]])
    assert (fault.first, fault.last) == (6, 8)
    assert "3 events are missing from sequence 6 to 8, between sequence 5 (1970-01-01T00:00:05" in str(fault)
    (first,) = examined(messages[1:])
    assert first.first == 1 and "between the beginning and sequence 2" in str(first)
    (last,) = examined(messages[:-2], last=len(messages))
    assert (last.first, last.last) == (len(messages) - 1, len(messages)) and "and the end of the log" in str(last)


def test_an_end_that_the_archive_has_read_is_missed() -> None:
    (fault,) = examined(short_run()[:4], archived=9)
    assert (fault.first, fault.last) == (5, 9) and "5 events are missing from its end: sequence 5 is the first" in str(
        fault
    )


def test_an_end_within_a_decision_is_missed() -> None:
    messages = short_run()
    head = next(stored.sequence for stored in messages if tag_of(stored.subject) == "decision_made")
    (fault,) = examined(messages[:head])
    assert fault.first == head + 1 and "decision 1 of run r lacks the last 1 of its events" in str(fault)


@pytest.mark.parametrize(
    ("tag", "old", "new", "words"),
    [
        ("run_started", b'"max_tokens":64', b'"max_tokens":x', "cannot be read"),
        ("scaffold_proposed", b'"generation":0', b'"generation":7', "has the id"),
        ("trajectory_scored", b'"attempt":0', b'"attempt": 0', "does not have the bytes"),
    ],
)
def test_a_message_that_is_no_event_as_it_is_written_is_named_exactly(
    tag: str, old: bytes, new: bytes, words: str
) -> None:
    sequence, messages = changed(short_run(), tag, old, new)
    (fault,) = examined(messages)
    assert (fault.first, fault.last) == (sequence, sequence) and words in str(fault)


def test_an_event_of_a_time_before_a_field_was_added_is_whole() -> None:
    messages = short_run()
    float_as_integer = of(model_called(ordinal=1, temperature=1.0, seconds=2.0), len(messages) + 1)
    data = float_as_integer.data.replace(b'"temperature":1.0', b'"temperature":1').replace(b',"traceparent":""', b"")
    assert data != float_as_integer.data
    assert examined([*messages, msgspec.structs.replace(float_as_integer, data=data)]) == []


def test_a_changed_reward_is_found_by_the_chain() -> None:
    sequence, messages = changed(short_run(), "trajectory_scored", b'"reward":', b'"reward":1')
    (fault,) = examined(messages)
    assert fault.first <= sequence < fault.last
    assert "decision 3 of run r, at sequence" in str(
        fault
    ) and f"lies in the sequences {fault.first} to {fault.last}" in str(fault)


def test_what_is_wrong_in_one_run_explains_nothing_of_another() -> None:
    one = changed(short_run(), "trajectory_scored", b'"reward":', b'"reward":1')[1]
    (broken,) = examined(one)
    unreadable = Stored(broken.first, 1, "evolog.other.x.lever_chosen", b"\xff")
    both = [*one[: broken.first - 1], unreadable, *(moved(stored, 1) for stored in one[broken.first - 1 :])]
    assert [(fault.run, fault.first) for fault in examined(both)] == [("other", broken.first), (RUN, broken.first + 1)]
    of_run = msgspec.structs.replace(unreadable, subject=f"evolog.{RUN}.x.lever_chosen")
    assert [fault.run for fault in examined([of_run if stored is unreadable else stored for stored in both])] == [RUN]


def test_a_fork_whose_past_is_another_now_is_named() -> None:
    def forked(run: str, past: list[Stored], parent: str) -> list[Stored]:
        told = DecidedLog(run=run, past=past)
        begun = {"parent_run": parent, "parent_sequence": past[-1].sequence, "parent_digest": lineage.past_digest(past)}
        told.say(msgspec.structs.replace(started(generations=0), **begun))
        told.go_on()
        return told.messages

    told = DecidedLog()
    told.say(started(generations=0))
    told.say(proposed())
    told.say(*missing_answers(told.messages)[:3])
    parent = list(told.messages)  # its last events stand behind its last decision
    child = forked("child", parent, RUN)
    grandchild = forked("grandchild", parent + child, "child")
    whole = [*parent, *child, *grandchild]
    assert [stored.sequence for stored in whole] == list(range(1, len(whole) + 1)) and examined(whole) == []
    sequence = max(stored.sequence for stored in parent if tag_of(stored.subject) == "trajectory_scored")
    other = whole[sequence - 1].data.replace(b'"reward":', b'"reward":1', 1)
    (fault,) = examined(
        [*whole[: sequence - 1], msgspec.structs.replace(whole[sequence - 1], data=other), *whole[sequence:]]
    )
    assert fault.run == RUN and fault.last == len(parent)
    assert f"run child was forked from run {RUN} as it was up to sequence {len(parent)}, with digest" in str(fault)
    (gap,) = examined([*whole[: sequence - 1], *whole[sequence:]])
    assert f"sequence {sequence} is missing" in str(gap)


def moved(stored: Stored, by: int) -> Stored:
    return msgspec.structs.replace(stored, sequence=stored.sequence + by)


def test_what_never_was_an_event_and_was_set_aside_is_no_damage() -> None:
    messages = short_run()
    poison = Stored(len(messages) + 1, 1, f"evolog.{RUN}.x.lever_chosen", b"\xff no JSON")
    aside = codec.set_aside(poison.sequence, poison.subject, poison.data, "no JSON", source="controller", time=NOW)
    assert aside is not None
    kept = Stored(poison.sequence + 1, 1, aside.subject, codec.encode(aside))
    assert examined([*messages, poison, kept]) == []
    (fault,) = examined([*messages, msgspec.structs.replace(poison, data=b"\xfe no JSON"), kept])
    assert fault.first == poison.sequence and "cannot be read" in str(fault)


def test_a_directory_without_a_log_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no log in"):
        check_integrity(tmp_path / "nowhere", as_json=False)
    assert not (tmp_path / "nowhere").exists()


class Damaged:
    """A copy of a directory in which a run was finished."""

    def __init__(self, node: Node, store: Path | None = None) -> None:
        self.node, self.store = node, store or node.nats_dir

    def read(self, stream: str = LOG) -> list[Stored]:
        async def within() -> list[Stored]:
            async with open_logs(self.node) as connection:
                return await connection.log(stream).read(1, 1_000_000)

        return asyncio.run(within())

    def blocks(self) -> list[Path]:
        return sorted(self.store.glob(f"jetstream/*/streams/{LOG}/msgs/*.blk"), key=lambda path: int(path.stem))

    def flip(self, message: Stored) -> None:
        """One bit of a message's bytes, wherever they stand in the stream's files."""
        (block,) = [path for path in self.blocks() if message.data in path.read_bytes()]
        data = bytearray(block.read_bytes())
        data[data.index(message.data) + len(message.data) // 2] ^= 1
        block.write_bytes(data)

    def killed(self, *messages: Message, user: str = "operator") -> None:
        """Append, and kill -9 the server: its index is out of date then, and is made anew from the blocks."""

        async def within() -> None:
            async with broker(self.node.directory) as running:
                wire = NatsSocket(
                    msgspec.json.decode(credentials_file(self.node.directory, user).read_bytes(), type=Credentials), LOG
                )
                for message in messages:
                    wire.append([message])
                wire.close()
                assert running.pid
                os.kill(running.pid, 9)
                await running.wait()

        asyncio.run(within())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CliHarness]:
    """A place with a run of both levers."""
    place = CliHarness(tmp_path_factory.mktemp("whole"))
    place.evolog("run", str(small_toy(place.folder / "task")), "--name", RUN, "--generations", "2")
    yield place


@pytest.fixture
def copy(finished: CliHarness, tmp_path: Path) -> Damaged:
    shutil.copytree(finished.node.directory, tmp_path / ".evolog", ignore=shutil.ignore_patterns("work", "*.sock*"))
    return Damaged(Node(tmp_path / ".evolog"))


Say = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def doctor(copy: Damaged, capsys: pytest.CaptureFixture[str]) -> Say:
    """What the command says of the copy, line by line, and its exit code."""

    def say(as_json: bool = False) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = check_integrity(copy.node.directory, as_json=as_json)
        return code, capsys.readouterr().out.splitlines()

    return say


def test_a_finished_run_is_whole_and_every_blob_is_named(copy: Damaged, doctor: Say) -> None:
    code, said = doctor()
    events, gold = len(copy.read()), len(copy.read(GOLD))
    assert (
        code == 0
        and said[0].startswith(f"EVOLOG: {events:,} events of 1 run, ")
        and said[0].endswith(" decisions: whole")
    )
    assert said[1] == f"GOLD: {gold} events of 1 run: whole"
    for root, stream in ((copy.node.blobs, LOG), (copy.node.gold_blobs, GOLD)):
        examination = Examination(stream)
        for stored in copy.read(stream):
            examination.take(stored)
        named = set(examination.blobs)
        for of in examination.blobs.values():
            named |= set(Blobs(root).members(of.digest).values()) if of.folder else set()
        there = {path.name for path in (root / "sha256").rglob("*") if path.is_file()}
        assert named <= there
        calls = [codec.decode(stored.data).data for stored in copy.read(GOLD)]
        bodies = {one.call.body for one in calls if isinstance(one, GoldModelCalled)}
        assert there - named <= bodies, "beside what the auditor's own calls say"


def test_a_damaged_or_missing_blob_is_named_with_the_event_that_names_it(copy: Damaged, doctor: Say) -> None:
    (published, *_) = [stored for stored in copy.read() if tag_of(stored.subject) == "adapter_published"]
    fact = codec.decode(published.data).data
    assert isinstance(fact, AdapterPublished)
    adapter = fact.adapter
    weights = Blobs(copy.node.blobs).members(adapter)["adapter_model.safetensors"]
    damage(Blobs(copy.node.blobs), weights)
    code, said = doctor()
    assert (
        code == 3
        and f"EVOLOG: sequence {published.sequence} (adapter_published) names a blob: Blob {weights}" in said[2]
    )
    assert "is damaged" in said[2]
    next(copy.node.blobs.rglob(adapter)).unlink()
    code, said = doctor()
    assert code == 3 and f"Blob {adapter} is not in" in said[2]


def test_a_bit_flipped_in_a_stream_file_is_named_after_a_restart(copy: Damaged, doctor: Say) -> None:
    messages = copy.read()
    victim = messages[len(messages) // 2]
    copy.flip(victim)
    code, said = doctor()
    assert (
        code == 3
        and f"The first bad event: EVOLOG: sequence {victim.sequence} is missing, between sequence "
        f"{victim.sequence - 1}"
        in said[2]
    )
    assert said[3:] == []
    code, said = doctor(as_json=True)
    found = json.loads(said[0])
    assert code == 3 and found["whole"] is False and [fault["first"] for fault in found["faults"]] == [victim.sequence]


@pytest.mark.slow
def test_a_bit_flipped_under_a_running_server_is_named(copy: Damaged) -> None:
    messages = copy.read()
    early, late = messages[len(messages) // 3], messages[len(messages) // 2]
    place = CliHarness(copy.node.directory.parent)
    try:
        place.up()
        assert place.here("doctor", "--integrity").out.count("whole") == 3
        for victim in (late, early):
            copy.flip(victim)
            said = place.here("doctor", "--integrity", code=3).out
            assert f"first bad event: EVOLOG: sequence {victim.sequence} is missing" in said
    finally:
        place.down()


def test_a_block_of_which_a_killed_server_drops_the_rest_is_named_from_its_first_missing_event(
    copy: Damaged, doctor: Say
) -> None:
    big = "x" * 1_000_000
    calls = [model_called(ordinal=number, texts=(big,)) for number in range(12)]
    events = [codec.event(call, run="bulk", source="executor", cause="", time=NOW) for call in calls]
    messages = copy.read()
    copy.killed(*[Message(event.subject, codec.encode(event)) for event in events], user="executor")
    assert len(copy.blocks()) == 2
    victim = messages[len(messages) // 2]
    copy.flip(victim)
    first = copy.blocks()[0].read_bytes()
    lost = len(messages) + first.count(big.encode()) - victim.sequence + 1
    code, said = doctor()
    assert copy.blocks()[0].read_bytes() == first  # a server that starts on it would cut it
    assert code == 3 and lost > 100
    assert (
        f"first bad event: EVOLOG: {lost:,} events are missing from sequence {victim.sequence} to "
        f"{victim.sequence + lost - 1}," in said[2]
    )


def test_an_end_that_a_killed_server_cuts_off_is_named_and_evolog_does_not_go_on_from_there(
    copy: Damaged, doctor: Say
) -> None:
    messages = copy.read()
    victim = messages[len(messages) // 2]
    event = codec.event(RunResumed(number=1), run=RUN, source="operator", cause="", time=NOW)
    copy.killed(Message(event.subject, codec.encode(event)))
    (copy.blocks()[0].parent / "index.db").unlink()  # a server's first, which a run of two minutes does not yet have
    copy.flip(victim)
    code, said = doctor()
    lost = len(messages) - victim.sequence + 1
    assert (
        code == 3
        and f"first bad event: EVOLOG: {lost:,} events are missing from its end: sequence {victim.sequence} is the "
        "first"
        in said[2]
    )
    place, damaged = CliHarness(copy.node.directory.parent), copy.node.directory / "nats.damaged"
    files = [block.read_bytes() for block in copy.blocks()]
    for _ in range(2):
        refused = place.evolog("up", code=3).err
        assert "lost events" in refused and str(damaged) in refused
    kept = Damaged(copy.node, damaged).blocks()
    assert [block.read_bytes() for block in kept] == files != [block.read_bytes() for block in copy.blocks()]
    shutil.rmtree(damaged)
    refused = place.evolog("up", code=3).err
    assert (
        f"ends at sequence {victim.sequence - 1}, and its archive has read to {len(messages)}: {lost:,} events were "
        "lost" in refused
    )
    assert "Put back" in refused and "deleting" in refused


def test_reading_cuts_nothing_from_damaged_files_and_the_doctor_needs_no_archive_to_miss_their_end(
    copy: Damaged, doctor: Say
) -> None:
    messages = copy.read()
    victim = messages[len(messages) // 2]
    event = codec.event(RunResumed(number=1), run=RUN, source="operator", cause="", time=NOW)
    copy.killed(Message(event.subject, codec.encode(event)))
    (copy.blocks()[0].parent / "index.db").unlink()
    copy.flip(victim)
    copy.node.archive.unlink()
    (block,) = copy.blocks()
    before = block.read_bytes()
    assert copy.read()[-1].sequence == victim.sequence - 1
    code, said = doctor()
    assert block.read_bytes() == before
    assert (
        code == 3
        and f"first bad event: EVOLOG: events are missing from its end: sequence {victim.sequence} is the first"
        in said[2]
    )


def test_after_a_kill_evolog_goes_on_with_files_that_are_whole_and_a_good_end_is_known(
    copy: Damaged, doctor: Say
) -> None:
    assert ended_well(copy.node.directory)
    event = codec.event(RunResumed(number=1), run=RUN, source="operator", cause="", time=NOW)
    copy.killed(Message(event.subject, codec.encode(event)))
    assert not ended_well(copy.node.directory)
    (block,) = copy.blocks()
    with block.open("ab") as file:
        file.write(block.read_bytes()[:100])  # one that was being written
    assert doctor()[0] == 0
    place = CliHarness(copy.node.directory.parent)
    try:
        up = place.up()
        assert up.poll() is None and not list(copy.node.directory.glob("nats.*"))
    finally:
        place.down()
    assert ended_well(copy.node.directory)


def test_an_end_of_gold_that_its_archive_has_read_is_missed_and_evolog_does_not_go_on_from_there(
    copy: Damaged, doctor: Say
) -> None:
    count = len(copy.read(GOLD))
    shutil.rmtree(next(copy.node.nats_dir.glob(f"jetstream/*/streams/{GOLD}")))
    code, said = doctor()
    assert (
        code == 3
        and f"first bad event: GOLD: {count} events are missing from its end: sequence 1 is the first" in said[2]
    )
    refused = CliHarness(copy.node.directory.parent).evolog("up", code=3).err
    assert f"GOLD in {copy.node.directory} ends at sequence 0, and its archive has read to {count}" in refused
    assert f"deleting {copy.node.gold_archive}" in refused


def test_a_log_written_anew_with_one_event_changed_is_named_by_the_chain(copy: Damaged, doctor: Say) -> None:
    sequence, messages = changed(copy.read(), "trajectory_scored", b'"reward":0.0', b'"reward":1.0')
    shutil.rmtree(copy.node.nats_dir)
    asyncio.run(forge(copy.node.directory, messages))
    code, said = doctor(as_json=True)
    (fault,) = [fault for fault in json.loads(said[0])["faults"] if fault["stream"] == LOG]
    assert code == 3 and fault["first"] <= sequence < fault["last"] and "was made on other events" in fault["what"]


@pytest.mark.slow
def test_a_log_written_anew_with_its_end_changed_does_not_come_out_the_same_again(
    copy: Damaged, doctor: Say, tmp_path: Path
) -> None:
    """Its chain holds, since no later decision vouches for the end.

    The first difference is a decision's time: a server that stores an event again gives it another.
    """
    score = next(stored.data for stored in copy.read() if tag_of(stored.subject) == "run_finished").split(b'"score":')[
        1
    ]
    sequence, messages = changed(copy.read(), "run_finished", b'"score":' + score[:3], b'"score":0.9')
    shutil.rmtree(copy.node.nats_dir)
    asyncio.run(forge(copy.node.directory, messages))
    code, said = doctor(as_json=True)
    (fault,) = [fault for fault in json.loads(said[0])["faults"] if fault["stream"] == LOG]
    assert code == 3 and fault["first"] <= sequence and "is not as it was decided" in fault["what"]
    place = CliHarness(copy.node.directory.parent)
    assert "is not as it was decided" in place.here("replay", "--into", str(tmp_path / "new"), code=3).out
    assert "is not as it was decided" in place.here("audit", RUN, code=3).err
    assert f"at sequence {fault['first']}" in place.here("replay", RUN, code=3).out


def test_a_second_event_on_a_taken_place_is_named_and_does_not_count(copy: Damaged, doctor: Say) -> None:
    """Whoever leaves the expectation out can append it."""
    before = copy.read()
    sequence, other = changed(before, "trajectory_scored", b'"reward":', b'"reward":9')
    second = next(stored for stored in other if stored.sequence == sequence)
    asyncio.run(forge(copy.node.directory, [second]))
    copy.node.archive.unlink()
    code, said = doctor(as_json=True)
    faults = [fault for fault in json.loads(said[0])["faults"] if fault["stream"] == LOG]
    assert code == 3 and [fault["first"] for fault in faults] == [len(before) + 1]
    assert f"sequence {sequence} is the first, and counts" in faults[0]["what"]
    place = CliHarness(copy.node.directory.parent)
    place.here("replay", "--into", "new.duckdb")
    query = "SELECT count(*), max(reward) <= 1 FROM trajectory_scored UNION ALL SELECT count(*), false FROM unreadable"
    counted = place.here("sql", "--archive", "new.duckdb", "--format", "csv", query).out.splitlines()[1:]
    scored = sum(tag_of(stored.subject) == "trajectory_scored" for stored in before)
    assert sorted(counted) == sorted([f"{scored},true", "1,false"])
    assert "come out the same" in place.here("replay", RUN).out


async def forge(directory: Path, messages: Sequence[Stored]) -> None:
    """The log anew, as somebody makes it who has the files: by a server that lets him append whatever he likes."""
    with pytest.MonkeyPatch.context() as patch:
        make = accounts.accounts_of

        def open_to_all(passwords: Mapping[str, str], *keys: Any) -> dict[str, Any]:
            made: dict[str, Any] = make(passwords, *keys)
            made[accounts.KEEPER]["users"] = [{"user": "me", "password": "me"}]
            return made

        patch.setattr(server, "accounts_of", open_to_all)
        async with broker(directory) as running:
            client = await nats.connect(running.url, user="me", password="me")
            for stored in messages:
                await client.jetstream().publish(stored.subject, stored.data)
            await client.close()
