"""A run's messages in memory, by what they are about: what was asked of each service, what came back, and the attempts of each request."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from events import codec
from events.codec import Event
from events.errors import CheckFailed
from events.fact import Fact
from events.judgement import ScoringFailed, TrajectoryScored
from events.rollouts import ModelCalled, RolloutsRequested, TrajectoryRecorded
from events.run import RunStarted
from runtime.log.port import Stored
from runtime.rollouts.attempt import RecordedAttempt

Judgements = Mapping[str, Fact]
"""What the verifier said of a trajectory, by the trajectory's id."""


class StoredEvent(NamedTuple):
    """An event, with the message that holds it."""

    stored: Stored
    event: Event

    @property
    def sequence(self) -> int:
        """Where it stands."""
        return self.stored.sequence


class EventIndex:
    """The readable events of some messages, which are in the order of the log; those of a fork and of its past may be among them."""

    def __init__(self, messages: Sequence[Stored]) -> None:
        self.events: list[StoredEvent] = []
        self.started: dict[str, RunStarted] = {}
        """The beginning of each run among them."""
        self.judged: dict[str, Fact] = {}
        self._requests: dict[str, RolloutsRequested] = {}
        self._attempts: dict[tuple[str, str, int], tuple[str, TrajectoryRecorded]] = {}
        self._calls: dict[str, ModelCalled] = {}
        self._answers: dict[tuple[str, str], list[StoredEvent]] = {}
        for stored in messages:
            try:
                event = codec.decode_at(stored.subject, stored.data)
            except codec.Unreadable:
                continue
            told = StoredEvent(stored, event)
            self.events.append(told)
            self._answers.setdefault((event.cause, event.source), []).append(told)
            match event.data:
                case RunStarted() as started:
                    self.started[event.run] = started
                case RolloutsRequested() as requested:
                    self._requests[event.id] = requested
                case ModelCalled() as called:
                    self._calls[event.id] = called
                case TrajectoryRecorded() as recorded:
                    self._attempts[recorded.request, recorded.item, recorded.attempt] = event.id, recorded
                case (TrajectoryScored() | ScoringFailed()) as said:
                    self.judged[said.trajectory] = said

    def of(self, *kinds: type[Fact]) -> list[Event]:
        """The events of these types."""
        return [told.event for told in self.events if isinstance(told.event.data, kinds)]

    def asked(self, service: str, *kinds: type[Fact], answers: tuple[type[Fact], ...]) -> list[tuple[StoredEvent, list[StoredEvent]]]:
        """The events of these types that a service has answered with an event of one of the types `answers`, with all that it answered."""
        found = [(told, self._answers.get((told.event.id, service), [])) for told in self.events if isinstance(told.event.data, kinds)]
        return [(told, said) for told, said in found if any(isinstance(of.event.data, answers) for of in said)]

    def attempts(self, request: str, judged: Judgements) -> list[RecordedAttempt]:
        """The attempts of a request that ran, in the order of its items and attempts.

        Raises `CheckFailed` if the request is not among the messages, or a call of the policy that one of its attempts used.
        """
        requested = self._requests.get(request)
        if requested is None:
            raise CheckFailed(f"Request {request} is not among the run's messages.")
        places = [(request, item, attempt) for item in requested.items for attempt in range(requested.attempts)]
        return [self._attempt(*self._attempts[place], judged) for place in places if place in self._attempts]

    def _attempt(self, id: str, recorded: TrajectoryRecorded, judged: Judgements) -> RecordedAttempt:
        if missing := [use.call for use in recorded.calls if use.call not in self._calls]:
            raise CheckFailed(f"Call {missing[0]} of trajectory {id} is not among the run's messages.")
        calls = tuple(self._calls[use.call] for use in recorded.calls)
        said = judged.get(id)
        if isinstance(said, TrajectoryScored):
            return RecordedAttempt(id, recorded, said.reward, said.outcome, calls)
        return RecordedAttempt(id, recorded, None, "", calls)
