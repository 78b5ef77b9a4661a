import asyncio
from collections.abc import Sequence
from typing import Any

from services.host.statuses import StatusBoard
from tests.harness.polling import PATIENCE


class Swallowing:
    """A connection on which an answer comes together with a cancellation, which nats-py then swallows."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def gather(self, subjects: Sequence[str]) -> list[bytes]:
        try:
            self.asked.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return []
        raise AssertionError


def test_a_board_is_left_though_its_cancellation_is_swallowed() -> None:
    async def check() -> None:
        connection: Any = Swallowing()
        board = StatusBoard(connection)
        await board.__aenter__()
        await connection.asked.wait()
        connection.asked.clear()
        await asyncio.wait([asyncio.ensure_future(board.__aexit__(None, None, None))], timeout=PATIENCE)
        assert not connection.asked.is_set()

    asyncio.run(check())
