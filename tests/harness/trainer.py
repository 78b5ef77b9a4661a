"""The trainer without services: a text scorer of five labels as the base model, and rounds of attempts at its texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from events.errors import UsageError
from events.fact import Fact
from events.rollouts import CallUse, ModelCalled, TrajectoryRecorded
from events.weights import TrainingBatchSealed
from runtime.blobs.directory import Blobs
from runtime.effects.train import TrainingHost, train_round
from runtime.policies.interface import SampleRequest
from runtime.policies.text_scorer import build_base, load
from runtime.rollouts.attempt import RecordedAttempt
from runtime.run.batch import batch_digest
from runtime.run.loading import LoadedRun

LABELS = ("盗窃", "诈骗", "抢劫", "[生产、销售]假药", "失火")
TEXTS = ["被告人盗窃手机一部", "虚构事实诈骗钱财", "持刀抢劫路人财物", "生产销售假药牟利", "用火不慎引起失火"]


def ask(prompt: str, **how: Any) -> SampleRequest:
    """A request for one completion of the prompt, or as `how` has it."""
    return SampleRequest(prompt=prompt, **how)


class TrainerHarness:
    """Blobs with a text scorer in them, and batches of attempts at its texts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.blobs = folder, Blobs(folder / "blobs")
        build_base(LABELS, TEXTS).save(folder / "base")
        self.base = self.blobs.put_folder(folder / "base")

    def train_round(
        self, algorithm: str, rewards: list[float], *, shift: float = 0.0, picks: Sequence[int] = (), **order: Any
    ) -> list[Fact]:
        """A round in which attempt k at the first text answers with label `picks[k]`, or with label k where none are
        given; `shift` is added to the recorded log-probabilities.
        """
        picks = picks or [k % 5 for k in range(len(rewards))]
        logs = load(self.folder / "base").log_probs(TEXTS[0])
        body = self.blobs.put(msgspec.json.encode([ask(TEXTS[0], n=len(rewards))]))
        call = ModelCalled(
            request="q",
            item="i",
            ordinal=0,
            provider="embedded",
            model=self.base,
            adapter="",
            body=body,
            index=0,
            sampling_seed=0,
            temperature=1.0,
            texts=tuple(LABELS[pick] for pick in picks),
            tokens=tuple((pick,) for pick in picks),
            logprobs=tuple((logs[pick] + shift,) for pick in picks),
            prompt_tokens=1,
            completion_tokens=len(rewards),
            micro_usd=0,
            seconds=0.0,
        )
        played = [
            RecordedAttempt(f"t{k}", self.recorded(k, call.texts[k]), reward, "", (call,))
            for k, reward in enumerate(rewards)
        ]
        sealed: dict[str, Any] = {
            "generation": 1,
            "round": 1,
            "algorithm": algorithm,
            "hyper": {},
            "parent_adapter": "",
            "training_seed": 3,
            "requests": ("q",),
            "trajectories": len(rewards),
            "digest": batch_digest([(f"t{k}", reward) for k, reward in enumerate(rewards)]),
            **order,
        }
        host = TrainingHost(self.blobs, self.folder / "work")
        return train_round(host, {"q": played}, TrainingBatchSealed(**sealed), self.base, self.no_task)

    @staticmethod
    def recorded(attempt: int, answer: str) -> TrajectoryRecorded:
        return TrajectoryRecorded(
            request="q",
            item="i",
            attempt=attempt,
            purpose="train",
            split="train",
            generation=1,
            scaffold="s",
            adapter="",
            answer=answer,
            calls=(CallUse("c", attempt),),
            seconds=0.0,
        )

    @staticmethod
    def no_task() -> LoadedRun:
        raise UsageError("the task was asked for")
