"""An index over a run's events in memory: the requests to each service with its answers, the attempts of each request,
and the scores.
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from events import codec
from events.codec import Event
from events.errors import CheckFailed
from events.fact import Fact
from events.judgement import JudgeCalled, ScoringFailed, TrajectoryScored
from events.rollouts import ModelCalled, RolloutsRequested, TrajectoryRecorded
from events.run import RunStarted
from runtime.log.port import Stored
from runtime.rollouts.attempt import RecordedAttempt

Judgements = Mapping[str, Fact]
"""The verifier's answer on each trajectory, by the trajectory's id: `TrajectoryScored` or `ScoringFailed`."""


class StoredEvent(NamedTuple):
    """An event, with the message that holds it."""

    stored: Stored
    event: Event

    @property
    def sequence(self) -> int:
        """The sequence that the log gave the message."""
        return self.stored.sequence


class SeenIds:
    """The ids of events that have gone by, in about 24 bytes each: by their first 64 bits.

    Of a million ids, two begin alike with a probability of 3e-8. The later event would be left out.
    """

    def __init__(self) -> None:
        self._count, self._table = 0, array("Q", bytes(8 * 1024))
        """A hash table with open places, where 0 is none."""

    def add(self, id: str) -> bool:
        """Note an id of hexadecimal digits; whether it is new."""
        if not _place(self._table, int(id[:16], 16) or 1):
            return False
        self._count += 1
        if self._count * 2 > len(self._table):
            larger = array("Q", bytes(16 * len(self._table)))
            for key in filter(None, self._table):
                _place(larger, key)
            self._table = larger
        return True


def _place(table: "array[int]", key: int) -> bool:
    """Put a key into the first open place from its own on; False where it stands there."""
    last = len(table) - 1
    at = key & last
    while (there := table[at]) and there != key:
        at = (at + 1) & last
    table[at] = key
    return not there


class EventIndex:
    """The readable events of some messages, which must be in the order of the log. A fork's past may be among them.

    Of several events with one id the first counts.
    """

    def __init__(self, messages: Sequence[Stored]) -> None:
        self.events: list[StoredEvent] = []
        self.started: dict[str, RunStarted] = {}
        """The event that began each run among them."""
        self.judgements: dict[str, Fact] = {}
        """See `Judgements`."""
        self._requests: dict[str, RolloutsRequested] = {}
        self._attempts: dict[tuple[str, str, int], tuple[str, TrajectoryRecorded]] = {}
        self._calls: dict[str, ModelCalled] = {}
        self._answers: dict[tuple[str, str], list[StoredEvent]] = {}
        taken: set[str] = set()
        for stored in messages:
            try:
                event = codec.decode_at(stored.subject, stored.data)
            except codec.Unreadable:
                continue
            if event.id in taken:
                continue
            taken.add(event.id)
            row = StoredEvent(stored, event)
            self.events.append(row)
            self._answers.setdefault((event.cause, event.source), []).append(row)
            match event.data:
                case RunStarted() as started:
                    self.started[event.run] = started
                case RolloutsRequested() as requested:
                    self._requests[event.id] = requested
                case ModelCalled() as called:
                    self._calls[event.id] = called
                case TrajectoryRecorded() as recorded:
                    self._attempts[recorded.request, recorded.item, recorded.attempt] = event.id, recorded
                case (TrajectoryScored() | ScoringFailed()) as judgement:
                    self.judgements[judgement.trajectory] = judgement

    def of_types(self, *kinds: type[Fact]) -> list[Event]:
        """The events of these types, in the order of the log."""
        return [row.event for row in self.events if isinstance(row.event.data, kinds)]

    def answered_requests(
        self, service: str, *kinds: type[Fact], answers: tuple[type[Fact], ...]
    ) -> list[tuple[StoredEvent, list[StoredEvent]]]:
        """The requests that a service has answered, each with everything that the service appended in answer.

        A request is an event of one of the types `kinds`. It is answered when one of the types `answers` is among the
        answers.
        """
        pairs = [
            (row, self._answers.get((row.event.id, service), []))
            for row in self.events
            if isinstance(row.event.data, kinds)
        ]
        return [
            (request, replies)
            for request, replies in pairs
            if any(isinstance(reply.event.data, answers) for reply in replies)
        ]

    def submission(self, of: TrajectoryRecorded) -> tuple[dict[str, TrajectoryRecorded], dict[str, Sequence[str]]]:
        """The trajectories of the submission that one is part of, by id in the request's order, and the request's
        items.
        """
        items = self._requests[of.request].items
        keys = [(of.request, item, of.attempt) for item in items]
        return dict(self._attempts[key] for key in keys if key in self._attempts), {of.request: items}

    def items_by_request(self) -> dict[str, Sequence[str]]:
        """The items of each request for rollouts."""
        return {id: requested.items for id, requested in self._requests.items()}

    @property
    def judge_calls(self) -> dict[str, JudgeCalled]:
        """What verifiers asked their judge model, by id."""
        return {
            stored.event.id: stored.event.data for stored in self.events if isinstance(stored.event.data, JudgeCalled)
        }

    def attempts(self, request: str, judgements: Judgements) -> list[RecordedAttempt]:
        """The attempts of a request that ran, in the order of its items and attempts, scored by these judgements.

        Raises `CheckFailed` if the request is not among the messages, or a call of the policy that one of its attempts
        used.
        """
        requested = self._requests.get(request)
        if requested is None:
            raise CheckFailed(f"Request {request} is not among the run's messages.")
        keys = [(request, item, attempt) for item in requested.items for attempt in range(requested.attempts)]
        return [self._attempt(*self._attempts[key], judgements) for key in keys if key in self._attempts]

    def _attempt(self, id: str, recorded: TrajectoryRecorded, judgements: Judgements) -> RecordedAttempt:
        if missing := [use.call for use in recorded.calls if use.call not in self._calls]:
            raise CheckFailed(f"Call {missing[0]} of trajectory {id} is not among the run's messages.")
        calls = tuple(self._calls[use.call] for use in recorded.calls)
        judgement = judgements.get(id)
        if isinstance(judgement, TrajectoryScored):
            return RecordedAttempt(id, recorded, judgement.reward, judgement.outcome, calls, judgement.details)
        return RecordedAttempt(id, recorded, None, "", calls)
