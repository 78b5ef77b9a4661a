"""A client that appends all the while, and a list of what was acknowledged to it: nothing of that may be lost."""

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence

from events import codec
from events.run import RunResumed
from events.subjects import LOG
from runtime.log.port import Message, Refused, Stored
from services.host.node import Node
from tests.harness.cli import RUN, OperatorClient
from tests.harness.polling import PATIENCE

LEDGER = RunResumed.tag()


class Ledger(threading.Thread):
    """Appends events all the while, one after the other, and keeps those that were acknowledged."""

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True)
        self.client = OperatorClient(node, LOG)
        self.acknowledged: dict[int, bytes] = {}
        self.stop = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            event = codec.event(
                RunResumed(number=number), run=RUN, source="operator", cause="", time="2026-01-01T00:00:00Z"
            )
            message = Message(event.subject, codec.encode(event))
            with contextlib.suppress(Refused):  # it is there; its acknowledgement was lost
                while not self.stop.is_set():
                    sequence = self.append(message)
                    if isinstance(sequence, int):
                        self.acknowledged[sequence] = message.payload
                        break
                    time.sleep(0.05)
            time.sleep(0.03)

    def append(self, message: Message) -> int | None:
        return self.client.ask(lambda socket: socket.append([message]))

    def end(self) -> None:
        """Stop; fails where it has stopped of itself, and so has asked nothing since."""
        assert self.is_alive(), f"the client that appends has died, after {len(self.acknowledged)} events"
        self.stop.set()
        self.join(PATIENCE)


def none_lost(stored: Sequence[Stored], acknowledged: Mapping[int, bytes]) -> None:
    """Every acknowledged event stands where it was acknowledged."""
    there = {message.sequence: message.data for message in stored}
    for sequence, data in acknowledged.items():
        assert there.get(sequence) == data, (
            f"the event that was acknowledged at sequence {sequence} is lost; the log ends at {len(stored)}"
        )
