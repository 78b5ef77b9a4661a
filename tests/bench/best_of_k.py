"""What the start reaches by asking often: `python -m tests.bench.best_of_k TASK [--k 64] [--edit NAME ...]`.

The reference scaffold, with the edits that are named, answers each test item k times with the untrained policy. Of each
item's answers the best by the task's verifier counts, and what gold says of that one. Where the verifier judges whole
submissions, the best of k submissions counts. That takes k times the test items in rollouts, which is to be held
against what a run took. It is a baseline and no method: outside of a benchmark nobody has a verifier for the items in
question.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from events.errors import UserError
from events.secret import Scanner
from runtime.blobs.directory import Blobs
from runtime.policies.bases import EmbeddedPolicy, open_policy, prepare_base
from runtime.policies.interface import Sampled, SampleRequest
from runtime.rollouts.calls import CallLog
from runtime.rollouts.runner import RolloutRunner
from runtime.rollouts.shard import RolloutShard
from runtime.run.order import PRETRAINING_SEED
from tasks.contract import Public
from tasks.loading import Task, load
from tests.bench.judging import Answers, Judging

AT_ONCE = 32
"""Attempts at each item that are played together."""


class _Policy:
    def __init__(self, policy: EmbeddedPolicy) -> None:
        self._policy = policy

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        return self._policy.sample(requests)


def play(
    task: Task, public: Public, files: dict[str, str], folder: Path, k: int, temperature: float, seed: int
) -> list[Answers]:
    """The answers of each of k attempts at all test items."""
    base = prepare_base(task.policy, public, lambda: task.traces(PRETRAINING_SEED))
    blobs = Blobs(folder / "blobs")
    scaffold = blobs.put_tree({path: text.encode() for path, text in files.items()})
    runner = RolloutRunner(blobs, folder / "work", _Policy(open_policy(base, None)), Scanner([]))
    attempts: list[dict[str, str | None]] = [{} for _ in range(k)]
    try:
        for begun in range(0, k, AT_ONCE):
            shard = RolloutShard(
                run="best-of-k",
                id=f"best-of-k-{seed}-{begun}",
                scaffold=scaffold,
                model="base",
                items=tuple(item.id for item in public.test),
                attempts=min(AT_ONCE, k - begun),
                temperature=temperature,
                seed=seed * 1_000_003 + begun,
                max_tokens=task.max_tokens,
                shared_state=task.shared_state,
            )
            for result in runner.run(shard, public, CallLog(find=lambda ids: {}, record=lambda calls: None)):
                if not result.kind:
                    attempts[begun + result.attempt][result.item] = result.answer
    finally:
        runner.close()
    return list(attempts)


def main() -> int:
    """Print a row for 1, 4, 16, ... answers and for k; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--edit", action="append", default=[], help="an edit of the task's catalogue, by name")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        task = load(options.task)
        public, files = task.public(options.seed), task.scaffold()
        for name in options.edit:
            files = next(edit for edit in task.edits() if edit.name == name).apply(files)
        judging = Judging(task, options.seed)
        table = Table(
            "answers an item", "temperature", "reward", "gold", "rollouts", "seconds", title=f"{task.verifier}, test"
        )
        with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):  # busy cores: threads wait
            for k, temperature in ((1, 0.0), (options.k, 1.0)):
                began = time.monotonic()
                attempts = play(task, public, files, Path(folder), k, temperature, options.seed)
                took = time.monotonic() - began
                for first in sorted({4**power for power in range(10) if 4**power < k} | {k}):
                    best = judging.best(public.test, attempts[:first])
                    reward, gold = judging.reward(public.test, best), judging.gold(public.test, best)
                    row = (str(first), f"{temperature:g}", f"{reward:.3f}", f"{gold:.3f}")
                    table.add_row(*row, f"{first * len(public.test):,}", f"{took:.0f}" if first == k else "")
    except UserError as wrong:
        Console(stderr=True).print(f"best_of_k: {wrong}")
        return wrong.code
    Console().print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
