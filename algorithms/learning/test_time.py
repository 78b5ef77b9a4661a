"""Test-time training: before an item is answered, train on what the item itself shows (Akyurek 2024, arXiv 2411.07279,
section 3).

    L = mean_t -log pi(y_t | x)   over leave-one-out pairs of the item's demonstrations and augmented copies of them

No reward and no hidden label takes part. `copies` makes the pairs: each demonstration in turn is the one to answer, the
others are its context, and so again for every augmentation, a change under which the item's rule still holds. The paper
makes an adapter for each item from that item's copies, as the toy does. Departure, in a run: a candidate has one
adapter, so one is made from the copies of all items.

The other half of the method answers under changes that can be undone, and votes: it is a scaffold's (tasks/voting.py).
"""

from collections.abc import Callable, Sequence

from algorithms.learning import best_of_n
from algorithms.learning.batch import COMMON, Algorithm, Hyper, NothingToLearn, Rollout, Selection

Demonstration = tuple[str, str]
"""A question and its answer."""


def copies(
    demonstrations: Sequence[Demonstration],
    render: Callable[[Sequence[Demonstration], str], str],
    augment: Sequence[Callable[[Demonstration], Demonstration]] = (),
) -> list[Demonstration]:
    """(prompt, completion) for each demonstration left out in turn, as it is and under each augmentation; each pair
    once.

    `render` writes a prompt from the demonstrations that are its context and the question. Each of `augment` changes a
    demonstration.
    """
    pairs: dict[Demonstration, None] = {}
    for change in (lambda pair: pair, *augment):
        changed = [change(pair) for pair in demonstrations]
        for index, (question, answer) in enumerate(changed):
            pairs[render(changed[:index] + changed[index + 1 :], question), answer] = None
    return list(pairs)


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """All copies; raises NothingToLearn if there is none."""
    rows = tuple(r for r in rollouts if not r.own)
    if not rows:
        raise NothingToLearn("No item has demonstrations to train on.")
    return Selection(rows, (1.0,) * len(rows), 0.0, tuple((index,) for index in range(len(rows))))


ALGORITHM = Algorithm(
    name="test_time",
    defaults={**COMMON, "epochs": 2.0},
    select=select,
    loss=best_of_n.loss,
    form="cloning",
    needs=frozenset({"copies"}),
)

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("test_time", toys.shifted(), rounds=8, hyper={"epochs": 4.0, "lr": 2e-3})
