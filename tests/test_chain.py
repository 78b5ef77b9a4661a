"""The hash chain of decisions, as anyone can check it who has the log."""

import dataclasses
from collections.abc import Sequence

import msgspec
import pytest
from given import RUN
from test_run_decider import proposed, started

from events import codec
from events.fact import Fact
from events.judgement import TrajectoryScored
from events.play import RolloutsRequested
from replay.chain import Broken, Chain
from runtime.decider import Course
from runtime.log import Stored
from runtime.run_decider import DECIDER


@dataclasses.dataclass
class Told:
    """A log to which a controller answers late: `held` messages stand before each decision that they did not lead to."""

    late: bool = False
    messages: list[Stored] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.course = Course(DECIDER, RUN)
        self.unheard: list[Stored] = []

    def say(self, *facts: Fact) -> None:
        """Append these, and then what is decided at each of them."""
        for fact in facts:
            self.unheard.append(self.append(codec.event(fact, run=RUN, source="test", cause="", time="")))
            if not self.late:
                self.hear()
        self.hear()

    def hear(self) -> None:
        while self.unheard:
            stored = self.unheard.pop(0)
            decision = self.course.feed(stored, codec.decode(stored.data))
            self.unheard += [self.append(event) for event in (decision.events if decision else ())]

    def append(self, event: codec.Event) -> Stored:
        self.messages.append(Stored(len(self.messages) + 1, 10**9, event.subject, codec.encode(event)))
        return self.messages[-1]


def scores(told: Told) -> list[Fact]:
    """A reward for each attempt that was last asked for."""
    found: list[Fact] = []
    for stored in told.messages:
        event = codec.decode(stored.data)
        if isinstance(event.data, RolloutsRequested):
            places = [(item, attempt) for item in event.data.items for attempt in range(event.data.attempts)]
            found += [
                TrajectoryScored(
                    trajectory=f"{event.id} {item} {attempt}",
                    request=event.id,
                    item=item,
                    attempt=attempt,
                    reward=1.0,
                    outcome="right",
                    verifier="v1",
                )
                for item, attempt in places
            ]
    return found


def a_run(late: bool = False) -> list[Stored]:
    """A run that decides four times and ends; `late`: with a controller that was away while much came."""
    told = Told(late)
    told.say(started(generations=0))
    told.say(proposed())
    told.say(*scores(told))
    return told.messages


def checked(messages: Sequence[Stored]) -> Chain:
    chain = Chain(RUN)
    for stored in messages:
        chain.take(stored.sequence, stored.subject, stored.data)
    return chain


@pytest.mark.parametrize("late", [False, True])
def test_the_chain_of_a_run_holds_to_its_end(late: bool) -> None:
    chain = checked(a_run(late))
    assert chain.finished and chain.broken is None and chain.decisions == 3


@pytest.mark.parametrize("late", [False, True])
def test_a_changed_event_breaks_the_chain_at_the_next_decision(late: bool) -> None:
    messages = a_run(late)
    (place, *_) = [place for place, stored in enumerate(messages) if stored.subject.endswith("trajectory_scored")]
    head = next(stored for stored in messages[place:] if stored.subject.endswith("decision_made"))
    messages[place] = msgspec.structs.replace(messages[place], data=messages[place].data.replace(b'"reward":1.0', b'"reward":0.0'))
    broken = checked(messages).broken
    assert isinstance(broken, Broken) and broken.last == head.sequence and broken.first <= messages[place].sequence
    assert "was made on other events" in str(broken)


@pytest.mark.parametrize("late", [False, True])
def test_a_lost_event_breaks_the_chain(late: bool) -> None:
    messages = a_run(late)
    for place, stored in enumerate(messages):
        if not stored.subject.endswith("run_finished"):
            found = checked(messages[:place] + messages[place + 1 :])
            assert found.broken or not found.finished, stored.subject
