"""Which optimiser states can still be asked for: worked by hand on a run of five generations, three of them updates."""

from collections.abc import Sequence

import msgspec
import pytest

from events.run import RunStarted
from events.weights import AdapterPublished, TrainingBatchSealed
from replay.optimizer_states import states_of_run, unneeded
from replay.replayer import find_sequence
from runtime.log import lineage
from runtime.log.port import Stored, readable
from tests.harness.decided_log import DecidedLog, long_run, wide_run
from tests.harness.facts import RUN, started

PLACES = {
    # sequence of each adapter_published, and where the run lets go of the state that came with it:
    64: 75,  # 3.1, until 3.2 is served at 76
    75: 88,  # 3.2, until the candidate is rejected at 89
    104: 106,  # 4.1, whose adapter is rejected at 105, until the update ends at 107
    123: 134,  # 5.1, until 5.2 is served at 135
    134: 147,  # 5.2, until the candidate is rejected at 148
}


@pytest.fixture(scope="module")
def parent() -> list[Stored]:
    """A run of two edits and three updates of two rounds, none of whose candidates is accepted."""
    return long_run()


def published(messages: Sequence[Stored]) -> dict[int, str]:
    """The state that came with each adapter, by sequence."""
    return {
        stored.sequence: event.data.state
        for stored in messages
        for event in readable([stored])
        if isinstance(event.data, AdapterPublished)
    }


def fork_of(parent: list[Stored], sequence: int) -> tuple[list[Stored], DecidedLog]:
    """A past, and the fork that has just begun from it."""
    past = parent[:sequence]
    (begun,) = (event.data for event in readable(past) if isinstance(event.data, RunStarted))
    log = DecidedLog(run="child", past=past)
    log.say(
        msgspec.structs.replace(
            begun, parent_run=RUN, parent_sequence=sequence, parent_digest=lineage.past_digest(past)
        )
    )
    return past, log


def test_each_state_is_asked_for_from_its_publication_until_the_run_lets_go_of_it(parent: list[Stored]) -> None:
    states = published(parent)
    assert list(states) == list(PLACES)
    found = states_of_run(RUN, [], parent)
    assert found.left == tuple(states.values())
    assert {use.first: (use.state, use.last) for use in found.uses} == {
        first: (states[first], last) for first, last in PLACES.items()
    }
    assert [(one.state, one.generation, one.round) for one in found.rounds] == [(states[64], 3, 2), (states[123], 5, 2)]


def test_what_goes_with_states_is_rounds_that_start_from_them_and_forks_where_they_are_held(
    parent: list[Stored],
) -> None:
    states, found = published(parent), states_of_run(RUN, [], parent)
    freed = unneeded([found])
    assert freed == set(states.values()) and not found.needed  # no update was accepted, and the run is over
    assert [(one.generation, one.round) for one in found.lost_rounds(freed)] == [(3, 2), (5, 2)]
    assert found.lost_forks(freed) == [(64, 88), (104, 106), (123, 147)]
    one = {states[75]}
    assert found.lost_rounds(one) == [] and found.lost_forks(one) == [(75, 88)]


def test_a_run_that_goes_on_needs_what_its_next_round_starts_from(parent: list[Stored]) -> None:
    states = published(parent)
    for end, needed in ((63, set()), (64, {64}), (75, {64, 75}), (76, {75}), (88, {75}), (89, set()), (104, {104})):
        found = states_of_run(RUN, [], parent[:end])
        assert found.needed == {states[first] for first in needed}, end


def test_an_accepted_candidates_state_is_needed_when_the_run_is_over() -> None:
    log = DecidedLog()
    log.say(msgspec.structs.replace(started(generations=5), seed=3))
    log.go_on()
    found, best = states_of_run(RUN, [], log.messages), log.session.state.best
    assert best and best.lever == "weights" and found.needed == {best.optimizer_state}
    assert unneeded([found]) == set(found.left) - {best.optimizer_state} and len(found.left) > 2


def test_what_a_fork_goes_on_from_is_needed_until_it_is_over(parent: list[Stored]) -> None:
    states, whole = published(parent), states_of_run(RUN, [], parent)
    past, child = fork_of(parent, 76)
    begun, begun_end = states_of_run("child", past, child.messages), child.messages[-1].sequence
    assert begun.needed == {states[75]} and states[75] not in unneeded([whole, begun])
    child.go_on()
    over = states_of_run("child", past, child.messages)
    assert states[75] in unneeded([whole, over])
    assert begun.lost_forks({states[75]}) == [(child.messages[0].sequence, begun_end)]
    (first, *_) = over.uses
    assert first.state == states[75] and first.first == child.messages[0].sequence


def test_with_several_generations_under_way_all_that_a_fork_trains_on_from_is_needed() -> None:
    wide, trained_on = wide_run(), set[str]()
    for end in range(90, len(wide), 10):
        past, child = fork_of(wide, find_sequence(wide, str(end)))
        held = states_of_run(RUN, [], past)
        asked = {
            event.data.parent_state
            for event in readable(child.go_on().messages)
            if isinstance(event.data, TrainingBatchSealed)
        }
        assert asked & set(held.left) <= held.needed, end
        trained_on |= asked & set(held.left)
    assert len(trained_on) > 2
