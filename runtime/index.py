"""The rollouts of a run as they stand in the log, gathered by request; read on from where the last look ended."""

from collections.abc import Sequence
from typing import NamedTuple

from events import codec, subjects
from events.codec import Event
from events.fact import Fact
from events.judgement import ScoringFailed, TrajectoryScored
from events.play import ModelCalled, RolloutsRequested, TrajectoryRecorded
from runtime.log import Log

READ = 5000


class Scored(NamedTuple):
    """One attempt that ran: its trajectory's id, what happened, and its reward, None if it could not be scored."""

    id: str
    recorded: TrajectoryRecorded
    reward: float | None
    outcome: str


class RunIndex:
    """Trajectories with their rewards and calls, for one run and the event types that are asked for besides."""

    def __init__(self, log: Log, run: str, also: Sequence[type[Fact]] = ()) -> None:
        self.log, self.run = log, run
        self.calls: dict[str, ModelCalled] = {}
        self.requests: dict[str, RolloutsRequested] = {}
        self.also: list[Event] = []
        self._recorded: dict[str, list[tuple[str, TrajectoryRecorded]]] = {}
        self._rewards: dict[str, tuple[float | None, str]] = {}
        self._position = 0
        self._also = tuple(also)
        kinds: tuple[type[Fact], ...] = (ModelCalled, RolloutsRequested, TrajectoryRecorded, TrajectoryScored, ScoringFailed, *also)
        self._tags = frozenset(kind.tag() for kind in kinds)

    async def catch_up(self) -> None:
        """Read to the end of the log."""
        while read := await self.log.read(self._position + 1, READ):
            for stored in read:
                if subjects.run_of(stored.subject) == self.run and subjects.tag_of(stored.subject) in self._tags:
                    try:
                        self._take(codec.decode_at(stored.subject, stored.data))
                    except codec.Unreadable:
                        pass  # the controller sets it aside
            self._position = read[-1].sequence

    def attempts(self, requests: Sequence[str]) -> list[Scored]:
        """The attempts of these requests that ran, in the order of requests, items and attempts."""
        found = []
        for request in requests:
            places = {item: place for place, item in enumerate(self.requests[request].items)}
            rows = sorted(self._recorded.get(request, []), key=lambda row: (places[row[1].item], row[1].attempt))
            found += [Scored(id, recorded, *self._rewards.get(id, (None, ""))) for id, recorded in rows]
        return found

    def _take(self, event: Event) -> None:
        match event.data:
            case ModelCalled() as called:
                self.calls[event.id] = called
            case RolloutsRequested() as requested:
                self.requests[event.id] = requested
            case TrajectoryRecorded() as recorded:
                self._recorded.setdefault(recorded.request, []).append((event.id, recorded))
            case TrajectoryScored(trajectory=trajectory, reward=reward, outcome=outcome):
                self._rewards[trajectory] = (reward, outcome)
            case ScoringFailed(trajectory=trajectory):
                self._rewards[trajectory] = (None, "failed")
        if isinstance(event.data, self._also):
            self.also.append(event)
