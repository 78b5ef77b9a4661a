"""A host that has the package, the task and a bundle, and no folder of anybody else's."""

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.errors import Misconfigured
from runtime.broker.children import free_port
from runtime.broker.issuing import bundle_file
from services.host.node import Node
from tests.harness.cli import CliHarness
from tests.harness.paths import TOY
from tests.harness.polling import PATIENCE, wait_until

pytestmark = pytest.mark.slow

ELSEWHERE = ("executor", "verifier", "policy")
"""The services that run on the second host; the first has none of the first two."""
PLAYED = "SELECT generation, purpose, item, attempt, answer, reward FROM trajectories WHERE run = '{}' ORDER BY ALL"


@contextlib.contextmanager
def host(system: CliHarness, folder: Path) -> Iterator[Node]:
    """The services of `ELSEWHERE` by a bundle, in a directory that was not there."""
    node, bundle = Node(folder), folder.with_name("bundle.json")
    shutil.copy(bundle_file(system.node.directory, "second"), bundle)
    processes: list[subprocess.Popen[str]] = []
    try:
        for service in ELSEWHERE:
            arguments = ("--dir", str(node.directory), "--credentials", str(bundle))
            processes.append(system.start("service", service, *arguments))
        yield node
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.communicate(timeout=PATIENCE)


def test_a_run_goes_over_two_hosts_that_share_no_folder_and_comes_out_the_same(tmp_path: Path) -> None:
    system = CliHarness(tmp_path / "first")
    system.patience = 600.0
    run = ("run", str(TOY), "--seed", "3", "--generations", "2", "--name")
    system.evolog(*run, "alone")
    alone = system.here("sql", PLAYED.format("alone"), "--format", "csv").out
    digest = system.here("replay", "alone").out

    address = f"127.0.0.1:{free_port()}"
    system.evolog("credentials", "init", "--address", address)
    system.evolog("credentials", "add", "second", *ELSEWHERE)
    up = system.start("up", "--listen", address, "--executors", "0", "--verifiers", "0", "--blobs", "stream")
    try:
        wait_until(lambda: system.node.alive() or up.poll() is not None, "evolog is up")
        shutil.rmtree(system.node.blobs)  # what stood there is with the broker now
        shutil.rmtree(system.node.gold_blobs)
        with host(system, tmp_path / "second") as second:
            system.evolog(*run, "together")
            assert system.here("sql", PLAYED.format("together"), "--format", "csv").out == alone
            assert list(second.blobs.rglob("?" * 64)) and not second.node_json.exists()
            assert {path.name for path in second.directory.iterdir()} <= {
                "credentials",
                "blobs",
                "in_hand",
                "work",
            }
        assert system.here("replay", "alone").out == digest
        assert "whole" in system.here("doctor", "--integrity").out
    finally:
        up.terminate()
        _, said = up.communicate(timeout=PATIENCE)
    assert (
        "Copy the bundles in" in said
        and "blobs are in the stream BLOBS" in said
        and "blobs are in the stream GOLD_BLOBS" in said
    )

    shutil.rmtree(system.node.blobs)
    system.evolog("replay", "together")  # nothing is up, and the blobs are read from the broker's files
    system.evolog("gc", code=2)
    system.evolog("up", "--blobs", "directory", code=Misconfigured.code)
