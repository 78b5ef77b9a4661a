"""SPIN: prefer the true answers to those that the policy gave before this update (Chen 2024, eq. 4.7).

    L = mean -log sigmoid(beta [ log (pi / pi_old)(real) - log (pi / pi_old)(own) ])

arXiv 2401.01335. No reward is asked for, only the true answers of train. pi_old is the parent adapter: the previous
iterate. Rows are laid out real, own. An own answer that is the true one gives nothing to tell apart, and is left out.
"""

from collections.abc import Sequence

import msgspec
import torch

from algorithms.learning import dpo, terms
from algorithms.learning.batch import WITHOUT_KL, Algorithm, Hyper, NothingToLearn, Rollout, Selection, Terms


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """(real, own) for each own answer that is not the true one; raises NothingToLearn if all are."""
    rows: list[Rollout] = []
    for own in rollouts:
        if own.real and own.tokens != own.real:
            zeros = (0.0,) * len(own.real)
            rows += [msgspec.structs.replace(own, tokens=own.real, logprobs=zeros, mask=(), own=False), own]
    if not rows:
        raise NothingToLearn(f"All {len(rollouts)} answers are the true ones, or none is known.")
    advantages = (1.0, -1.0) * (len(rows) // 2)
    return Selection(tuple(rows), advantages, 0.0, dpo.pair_units(len(rows)))


def loss(minibatch: Terms, hyper: Hyper) -> torch.Tensor:
    """The loss L above, a scalar."""
    return terms.preference(terms.pair_margin(minibatch.logp, minibatch.old, minibatch.mask), hyper["beta"]).mean()


ALGORITHM = Algorithm(
    name="spin",
    defaults={**WITHOUT_KL, "lr": 3e-4, "beta": 0.1},
    select=select,
    loss=loss,
    form="preference",
    reference="old",
    needs=frozenset({"labels"}),
)

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("spin", toys.dense(), rounds=14)
