"""Runs of other times, decided again by the code of today: see tests/histories/README.md."""

from pathlib import Path

import pytest

from events.codec import Unreadable, decode_at
from events.run import EventSetAside
from replay.chain import Chain
from replay.exports import folder
from replay.replayer import decisions, redecide
from runtime.log.port import readable

FOLDER = Path(__file__).parents[1] / "histories"
HISTORIES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", HISTORIES)
def test_a_recorded_run_comes_out_to_the_byte(name: str) -> None:
    run = folder.read(FOLDER / name)
    found = redecide(run)
    assert found.difference is None, found.difference
    assert found.finished and found.decisions == len(decisions(run.messages)) > 2


@pytest.mark.parametrize("name", HISTORIES)
def test_its_chain_holds_and_what_cannot_be_read_was_set_aside(name: str) -> None:
    run = folder.read(FOLDER / name)
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
    described = (FOLDER / "README.md").read_text()
    assert [name for name in HISTORIES if name not in described] == []
    versions = {one.made.decider for name in HISTORIES for one in decisions(folder.read(FOLDER / name).messages).values()}
    assert versions == {1, 2}


def test_a_history_of_version_1_is_written_as_it_was_then() -> None:
    run = folder.read(FOLDER / "decider-version-1")
    sealed = [stored.data for stored in run.messages if stored.subject.endswith("training_batch_sealed")]
    assert sealed and not any(b"parent_state" in data for data in sealed)
    assert all(event.data.parent_state == "" for event in readable(run.messages) if event.tag == "training_batch_sealed")  # type: ignore[attr-defined]
