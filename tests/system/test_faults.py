"""What befalls hosts, disks and clocks, on the real system: a host gone for longer than its lease, a damaged adapter,
wrong clocks.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest

from events import codec
from events.codec import Event
from events.fact import Fact
from events.rollouts import ModelCalled, RolloutsRequested
from events.run import RunFinished
from events.weights import AdapterPublished, AdapterRejected, AdapterServed, WeightUpdateFinished
from runtime.blobs.directory import Blobs
from runtime.broker.streams import ACK_WAIT
from runtime.log.port import readable
from services.host.statuses import read_statuses
from services.views.waiting import obstacles
from tests.harness.cli import FREE_PORT, RUN, CliHarness, running
from tests.harness.faults import damage
from tests.harness.invariants import check_all
from tests.harness.paths import ROOT
from tests.harness.polling import wait_until
from tests.harness.tasks.smaller import small_toy

pytestmark = pytest.mark.slow

F = TypeVar("F", bound=Fact)
SKEWED = """
import datetime, random, sys, time
from runtime.log import worker
from services.host import main

service = " ".join(sys.argv[1:2] + sys.argv[-1:])
real, born, draw = time.time, time.monotonic(), random.Random(service)
by, back, when = draw.uniform(-6, 6) * 3600, draw.uniform(1, 4) * 3600, draw.uniform(0.5, 3)


def skewed():
    return real() + by - (back if time.monotonic() - born > when else 0)


time.time, time.time_ns = skewed, lambda: int(skewed() * 1e9)
worker.now = lambda: datetime.datetime.fromtimestamp(skewed(), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
main.main()
"""
"""A service whose clock is wrong by up to six hours, and is set back by some hours within its first seconds."""
TELLING = """
import os
from pathlib import Path
from runtime.log import worker
from services.host import main

append_once = worker.append_once


async def telling(log, events, scanner):
    met = await append_once(log, events, scanner)
    with Path(os.environ["EVOLOG_TEST_TOLD"]).open("a") as file:
        print(os.getpid(), "refused" if met else "appended", *(event.tag for event in events), file=file)
    return met


worker.append_once = telling
main.main()
"""
"""A service that tells whether the broker took what it appended, or had it already."""


def through(module: str) -> str:
    """`evolog up` with services that start in another module."""
    other = (
        f"from services.host import supervisor\nsupervisor.supervise.__kwdefaults__['module'] = {module!r}\nfrom "
        "services.cli"
    )
    return FREE_PORT.replace("from services.cli", other)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_toy(tmp_path_factory.mktemp("task") / "task")


def order(system: CliHarness, task: Path) -> None:
    system.order("--generations", "2", task=task)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, task: Path) -> list[Event]:
    """The events of a run that nothing happened to."""
    with running(tmp_path_factory.mktemp("calm")) as system:
        order(system, task)
        return system.finished_events()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[CliHarness]:
    with running(tmp_path / "node") as system:
        yield system


def same(system: CliHarness, undisturbed: Sequence[Event]) -> None:
    """The run came to its end, and to the same one."""
    system.finished_events()
    check_all(system.log.read(), system.gold.read(), undisturbed)


def facts(events: Sequence[Event], kind: type[F]) -> list[F]:
    return [event.data for event in events if isinstance(event.data, kind)]


def test_a_gpu_host_gone_for_longer_than_its_lease_trains_nothing_twice(
    tmp_path: Path, undisturbed: list[Event], task: Path
) -> None:
    told = tmp_path / "told"
    (tmp_path / "telling.py").write_text(TELLING)
    with running(tmp_path / "node", through("telling"), PYTHONPATH=str(tmp_path), EVOLOG_TEST_TOLD=str(told)) as system:
        order(system, task)
        trainer = stopped_in_its_work(system)  # the host is away
        taken = system.count("adapter_published")

        def refused() -> bool:
            lines = [line.split() for line in told.read_text().splitlines()]
            return any(line[:2] == [str(trainer), "refused"] and "adapter_published" in line for line in lines)

        other = system.start("service", "trainer", "--index", "1")
        try:
            wait_until(lambda: system.count("adapter_published") > taken, f"another takes over, after {ACK_WAIT:.0f} s")
            assert not refused()
            os.kill(trainer, signal.SIGCONT)  # it comes back, and has its results
            wait_until(refused, "its results are refused")
            same(system, undisturbed)
        finally:
            other.kill()
            other.communicate()


def stopped_in_its_work(system: CliHarness) -> int:
    """The trainer's process, stopped while it trains on a batch."""

    def rooms() -> list[Path]:
        """Where it trains: folders in its own, which it has open."""
        work = (system.node.directory / "work").resolve()
        files = [Path(os.path.realpath(link)) for pid in system.pids("trainer") for link in opened(pid)]
        return [room for file in files if file.parent == work for room in file.glob("tmp*")]

    def opened(pid: int) -> list[Path]:
        try:
            return list(Path(f"/proc/{pid}/fd").iterdir())
        except OSError:  # it has just ended
            return []

    while True:
        wait_until(lambda: rooms() != [], "a batch is being trained on")
        (trainer,) = system.pids("trainer")
        os.kill(trainer, signal.SIGSTOP)
        if rooms():
            return trainer
        os.kill(trainer, signal.SIGCONT)  # it had just finished


def test_a_damaged_adapter_is_refused_by_its_digest_and_the_last_good_one_stays(system: CliHarness, task: Path) -> None:
    order(system, task)
    wait_until(lambda: system.count("training_batch_sealed") == 2, "a second round is trained")
    (policy,) = system.pids("policy")
    os.kill(policy, signal.SIGSTOP)
    wait_until(lambda: system.count("adapter_published") == 2, "its adapter is published")
    good, bad = (fact.adapter for fact in facts(readable(system.log.read()), AdapterPublished))
    blobs = Blobs(system.node.blobs)
    weights = blobs.members(bad)["adapter_model.safetensors"]
    damage(blobs, weights)
    os.kill(policy, signal.SIGCONT)
    events = system.finished_events()
    check_all(system.log.read(), system.gold.read(), None)
    (rejected,) = facts(events, AdapterRejected)
    assert rejected.adapter == bad and weights in rejected.reason and "is damaged" in rejected.reason
    assert [served.adapter for served in facts(events, AdapterServed)] == [good]
    (finished,) = facts(events, WeightUpdateFinished)
    assert finished.adapter == good and "damaged" in finished.reason
    assert bad not in {
        event.data.adapter for event in events if isinstance(event.data, ModelCalled | RolloutsRequested | RunFinished)
    }


def test_blobs_that_are_gone_for_a_while_cost_no_attempt_and_the_run_says_what_it_waits_for(
    system: CliHarness, undisturbed: list[Event], task: Path
) -> None:
    order(system, task)
    wait_until(lambda: system.count("trajectory_recorded") > 20, "the run is under way")
    away = system.node.blobs.rename(system.node.blobs.with_name("away"))
    for service in ("policy", "executor"):  # which begin again with nothing in memory
        for process in system.pids(service):
            os.kill(process, signal.SIGKILL)

    def lacking() -> list[str]:
        return [one.error for _, one in obstacles(RUN, read_statuses(system.node))]

    wait_until(lambda: any("is not in" in sentence for sentence in lacking()), "the run waits")
    shutil.copytree(away, system.node.blobs, dirs_exist_ok=True)
    same(system, undisturbed)
    assert lacking() == []
    assert [event.tag for event in readable(system.log.read()) if event.tag == "rollout_failed"] == []


@pytest.mark.long
def test_services_with_wrong_clocks_leave_the_same_run(tmp_path: Path, undisturbed: list[Event], task: Path) -> None:
    (tmp_path / "skewed.py").write_text(SKEWED)
    with running(tmp_path / "node", through("skewed"), PYTHONPATH=str(tmp_path)) as system:
        order(system, task)
        same(system, undisturbed)
        stored = system.log.read()
    told: dict[str, list[float]] = {}
    for message in stored:
        event = codec.decode(message.data)
        told.setdefault(event.source, []).append(datetime.fromisoformat(event.time).timestamp() - message.time / 1e9)
    assert all(max(map(abs, told[service])) > 600 for service in ("executor", "verifier", "trainer", "policy"))
    assert any(after - before < -3600 for of in told.values() for before, after in pairwise(of))
    assert max(map(abs, told["controller"])) < 60  # decisions bear the log's time


@pytest.mark.long
def test_a_disk_that_is_full_stops_all_in_good_order_and_costs_nothing(tmp_path: Path) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("a disk of its own needs bubblewrap")
    disk = tmp_path / "disk"
    disk.mkdir()
    own = ["bwrap", "--dev-bind", "/", "/", "--size", str(900 * 10**6), "--tmpfs", str(disk), "--die-with-parent"]
    subprocess.run([*own, sys.executable, "-m", "tests.faults.disk_full", str(disk)], check=True, cwd=ROOT)
