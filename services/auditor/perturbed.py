"""The perturbed tests of a run, and which of them are asked together.

A shard of dev's size holds several of them. So they cost fewer dev items to fill it up (`shards.py`).
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from tasks.contract import EvaluationSet

PERTURBED_ITEMS = 100
"""Most items of a perturbed test that are answered."""


class PerturbedTest(NamedTuple):
    """Test under one perturbation; `name` is the perturbation's, `measure` that of its scores."""

    name: str
    measure: str
    questions: EvaluationSet

    def changes_nothing(self, test: EvaluationSet) -> bool:
        """Whether its items are asked just so in test: other items are counted, and none is changed."""
        return self.questions.labels == test.labels and set(self.questions.items) <= set(test.items)


def packed(tests: Sequence[PerturbedTest], seed: int) -> list[list[PerturbedTest]]:
    """Samples of these tests, by what is asked together: tests that offer the labels alike, each with items of its own.

    Who sees all of a shard must not find one item twice in it.
    """
    plays: list[list[PerturbedTest]] = []
    for test in tests:
        items, chance = test.questions.items, random.Random(f"{seed} {test.name}")
        count = min(PERTURBED_ITEMS, len(items))
        for play in plays:
            used = {item.id for other in play for item in other.questions.items}
            unused = [item for item in items if item.id not in used]
            if play[0].questions.labels == test.questions.labels and len(unused) >= count:
                break
        else:
            play, unused = [], list(items)
            plays.append(play)
        sample = EvaluationSet(test.questions.labels, tuple(chance.sample(unused, count)))
        play.append(test._replace(questions=sample))
    return plays
