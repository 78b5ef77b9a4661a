"""Rollouts a second by the ways that completions and blobs can take: `python -m tests.bench.transport [--repeats 30]`.

A runner plays shards of the toy task's dev items in its sandbox, and the policy's service answers in its own process.
Shards go by HTTP on 127.0.0.1, by the broker, and by the broker with blobs in its stream, in turn, so that whatever
else the host does falls on all alike. Every call is recorded on the log before its answer is released. A ratio is the
median of those of neighbouring shards. Beside the clock's seconds stand the processor's, of the runner, the sandbox,
the policy and the nats-server together, which other work on the host leaves alone.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from events import codec
from events.rollouts import ModelCalled
from events.secret import Scanner
from events.subjects import LOG, subject
from runtime.blobs.directory import Blobs
from runtime.blobs.stream import StreamBlobs
from runtime.broker.children import free_port
from runtime.broker.credentials import read_credentials
from runtime.log.port import Message, readable
from runtime.log.questions import Asking
from runtime.log.socket import NatsSocket
from runtime.policies.client import PolicyClient, model_name
from runtime.policies.questions import AskedPolicy
from runtime.rollouts.calls import CallLog, CompletionSource
from runtime.rollouts.runner import RolloutRunner
from runtime.rollouts.shard import RolloutShard
from runtime.run.order import put_base_model
from services.host.node import Node
from services.host.supervisor import service_environment
from tasks.loading import load
from tests.bench.serving import processor_seconds
from tests.harness.broker import broker_beside, chunk_socket
from tests.harness.paths import TOY
from tests.harness.polling import wait_until

TIME = "2026-01-01T00:00:00.000000Z"
ATTEMPTS = 1
"""Attempts at each dev item in a shard: few, so that neighbours are near each other in time."""


class Recording:
    """The log of one executor, on a real broker."""

    def __init__(self, node: Node) -> None:
        self._socket = NatsSocket(read_credentials(node.credentials("executor")), LOG)

    def find(self, ids: Sequence[str]) -> Mapping[str, ModelCalled]:
        """As `CallLog.find`."""
        stored = self._socket.last([subject(LOG, "r", id, ModelCalled.tag()) for id in ids])
        return {event.id: event.data for event in readable(stored.values()) if isinstance(event.data, ModelCalled)}

    def record(self, calls: Sequence[ModelCalled]) -> bool:
        """As `CallLog.record`."""
        events = [codec.event(call, run="r", source="executor", cause="", time=TIME) for call in calls]
        self._socket.append([Message(event.subject, codec.encode(event)) for event in events])
        return False


class Rates(NamedTuple):
    """Rollouts a second, of the clock's and of the processor's."""

    clock: float
    processor: float


def measure(folder: Path, repeats: int) -> dict[str, list[Rates]]:
    """The rates of each shard, by the way that it went."""
    task = load(str(TOY))
    public = task.public(0)
    with broker_beside(folder) as server:
        node, url = Node(folder), f"http://127.0.0.1:{free_port()}"
        blobs = Blobs(node.blobs)
        base = put_base_model(task.policy, task, public, blobs, lambda *_: None)
        streamed = StreamBlobs(folder / "cache", chunk_socket(server, "executor"))
        scaffold = blobs.put_folder(task.folder / "scaffold")
        streamed.put_folder(task.folder / "scaffold")
        service = subprocess.Popen(
            [sys.executable, "-P", "-m", "services.host.main", "policy", "--dir", str(folder)],
            env=service_environment(os.environ) | {"EVOLOG_POLICY_URL": url},
        )
        try:
            token = node.credentials("policy_token").with_suffix("")
            wait_until(token.exists, "the policy has made its token")
            login = read_credentials(node.credentials("executor"))
            ways: dict[str, tuple[CompletionSource, Blobs]] = {
                "HTTP": (PolicyClient(url, token.read_text()), blobs),
                "broker": (AskedPolicy(Asking(login), blobs), blobs),
                "broker, blobs in its stream": (AskedPolicy(Asking(login), streamed), streamed),
            }
            recording = Recording(node)
            runners = {
                way: RolloutRunner(kept, folder / f"work{number}", policy, Scanner([]))
                for number, (way, (policy, kept)) in enumerate(ways.items())
            }
            items = tuple(item.id for item in public.dev)
            rates: dict[str, list[Rates]] = {way: [] for way in ways}
            for repeat in range(-1, repeats):  # the first loads the model, and does not count
                for way in sorted(ways, reverse=bool(repeat % 2)):
                    shard = RolloutShard(
                        run="r",
                        id=f"{way} {repeat}",
                        scaffold=scaffold,
                        model=model_name(base, ""),
                        items=items,
                        attempts=ATTEMPTS,
                        fold=0,  # whose processes are kept, so that their start is not measured
                        temperature=1.0,
                        seed=repeat + 1,
                    )
                    began, used = time.perf_counter(), processor_seconds(os.getpid())
                    runners[way].run(shard, public, CallLog(recording.find, recording.record))
                    seconds, processor = time.perf_counter() - began, processor_seconds(os.getpid()) - used
                    if repeat >= 0:
                        rates[way].append(Rates(len(items) / seconds, len(items) / processor))
            for runner in runners.values():
                runner.close()
            return rates
        finally:
            service.terminate()
            service.wait()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        rates = measure(Path(name), repeats)
    table = Table("way", "rollouts a second", "ratio to HTTP", "rollouts a second of the processor's", "ratio to HTTP")
    for way, of in rates.items():
        cells = []
        for index in range(2):
            mine, http = [one[index] for one in of], [one[index] for one in rates["HTTP"]]
            ratios = [one / other for one, other in zip(mine, http, strict=True)]
            cells += [_median(mine, "{:.0f}"), _median(ratios, "{:.3f}")]
        table.add_row(way, *cells)
    Console(width=160).print(table, "Medians, with quartiles.")


def _median(values: Sequence[float], form: str) -> str:
    low, middle, high = (form.format(value) for value in statistics.quantiles(values, n=4, method="inclusive"))
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()
