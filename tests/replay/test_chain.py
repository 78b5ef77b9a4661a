"""The hash chain of decisions, as anyone can check it who has the log."""

from collections.abc import Sequence

import msgspec
import pytest

from replay.chain import Chain, ChainBreak
from runtime.log.port import Stored
from tests.harness.decided_log import short_run
from tests.harness.facts import RUN


def checked(messages: Sequence[Stored]) -> Chain:
    chain = Chain(RUN)
    for stored in messages:
        chain.take(stored.sequence, stored.subject, stored.data)
    return chain


@pytest.mark.parametrize("late", [False, True])
def test_the_chain_of_a_run_holds_to_its_end(late: bool) -> None:
    chain = checked(short_run(late))
    assert chain.finished and chain.broken is None and chain.decisions == 3


@pytest.mark.parametrize("late", [False, True])
def test_a_changed_event_breaks_the_chain_at_the_next_decision(late: bool) -> None:
    messages = short_run(late)
    (place, *_) = [place for place, stored in enumerate(messages) if stored.subject.endswith("trajectory_scored")]
    head = next(stored for stored in messages[place:] if stored.subject.endswith("decision_made"))
    messages[place] = msgspec.structs.replace(
        messages[place], data=messages[place].data.replace(b'"reward":', b'"reward":1')
    )
    broken = checked(messages).broken
    assert isinstance(broken, ChainBreak) and broken.last == head.sequence and broken.first <= messages[place].sequence
    assert "was made on other events" in str(broken)


@pytest.mark.parametrize("late", [False, True])
def test_a_lost_event_breaks_the_chain(late: bool) -> None:
    messages = short_run(late)
    for place, stored in enumerate(messages):
        if not stored.subject.endswith("run_finished"):
            found = checked(messages[:place] + messages[place + 1 :])
            assert found.broken or not found.finished, stored.subject
