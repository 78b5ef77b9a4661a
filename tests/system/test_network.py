"""A run over five hosts, each with a network of its own, over TLS, while links fail: the same decisions as undisturbed,
nothing twice, and how long it stood still.

python -m pytest -m "slow or long" -s tests/system/test_network.py    # prints the figures
"""

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from events import codec
from events.catalogue import SERVICES
from events.codec import Event
from events.errors import Misconfigured
from events.run import RunResumed
from events.subjects import BLOBS, LOG, run_of, tag_of
from runtime.blobs.stream import ChunkSocket, StreamBlobs
from runtime.broker.binary import find_binary
from runtime.broker.credentials import read_bundle, read_credentials
from runtime.broker.issuing import bundle_file
from runtime.broker.leaf import write_leaf
from runtime.log.port import Message, Stored, readable
from runtime.log.socket import NatsSocket
from tests.harness.cli import CLI, RUN, CliHarness, running
from tests.harness.invariants import check_all
from tests.harness.network import Network, network, slow_way, wait_for_traffic
from tests.harness.polling import wait_until
from tests.harness.tasks.smaller import small_toy

pytestmark = pytest.mark.slow

AWAY = 40.0
"""Seconds for which a link is cut."""
PORT, LEAF_PORT = 4222, 7422
DELAY = 0.2
RATES = {"executor": "512kbit", "auditor": "512kbit", "trainer": "8mbit", "policy": "8mbit"}
LONG_TIME = f"2026-01-01T00:00:00.{'0' * 200_000}Z"
"""A time that makes an event large."""
ALONE = ("executor", "trainer", "policy", "auditor")
"""The services that have a host each; the rest are the broker's host's."""
WITH_BROKER = tuple(service for service in SERVICES if service not in ALONE)
GENERATIONS = ("--generations", "2")
HELD = """
import asyncio, os
from pathlib import Path
from runtime.log import worker
from services.host import main

append_once, gate = worker.append_once, Path(os.environ["EVOLOG_TEST_GATE"])


async def held(log, events, scanner):
    tags = {event.tag for event in events}
    for hold in gate.glob("hold-*"):
        while hold.name.removeprefix("hold-") in tags and hold.exists():
            with (gate / "told").open("a") as file:
                print(os.getpid(), "held", *tags, file=file)
            await asyncio.sleep(0.05)
    met = await append_once(log, events, scanner)
    with (gate / "told").open("a") as file:
        print(os.getpid(), "refused" if met else "appended", *tags, file=file)
    return met


worker.append_once = held
main.main()
"""
"""A service whose appends wait while there is a file `hold-TAG`, and which tells whether the broker took them, or had
them already.
"""
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long by(void) { const char *seconds = getenv("EVOLOG_TEST_CLOCK"); return seconds ? atol(seconds) : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += by();
    return failed;
}

time_t time(time_t *kept) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept) *kept = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
"""
"""A library that, loaded before libc, has the whole process read a clock that is off, its certificates' checks too."""
THROUGH_HELD = """
from services.host import supervisor
supervisor.supervise.__kwdefaults__["module"] = "held"
from services.cli.main import main
main()
"""


class Hosts:
    """The five hosts: the first has the broker, and is where the operator is."""

    def __init__(self, folder: Path, net: Network) -> None:
        self.folder, self.net = folder, net
        self.gate = folder / "gate"
        self.gate.mkdir(parents=True)
        (folder / "held.py").write_text(HELD)
        self.first = self.harness("broker")
        self.first.patience = 600.0
        self.first.evolog("credentials", "init", "--address", f"{net.address('broker')}:{PORT}")
        self.ups: dict[str, subprocess.Popen[str]] = {}
        self.harnesses: dict[str, CliHarness] = {}

    def harness(self, host: str, **environment: str) -> CliHarness:
        """The command line on a host, in a folder of its own."""
        given = {"PYTHONPATH": str(self.folder), "EVOLOG_TEST_GATE": str(self.gate)} | environment
        return CliHarness(self.folder / host, at=self.net.at(host), **given)

    def start_broker(self, *without: str, flags: Sequence[str] = ()) -> None:
        """Start the broker, and the services of its host."""
        listen = f"{self.net.address('broker')}:{PORT}"
        only = ",".join(service for service in WITH_BROKER if service not in without)
        self.ups["broker"] = self.first.start("up", "--listen", listen, *flags, "--only", only, "--blobs", "stream")
        self._wait("broker", self.first)

    def start(self, host: str, service: str = "", program: Sequence[str] = CLI, **environment: str) -> None:
        """Start a service on a host, by its bundle, under a supervisor."""
        service = service or host
        self.harnesses[host] = harness = self.harness(host, **environment)
        bundle = harness.folder / "bundle.json"
        bundle.write_bytes(bundle_file(self.first.node.directory, service).read_bytes())
        bundle.chmod(0o600)
        self.ups[host] = harness.start("up", "--credentials", str(bundle), program=program)
        self._wait(host, harness)

    def start_alone(self, service: str, **environment: str) -> None:
        """Start a service on its host by its bundle, without a supervisor, which would hand on only what it knows of
        the environment.
        """
        self.harnesses[service] = harness = self.harness(service, **environment)
        bundle = bundle_file(self.first.node.directory, service)
        self.ups[service] = harness.start("service", service, "--credentials", str(bundle))

    def _wait(self, host: str, harness: CliHarness) -> None:
        up = self.ups[host]
        wait_until(lambda: harness.node.alive() or up.poll() is not None, f"{host} is up")
        assert up.poll() is None, up.communicate()

    def stop(self) -> None:
        """Stop every host."""
        for up in self.ups.values():
            up.terminate()
        for host in self.ups:
            self.net.kill(host) if self.ups[host].poll() is None and not self._ends(host) else None
            self.ups[host].communicate()

    def _ends(self, host: str) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.ups[host].wait(20.0)
            return True
        return False

    def wait_for(self, tag: str, count: int = 1) -> None:
        """Wait until the log has so many events of a type."""
        wait_until(lambda: self.first.count(tag) >= count, f"there is {tag}")

    def in_hand(self, service: str) -> bool:
        """Whether a process of the service on the host of that name has work in hand."""
        with contextlib.suppress(OSError):
            files = (self.harnesses[service].node.directory / "in_hand").glob(f"{service}-*")
            return any(json.loads(file.read_bytes()) for file in files)
        return False

    def away(self, host: str, seconds: float = AWAY) -> None:
        """Cut a host's link, and heal it after so many seconds."""
        self.net.cut(host)
        time.sleep(seconds)
        self.net.heal(host)

    def told(self, *words: str) -> bool:
        """Whether a service that is held has told of an append in these words."""
        lines = (self.gate / "told").read_text().splitlines() if (self.gate / "told").exists() else []
        return any(set(words) <= set(line.split()) for line in lines)

    def finish(self, undisturbed: Sequence[Event], what: str) -> list[Stored]:
        """Wait for the end of the run and of its audit; it must be the undisturbed one's. Prints the figures."""
        self.first.finished_events()
        stored, gold = self.first.log.read(), self.first.gold.read()
        check_all(stored, gold, undisturbed)
        assert "whole" in self.first.evolog("doctor", "--integrity").out
        self.first.evolog("replay", RUN)
        print(f"\n{what}: {figures(stored, gold)}")
        return stored


def figures(stored: Sequence[Stored], gold: Sequence[Stored]) -> str:
    """How long a run took, and its longest standstill, with what came before and after it."""
    events = sorted((one.time, tag_of(one.subject)) for one in (*stored, *gold) if run_of(one.subject) == RUN)
    longest = max(pairwise(events), key=lambda pair: pair[1][0] - pair[0][0])
    (before, last), (after, first) = longest
    return (
        f"{len(events):,} events in {(events[-1][0] - events[0][0]) / 1e9:.1f} s, longest standstill "
        f"{(after - before) / 1e9:.1f} s, from {last} to {first}"
    )


@contextlib.contextmanager
def five_hosts(folder: Path, *others: str, program: Sequence[str] = CLI, **environment: str) -> Iterator[Hosts]:
    """The broker's host and four others, up; `others` are hosts on which nothing runs yet."""
    with network("broker", *ALONE, *others) as net:
        hosts = Hosts(folder, net)
        try:
            hosts.start_broker()
            for service in ALONE:
                hosts.start(service, program=program, **environment)
            yield hosts
        finally:
            hosts.stop()


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_toy(tmp_path_factory.mktemp("task") / "task")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, task: Path) -> list[Event]:
    """The events of a run on one host, that nothing happened to."""
    with running(tmp_path_factory.mktemp("calm")) as system:
        system.order(*GENERATIONS, task=task)
        return system.finished_events()


@pytest.mark.long
def test_a_run_over_five_hosts_comes_out_as_on_one(tmp_path: Path, undisturbed: list[Event], task: Path) -> None:
    with five_hosts(tmp_path) as hosts:
        hosts.first.order(*GENERATIONS, task=task)
        hosts.finish(undisturbed, "undisturbed")


def cut_in_a_play(hosts: Hosts) -> None:
    hosts.wait_for("model_called")
    wait_until(lambda: hosts.in_hand("executor"), "an executor plays")
    hosts.away("executor")


def cut_in_a_batch(hosts: Hosts) -> None:
    (hosts.gate / "hold-trajectory_recorded").touch()
    wait_until(lambda: hosts.told("held", "trajectory_recorded"), "a shard is played")
    hosts.net.narrow("executor", "64kbit")
    sent = functools.partial(hosts.net.sent, "executor")
    (hosts.gate / "hold-trajectory_recorded").unlink()
    wait_for_traffic(3000, sent, "a part of the batch is sent")
    assert not hosts.told("appended", "trajectory_recorded")
    hosts.net.cut("executor")
    hosts.net.widen("executor")
    time.sleep(AWAY)
    hosts.net.heal("executor")


def cut_in_an_upload(hosts: Hosts) -> None:
    hosts.wait_for("training_batch_sealed")
    hosts.net.narrow("trainer", "64kbit")
    wait_until(lambda: hosts.in_hand("trainer"), "the trainer trains")
    wait_for_traffic(20_000, functools.partial(hosts.net.sent, "trainer"), "a part of what it made is sent")
    hosts.net.cut("trainer")
    hosts.net.widen("trainer")
    assert not hosts.first.count("adapter_published")
    time.sleep(AWAY)
    hosts.net.heal("trainer")


def cut_in_a_completion(hosts: Hosts) -> None:
    received = functools.partial(hosts.net.received, "policy")
    hosts.wait_for("scaffold_proposed")
    pids = hosts.harnesses["policy"].pids("policy")
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    wait_for_traffic(2000, received, "a completion is asked for")
    hosts.net.cut("policy")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    time.sleep(AWAY)
    hosts.net.heal("policy")


def cut_in_a_decision(hosts: Hosts) -> None:
    hosts.wait_for("decision_made", 4)
    hosts.away("broker")


MOMENTS: dict[str, Callable[[Hosts], None]] = {
    "a play": cut_in_a_play,
    "a batch": cut_in_a_batch,
    "an upload": cut_in_an_upload,
    "a completion": cut_in_a_completion,
    "a decision": cut_in_a_decision,
}


@pytest.mark.long
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_link_that_is_cut_for_40_seconds_leaves_the_same_run(
    tmp_path: Path, undisturbed: list[Event], task: Path, moment: str
) -> None:
    with five_hosts(tmp_path, program=("-P", "-c", THROUGH_HELD)) as hosts:
        hosts.first.order(*GENERATIONS, task=task)
        MOMENTS[moment](hosts)
        hosts.finish(undisturbed, f"a link cut for {AWAY:g} s in {moment}")


@pytest.mark.long
def test_200_ms_of_delay_leave_the_same_run(tmp_path: Path, undisturbed: list[Event], task: Path) -> None:
    with network("broker", *ALONE) as net, contextlib.ExitStack() as at_end:
        hosts = Hosts(tmp_path, net)
        try:
            hosts.start_broker()
            port = at_end.enter_context(slow_way((net.address("broker"), PORT), net.here, DELAY / 2))
            for service in ALONE:
                hosts.start(service, EVOLOG_NATS_URL=f"tls://{net.here}:{port}")
            hosts.first.order(*GENERATIONS, task=task)
            hosts.finish(undisturbed, f"{1000 * DELAY:g} ms more for each way there and back")
        finally:
            hosts.stop()


@pytest.mark.long
def test_narrow_links_leave_the_same_run(tmp_path: Path, undisturbed: list[Event], task: Path) -> None:
    with five_hosts(tmp_path) as hosts:
        for host, rate in RATES.items():
            hosts.net.narrow(host, rate)
        hosts.first.order(*GENERATIONS, task=task)
        hosts.finish(undisturbed, f"links of {RATES}")


@pytest.mark.long
def test_what_takes_longer_than_any_limit_on_a_narrow_link_arrives(tmp_path: Path) -> None:
    with network("broker") as net:
        hosts = Hosts(tmp_path, net)
        try:
            hosts.start_broker()
            account = read_credentials(hosts.first.node.credentials("operator"))
            data = random.Random(1).randbytes(5 * 2**20)
            net.narrow("broker", "1mbit")
            began = time.monotonic()
            digest = StreamBlobs(tmp_path / "sent", ChunkSocket(account, BLOBS)).put(data)
            sent = time.monotonic()
            assert StreamBlobs(tmp_path / "fetched", ChunkSocket(account, BLOBS)).get(digest) == data
            fetched = time.monotonic()
            events = [
                codec.event(RunResumed(number=number), run=RUN, source="operator", cause="", time=LONG_TIME)
                for number in range(12)
            ]
            socket = NatsSocket(account, LOG, timeout=4.0)
            assert socket.append([Message(event.subject, codec.encode(event)) for event in events]) == len(events)
            print(
                f"\n5 MiB over 1 Mbit/s: {sent - began:.1f} s there, {fetched - sent:.1f} s back; a batch of "
                f"{len(events) * len(LONG_TIME):,} bytes {time.monotonic() - fetched:.1f} s"
            )
        finally:
            hosts.stop()


@pytest.mark.long
@pytest.mark.parametrize("service", ["executor", "policy", "trainer"])
def test_the_work_of_a_host_that_is_gone_for_good_is_taken_over(
    tmp_path: Path, undisturbed: list[Event], task: Path, service: str
) -> None:
    tag = {"executor": "model_called", "policy": "model_called", "trainer": "training_batch_sealed"}[service]
    with five_hosts(tmp_path, "other") as hosts:
        hosts.start("other", service)
        hosts.first.order(*GENERATIONS, task=task)
        hosts.wait_for(tag)
        hosts.net.cut(service)  # first, so that nothing says goodbye
        hosts.net.kill(service)
        hosts.finish(undisturbed, f"the host of {service} gone for good, with another there")


def test_a_result_that_comes_too_late_is_refused(tmp_path: Path, undisturbed: list[Event], task: Path) -> None:
    held = ("-P", "-c", THROUGH_HELD)
    with five_hosts(tmp_path, "other", program=held, EVOLOG_EXECUTOR_JITTER="0") as hosts:
        hold = hosts.gate / "hold-trajectory_recorded"
        hold.touch()
        hosts.first.order(*GENERATIONS, task=task)
        wait_until(lambda: hosts.told("held", "trajectory_recorded"), "an executor has played")
        late = hosts.harnesses["executor"].pids("executor")
        hosts.net.cut("executor")
        hold.unlink()
        hosts.start("other", "executor", program=held)
        hosts.wait_for("trajectory_recorded", 40)
        taken = [stored for stored in hosts.first.log.read() if tag_of(stored.subject) == "trajectory_recorded"]
        hosts.net.heal("executor")
        wait_until(
            lambda: any(hosts.told(str(pid), "refused", "trajectory_recorded") for pid in late),
            "the results of the first are refused",
        )
        stored = hosts.finish(undisturbed, "results that came late")
        assert [one for one in stored if tag_of(one.subject) == "trajectory_recorded"][: len(taken)] == taken


@pytest.mark.long
def test_clocks_that_are_an_hour_off_leave_the_same_run(tmp_path: Path, undisturbed: list[Event], task: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("a clock that is off needs a C compiler, for a library that is loaded before libc")
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    with network("broker", *ALONE) as net:
        hosts = Hosts(tmp_path / "hosts", net)
        try:
            hosts.start_broker()
            for service, hours in zip(ALONE, (1, -1, 1, -1), strict=True):
                hosts.start_alone(service, LD_PRELOAD=str(library), EVOLOG_TEST_CLOCK=str(3600 * hours))
            hosts.first.order(*GENERATIONS, task=task)
            stored = hosts.finish(undisturbed, "clocks an hour off")
        finally:
            hosts.stop()
    for service in ("executor", "trainer", "policy"):
        off = [
            datetime.fromisoformat(event.time).timestamp() - one.time / 1e9
            for one in stored
            for event in readable([one])
            if event.source == service
        ]
        assert off and all(3000 < abs(seconds) < 4200 for seconds in off)


@pytest.mark.long
def test_a_site_behind_a_firewall_has_a_server_of_its_own_as_a_leaf(
    tmp_path: Path, undisturbed: list[Event], task: Path
) -> None:
    with network("broker", "executor", "policy", "auditor", "site") as net:
        hosts = Hosts(tmp_path, net)
        try:
            hosts.first.evolog("credentials", "add", "site", "trainer", "verifier")
            leaves = f"{net.address('broker')}:{LEAF_PORT}"
            hosts.start_broker("verifier", flags=("--listen-leaf", leaves))
            bundle = bundle_file(hosts.first.node.directory, "site")
            with pytest.raises(Misconfigured, match="policy, and questions do not pass"):
                policy = bundle_file(hosts.first.node.directory, "policy")
                write_leaf(read_bundle(policy), tmp_path / "none", leaves, f"127.0.0.1:{PORT}")
            config = write_leaf(read_bundle(bundle), tmp_path / "leaf", leaves, f"127.0.0.1:{PORT}")
            with (tmp_path / "leaf.log").open("wb") as log:
                command = (*net.at("site"), str(find_binary()), "-c", str(config))
                subprocess.Popen(command, stdout=log, stderr=log)
            for service in ("executor", "policy", "auditor"):
                hosts.start(service)
            hosts.start("site", "site", EVOLOG_NATS_URL=f"nats://127.0.0.1:{PORT}")
            hosts.first.order(*GENERATIONS, task=task)
            hosts.finish(undisturbed, "a site with a leaf")
            sources = {event.source for event in readable(hosts.first.log.read())}
            assert {"trainer", "verifier"} <= sources and not hosts.first.pids("verifier")
        finally:
            hosts.stop()
