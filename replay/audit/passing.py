"""What an audit needs of a run's events, gathered as they go by one after the other: so its memory grows with the
candidates and their items, and not with the log.

Calls of the policy, trajectories and rewards are many. Of these are kept the first call with each request body, the
rewards that make up scores on dev, those of the start, and what shows a fault. All others are taken by the checks that
look at them, and counted.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress

from msgspec.structs import replace

from events import codec
from events.judgement import JudgeCalled, ScoringFailed, TrajectoryScored
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from replay.audit.provenance.bookkeeping import Bookkeeping, Generations
from replay.recorded import SeenIds, StoredEvent
from runtime.log.port import Stored


class Passing:
    """A run's events, with those of its past, as they go by in the order of the log, of several with one id the first
    alone.
    """

    def __init__(self) -> None:
        self.events: list[StoredEvent] = []
        """Those that are kept, without their messages' bytes and without the texts and tokens of calls."""
        self.book = Bookkeeping()
        """The checks that look at the many."""
        self._generation_of = Generations().of
        self._shown: set[tuple[str, int]] = set()
        """Request bodies that were kept, each with the generation that it was shown in."""
        self._scores: set[str] = set()
        """The requests whose rewards are kept."""

    def take(self, stored: StoredEvent) -> None:
        """Take the next event."""
        generation, shows_fault = self._generation_of(stored), self.book.take(stored)
        if self._counts(stored, generation) or shows_fault:
            self.events.append(_light(stored))

    def _counts(self, stored: StoredEvent, generation: int) -> bool:
        match stored.event.data:
            case TrajectoryRecorded() | RolloutFailed() | JudgeCalled():
                return False
            case TrajectoryScored(request=request) | ScoringFailed(request=request):
                return request in self._scores
            case ModelCalled() as called:
                shown = called.body, generation
                if not called.body or shown in self._shown:
                    return False
                self._shown.add(shown)
            case RolloutsRequested(purpose=purpose, generation=own):
                if purpose == "dev" or own == 0:
                    self._scores.add(stored.event.id)
        return True


def passed(messages: Iterable[Stored]) -> Passing:
    """These messages, which hold a run's events and those of its past, once they have gone by."""
    passing = Passing()
    for stored in readable_once(messages, SeenIds()):
        passing.take(stored)
    return passing


def readable_once(messages: Iterable[Stored], seen: SeenIds) -> Iterator[StoredEvent]:
    """The events of messages that can be read and whose ids were not `seen` before."""
    for stored in messages:
        with suppress(codec.Unreadable):
            event = codec.decode_at(stored.subject, stored.data)
            if seen.add(event.id):
                yield StoredEvent(stored, event)


def _light(stored: StoredEvent) -> StoredEvent:
    message, event = stored
    if isinstance(called := event.data, ModelCalled):
        event = replace(event, data=replace(called, texts=(), tokens=(), logprobs=()))
    elif isinstance(scored := event.data, TrajectoryScored) and scored.details:
        event = replace(event, data=replace(scored, details=""))
    return StoredEvent(replace(message, data=b""), event)
