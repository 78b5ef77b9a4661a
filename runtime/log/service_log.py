"""A log as a service sees it: the service outlives the broker's absence, and its work in hand outlives the service."""

import asyncio
from collections.abc import Sequence

from events.errors import CheckFailed, Unavailable
from runtime.log.in_hand import InHand
from runtime.log.port import Delivery, Log, Message, Stored
from runtime.log.worker import retry_until_available

GATHERING = 0.02
"""Seconds in which further messages may join the first of a fetch."""


class ServiceLog:
    """A log whose reads wait while the broker is away.

    Appends do not: whether what was not confirmed is stored is for who appends to find out (`port.append_once`). With
    `in_hand`, deliveries that this worker's forerunner died with are handed back before the first fetch.
    """

    def __init__(self, log: Log, in_hand: InHand | None = None) -> None:
        self.stream = log.stream
        self._log, self._in_hand = log, in_hand
        self._first = True

    async def append(self, messages: Sequence[Message]) -> int:
        """As `Log.append`."""
        return await self._log.append(messages)

    async def read(self, start: int, limit: int, subject: str = "") -> list[Stored]:
        """As `Log.read`; raises `CheckFailed` where the broker comes back with less than was read before `start`."""

        async def again() -> list[Stored]:
            if (end := await self._log.end()) < start - 1:
                raise CheckFailed(
                    f"The stream {self.stream} ends at sequence {end} since the broker was started again, and was read "
                    f"to {start - 1}: events were lost. `evolog doctor --integrity` says more; put the store back from "
                    "a copy."
                )
            return await self._log.read(start, limit, subject)

        try:
            return await self._log.read(start, limit, subject)
        except Unavailable:
            return await retry_until_available(again)

    async def count(self, run: str, start: int) -> int:
        """As `Log.count`."""
        return await retry_until_available(lambda: self._log.count(run, start))

    async def last(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """As `Log.last`."""
        return await retry_until_available(lambda: self._log.last(subjects))

    async def end(self) -> int:
        """As `Log.end`."""
        return await retry_until_available(self._log.end)

    async def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """As `Log.fetch`."""
        if self._in_hand is None:
            return await self._log.fetch(limit, wait)
        if self._first and (left := self._in_hand.left()):
            await self.hand_back(left)
        self._first = False
        self._in_hand.write([])
        deliveries = await self._log.fetch(1, wait)
        self._in_hand.write([delivery.handle for delivery in deliveries])
        if deliveries and limit > 1:
            await asyncio.sleep(GATHERING)
            deliveries += await self._log.fetch(limit - 1, 0)
            self._in_hand.write([delivery.handle for delivery in deliveries])
        return [_Held(delivery, self._in_hand) for delivery in deliveries]

    async def hand_back(self, handles: Sequence[str]) -> None:
        """As `Log.hand_back`."""
        await retry_until_available(lambda: self._log.hand_back(handles))


class _Held:
    """A delivery that is written down. More time for it is asked for as often as the broker is there to be asked."""

    def __init__(self, delivery: Delivery, in_hand: InHand) -> None:
        self.stored, self.handle, self.pending = delivery.stored, delivery.handle, delivery.pending
        self._delivery, self._in_hand = delivery, in_hand

    async def ack(self) -> None:
        """As `Delivery.ack`."""
        await retry_until_available(self._delivery.ack)

    async def in_progress(self) -> None:
        """As `Delivery.in_progress`."""
        await self._delivery.in_progress()
        self._in_hand.live()
