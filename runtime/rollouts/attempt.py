"""A recorded attempt: its result, and the requests that it made of the policy."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from events.rollouts import ModelCalled, TrajectoryRecorded
from runtime.blobs.directory import Blobs
from runtime.policies.interface import SampleRequest


class RecordedAttempt(NamedTuple):
    """One attempt that ran: its trajectory's id, what happened, its reward, and the calls of the policy
    that it used.
    """

    id: str
    recorded: TrajectoryRecorded
    reward: float | None
    """None if it could not be scored."""
    outcome: str
    calls: tuple[ModelCalled, ...]
    details: str = ""
    """What the verifier says of the answer beyond its word."""


def request_reader(blobs: Blobs) -> Callable[[ModelCalled], SampleRequest]:
    """A function from a recorded call to its request; the blob of a group commit is read once."""

    @functools.cache
    def requests(body: str) -> list[SampleRequest]:
        return msgspec.json.decode(blobs.get(body), type=list[SampleRequest])

    return lambda call: requests(call.body)[call.index]
