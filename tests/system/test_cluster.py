"""A run whose streams stand on a cluster of three servers, each message on all of them: one server is killed, then the
leader is moved.
"""

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from events.errors import Misconfigured, Unavailable
from events.subjects import LOG, PREFIX
from runtime.broker.accounts import BOOTSTRAP, KEEPER, USERS, accounts_of, draw_passwords, inbox_of
from runtime.broker.binary import find_binary
from runtime.broker.children import free_port
from runtime.broker.client import open_client
from runtime.broker.credentials import Credentials, credentials_file, write_private
from runtime.broker.streams import MAX_MESSAGE, bootstrap
from runtime.log.port import Message, Refused, exclusive_key
from runtime.log.socket import NatsSocket
from tests.harness.cli import RUN, CliHarness, one_sentence, running
from tests.harness.invariants import check_all
from tests.harness.ledger import Ledger, none_lost
from tests.harness.polling import wait_until
from tests.harness.tasks.smaller import small_toy

pytestmark = pytest.mark.slow

SERVERS, SLOTS = 3, 120
ADMIN = "admin"
"""A user that moves the leader, which no account of evolog may."""


class Cluster:
    """Three nats-servers on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.passwords = folder, draw_passwords()
        self.ports = [free_port() for _ in range(SERVERS)]
        self._routes = [free_port() for _ in range(SERVERS)]
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return ",".join(f"nats://127.0.0.1:{port}" for port in self.ports)

    def start(self) -> None:
        accounts = accounts_of(self.passwords)
        keeper = accounts[KEEPER]
        assert isinstance(keeper, dict)
        keeper["users"] = [{"user": ADMIN, "password": ADMIN}]
        for number in range(SERVERS):
            folder = self.folder / str(number)
            folder.mkdir(parents=True)
            configuration = {
                "listen": f"127.0.0.1:{self.ports[number]}",
                "server_name": f"server-{number}",
                "max_payload": MAX_MESSAGE,
                "jetstream": {"store_dir": str(folder), "sync_interval": "always", "max_file_store": 1 << 40},
                "cluster": {
                    "name": "cluster",
                    "listen": f"127.0.0.1:{self._routes[number]}",
                    "routes": [f"nats://127.0.0.1:{port}" for port in self._routes],
                },
                "accounts": accounts,
            }
            (folder / "server.conf").write_text(json.dumps(configuration))
            with (folder / "log").open("wb") as log:
                command = (str(find_binary()), "-c", str(folder / "server.conf"))
                self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        wait_until(lambda: b'"type"' in (self.ask("$JS.API.INFO") or b""), "the cluster has a leader")

    def ask(self, subject: str) -> bytes | None:
        """What the servers answer to the streams' own account; None where nobody does."""

        async def ask() -> bytes:
            async def ignore(_: Exception) -> None:
                pass

            client = await open_client(Credentials(self.url, ADMIN, ADMIN, "_INBOX"), ignore)
            try:
                return (await client.request(subject, b"", timeout=2.0)).data
            finally:
                await client.close()

        try:
            return asyncio.run(ask())
        except Exception:  # whatever nats-py raises while there is no leader
            return None

    def leader(self) -> int | None:
        """The number of the server that leads the log."""
        answer = json.loads(self.ask(f"$JS.API.STREAM.INFO.{LOG}") or b"{}")
        name = answer.get("cluster", {}).get("leader", "")
        return int(name.removeprefix("server-")) if name else None

    def kill(self, number: int) -> None:
        self.processes[number].kill()
        self.processes[number].wait()

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def over_a_cluster(folder: Path) -> Iterator[tuple[Cluster, CliHarness]]:
    """Everything up, on the streams of a cluster."""
    cluster = Cluster(folder / "cluster")
    system = CliHarness(folder / "node", EVOLOG_NATS_REPLICAS=str(SERVERS), EVOLOG_EXECUTOR_JITTER="0.05")
    for user in USERS:
        path = credentials_file(system.node.directory, user)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        login = Credentials(cluster.url, user, cluster.passwords[user], inbox_of(user))
        write_private(path, msgspec.json.encode(login).decode())
    try:
        cluster.start()
        system.supervisor = up = system.start("up", "--nats", cluster.url)
        wait_until(lambda: system.node.alive() or up.poll() is not None, "evolog is up")
        assert up.poll() is None, up.communicate()
        yield cluster, system
    finally:
        system.down()
        cluster.stop()


@pytest.mark.long
def test_a_cluster_that_loses_its_leader_and_has_the_next_one_moved_loses_nothing(tmp_path: Path) -> None:
    task = small_toy(tmp_path / "task")
    with running(tmp_path / "calm") as calm:
        calm.order("--generations", "2", task=task)
        undisturbed = calm.finished_events()
    with over_a_cluster(tmp_path) as (cluster, system):
        system.order("--generations", "2", task=task)
        ledger = Ledger(system.node)
        ledger.start()
        wait_until(lambda: system.count("trajectory_scored") >= 8, "the run is under way")
        first = cluster.leader()
        assert first is not None
        cluster.kill(first)
        wait_until(lambda: cluster.leader() not in (None, first), "another server leads")
        before, second = system.count("trajectory_scored"), cluster.leader()
        wait_until(lambda: system.count("trajectory_scored") > before, "the run goes on")
        assert b'"success":true' in (cluster.ask(f"$JS.API.STREAM.LEADER.STEPDOWN.{LOG}") or b"").replace(b" ", b"")
        wait_until(lambda: cluster.leader() not in (None, first, second), "the leader is moved")
        system.finished_events()
        ledger.end()
        stored = system.log.read()
        none_lost(stored, ledger.acknowledged)
        check_all(stored, system.gold.read(), undisturbed)
        assert "whole" in system.evolog("doctor", "--integrity").out
        times = sorted(one.time for one in stored)
        longest = max(after - before for before, after in pairwise(times)) / 1e9
        print(
            f"\n{len(ledger.acknowledged)} events acknowledged to the client and none lost; {len(stored):,} in "
            f"{(times[-1] - times[0]) / 1e9:.1f} s, longest standstill {longest:.1f} s"
        )


def test_batches_and_expectations_hold_on_a_cluster_whichever_server_is_asked(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    acknowledged: dict[int, bytes] = {}
    refused: list[str] = []

    def place(number: int, tag: str) -> str:
        return f"{PREFIX[LOG]}.{RUN}.{number:024x}.{tag}"

    def write(wire: NatsSocket, writer: int) -> None:
        for slot in range(SLOTS):
            tag = ("trajectory_recorded", "rollout_failed")[(slot + writer) % 2]
            own = SLOTS * (writer + 1) + slot
            batch = [
                Message(place(slot, tag), f"{writer} {slot} first".encode()),
                Message(place(own, "trajectory_recorded"), f"{writer} {slot} last".encode()),
            ]
            while True:
                try:
                    acknowledged[wire.append(batch)] = batch[-1].payload
                except Refused:
                    refused.append(place(slot, tag))
                except Unavailable:  # stored or not: who tries again finds out
                    time.sleep(0.1)
                    continue
                break

    try:
        cluster.start()
        bootstrap_account = Credentials(cluster.url, BOOTSTRAP, cluster.passwords[BOOTSTRAP], inbox_of(BOOTSTRAP))
        asyncio.run(bootstrap(bootstrap_account, replicas=SERVERS))
        accounts = [
            Credentials(url, "executor", cluster.passwords["executor"], inbox_of("executor"))
            for url in cluster.url.split(",")
        ]
        with ThreadPoolExecutor(SERVERS) as pool:
            writing = [
                pool.submit(write, NatsSocket(account, LOG, timeout=4.0), number)
                for number, account in enumerate(accounts)
            ]
            wait_until(lambda: len(acknowledged) > SLOTS // 4, "a part is written")
            cluster.ask(f"$JS.API.STREAM.LEADER.STEPDOWN.{LOG}")
            for one in writing:
                one.result()
        messages = NatsSocket(accounts[0], LOG).read(1, 10 * SLOTS)
    finally:
        cluster.stop()
    assert len(messages) == 2 * SLOTS and len({exclusive_key(one.subject) for one in messages}) == 2 * SLOTS
    for first, last in zip(messages[::2], messages[1::2], strict=True):
        assert first.data.endswith(b"first") and last.data == first.data.replace(b"first", b"last")
    none_lost(messages, acknowledged)
    assert len(refused) >= SLOTS
    print(f"\n{SLOTS} slots, {len(acknowledged)} batches acknowledged, {len(refused)} refused")


@pytest.mark.parametrize(
    ("count", "arguments", "words"),
    [
        ("3", (), ("embedded nats-server is alone",)),
        ("2", ("--nats", "nats://127.0.0.1:1"), ("expected 1, 3 or 5",)),
        ("many", (), ("whole number of servers",)),
    ],
)
def test_a_number_of_servers_that_cannot_be_is_refused(
    tmp_path: Path, count: str, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    system = CliHarness(tmp_path)
    refused = system.evolog("up", *arguments, code=Misconfigured.code, EVOLOG_NATS_REPLICAS=count)
    one_sentence(refused, "EVOLOG_NATS_REPLICAS", *words)
