"""`evolog gc` over a log that was filled without services: what it says, deletes, and refuses."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from events.errors import NotFound, TryAgain
from events.weights import AdapterPublished
from runtime.blobs.directory import Blobs
from runtime.log.port import Stored, readable
from services.host.free_space import Freeing, free_states
from services.host.node import Running
from services.views.free_space import freeing_lines
from tests.harness.cli import CliHarness, one_sentence
from tests.harness.decided_log import long_run, state_after
from tests.harness.facts import RUN
from tests.harness.generator import Batches, fill


def batches(messages: Sequence[Stored]) -> Batches:
    """Each message by itself; each decision as a whole, since it is fenced by its head."""
    rest = list(messages)
    while rest:
        outputs = readable(rest[:1])[0].data
        count = 1 + getattr(outputs, "outputs", 0)
        yield [(stored.subject, stored.data) for stored in rest[:count]]
        rest = rest[count:]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[CliHarness]:
    """A directory with a finished run of three updates, none of them accepted, and the states that they left."""
    harness, messages = CliHarness(tmp_path), long_run()
    harness.node.make()
    fill(harness.node.directory, batches(messages))
    for event in readable(messages):
        if isinstance(event.data, AdapterPublished):
            state = state_after(event.data.adapter)
            assert Blobs(harness.node.blobs).put(state) == event.data.state
    yield harness


def test_it_says_what_would_be_freed_and_what_would_go_and_frees_only_when_told(place: CliHarness) -> None:
    blobs, directory = Blobs(place.node.blobs), place.node.directory
    said = place.here("gc").out.splitlines()
    assert said[0].startswith(f"{RUN}: 5 optimiser states, 0 needed to go on, 5 can be freed (")
    assert said[1].startswith("  goes: performing 2 of 2 rounds of training again") and "3.2, 5.2" in said[1]
    assert said[2] == "  goes: forks that may train, at sequences 64 to 88, 104 to 106, 123 to 147"
    assert "deciding again" in said[-2] and "Nothing was deleted: --delete" in said[-1]
    found = free_states(directory, "", delete=False)
    assert len(found.blobs) == 5 and found.bytes == found.runs[0].bytes > 0
    assert all(blobs.path(blob).exists() for blob in found.blobs)

    freed = msgspec.json.decode(place.evolog("gc", RUN, "--delete", "--json").out, type=Freeing)
    assert freed == msgspec.structs.replace(found, deleted=True)
    assert all(blobs.freed(blob) for blob in found.blobs)
    again = freeing_lines(free_states(directory, RUN, delete=True))
    assert "0 freed now" in again[0] and "5 freed before" in again[0] and again[1:3] == said[1:3]
    with pytest.raises(NotFound, match="There is no run 'nobody' here"):
        free_states(directory, "nobody", delete=True)


def test_what_was_freed_in_part_when_it_was_killed_is_freed_by_the_next(place: CliHarness) -> None:
    blobs, directory = Blobs(place.node.blobs), place.node.directory
    first, second, *_ = free_states(directory, "", delete=False).blobs
    blobs.free(first)
    (place.node.blobs / "freed" / second).touch()  # said, and not done yet
    assert not blobs.freed(second) and blobs.get(second)
    found = free_states(directory, "", delete=True)
    assert len(found.blobs) == 4 and found.runs[0].freed == 1
    assert not [path for path in (place.node.blobs / "sha256").rglob("*") if path.is_file()]


def test_nothing_is_freed_while_something_is_up_or_starts(place: CliHarness) -> None:
    node = place.node
    with node.hold():
        with pytest.raises(TryAgain, match="already running"):
            free_states(node.directory, "", delete=True)
        node.write(Running(pid=os.getpid(), url="", policy_url="", started="", version=""))
        one_sentence(place.evolog("gc", "--delete", code=75), "evolog is running in", "evolog down")
    assert len([path for path in (place.node.blobs / "sha256").rglob("*") if path.is_file()]) == 5
