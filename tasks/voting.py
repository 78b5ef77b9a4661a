"""A vote among the answers to an item and to views of it: the other half of test-time training (Akyurek 2024, arXiv
2411.07279, "Augmented inference").

A view is the item under a change that can be undone: an answer to it becomes an answer to the item. Answers that are
right agree once the changes are undone, and mistakes scatter. The vote has two rounds. In the first, each kind of view
nominates its most frequent answers, three at most, so that a kind with many views has no more to say than one with few.
In the second, the kinds vote: the answer that most of them nominate wins. A tie goes to the answer that the item as it
is gave more often, then to the one with more answers in all, then to the one that came first. Departure: the paper
fills up a kind's nominations by the majority of each row and column of a grid, which has no meaning here, and keeps
two answers where one is owed.

A task says which changes its items allow (`tasks/reasoning/scaffold/exercises.py`). This file is also a part of
scaffolds, so it imports nothing of evolog.
"""

from collections import Counter
from collections.abc import Iterable

PLAIN = "plain"
"""The kind of the view that changes nothing."""
NOMINATED = 3


def elect(answers: Iterable[tuple[str, str | None]]) -> str | None:
    """The winning answer of (kind of view, answer with the change undone); None where all answers are None."""
    by_kind: dict[str, Counter[str]] = {}
    together: Counter[str] = Counter()
    for kind, answer in answers:
        if answer is not None:
            by_kind.setdefault(kind, Counter())[answer] += 1
            together[answer] += 1
    votes = Counter(answer for counts in by_kind.values() for answer, _ in counts.most_common(NOMINATED))
    plain = by_kind.get(PLAIN, Counter())
    return max(together, key=lambda answer: (votes[answer], plain[answer], together[answer]), default=None)
