"""DPO: of two answers to one prompt, make the better one likelier than the worse, as seen from the base model (Rafailov
2023, eq. 7).

    L = mean -log sigmoid(beta [ log (pi / pi_0)(w) - log (pi / pi_0)(l) ]),   log pi(y) = sum_t log pi(y_t)

arXiv 2305.18290. Pairs come from ranked answers to one prompt: in a group, the best is set against the worst, the
second best against the second worst and so on, as long as the rewards differ and the tokens do; at most `pairs` of
them. Rows are laid out w, l, w, l.
"""

from collections.abc import Sequence

import torch

from algorithms.learning import terms
from algorithms.learning.batch import WITHOUT_KL, Algorithm, Hyper, NothingToLearn, Rollout, Selection, Terms
from algorithms.statistics import magnitude, tied


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """The pairs of each prompt of each group; raises NothingToLearn if there is none."""
    by_prompt: dict[tuple[object, ...], list[Rollout]] = {}
    for rollout in rollouts:
        by_prompt.setdefault((rollout.group, rollout.prompt, rollout.choices, rollout.bias), []).append(rollout)
    rows: list[Rollout] = []
    scale = magnitude(r.reward for r in rollouts)
    pairless = 0
    for answers in by_prompt.values():
        ranked = sorted(answers, key=lambda r: -r.reward)  # stable, so equals keep the log's order
        pairs = [
            (better, worse)
            for better, worse in zip(ranked, reversed(ranked), strict=True)
            if better.reward > worse.reward
            and not tied((better.reward, worse.reward), scale)
            and better.tokens != worse.tokens
        ]
        pairless += not pairs
        rows += [row for pair in pairs[: int(hyper["pairs"])] for row in pair]
    if not rows:
        raise NothingToLearn(f"To none of {len(by_prompt)} prompts are there two answers of which one is better.")
    return Selection(tuple(rows), (1.0, -1.0) * (len(rows) // 2), pairless / len(by_prompt), pair_units(len(rows)))


def pair_units(count: int) -> tuple[tuple[int, ...], ...]:
    """The units of `count` rows of which each two form a pair: (0, 1), (2, 3) and so on."""
    return tuple((index, index + 1) for index in range(0, count, 2))


def loss(minibatch: Terms, hyper: Hyper) -> torch.Tensor:
    """The loss L above, a scalar."""
    return terms.preference(terms.pair_margin(minibatch.logp, minibatch.base, minibatch.mask), hyper["beta"]).mean()


ALGORITHM = Algorithm(
    name="dpo",
    defaults={**WITHOUT_KL, "lr": 3e-4, "beta": 0.1, "pairs": 32.0},
    select=select,
    loss=loss,
    form="preference",
)

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("dpo", toys.dense())
