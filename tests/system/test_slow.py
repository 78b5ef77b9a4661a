"""Who cannot keep up: a consumer ten times slower than what comes, and a reader whom the server drops in the middle of
an answer.
"""

import asyncio
import resource
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from events import codec
from events.codec import Event
from events.errors import Unavailable
from events.judgement import TrajectoryScored
from events.secret import Scanner
from events.subjects import LOG
from runtime.broker import streams
from runtime.broker.credentials import Credentials, credentials_file
from runtime.log import worker
from runtime.log.port import append_once
from runtime.log.socket import NatsSocket
from tests.harness.broker import account, broker
from tests.harness.facts import trajectory

pytestmark = pytest.mark.slow

SCANNER = Scanner([])
MB = 1024 * 1024


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_consumer_ten_times_slower_than_what_comes_loses_nothing_and_holds_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, at_once, seconds = 1500, 50, 0.1
    monkeypatch.setattr(streams, "ACK_WAIT", 5.0)
    monkeypatch.setattr(worker, "HEARTBEAT", 0.3)
    performed: list[str] = []

    async def score(events: list[Event]) -> list[Event]:
        performed.extend(event.id for event in events)
        await asyncio.sleep(seconds if len(performed) > at_once else 8.0)  # the first takes longer than its lease
        return [
            worker.answer(
                TrajectoryScored(
                    trajectory=event.id, request="q", item="i", attempt=0, reward=1.0, outcome="right", verifier="v"
                ),
                event,
                "verifier",
            )
            for event in events
        ]

    async def check() -> None:
        async with (
            broker(tmp_path) as running,
            account(running, "executor") as plays,
            account(running, "verifier") as scores,
        ):
            assert running.pid
            before = resident(running.pid), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            for first in range(0, attempts, 250):
                await append_once(plays.log(), [trajectory(number) for number in range(first, first + 250)], SCANNER)
            stop = asyncio.Event()
            working = asyncio.create_task(
                worker.work(scores.log(), score, source="verifier", scanner=SCANNER, limit=at_once, stop=stop)
            )
            while (end := await scores.log().end()) < 2 * attempts:
                await asyncio.sleep(0.05)
            stop.set()
            await working
            stored = await scores.log().read(1, 10 * attempts)
            scored = [codec.decode(message.data) for message in stored[attempts:]]
            assert end == len(stored) == 2 * attempts
            assert {event.cause for event in scored} == {codec.decode(message.data).id for message in stored[:attempts]}
            assert len(performed) == attempts  # nothing was handed out again while its worker said that it was alive
            grown = (
                resident(running.pid) - before[0],
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before[1],
            )
            assert max(grown) < 64 * MB, grown

    asyncio.run(check())


class Stalling(NatsSocket):
    """A reader that stops in the middle of its first answer until a condition holds."""

    def __init__(self, credentials: Credentials, until: Callable[[], bool]) -> None:
        super().__init__(credentials, LOG, timeout=5)
        self._until, self._read = until, 0

    def _fill(self) -> None:
        before = len(self._buffer)
        super()._fill()
        self._read += len(self._buffer) - before
        if self._read > MB:
            end = time.monotonic() + 30
            while not self._until():
                assert time.monotonic() < end, "the server was patient"
                time.sleep(0.05)


def test_a_reader_that_the_server_drops_in_the_middle_of_an_answer_goes_on_without_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.broker.server.WRITE_DEADLINE", "10s")  # a minute as it is
    size, count = 1_000_000, 150
    events = [of_size(number, size) for number in range(count)]

    async def check() -> None:
        async with broker(tmp_path) as running, account(running, "executor") as plays:
            for event in events:
                await append_once(plays.log(), [event], SCANNER)
            login = msgspec.json.decode(credentials_file(running.directory, "archivist").read_bytes(), type=Credentials)
            assert running.pid
            before = resident(running.pid)
            said = running.directory / "logs" / "nats-server.log"
            reader = Stalling(login, lambda: "Slow Consumer" in said.read_text())
            with pytest.raises(Unavailable, match="No answer from the broker"):
                await asyncio.to_thread(reader.read, 1, 10_000)
            read = await asyncio.to_thread(reader.read, 1, 10_000)
            assert [stored.data for stored in read] == [codec.encode(event) for event in events]
            reader.close()
            assert resident(running.pid) - before < 256 * MB

    asyncio.run(check())


def of_size(attempt: int, size: int) -> Event:
    """A trajectory with an answer of so many bytes."""
    event = trajectory(attempt)
    return msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, answer="x" * size))
