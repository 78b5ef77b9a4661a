"""Reading the whole log ahead: the same messages as by direct gets, whatever their size, and whoever else reads."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from events.errors import CheckFailed
from runtime.broker.accounts import OPERATOR
from runtime.broker.server import EmbeddedServer
from runtime.log import socket
from runtime.log.port import EVENT_LIMIT, Message, Stored
from runtime.log.socket import BulkReader, NatsSocket
from tests.harness.broker import account, broker

COUNT = 3000


async def fill(server: EmbeddedServer, count: int = COUNT, size: int = 10) -> None:
    async with account(server, "executor") as executor:
        for start in range(0, count, 1000):
            messages = [
                Message(f"evolog.r.e{size}x{n}.model_called", b"x" * size)
                for n in range(start, min(count, start + 1000))
            ]
            await executor.log().append(messages) if size < 10_000 else [
                await executor.log().append([one]) for one in messages
            ]


def with_log(
    tmp_path: Path,
    work: Callable[[Callable[[type[NatsSocket]], NatsSocket]], None],
    *,
    size: int = 10,
    count: int = COUNT,
) -> None:
    """Do something with ways to read a log that so many messages were appended to."""

    async def within() -> None:
        async with broker(tmp_path) as server, account(server, OPERATOR) as operator:
            await fill(server, count, size)
            opened: list[NatsSocket] = []

            def opener(kind: type[NatsSocket]) -> NatsSocket:
                opened.append(kind(operator.credentials, "EVOLOG", timeout=60))
                return opened[-1]

            await asyncio.to_thread(work, opener)
            for one in opened:
                one.close()

    asyncio.run(within())


def everything(reader: NatsSocket, limit: int, start: int = 1) -> list[Stored]:
    found: list[Stored] = []
    while read := reader.read(start + len(found), limit):
        assert len(read) <= limit
        found += read
    return found


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that three thousand messages are many."""
    monkeypatch.setattr(socket, "READ_BATCH", 50)
    monkeypatch.setattr(socket, "PART", 100)
    monkeypatch.setattr(socket, "AHEAD", 300)
    monkeypatch.setattr(socket, "PATIENCE", 1.0)


def test_a_bulk_read_gives_what_direct_gets_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[int] = []
    place = BulkReader._reset_consumer

    def placing(self: BulkReader, start: int) -> None:
        placed.append(start)
        place(self, start)

    def work(opener: Callable[[type[NatsSocket]], NatsSocket]) -> None:
        expected = everything(opener(NatsSocket), COUNT)
        for limit in (COUNT, 777, 130):
            assert everything(opener(BulkReader), limit) == expected
        bulk = opener(BulkReader)
        assert everything(bulk, 500, start=2900) == expected[2899:]
        assert everything(bulk, 500, start=1000) == expected[999:]
        assert len(bulk.last(["evolog.r.e10x7.model_called"])) == 1  # between two reads, with messages on their way
        bulk.read(1, 50), bulk.read(51, 50)
        assert len(bulk.last(["evolog.r.e10x7.model_called"])) == 1
        assert bulk.read(101, 10) == expected[100:110]

    monkeypatch.setattr(BulkReader, "_reset_consumer", placing)
    with_log(tmp_path, work)
    assert placed.count(51) == 4  # the consumer did it, and not direct gets


def test_two_that_read_at_once_both_get_everything(tmp_path: Path) -> None:
    def work(opener: Callable[[type[NatsSocket]], NatsSocket]) -> None:
        expected = everything(opener(NatsSocket), COUNT)
        one, other = opener(BulkReader), opener(BulkReader)
        found: dict[NatsSocket, list[Stored]] = {one: [], other: []}
        for _ in range(40):
            for reader, read in found.items():
                read += reader.read(len(read) + 1, 130)
        assert found[one] == found[other] == expected

    with_log(tmp_path, work)


def test_large_messages_come_in_parts_that_the_server_does_not_hang_up_on(tmp_path: Path) -> None:
    def work(opener: Callable[[type[NatsSocket]], NatsSocket]) -> None:
        found = everything(opener(BulkReader), 1000)
        assert [len(stored.data) for stored in found] == [EVENT_LIMIT] * 80

    with_log(tmp_path, work, size=EVENT_LIMIT, count=80)


def test_the_end_is_empty_and_what_is_appended_later_is_found(tmp_path: Path) -> None:
    async def within() -> None:
        async with broker(tmp_path) as server, account(server, OPERATOR) as operator:
            log = operator.log()
            assert await log.read(1, 100) == []
            await fill(server, 120)
            assert [stored.sequence for stored in await log.read(1, 50) + await log.read(51, 100)] == list(
                range(1, 121)
            )
            assert await log.read(121, 100) == []
            await fill(server, 60, size=11)
            assert [stored.sequence for stored in await log.read(121, 40) + await log.read(161, 100)] == list(
                range(121, 181)
            )

    asyncio.run(within())


def test_a_gap_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = socket._stored

    def without_1000(header: bytes, data: bytes) -> Stored:
        found = stored(header, data)
        return found if found.sequence < 1000 else Stored(found.sequence + 1, found.time, found.subject, found.data)

    def lost(opener: Callable[[type[NatsSocket]], NatsSocket]) -> None:
        bulk = opener(BulkReader)
        handed = socket._HANDED_ON
        monkeypatch.setattr(
            socket,
            "_HANDED_ON",
            lambda read, at: handed(
                read.replace(
                    b".model_called 1 $JS.ACK.EVOLOG.operator.1.1000.",
                    b".model_called 1 $JS.ACK.EVOLOG.operator.1.1001.",
                ),
                at,
            ),
        )
        monkeypatch.setattr(socket, "_stored", without_1000)
        with pytest.raises(CheckFailed, match="sequence 1001 came where 1000 was expected"):
            everything(bulk, 300)

    with_log(tmp_path, lost)
