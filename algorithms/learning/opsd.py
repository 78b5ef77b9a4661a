"""On-policy self-distillation: the base model, shown the true answer, judges each token of the policy's own answers by
how likely it is (Zhao 2026, OPSD, arXiv 2601.18734; Shenfeld 2026, SDFT, arXiv 2601.19897).

    minimise sum_t KL(pi(. | x, y_<t) || pi_T(. | x, hint, y_<t)) over answers y of pi:
    A_t = clip(log pi_T(y_t | x, hint, y_<t) - log pi_old(y_t | x, y_<t), -bound, bound)
    L = mean_t [ -rho_t A_t log pi(y_t) + kl KL_t ],  rho_t = min(pi / pi_sampled, truncation), no gradient

The policy answers without the hint and is trained without it. No reward is asked for, only the true answers of train.
The hint is the one that STaR shows. Where the policy gives a token the probability that the teacher gives it, A_t is 0,
so learning ends where the two agree. The teacher is the base model without the adapter, as in Zhao, and not the policy
of the moment: a target that stands still. Of the papers' forms this is the one of sampled tokens. It needs no sum over
the vocabulary; its gradient is unbiased on policy, and varies more. `bound` is ours, in nats: without it, one token
that the teacher finds impossible weighs more than all others.
"""

from collections.abc import Sequence

import torch

from algorithms.learning import rloo
from algorithms.learning.batch import (
    COMMON,
    Algorithm,
    Credit,
    Hyper,
    InitialBatch,
    NothingToLearn,
    Rollout,
    Selection,
)


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """The policy's own answers to items whose true answer is known; raises NothingToLearn if there is none."""
    taught = tuple(r for r in rollouts if r.own and r.hint)
    if not taught:
        raise NothingToLearn(f"To none of {len(rollouts)} answers is there a true one that a teacher could be shown.")
    return Selection(taught, (1.0,) * len(taught), 0.0)


def ask_teacher(initial: InitialBatch, hyper: Hyper) -> Credit:
    """A_t of each token (N, T), 0 outside the mask."""
    assert initial.teacher is not None  # since the algorithm needs one
    gain_NT = (initial.teacher - initial.old).clamp(-hyper["bound"], hyper["bound"])
    return Credit(torch.where(initial.mask > 0, gain_NT, 0.0), torch.zeros_like(initial.mask))


ALGORITHM = Algorithm(
    name="opsd",
    defaults={**COMMON, "bound": 5.0},
    select=select,
    loss=rloo.loss,
    form="weighted",
    credit=ask_teacher,
    needs=frozenset({"teacher"}),
)

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("opsd", toys.dense())
