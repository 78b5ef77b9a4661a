"""STaR: learn from the answers that were right, and from those that became right once the true answer was in sight
(Zelikman 2022).

    L = mean_t -log pi(y_t | x)   over right answers y, with a hint or without; x never holds the hint

arXiv 2203.14465, algorithm 1. Each outer iteration trains from the base model again and not from the adapter that
answered, so mistakes do not pile up; the order says so (`restart`). An item's hinted answers are used only where none
without a hint was right. Equal answers count once. Right is a reward of `right` or more. The epochs are many, since an
update that starts from the base has all to learn again.
"""

from collections.abc import Sequence

from algorithms.learning import best_of_n, credit
from algorithms.learning.batch import COMMON, Algorithm, Hyper, NothingToLearn, Rollout, Selection


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """The distinct right answers of each item; raises NothingToLearn if there is none."""
    right = [r for r in rollouts if r.reward >= hyper["right"]]
    unaided = {r.item for r in right if r.own}
    distinct: dict[tuple[str, str, tuple[int, ...]], Rollout] = {}
    for rollout in right:
        if rollout.own or rollout.item not in unaided:
            distinct.setdefault((rollout.item, rollout.prompt, rollout.tokens), rollout)
    if not distinct:
        raise NothingToLearn(f"None of {len(rollouts)} answers is right, with a hint or without.")
    return Selection(tuple(distinct.values()), (1.0,) * len(distinct), credit.tied_groups(rollouts))


ALGORITHM = Algorithm(
    name="star",
    defaults={**COMMON, "epochs": 24.0, "right": 1.0},
    select=select,
    loss=best_of_n.loss,
    form="cloning",
    needs=frozenset({"rewards", "hints"}),
)

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("star", toys.sparse(), rounds=8, restart=True, hints=True)
