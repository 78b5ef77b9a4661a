"""The reward that a run learns from: the mean over the desks of the share of its messages that were sent to it.

A submission holds the answers of one attempt to all items of a shard. An item that is not answered counts as wrong, so
leaving out the hard ones gains nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from tasks.contract import Item, Scored, Submission

VERSION = "mean-recall-1"


def score_submission(items: Sequence[Item], answers: Mapping[str, str | None], labels: Mapping[str, str]) -> Submission:
    """The score of the whole, and each item's part in it: the mean of the parts is that score."""
    many = Counter(labels[item.id] for item in items)
    earned = {item.id: len(items) / len(many) / many[labels[item.id]] for item in items}
    judged = {}
    for id, answer in answers.items():
        if not answer:
            judged[id] = Scored(0.0, "unparsed")
        else:
            judged[id] = Scored(earned[id], "right") if answer == labels[id] else Scored(0.0, "wrong")
    total = sum(scored.reward for scored in judged.values()) / len(items)
    return Submission(Scored(total, "right" if total == 1 else "wrong"), judged)
