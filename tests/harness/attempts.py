"""Attempts and orders for training without services, from what a policy sampled."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.policies.interface import Sampled, SampleRequest
from runtime.policies.training import TrainingAttempt, TrainingCall, TrainingOrder


def attempts_at(request: SampleRequest, sampled: Sampled, rewards: Sequence[float]) -> list[TrainingAttempt]:
    """One attempt of one group for each completion, with its reward."""
    return [
        TrainingAttempt(
            id=str(place),
            group="g",
            item="i",
            adapter="",
            answer=text,
            reward=reward,
            calls=(TrainingCall(request, tokens, logprobs),),
        )
        for place, (text, tokens, logprobs, reward) in enumerate(
            zip(sampled.texts, sampled.tokens, sampled.logprobs, rewards, strict=True)
        )
    ]


def first_order(base: Path, algorithm: str, hyper: Mapping[str, float], seed: int = 0, **more: Any) -> TrainingOrder:
    """An order of an update that starts from the base."""
    return TrainingOrder(
        base=base,
        parent="",
        parent_folder=None,
        state=None,
        algorithm=algorithm,
        hyper=hyper,
        seed=seed,
        about={},
        **more,
    )
