"""The rollout runner without services: scaffolds answer items of the toy task, and their calls are recorded
in memory.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from events import codec
from events.rollouts import ModelCalled
from events.secret import Scanner, Secret
from runtime.blobs.directory import Blobs
from runtime.policies.interface import Sampled, SampleRequest
from runtime.rollouts.calls import CallLog
from runtime.rollouts.runner import RolloutRunner
from runtime.rollouts.shard import AttemptResult, RolloutShard
from tasks.contract import Public
from tasks.loading import load
from tests.harness.paths import TOY


class FirstChoicePolicy:
    """A policy that answers with the first choice and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[SampleRequest] = []

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """As `CompletionSource.sample`."""
        self.asked += requests
        return [
            Sampled((request.choices[0],) * request.n, ((0,),) * request.n, ((-0.5,),) * request.n)
            for request in requests
        ]


class RunnerHarness:
    """A rollout runner for the toy task, with its blobs and the calls that it recorded."""

    def __init__(self, folder: Path, policy: FirstChoicePolicy) -> None:
        self.folder = folder
        self.blobs = Blobs(folder / "blobs")
        self.recorded: dict[str, ModelCalled] = {}
        self.public: Public = load(str(TOY)).public(0)
        self.use(policy)

    def use(self, policy: FirstChoicePolicy) -> None:
        """Run what follows with another policy."""
        self.policy = policy
        self.runner = RolloutRunner(self.blobs, self.folder / "work", policy, Scanner([Secret("hunter2hunter2")]))

    def record(self, calls: Sequence[ModelCalled]) -> bool | None:
        """As `CallLog.record`."""
        self.recorded |= {codec.event_id("r", ModelCalled, *call.key()): call for call in calls}
        return None

    def find(self, ids: Sequence[str]) -> Mapping[str, ModelCalled]:
        """As `CallLog.find`."""
        return {id: self.recorded[id] for id in ids if id in self.recorded}

    def run(self, shard: RolloutShard) -> list[AttemptResult]:
        """The results of a shard."""
        return self.runner.run(shard, self.public, CallLog(self.find, self.record))

    def play(
        self,
        code: str,
        items: Sequence[str],
        fold: int | None = None,
        attempts: int = 1,
        hints: Mapping[str, str] | None = None,
    ) -> list[AttemptResult]:
        """The results of a scaffold with this code."""
        scaffold = self.blobs.put_tree({"agent.py": code.encode()})
        try:
            return self.run(shard_of(items, scaffold=scaffold, fold=fold, attempts=attempts, hints=hints or {}))
        finally:
            self.runner.close()


def shard_of(items: Sequence[str], **fields: Any) -> RolloutShard:
    """A shard of these items."""
    return RolloutShard(run="r", id="q", model="m", items=tuple(items), temperature=1.0, seed=1, **fields)


def answers(results: Sequence[AttemptResult]) -> list[str | None]:
    """The answers of attempts none of which failed."""
    assert not any(result.kind for result in results), results
    return [result.answer for result in results]
