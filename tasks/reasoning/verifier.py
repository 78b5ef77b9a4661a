"""The reward: reasoning-gym's own score_answer, from 0 to 1."""

from functools import lru_cache
from typing import Any

from tasks import kit
from tasks.contract import Item, Scored
from tasks.reasoning import data

VERSION = "score-answer-1"
OUTCOMES = {
    "right": "the package gives the answer full marks",
    "partly": "the package gives it some",
    "wrong": "the package gives it none",
    "unparsed": "there is no answer",
}


def score(item: Item, answer: str | None, label: str | None) -> Scored:
    """The package's marks for an answer; 0 for none."""
    if not answer:
        return Scored(0.0, "unparsed")
    generator = item.metadata["generator"]
    entry = _entry(kit.key(data.default_root()), generator, item.metadata["entry"])
    marks = float(_dataset(generator).score_answer(answer, entry))
    return Scored(marks, "right" if marks >= 1 else "partly" if marks > 0 else "wrong")


@lru_cache(maxsize=4096)
def _entry(key: bytes, generator: str, name: str) -> dict[str, Any]:
    return data.made(key, generator, name)


@lru_cache
def _dataset(generator: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(generator, size=1, seed=0, **data.GENERATORS[generator])
