"""The contract of the log, kept by the one in memory and by a real nats-server alike."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

import runtime.broker.streams
from events import codec
from events.errors import CheckFailed, Misconfigured, Unavailable
from events.rollouts import RolloutFailed
from events.secret import Scanner, Secret, SecretFound
from events.subjects import LOG
from runtime.log import lineage
from runtime.log.lineage import Span
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import Log, Message, Refused, Stored, append_once, require_contiguous
from runtime.log.socket import NatsSocket
from tests.harness.broker import account, broker
from tests.harness.facts import RUN, event_of, started, trajectory
from tests.harness.polling import PATIENCE

Check = Callable[[Log, Log], Awaitable[None]]


def message(attempt: int, expected: int = 0, run: str = RUN) -> Message:
    event = trajectory(attempt, run)
    return Message(event.subject, codec.encode(event), expected)


@contextlib.asynccontextmanager
async def logs(kind: str, directory: Path) -> AsyncIterator[tuple[Log, Log]]:
    """The executor's log, and the verifier's, which is handed trajectories."""
    if kind == "memory":
        stream = MemoryStream()
        yield MemoryLog(stream), MemoryLog(stream, ["trajectory_recorded"])
        return
    async with (
        broker(directory) as server,
        account(server, "executor") as executor,
        account(server, "verifier") as verifier,
    ):
        yield executor.log(), verifier.log()


@pytest.fixture(params=["memory", "jetstream"])
def on_log(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Check], None]:
    def run(check: Check) -> None:
        async def within() -> None:
            async with logs(request.param, tmp_path) as (log, handed):
                await check(log, handed)

        asyncio.run(within())

    return run


OnLog = Callable[[Check], None]


def test_what_is_appended_is_read_in_order(on_log: OnLog) -> None:
    async def check(log: Log, _: Log) -> None:
        assert await log.end() == 0 and await log.read(1, 10) == []
        for attempt in range(3):
            assert await log.append([message(attempt)]) == attempt + 1
        read = await log.read(1, 10)
        assert [stored.sequence for stored in read] == [1, 2, 3] and await log.end() == 3
        assert codec.decode_at(read[1].subject, read[1].data) == trajectory(1)
        assert [stored.sequence for stored in await log.read(2, 1)] == [2]
        assert [stored.sequence for stored in await log.read(1, 9, message(1).subject)] == [2]
        assert read[0].time <= read[2].time and read[0].time > 1_700_000_000 * 10**9

    on_log(check)


def test_a_second_copy_is_refused(on_log: OnLog) -> None:
    async def check(log: Log, _: Log) -> None:
        await log.append([message(0)])
        with pytest.raises(Refused):
            await log.append([message(0)])
        assert await log.end() == 1

    on_log(check)


def test_a_batch_is_stored_whole_or_not_at_all(on_log: OnLog) -> None:
    async def check(log: Log, _: Log) -> None:
        assert await log.append([message(attempt) for attempt in range(1000)]) == 1000
        with pytest.raises(Refused):
            await log.append([message(1000), message(7), message(1001)])
        assert await log.end() == 1000
        assert [stored.sequence for stored in await log.read(1, 5000)] == list(range(1, 1001))

    on_log(check)


def test_a_stale_expectation_is_refused_and_the_right_one_taken(on_log: OnLog) -> None:
    async def check(log: Log, _: Log) -> None:
        first = await log.append([message(0)])
        with pytest.raises(Refused):
            await log.append([message(0, first + 5), message(1)])
        assert await log.append([message(0, first), message(1)]) == first + 2

    on_log(check)


def test_the_last_of_a_subject_is_found_by_name_and_by_pattern(on_log: OnLog) -> None:
    async def check(log: Log, _: Log) -> None:
        await log.append([message(attempt) for attempt in range(3)])
        subjects = [message(attempt).subject for attempt in (0, 2, 9)]
        assert {name: stored.sequence for name, stored in (await log.last(subjects)).items()} == {
            subjects[0]: 1,
            subjects[1]: 3,
        }
        assert len(await log.last(["evolog.r.*.trajectory_recorded"])) == 3
        assert await log.last(["evolog.other.*.trajectory_recorded"]) == {}

    on_log(check)


def test_a_runs_messages_are_counted_from_a_sequence_on(on_log: OnLog) -> None:
    async def check(log: Log, _: Log) -> None:
        assert await log.count("r", 1) == 0
        await log.append([message(attempt) for attempt in range(3)])
        await log.append([message(attempt, run="other") for attempt in range(2)])
        await log.append([message(7)])
        assert [await log.count("r", start) for start in (0, 1, 3, 4, 6, 7)] == [4, 4, 2, 1, 1, 0]
        assert [await log.count(run, 1) for run in ("other", "oth", "nobody")] == [2, 0, 0]

    on_log(check)


def test_a_runs_messages_are_read_to_its_last_and_not_to_the_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    class Watched(MemoryLog):
        async def read(self, start: int, limit: int, subject: str = "") -> list[Stored]:
            """As `Log.read`."""
            reads.append((start, limit, subject))
            return await super().read(start, limit, subject)

    async def check() -> None:
        log = Watched(MemoryStream())
        begins = event_of(started())
        await log.append([message(attempt, run="before") for attempt in range(5)])
        await log.append([Message(begins.subject, codec.encode(begins))])
        await log.append([message(attempt, run=run) for attempt in range(8) for run in (RUN, "beside")])
        await log.append([message(attempt, run="later") for attempt in range(100)])
        assert len(await lineage.messages(log, Span(RUN))) == 9
        assert [read for read in reads if not read[2]] == [(6, 10, ""), (16, 10, "")]
        reads.clear()
        assert len(await lineage.messages(log, Span(RUN, 10))) == 3
        assert [read for read in reads if not read[2]] == [(6, 5, "")]

    monkeypatch.setattr(lineage, "PAGE_SIZE", 10)
    asyncio.run(check())


def test_appending_once_adds_only_what_is_missing(on_log: OnLog) -> None:
    async def check(log: Log, _: Log) -> None:
        none = Scanner([])
        assert not await append_once(log, [trajectory(attempt) for attempt in range(4)], none)
        assert await append_once(log, [trajectory(attempt) for attempt in range(2500)], none)
        assert await append_once(log, [trajectory(attempt) for attempt in range(2500)], none)
        read = await log.read(1, 5000)
        assert len(read) == 2500 == len({stored.subject for stored in read})

    on_log(check)


def test_two_appenders_of_the_same_leave_one_copy(on_log: OnLog) -> None:
    async def check(log: Log, _: Log) -> None:
        events = [trajectory(attempt) for attempt in range(50)]
        await asyncio.gather(*[append_once(log, events[at:], Scanner([])) for at in range(5)])
        assert await log.end() == 50

    on_log(check)


def test_work_is_handed_out_once_and_only_its_kind(on_log: OnLog) -> None:
    async def check(log: Log, handed: Log) -> None:
        failed = RolloutFailed(request="q", item="i", attempt=9, purpose="dev", kind="hung", reason="")
        other = codec.event(failed, run="r", source="executor", cause="", time="")
        await append_once(log, [trajectory(0), other, trajectory(1)], Scanner([]))
        deliveries = await handed.fetch(10, 1.0)
        assert [delivery.stored.sequence for delivery in deliveries] == [1, 3]
        for delivery in deliveries:
            await delivery.in_progress()
            await delivery.ack()
        assert await handed.fetch(10, 0.2) == []

    on_log(check)


def test_work_that_was_done_late_is_handed_out_no_more(on_log: OnLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stood still for longer than the server waits has its work handed out again, unless it is done."""
    monkeypatch.setattr(runtime.broker.streams, "ACK_WAIT", 0.2)

    async def check(log: Log, handed: Log) -> None:
        for attempt in range(5):
            await append_once(log, [trajectory(attempt)], Scanner([]))
            (late,) = await handed.fetch(1, PATIENCE)
            await asyncio.sleep(0.4)
            await late.in_progress()
            await late.ack()
            assert await handed.fetch(1, 0.2) == []

    on_log(check)


def test_work_that_another_has_done_meanwhile_can_be_acknowledged_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.broker.streams, "ACK_WAIT", 0.2)

    async def check() -> None:
        async with logs("jetstream", tmp_path) as (log, handed):
            await append_once(log, [trajectory(0)], Scanner([]))
            (first,) = await handed.fetch(1, PATIENCE)
            (second,) = await handed.fetch(1, PATIENCE)
            assert second.stored == first.stored
            await asyncio.sleep(0.3)
            for delivery in (second, first, second):
                await delivery.ack()
            assert await handed.fetch(1, 0.2) == []

    asyncio.run(check())


def test_work_is_handed_out_again_at_once_where_it_is_handed_back_and_not_done(
    on_log: OnLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.broker.streams, "ACK_WAIT", 3600.0)

    async def check(log: Log, handed: Log) -> None:
        await append_once(log, [trajectory(0), trajectory(1)], Scanner([]))
        done, left = await handed.fetch(2, PATIENCE)
        await done.ack()
        for _ in range(2):
            await handed.hand_back([done.handle, left.handle])
        (again,) = await handed.fetch(10, PATIENCE)
        assert again.stored == left.stored
        assert await handed.fetch(10, 0.2) == []

    on_log(check)


def test_a_known_secret_is_never_appended(on_log: OnLog) -> None:
    async def check(log: Log, _: Log) -> None:
        fact = RolloutFailed(
            request="q", item="i", attempt=0, purpose="dev", kind="crashed", reason="key hunter2hunter2 refused"
        )
        event = codec.event(fact, run="r", source="executor", cause="", time="")
        with pytest.raises(SecretFound):
            await append_once(log, [event], Scanner([Secret("hunter2hunter2")]))
        assert await log.end() == 0

    on_log(check)


def test_a_gap_in_the_log_is_said() -> None:
    with pytest.raises(CheckFailed, match="sequence 3 came where 2 was expected"):
        require_contiguous([Stored(1, 0, "", b""), Stored(3, 0, "", b"")], 1)


def test_once_holds_after_the_duplicate_window_and_over_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window in which the server remembers message ids, two minutes otherwise, is made short and let pass."""
    monkeypatch.setattr(runtime.broker.streams, "DUPLICATE_WINDOW", 0.1)

    async def check() -> None:
        async with broker(tmp_path) as server, account(server, "executor") as executor:
            await append_once(executor.log(), [trajectory(0), trajectory(1)], executor.scanner)
            await asyncio.sleep(0.3)
            await append_once(executor.log(), [trajectory(0), trajectory(1)], executor.scanner)
            assert await executor.log().end() == 2
            await server.stop()
            await server.start()
            for _ in range(100):
                try:
                    await append_once(executor.log(), [trajectory(0), trajectory(1)], executor.scanner)
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
            assert await executor.log().end() == 2

    asyncio.run(check())


def test_an_account_may_not_append_what_is_not_its_own(tmp_path: Path) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server, account(server, "verifier") as verifier:
            with pytest.raises(Misconfigured, match="may not do this"):
                await verifier.log().append([message(0)])

    asyncio.run(check())


def test_of_two_outcomes_of_one_attempt_only_the_first_is_stored(on_log: OnLog) -> None:
    async def check(log: Log, _: Log) -> None:
        failed = RolloutFailed(request="q", item="i", attempt=1, purpose="dev", kind="hung", reason="")
        await append_once(log, [codec.event(failed, run="r", source="executor", cause="q", time="")], Scanner([]))
        await append_once(log, [trajectory(0), trajectory(1), trajectory(2)], Scanner([]))
        tags = [stored.subject.rpartition(".")[2] for stored in await log.read(1, 10)]
        assert tags == ["rollout_failed", "trajectory_recorded", "trajectory_recorded"]

    on_log(check)


def test_more_than_a_thousand_events_match_a_pattern(on_log: OnLog) -> None:
    async def check(log: Log, _: Log) -> None:
        await append_once(log, [trajectory(attempt) for attempt in range(1100)], Scanner([]))
        assert len(await log.last(["evolog.*.*.trajectory_recorded"])) == 1100

    on_log(check)


def test_no_two_calls_wait_for_the_same_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an answer that comes after its call has given up would be taken for a later call's."""
    replies: list[bytes] = []
    appended = NatsSocket._send_append

    def remember(wire: NatsSocket, frames: bytes, reply: bytes, count: int) -> int:
        replies.append(reply)
        return appended(wire, frames, reply, count)

    monkeypatch.setattr(NatsSocket, "_send_append", remember)

    async def check() -> None:
        async with broker(tmp_path) as server, account(server, "executor") as executor:
            wires = [NatsSocket(executor.credentials, LOG) for _ in range(2)]
            for attempt in range(6):
                wires[attempt % 2].append([message(attempt)])
                wires[0].close()  # the inbox outlives a connection
            assert len(set(replies)) == 6

    asyncio.run(check())


def test_a_connection_that_was_not_used_for_a_while_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server, account(server, "executor") as executor:
            wire = NatsSocket(executor.credentials, LOG)
            made: list[object] = []
            connect = NatsSocket._connect

            def remember(wire: NatsSocket) -> socket.socket:
                made.append(wire)
                return connect(wire)

            monkeypatch.setattr(NatsSocket, "_connect", remember)
            for attempt in range(2):
                wire.append([message(attempt)])
            assert len(made) == 1
            monkeypatch.setattr("runtime.log.socket.IDLE", 0.0)
            wire.append([message(2)])
            assert len(made) == 2

    asyncio.run(check())


def test_what_is_refused_while_the_log_shows_nothing_there_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of a cluster may be behind, and its leader may change with an append under way."""
    monkeypatch.setattr("runtime.log.port.LAG", 0.0)
    refusals = 3

    class Behind(MemoryLog):
        async def append(self, messages: Sequence[Message]) -> int:
            nonlocal refusals
            refusals -= 1
            if refusals >= 0:
                raise Refused("not yet")
            return await super().append(messages)

    log = Behind(MemoryStream())
    assert not asyncio.run(append_once(log, [trajectory(0)], Scanner([])))
    assert len(asyncio.run(log.read(1, 10))) == 1
    refusals = 1000
    with pytest.raises(Refused):
        asyncio.run(append_once(log, [trajectory(1)], Scanner([])))
