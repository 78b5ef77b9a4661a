"""Runs of other times, decided again by the code of today: see tests/histories/README.md."""

import re

import pytest

from events.codec import Unreadable, decode_at
from events.judgement import TrajectoryScored
from events.rollouts import RolloutsRequested
from events.run import AuditReleased, EventSetAside
from events.weights import TrainingBatchSealed
from replay.chain import Chain
from replay.exports import folder
from replay.replayer import decisions, redecide
from runtime.log import lineage
from runtime.log.port import readable
from runtime.run.decide import DECIDER
from tests.harness.paths import HISTORIES

NAMES = sorted(path.name for path in HISTORIES.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_run_comes_out_to_the_byte(name: str) -> None:
    run = folder.read(HISTORIES / name)
    found = redecide(run)
    assert found.difference is None, found.difference
    assert found.finished and found.decisions == len(decisions(run.messages)) > 2


@pytest.mark.parametrize("name", NAMES)
def test_its_chain_holds_and_what_cannot_be_read_was_set_aside(name: str) -> None:
    run = folder.read(HISTORIES / name)
    chain = Chain(run.run)
    aside = {event.data.sequence for event in run.events if isinstance(event.data, EventSetAside)}
    for stored in run.messages:
        try:
            decode_at(stored.subject, stored.data)
        except Unreadable:
            assert stored.sequence in aside
        else:
            chain.take(stored.sequence, stored.subject, stored.data)
    assert chain.finished and chain.broken is None


def test_every_history_is_described_and_every_version_of_the_decider_has_one() -> None:
    described = (HISTORIES / "README.md").read_text()
    assert [name for name in NAMES if not re.search(rf"[|,] {name}[ ,]", described)] == []
    versions = {
        one.made.decider for name in NAMES for one in decisions(folder.read(HISTORIES / name).messages).values()
    }
    assert versions == set(range(1, DECIDER.version + 1))


def test_what_version_6_changed_is_in_the_history_of_version_6() -> None:
    run = folder.read(HISTORIES / "decider-version-6")
    older = DECIDER._replace(decide=lambda state, event, version: DECIDER.decide(state, event, min(version, 5)))
    difference = redecide(run, older).difference
    assert difference is not None and '"refill":1' in difference.recorded, "played again, for they tie"
    rewards = {event.data.reward for event in run.events if isinstance(event.data, TrajectoryScored)}
    assert rewards >= {0.3, 0.1 + 0.2}, "before version 6 these were two rewards"


def test_what_version_3_changed_is_in_the_history_of_version_3() -> None:
    run = folder.read(HISTORIES / "decider-version-3")
    older = DECIDER._replace(decide=lambda state, event, version: DECIDER.decide(state, event, min(version, 2)))
    difference = redecide(run, older).difference
    assert difference is not None and '"decision_made"' in difference.recorded, (
        "before version 3 nobody waited for the auditor"
    )
    actions = [event.data.action for event in run.events if isinstance(event.data, AuditReleased)]
    assert actions == ["none", "rollback", "none"]


def test_a_history_of_version_1_is_written_as_it_was_then() -> None:
    run = folder.read(HISTORIES / "decider-version-1")
    sealed = [stored.data for stored in run.messages if stored.subject.endswith("training_batch_sealed")]
    assert sealed and not any(b"parent_state" in data for data in sealed)
    batches = [event.data for event in readable(run.messages) if isinstance(event.data, TrainingBatchSealed)]
    assert len(batches) == len(sealed) and all(batch.parent_state == "" for batch in batches)


def test_the_history_of_version_5_has_a_population_and_four_generations_under_way() -> None:
    run = folder.read(HISTORIES / "decider-version-5")
    state, under_way = DECIDER.initial(run.run), set[int]()
    for event in lineage.in_folding_order(run.messages):
        state = DECIDER.evolve(state, event)
        under_way.add(len(state.flights))
    assert max(under_way) == 4 and not state.flights
    assert {candidate.accepted for candidate in state.population} == {True, False}
    found = {event.tag for event in run.events}
    assert found >= {"stage_evaluated", "candidate_rechecked", "candidate_kept"}
    assert any(event.data.refill for event in run.events if isinstance(event.data, RolloutsRequested))
