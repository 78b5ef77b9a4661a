"""The rollout runner without services: scaffolds play items of the toy task, and their calls are recorded in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from events import codec
from events.fact import Fact
from events.rollouts import ModelCalled, RolloutsRequested
from events.secret import Scanner, Secret
from runtime.blobs.directory import Blobs
from runtime.policies.interface import Sampled, SampleRequest
from runtime.rollouts.runner import RolloutRunner
from tasks.contract import Public
from tasks.loading import load
from tests.harness.paths import TOY


class FirstChoicePolicy:
    """A policy that answers with the first choice and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[SampleRequest] = []

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """As `Policy.sample`."""
        self.asked += requests
        return [Sampled((request.choices[0],) * request.n, ((0,),) * request.n, ((-0.5,),) * request.n) for request in requests]


class RunnerHarness:
    """A rollout runner for the toy task, with its blobs and the calls that it recorded."""

    def __init__(self, folder: Path, policy: FirstChoicePolicy) -> None:
        self.policy = policy
        self.blobs = Blobs(folder / "blobs")
        self.player = RolloutRunner(self.blobs, folder / "work", policy, Scanner([Secret("hunter2hunter2")]))
        self.recorded: dict[str, ModelCalled] = {}
        self.public: Public = load(str(TOY)).public(0)

    def record(self, calls: Sequence[ModelCalled]) -> None:
        self.recorded |= {codec.event_id("r", ModelCalled, *call.key()): call for call in calls}

    def known(self, ids: Sequence[str]) -> Mapping[str, ModelCalled]:
        return {id: self.recorded[id] for id in ids if id in self.recorded}

    def play(
        self, code: str, items: Sequence[str], fold: int = -1, attempts: int = 1, hints: Mapping[str, str] | None = None
    ) -> list[Fact]:
        requested = RolloutsRequested(
            generation=0,
            purpose="train" if fold >= 0 else "dev",
            round=1,
            shard=0,
            scaffold=self.blobs.put_tree({"agent.py": code.encode()}),
            adapter="",
            split="train" if fold >= 0 else "dev",
            fold=fold,
            items=tuple(items),
            attempts=attempts,
            temperature=1.0,
            seed=1,
        )
        try:
            return self.player.play("r", "q", requested, self.public, "m", self.known, self.record, hints)
        finally:
            self.player.close()
