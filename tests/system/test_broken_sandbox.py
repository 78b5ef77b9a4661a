"""A sandbox that breaks in the middle of a run: the run says so on its own screen, loses nothing, and goes on later."""

from pathlib import Path

import pytest

from events.rollouts import RolloutFailed
from events.run import RunFinished
from tests.harness.breaking import REFUSED, BreakingBwrap
from tests.harness.cli import RUN, CliHarness
from tests.harness.invariants import checks
from tests.harness.paths import TOY
from tests.harness.polling import wait_until

pytestmark = pytest.mark.slow

ORDER = ("run", str(TOY), "--name", RUN, "--levers", "scaffold")


def goes_on_when_mended(place: CliHarness) -> None:
    """Wait for the run's end; nothing of it may have failed."""
    try:
        place.wait_until_audited(RUN)
        stored, gold, events = place.log.read(), place.gold.read(), place.finished_events()
    finally:
        place.evolog("down")
    assert not [event for event in events if isinstance(event.data, RolloutFailed)]
    assert [event.data.score for event in events if isinstance(event.data, RunFinished)] == [0.7]
    for check in checks(stored, gold, None):
        check()
    assert "gold_failed" not in {message.subject.rpartition(".")[2] for message in gold}


@pytest.mark.parametrize("good", [4, pytest.param(9, marks=pytest.mark.long)])  # an executor meets it; the auditor does
def test_a_run_whose_sandbox_breaks_ends_with_78_and_goes_on_when_it_is_mended(tmp_path: Path, good: int) -> None:
    breaking = BreakingBwrap(tmp_path / "path", good)
    place = CliHarness(tmp_path / "place", PATH=breaking.path)
    last = place.evolog(*ORDER, code=78).err.splitlines()[-1]
    assert last.startswith(f"evolog: Run {RUN} waits, since ") and REFUSED in last, last
    if good == 4:
        watched = place.evolog("watch", RUN, code=78).err
        assert watched.startswith(f"evolog: Run {RUN} waits, since executor ") and REFUSED in watched, watched
    breaking.mend()
    goes_on_when_mended(place)


def test_a_run_whose_sandbox_is_gone_says_so_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    breaking = BreakingBwrap(tmp_path / "path", good=1000)
    place = CliHarness(tmp_path / "place", PATH=str(breaking.alone()))
    started = place.start(*ORDER)
    wait_until(lambda: breaking.starts() >= 4, "the run is at work")
    breaking.program.unlink()
    _, err = started.communicate()
    assert started.returncode == 78 and "cannot work here: Scaffolds cannot be " in err.splitlines()[-1], err
    breaking.put_back()
    goes_on_when_mended(place)
