"""A run that is stopped, whose optimiser states are freed, and that goes on; and what can still be done with it."""

import json
from pathlib import Path

import pytest

from events.run import RunFinished
from events.weights import WeightUpdateFailed
from tests.harness.cli import RUN, one_sentence, running
from tests.harness.polling import wait_until
from tests.harness.tasks.smaller import small_toy

pytestmark = pytest.mark.slow


def test_a_run_goes_on_after_its_states_were_freed_and_what_went_ends_in_a_sentence(tmp_path: Path) -> None:
    with running(tmp_path) as place:
        place.order("--levers", "weights", "--generations", "2", task=small_toy(tmp_path / "task"))
        wait_until(lambda: place.count("adapter_published") >= 5, "a second update is under way")
        place.down()
        left = set(place.node.work.iterdir())  # by a thread that was still at work
        freed = json.loads(place.here("gc", "--delete", "--json").out)
        assert freed["blobs"] and freed["runs"][0]["rounds"] and freed["runs"][0]["forks"]
        place.up()
        assert not left & set(place.node.work.iterdir())
        events = place.finished_events()
    assert not [event for event in events if isinstance(event.data, WeightUpdateFailed)]
    assert any(isinstance(event.data, RunFinished) for event in events)

    assert "come out the same, byte for byte, to its end." in place.here("replay", RUN).out
    assert "final candidate" in place.here("show", RUN).out
    assert place.here("sql", "SELECT count(*) FROM adapters").out
    place.here("audit", RUN, code=6)  # it has few items
    assert "blobs: whole" in place.here("doctor", "--integrity").out
    performed = json.loads(place.evolog("replay", RUN, "--perform", "trainer", "--json").out)
    (trainer,) = performed["performed"]
    assert trainer["performed"] == trainer["same"] and trainer["first"] is None
    assert trainer["cannot"] == {
        "the optimiser state that it starts from was freed by `evolog gc`": len(freed["runs"][0]["rounds"])
    }
    first, _ = freed["runs"][0]["forks"][0]
    one_sentence(
        place.evolog("fork", RUN, "--at", str(first), code=4), "an optimiser state that was freed", "evolog gc"
    )
    exported = tmp_path / "exported"
    place.here("replay", RUN, "--export", str(exported))
    place.evolog("import", str(exported), "--dir", "elsewhere")
    assert "same, byte for byte" in place.here("replay", RUN, "--dir", "elsewhere").out
