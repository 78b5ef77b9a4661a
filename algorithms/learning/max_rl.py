"""MaxRL: raise the logarithm of the chance to be right, and so weigh an item the more the rarer its right answers are
(Tajwar 2026, arXiv 2602.02710).

    A_i = (r_i - mean r) / mean r
    L = mean_t [ -rho_t A log pi(y_t) + kl KL_t ],  rho_t = min(pi / pi_sampled, truncation), no gradient

With r of 0 and 1, sum_i A_i grad log pi(y_i) over a group is the mean over its right answers less the mean over all.
grad log p is the sum over k of grad pass@k / k. The right answers of G attempts estimate its first G terms (the paper's
theorem 2). The baseline, which a group without a right answer goes without, leaves G - 1 of them: two attempts are
plain REINFORCE, and more attempts come nearer to maximum likelihood. Graded rewards of 0 and more are weighed by the
same equation, which then raises log E[r]. That logarithm has no meaning for rewards below 0, so such a batch is
refused. Departures: tied groups are dropped; the mean is over all tokens of the batch; never PPO's clip, which would
cut off the weight of a rare right answer.
"""

from collections.abc import Sequence

from algorithms.learning import credit, rloo
from algorithms.learning.batch import COMMON, Algorithm, Hyper, Rollout, Selection, select_groups
from events.errors import UsageError


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """The rollouts of groups with differing rewards, advantages over the mean.

    Raises NothingToLearn if there is no such group, and UsageError for a reward below 0.
    """
    worst = min(r.reward for r in rollouts)
    if worst < 0 and hyper["overlong"]:
        raise UsageError(
            f"MaxRL divides by a group's mean reward, so rewards must be 0 or more, and overlong {hyper['overlong']:g} "
            f"leaves one of {worst:g}; order overlong 0, and mask_cut 1 in its place."
        )
    if worst < 0:
        raise UsageError(
            f"MaxRL divides by a group's mean reward, so rewards must be 0 or more, and one is {worst:g}; order "
            "another algorithm, such as grpo, or a verifier whose rewards start at 0."
        )
    return select_groups(rollouts, credit.over_mean)


ALGORITHM = Algorithm(name="max_rl", defaults=COMMON, select=select, loss=rloo.loss, form="weighted")

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("max_rl", toys.quiz(), rounds=10)
