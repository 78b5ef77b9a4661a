"""A service's log: it waits for a broker that is away, finds out when the broker has lost something, and hands back
what a dead worker had in hand.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import runtime.broker.streams
from events.errors import CheckFailed, Unavailable
from events.secret import Scanner
from runtime.broker.streams import ACK_WAIT
from runtime.log import worker
from runtime.log.in_hand import InHand
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import Log, Stored, append_once
from runtime.log.service_log import ServiceLog
from tests.harness.broker import account, broker
from tests.harness.facts import trajectory
from tests.harness.polling import PATIENCE

SCANNER = Scanner([])


def verifier_log() -> MemoryLog:
    return MemoryLog(MemoryStream(), ["trajectory_recorded"])


class Away(MemoryLog):
    """A log whose broker is away for the first calls, and back with fewer messages than there were."""

    absences = 3
    lost = 0

    async def read(self, start: int, limit: int, subject: str = "") -> list[Stored]:
        if self.absences:
            self.absences -= 1
            raise Unavailable("No broker answers.")
        return await super().read(start, limit, subject)

    async def end(self) -> int:
        return await super().end() - self.lost


def away(lost: int = 0) -> ServiceLog:
    memory = MemoryStream()
    asyncio.run(append_once(MemoryLog(memory), [trajectory(attempt) for attempt in range(3)], SCANNER))
    log = Away(memory)
    log.lost = lost
    return ServiceLog(log)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "FIRST_PAUSE", 0.001)


def test_a_read_waits_for_a_broker_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    assert [stored.sequence for stored in asyncio.run(away().read(2, 10))] == [2, 3]
    assert caplog.messages == ["No broker answers."]  # said once


def test_a_broker_that_comes_back_with_less_than_was_read_is_an_error() -> None:
    assert asyncio.run(away(lost=1).read(3, 10))  # the end of what was read before is there
    with pytest.raises(CheckFailed, match=r"ends at sequence 2 since .* was read to 3: events were lost"):
        asyncio.run(away(lost=1).read(4, 10))


def test_every_question_is_answered_after_the_server_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.broker.streams, "ACK_WAIT", 3600.0)
    event = trajectory(0)

    async def check() -> None:
        async with (
            broker(tmp_path) as server,
            account(server, "executor") as executor,
            account(server, "verifier") as verifier,
        ):
            log, handed = ServiceLog(executor.log()), ServiceLog(verifier.log(), InHand(tmp_path / "in_hand"))
            await append_once(log, [event], SCANNER)
            (delivery,) = await handed.fetch(1, PATIENCE)
            questions: Sequence[Callable[[], Awaitable[Any]]] = (
                lambda: log.read(1, 10),
                lambda: log.last([event.subject]),
                log.end,
                delivery.ack,
                lambda: worker.retry_until_available(lambda: append_once(log, [trajectory(1)], SCANNER)),
            )
            assert server.pid
            os.kill(server.pid, 9)
            await server.wait()
            waiting = [asyncio.ensure_future(question()) for question in questions]
            await asyncio.sleep(0.3)
            assert not any(one.done() for one in waiting)
            await server.start()
            read, last, end, _, _ = await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)
            assert [stored.sequence for stored in read][:1] == [1] and len(last) == 1 and end >= 1
            assert await log.end() == 2

    asyncio.run(check())


def test_an_append_that_waits_for_its_answer_is_given_up_when_the_server_is_killed(tmp_path: Path) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server, account(server, "executor") as executor:
            assert server.pid
            os.kill(server.pid, 19)  # so that no answer comes before the end
            appending = asyncio.ensure_future(append_once(executor.log(), [trajectory(0)], SCANNER))
            await asyncio.sleep(0.1)
            os.kill(server.pid, 9)
            with pytest.raises(Unavailable, match="has gone"):
                await appending

    asyncio.run(check())


def test_what_a_dead_worker_had_in_hand_is_handed_to_the_next_one_at_once(tmp_path: Path) -> None:
    async def check() -> None:
        log = verifier_log()
        await append_once(log, [trajectory(0), trajectory(1)], SCANNER)
        first = ServiceLog(log, InHand(tmp_path / "work" / "in_hand"))
        done, left = await first.fetch(2, 0)
        await done.ack()
        (again,) = await ServiceLog(log, InHand(tmp_path / "work" / "in_hand")).fetch(2, 0)
        assert again.stored == left.stored
        assert await first.fetch(2, 0) == []

    asyncio.run(check())


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def old(path: Path) -> None:
    os.utime(path, (time.time() - ACK_WAIT - 1,) * 2)


@pytest.mark.parametrize("spoil", [torn, old, Path.unlink])
def test_a_file_that_is_torn_old_or_lost_hands_back_nothing(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    async def check() -> None:
        log: Log = verifier_log()
        await append_once(log, [trajectory(0)], SCANNER)
        await ServiceLog(log, InHand(tmp_path / "in_hand")).fetch(1, 0)
        spoil(tmp_path / "in_hand")
        assert await ServiceLog(log, InHand(tmp_path / "in_hand")).fetch(1, 0) == []

    asyncio.run(check())


def test_a_request_for_more_time_is_a_sign_of_life(tmp_path: Path) -> None:
    async def check() -> None:
        log = verifier_log()
        await append_once(log, [trajectory(0)], SCANNER)
        (delivery,) = await ServiceLog(log, InHand(tmp_path / "in_hand")).fetch(1, 0)
        old(tmp_path / "in_hand")
        await delivery.in_progress()
        assert await ServiceLog(log, InHand(tmp_path / "in_hand")).fetch(1, 0)

    asyncio.run(check())


def test_a_disk_without_room_for_the_file_stops_nobody(tmp_path: Path) -> None:
    async def check() -> None:
        log = verifier_log()
        await append_once(log, [trajectory(0)], SCANNER)
        (tmp_path / "file").touch()
        assert await ServiceLog(log, InHand(tmp_path / "file" / "in_hand")).fetch(1, 0)

    asyncio.run(check())
