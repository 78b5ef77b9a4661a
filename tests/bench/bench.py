"""The figures in tests/RESULTS.md: `make bench`. Each is a ratio or a time within this one run, on this machine."""

import asyncio
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nats
from rich.console import Console
from rich.table import Table

from events import codec
from events.judgement import TrajectoryScored
from runtime.broker.accounts import API, OPERATOR
from runtime.broker.credentials import credentials_file
from runtime.log.port import append_once
from tests.bench import audits
from tests.harness.broker import account, broker
from tests.harness.generator import fill, log_batches
from tests.harness.paths import TOY

SINGLE, BATCHES, BATCH, REPEATS = 400, 12, 400, 7
LOGGED, COMPARED = 200_000, 50_000
"""Events of the log that is rebuilt, and of those the ones that both readers read."""
QUESTIONS = {
    "count by type": "SELECT tag, count(*) FROM events GROUP BY tag",
    "mean seconds and tokens by run": "SELECT run, avg(seconds), sum(prompt_tokens) FROM model_called GROUP BY run",
    "95th percentile of seconds by run": "SELECT run, quantile_cont(seconds, 0.95) FROM trajectory_recorded GROUP BY "
    "run",
    "last event of each run": "SELECT run, max(seq), arg_max(tag, seq) FROM events GROUP BY run",
    "generations of a run": "FROM generations WHERE run = 'run-0'",
    "levers": "SELECT lever, action, count(*), avg(gain) FROM levers GROUP BY ALL",
    "adapters": "FROM adapters",
    "cost by purpose": "SELECT purpose, sum(rollouts), sum(tokens) FROM cost GROUP BY purpose",
    "runs": "FROM runs",
    "attempts of a run with their scores": "SELECT purpose, count(*), avg(reward) FROM trajectories WHERE run = "
    "'run-0' GROUP BY purpose",
    "attempts of all runs with their scores": "SELECT purpose, count(*), avg(reward) FROM trajectories GROUP BY "
    "purpose",
    "items of a run that were never solved": "SELECT item FROM rewards WHERE run = 'run-0' GROUP BY item HAVING "
    "max(best) < 1",
}


def scored(run: str, number: int) -> codec.Event:
    fact = TrajectoryScored(
        trajectory=f"t{number}", request="q", item="i", attempt=number, reward=1.0, outcome="right", verifier="v"
    )
    return codec.event(fact, run=run, source="verifier", cause="c", time="2026-01-01T00:00:00Z")


def sandbox_start() -> list[tuple[str, str]]:
    """An empty Python in the sandbox, to its end and with everything put away, against the same without; in turn,
    twenty times.
    """
    from runtime.sandbox.choose import provide
    from runtime.sandbox.launch import Command, Confined

    argv = [sys.executable, "-IS", "-c", "pass"]
    bare, confined = [], []
    profile = provide()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(20):
            began = time.perf_counter()
            subprocess.run(argv, check=True, capture_output=True)
            between = time.perf_counter()
            running = Confined(profile.kind, Command(argv, {}, {}, Path(folder)))
            running.communicate(10)
            running.close()
            bare.append((between - began) * 1e3)
            confined.append((time.perf_counter() - between) * 1e3)
    more = statistics.median(confined) - statistics.median(bare)
    return [
        (
            f"milliseconds that an empty Python takes longer in the sandbox ({profile.text.split(',')[0]})",
            f"{more:.0f}, at least {min(confined) - min(bare):.0f}  (an empty Python takes "
            f"{statistics.median(bare):.0f})",
        )
    ]


async def seconds(work: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def appends() -> list[tuple[str, str]]:
    """Durable appends per second, ours (events encoded, expectation set, once) against nats-py sending ready-made
    bytes.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        async with broker(Path(folder)) as server, account(server, "verifier") as ours:
            login = json.loads(credentials_file(Path(folder), "verifier").read_text())
            bare = await nats.connect(
                server.url, user=login["user"], password=login["password"], inbox_prefix=login["inbox"].encode()
            )
            log = ours.log()
            number = 0

            def prepared(count: int) -> list[codec.Event]:
                nonlocal number
                number += count
                return [scored(f"b{uuid.uuid4().hex[:6]}", number + at) for at in range(count)]

            async def ours_single() -> None:
                for event in single:
                    await append_once(log, [event], ours.scanner)

            async def bare_single() -> None:
                for subject, data in ready:
                    answer = await bare.request(
                        subject, data, timeout=10, headers={"Nats-Expected-Last-Subject-Sequence": "0"}
                    )
                    assert b'"seq"' in answer.data, answer.data

            async def ours_batch() -> None:
                for at in range(0, len(single), BATCH):
                    await append_once(log, single[at : at + BATCH], ours.scanner)

            async def bare_batch() -> None:
                for at in range(0, len(ready), BATCH):
                    part, batch = ready[at : at + BATCH], uuid.uuid4().hex
                    for place, (subject, data) in enumerate(part, 1):
                        headers = {
                            "Nats-Expected-Last-Subject-Sequence": "0",
                            "Nats-Batch-Id": batch,
                            "Nats-Batch-Sequence": str(place),
                        }
                        if place < len(part):
                            await bare.publish(subject, data, headers=headers)
                    answer = await bare.request(
                        part[-1][0], part[-1][1], timeout=10, headers=headers | {"Nats-Batch-Commit": "1"}
                    )
                    assert b'"count"' in answer.data, answer.data

            for name, count, mine, theirs in (
                ("one at a time", SINGLE, ours_single, bare_single),
                (f"batches of {BATCH}", BATCH * BATCHES, ours_batch, bare_batch),
            ):
                ratios, rates, bare_rates = [], [], []
                for _ in range(REPEATS):
                    single = prepared(count)
                    ready = [(event.subject, codec.encode(event)) for event in prepared(count)]
                    own, other = await seconds(mine), await seconds(theirs)
                    ratios.append(other / own)
                    rates.append(count / own)
                    bare_rates.append(count / other)
                rows.append(
                    (
                        f"durable appends, {name}: ours / bare nats-py (goal 0.8)",
                        f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
                        f"  ({statistics.median(rates):,.0f}/s against {statistics.median(bare_rates):,.0f}/s)",
                    )
                )
            await bare.close()
    return rows


def evolog(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "evolog"), *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def up_to_first_event() -> list[tuple[str, str]]:
    """From `evolog up` to the first decision on the log, and a generation of a task in which nothing takes time."""
    toy = TOY
    times, generations, overheads = [], [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            began = time.time()
            up = subprocess.Popen(
                [str(Path(sys.executable).parent / "evolog"), "up", "--dir", "node"],
                cwd=folder,
                stderr=subprocess.DEVNULL,
            )
            try:
                while not (Path(folder) / "node" / "node.json").exists():
                    time.sleep(0.01)
                done = evolog(
                    "run",
                    str(toy),
                    "--name",
                    "bench",
                    "--levers",
                    "scaffold",
                    "--dir",
                    "node",
                    "--json",
                    cwd=Path(folder),
                )
                assert done.returncode == 0, done.stderr
                listed = evolog(
                    "watch", "bench", "--no-follow", "--json", "--dir", "node", cwd=Path(folder)
                ).stdout.splitlines()
                first = next(line for line in map(json.loads, listed) if line["subject"].endswith("scaffold_requested"))
                times.append(_epoch(first["stored"]) - began)
                report = json.loads(done.stdout)
                generations += [row["seconds"] for row in report["generations"][1:]]
                overheads.append(_outside_play([json.loads(line) for line in listed]))
            finally:
                up.terminate()
                up.wait()
    return [
        (
            "seconds from `evolog up` to the first decision, a run ordered at once (goal 2)",
            f"{statistics.median(times):.2f}",
        ),
        ("seconds per generation outside scaffold, model and training (goal 0.3)", _spread(overheads)),
        (
            "seconds for a whole generation of the toy task, from choosing the lever to keeping the candidate",
            _spread(generations),
        ),
    ]


def _outside_play(events: list[dict[str, Any]]) -> float:
    """Of generation 1: from asking for feedback to the verdict, without the time from the first shard's order to the
    last trajectory.
    """

    def times(tag: str) -> list[float]:
        return [
            _epoch(line["stored"])
            for line in events
            if line["subject"].endswith(tag)
            and (tag == "trajectory_recorded" or line["event"]["data"]["generation"] == 1)
        ]

    (verdict,) = times("candidate_accepted")
    ordered = min(times("rollouts_requested"))
    played = max(time for time in times("trajectory_recorded") if time < verdict)
    return (verdict - min(times("feedback_requested"))) - (played - ordered)


def _spread(of: list[float]) -> str:
    return f"{statistics.median(of):.2f} [{min(of):.2f}, {max(of):.2f}]"


def _epoch(stored: str) -> float:
    from events.time import nanoseconds

    return nanoseconds(stored) / 1e9


def cold_help() -> list[tuple[str, str]]:
    """`evolog --help` in a new process, against Python starting and ending."""
    helped: list[float] = []
    bare: list[float] = []
    for _ in range(15):
        for times, command in (
            (helped, [str(Path(sys.executable).parent / "evolog"), "--help"]),
            (bare, [sys.executable, "-c", ""]),
        ):
            began = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - began)
    return [
        (
            "milliseconds for a cold `evolog --help` (goal 120)",
            f"{statistics.median(helped) * 1e3:.0f}  (an empty Python takes {statistics.median(bare) * 1e3:.0f})",
        )
    ]


def weights() -> list[tuple[str, str]]:
    """The tiny language model: sampling in company against alone, and a training round against the forward and backward
    that it needs.
    """
    import torch

    from algorithms.demos import curves, toys
    from algorithms.learning import algorithm
    from algorithms.learning.update import update
    from algorithms.models.sampling import CompletionRequest
    from algorithms.models.tiny_lm import TinyTrainee
    from tests.bench.updates import update_rows

    base = curves.base_model()
    sampler, question = base.sampler(), toys.dense().questions[0]
    alone: list[float] = []
    together: list[float] = []
    for repeat in range(REPEATS):
        for rates, rows in ((alone, 1), (together, 32)):
            asks = [
                CompletionRequest(prompt=base.encode(question.prompt), seed=repeat, index=index, max_tokens=16)
                for index in range(rows)
            ]
            began = time.perf_counter()
            rates.append(sum(len(one.tokens) for one in sampler.sample(asks)) / (time.perf_counter() - began))
    batch = curves.answer_question(sampler, base, question, 0, curves.SAMPLES, 0)
    ratios, rounds = [], []
    for _ in range(REPEATS):
        model = TinyTrainee(base, None, 0)
        began = time.perf_counter()
        update(model, algorithm("grpo"), batch, {"epochs": 1}, seed=0, parent="0")
        rounds.append(time.perf_counter() - began)
        began = time.perf_counter()
        with torch.no_grad():
            model.outputs(batch)
            model.outputs(batch, base=True)
        model.outputs(batch).logp.sum().backward()
        ratios.append(rounds[-1] / (time.perf_counter() - began))
    gain = statistics.median(together) / statistics.median(alone)
    return [
        (
            "tiny-lm, one thread: tokens a second of 32 answers at once / of one",
            f"{gain:.1f}  ({statistics.median(together):,.0f}/s against {statistics.median(alone):,.0f}/s)",
        ),
        (
            "tiny-lm: a GRPO update of 64 answers, one step / its two forwards and one backward",
            f"{_spread(ratios)}  ({statistics.median(rounds) * 1e3:.0f} ms)",
        ),
        *backends(),
        *update_rows(),
    ]


BACK_ENDS, STEPS = ("native", "trl"), 8
"""Optimiser steps of an update, each on the whole batch."""


def tiny() -> tuple[Any, Any]:
    """The tiny language model, on the GPU if there is one, and 64 of its answers."""
    import torch

    from algorithms.demos import curves, toys

    base = curves.base_model()
    base.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return base, curves.answer_question(base.sampler(), base, toys.dense().questions[0], 0, curves.SAMPLES, 0)


def update_by(back_end: str, base: Any, batch: Any, sampling: bool) -> Callable[[], None]:
    """A GRPO update of so many steps that is ready to be made, on a model of its own, which answers 64 times first
    where `sampling`.
    """
    from algorithms.demos import curves, toys
    from algorithms.learning import algorithm
    from algorithms.learning.update import update
    from algorithms.models.tiny_lm import TinyTrainee
    from runtime.policies import trl_backend

    model, descend = TinyTrainee(base, None, 0), {"native": update, "trl": trl_backend.update}[back_end]

    def made() -> None:
        if sampling:
            curves.answer_question(model.sampler(), base, toys.dense().questions[0], 0, curves.SAMPLES, 0)
        descend(model, algorithm("grpo"), batch, {"epochs": STEPS}, seed=0, parent="0")

    return made


def backends() -> list[tuple[str, str]]:
    """One batch, model and settings by both back ends: seconds a step, without the sampling before it and with it, and
    its peak memory.
    """
    (base, batch), rows = tiny(), []
    for words, sampling in (("", False), (" with the sampling of its batch", True)):
        times: dict[str, list[float]] = {name: [] for name in BACK_ENDS}
        for _ in range(1 + 3):  # the first goes uncounted
            for name in BACK_ENDS:
                update = update_by(name, base, batch, sampling)
                began = time.perf_counter()
                update()
                times[name].append((time.perf_counter() - began) / STEPS)
        ratios = [by_trl / native for native, by_trl in zip(*times.values(), strict=True)][1:]
        native = statistics.median(times["native"][1:])
        rows.append(
            (f"tiny-lm: seconds a GRPO step{words}, trl / native", f"{_spread(ratios)}  ({native * 1e3:.0f} ms native)")
        )
        if sys.platform == "linux":
            peaks = [_peak_of(name, sampling) for name in BACK_ENDS]
            rows.append(
                (
                    f"tiny-lm: peak MiB of a GRPO step{words} above what is held, native, trl",
                    "{:.1f}, {:.1f}".format(*peaks),
                )
            )
    return rows


def _peak_of(back_end: str, sampling: bool) -> float:
    """`peak` in a process of its own, whose allocator (glibc's) hands back at once what is freed; else it would count
    as held.
    """
    command = [sys.executable, __file__, "--peak", back_end, str(int(sampling))]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"}
    return float(subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout)


def peak(back_end: str, sampling: bool) -> float:
    """MiB that an update, the second of its process, needs at its peak above what was held before it: torch's on a GPU,
    else resident.
    """
    import torch

    base, batch = tiny()
    update_by(back_end, base, batch, sampling)()
    update = update_by(back_end, base, batch, sampling)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        update()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is resident: proc(5)
    held = _resident("VmRSS")
    update()
    return (_resident("VmHWM") - held) / 2**10


def _resident(field: str) -> int:
    """KiB by this name in /proc/self/status (proc(5))."""
    return next(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(f"{field}:")
    )


async def rebuilt(events: int) -> list[tuple[str, str]]:
    """A generated log of so many events, rebuilt from a real server into DuckDB, and what questions to that take."""
    from replay.archive.query import query_file
    from replay.archive.rebuild import rebuild
    from runtime.log.socket import BulkReader

    with tempfile.TemporaryDirectory() as folder:
        directory, into = Path(folder), Path(folder) / "rebuilt.duckdb"
        await asyncio.to_thread(fill, directory, log_batches(events))
        async with broker(directory) as server, account(server, OPERATOR) as operator:
            end = await operator.log().end()
            streams = (await operator.client()).jetstream(prefix=API)
            pulled = await streams.pull_subscribe_bind(consumer=OPERATOR, stream="EVOLOG")
            began, count = time.perf_counter(), 0
            while count < COMPARED:
                count += len(await pulled.fetch(1000, timeout=10))
            theirs = time.perf_counter() - began
            bulk = BulkReader(operator.credentials, "EVOLOG")
            began, count = time.perf_counter(), 0
            while count < COMPARED:
                count += len(await asyncio.to_thread(bulk.read, count + 1, 5000))
            ours = time.perf_counter() - began
            bulk.close()
            began = time.perf_counter()
            found = await asyncio.to_thread(rebuild, bulk.read, into, end=end)
            whole = time.perf_counter() - began
            bulk.close()
        assert found.events == end and not found.broken and not found.gap, found
        rows = [
            (
                f"reading {COMPARED:,} events of the log: nats-py's seconds / ours",
                f"{theirs / ours:.1f}  ({COMPARED / ours:,.0f}/s)",
            ),
            (
                f"seconds to rebuild the archive from {end:,} events of 1 kB, chains checked (goal 20 a million)",
                f"{whole:.1f}  ({end / whole:,.0f}/s, {into.stat().st_size / 1e6:.0f} MB)",
            ),
        ]
        for name, sql in QUESTIONS.items():
            times = []
            for _ in range(5):
                began = time.perf_counter()
                query_file(into, sql)
                times.append((time.perf_counter() - began) * 1e3)
            rows.append((f"milliseconds of SQL over it (goal 50): {name}", f"{statistics.median(times):.0f}"))
    return rows


def main(*rows: tuple[str, str]) -> None:
    table = Table(
        title=f"evolog bench: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        title_justify="left",
    )
    table.add_column("what")
    table.add_column("median [least, most]")
    for what, figure in rows or (
        *cold_help(),
        *sandbox_start(),
        *asyncio.run(appends()),
        *up_to_first_event(),
        *asyncio.run(rebuilt(LOGGED)),
        *audits.rows(),
        *weights(),
    ):
        table.add_row(what, figure)
    Console(width=140).print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print(peak(sys.argv[2], sys.argv[3] == "1"))
    elif sys.argv[1:2] == ["--rebuild"]:  # these figures alone, over so many events
        main(*asyncio.run(rebuilt(int(sys.argv[2]))))
    else:
        main()
