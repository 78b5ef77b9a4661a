"""Runs told as sentences: `given(run).when(fact)` feeds a decider as the live shell does, and says what it decides."""

from typing import Any

from events import codec
from events.fact import Fact
from runtime.decider import Course, Decision
from runtime.log import Stored
from runtime.run_decider import DECIDER

RUN = "r"


class Story:
    """A run so far. `decided` holds the facts of the last decision."""

    def __init__(self, run: str = RUN) -> None:
        self.course: Course[Any] = Course(DECIDER, run)
        self.decisions: list[Decision] = []
        self.decided: list[Fact] = []
        self._sequence = 0

    def when(self, *facts: Fact) -> "Story":
        """Feed the facts, one after the other."""
        self.decided = []
        for fact in facts:
            self._sequence += 1
            event = codec.event(fact, run=self.course.run, source="test", cause="", time="2026-01-01T00:00:00Z")
            stored = Stored(self._sequence, self._sequence * 1_000_000_000, event.subject, codec.encode(event))
            decision = self.course.feed(stored, event)
            if decision:
                self.decisions.append(decision)
                self.decided += [of.data for of in decision.events[1:]]
        return self

    def of(self, kind: type[Fact]) -> list[Any]:
        """The facts of one type in the last decisions."""
        return [fact for fact in self.decided if isinstance(fact, kind)]


def given(*facts: Fact) -> Story:
    """A run in which these facts came one after the other."""
    return Story().when(*facts)
