"""The reward that a run learns from: each passenger of a submission by itself, and its accuracy over all of them."""

from collections.abc import Mapping, Sequence

from tasks.contract import Item, Scored, Submission
from tasks.spaceship_titanic.data import LABELS

VERSION = "accuracy-1"


def score_submission(items: Sequence[Item], answers: Mapping[str, str | None], labels: Mapping[str, str]) -> Submission:
    """1 for True or False where that is right, else 0; anything else is unparsed.

    The total is the share of all items that are right: an item without an answer counts as one that is wrong.
    """
    judged = {item.id: _score(answers[item.id], labels.get(item.id)) for item in items if item.id in answers}
    right = sum(scored.reward for scored in judged.values())
    accuracy = right / len(items) if items else 0.0
    outcome = "right" if items and right == len(items) else "wrong"
    return Submission(Scored(accuracy, outcome, f"{right:.0f} of {len(items)} passengers are right"), judged)


def _score(answer: str | None, label: str | None) -> Scored:
    if answer not in LABELS:
        return Scored(0.0, "unparsed", "expected True or False")
    return Scored(1.0, "right") if answer == label else Scored(0.0, "wrong")
