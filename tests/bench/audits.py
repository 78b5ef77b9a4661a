"""What `evolog audit` of a long run costs, the first time and again: `python -m tests.bench.audits [--items 890]`.

With `--keep DIRECTORY` the runs are made there, or found there from before, and stay.

The run is made up and finished, and lies with its blobs, its task and the auditor's events on the disk of a directory
in which nothing is up. The seconds are the processor's, of the command and of the server that it starts, and so hold
beside other work; those by the clock do not. The memory is the most of the command or of its server.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from events import codec
from events.fact import Fact, derive_seed
from events.gold import AuditFinished, PairMeasured
from events.judgement import CandidateEvaluated
from events.population import CandidateAccepted
from runtime.blobs.directory import Blobs
from services.host.node import Node
from tasks.loading import load
from tests.harness.facts import publisher
from tests.harness.generator import Batches, OnDisk, dev_items, fill, run_batches

RUN = "long"
GENERATIONS = 12
DATA = '''"""Cases of made-up words."""

import hashlib
import random
from pathlib import Path

from tasks.contract import FOLDS, Example, Item, Public

TRAIN, DEV = {train}, {dev}


def default_root():
    return Path("/nonexistent")


def get(root, source):
    pass


def load(root, seed):
    draw = random.Random(seed)
    syllables = "ba de ki lo mu na pe ri so tu va ze".split()
    made = ["".join(draw.choices(syllables, k=3)) for _ in range(400)]
    cases = [(f"case-{{number:05}}", " ".join(draw.choices(made, k=60))) for number in range(TRAIN + 2 * DEV)]
    train = tuple(Example(id, text, "even", number % FOLDS, text) for number, (id, text) in enumerate(cases[:TRAIN]))
    dev, test = (tuple(Item(*case) for case in cases[at : at + DEV]) for at in (TRAIN, TRAIN + DEV))
    splits = (("train", train), ("dev", dev), ("test", test))
    digests = {{name: hashlib.sha256(repr(split).encode()).hexdigest() for name, split in splits}}
    return Public("cases", ("even", "odd"), train, dev, test, digests)


def labels(root, seed):
    return {{f"case-{{number:05}}": "even" for number in range(TRAIN + DEV)}}
'''
PARTS = {
    "README.md": "# Cases\n",
    "task.py": 'NAME = "cases"\nDESCRIPTION = "Made-up words."\nPOLICY = "text-scorer"\nGENERATIONS = 2\n',
    "verifier.py": 'from tasks.contract import Scored\n\nVERSION = "1"\n\n\ndef score(answer, label):\n'
    '    return Scored(float(answer == label), "right")\n',
    "gold.py": "from . import data\n\n\ndef labels(root, seed):\n"
    '    return {item.id: "even" for item in data.load(root, seed).test}\n',
}


def make(
    directory: Path,
    items: int,
    generations: int = GENERATIONS,
    most: int = sys.maxsize,
    among: Callable[[Batches], Batches] = lambda batches: batches,
    more_gold: Callable[[], Iterable[tuple[str, bytes]]] = tuple,
) -> int:
    """Put a run of so many train items into a new project directory, of whose batches so many at most have come; how
    many events the log has. `among` adds other runs to it, and `more_gold` what GOLD has beside the run's audit.

    Its task is in the folder `cases` beside the directory.
    """
    task = directory.with_name("cases")
    (task / "scaffold").mkdir(parents=True)
    (task / "scaffold" / "agent.py").write_text("def solve(item, model, data):\n    return None\n")
    for name, text in {**PARTS, "data.py": DATA.format(train=items, dev=dev_items(items))}.items():
        (task / name).write_text(text)
    node = Node(directory)
    node.make()
    public = load(str(task)).public(0)
    prompts = {item.id: item.prompt for split in (public.train, public.dev) for item in split}
    test = [item.id for item in public.test]
    on_disk = OnDisk(str(task), public.digests, prompts, Blobs(node.blobs))
    accepted: set[str] = set()
    evaluated: dict[str, CandidateEvaluated] = {}

    def watched() -> Batches:
        batches = run_batches(RUN, items=items, generations=generations, seed=0, on_disk=on_disk)
        batch = next(batches)
        for _ in range(most):
            for _, payload in batch:
                match codec.decode(payload).data:
                    case CandidateAccepted(candidate=candidate):
                        accepted.add(candidate)
                    case CandidateEvaluated() as one:
                        evaluated[one.candidate] = one
            time = yield batch
            try:
                batch = batches.send(time)
            except StopIteration:
                return

    def measured() -> Iterator[tuple[str, bytes]]:
        blob = Blobs(node.gold_blobs).put(b"answers")
        for candidate in (one for id, one in evaluated.items() if id in accepted):
            scores: dict[str, tuple[float, ...]] = {
                item: (float(derive_seed(item, candidate.candidate) % 100 < 100 * candidate.score),) for item in test
            }
            for measure in ("verifier", "gold"):
                pair = {"scaffold": candidate.scaffold, "adapter": candidate.adapter}
                yield message(PairMeasured(**pair, measure=measure, scores=scores, failed=0, blob=blob))
        yield message(AuditFinished(candidate="", cells=0, seconds=0.0))
        yield from more_gold()

    return fill(directory, among(watched()), measured)


def message(fact: Fact, run: str = RUN) -> tuple[str, bytes]:
    """An event of a run as it is appended: its subject, and the event."""
    event = codec.event(fact, run=run, source=publisher(fact), cause="", time="2026-01-01T00:00:00.000000Z")
    return event.subject, codec.encode(event)


class Cost(NamedTuple):
    """What a command took: seconds of the processor with those of its children, seconds by the clock, and MiB of memory
    of the largest.
    """

    seconds: float
    clock: float
    memory: float


def audit(directory: Path, *flags: str) -> tuple[Cost, str]:
    """Run `evolog audit` in a process of its own; its cost and what it printed."""
    command = [str(Path(sys.executable).parent / "evolog"), "audit", RUN, "--dir", str(directory), *flags]
    began = time.monotonic()
    done = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert done.stdout
    printed = done.stdout.read()
    _, status, used = os.wait4(done.pid, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 3, 6), status
    return Cost(used.ru_utime + used.ru_stime, time.monotonic() - began, used.ru_maxrss / 1024), printed


def rows(items: int = 220) -> list[tuple[str, str]]:
    """The figures of a run of so many train items for `make bench`."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "project"
        events = make(directory, items)
        (first, _), (again, _) = audit(directory), audit(directory)
    return [
        (
            f"seconds of the processor for an audit of a finished run of {events:,} events, the first / again",
            f"{first.seconds / again.seconds:.1f}  ({first.seconds:.1f} s, {again.seconds:.1f} s)",
        )
    ]


def main() -> None:
    """Make a run, audit it, and print what that took."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.audits", description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[220, 890])
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    print(f"{time.strftime('%d %B %Y')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    for items in options.items:
        with tempfile.TemporaryDirectory() as temporary:
            directory = (options.keep or Path(temporary)) / str(items) / "project"
            events = make(directory, items) if not directory.exists() else 0
            for what, flags in (("first", ["--fresh"]), ("again", [])):
                cost, _ = audit(directory, *flags)
                took = f"{cost.seconds:.1f} s, {cost.clock:.1f} s by the clock, {cost.memory:,.0f} MiB"
                print(f"{items} items{f', {events:,} events' if events else ''}, {what}: {took}", flush=True)


if __name__ == "__main__":
    main()
