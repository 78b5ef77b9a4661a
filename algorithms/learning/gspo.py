"""GSPO: GRPO whose ratio, clip and mean belong to whole answers (Zheng 2025, arXiv 2507.18071, eq. 5 to 7).

    L = mean_i [ -w_i min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i) + kl mean_t KL_t ],
    s_i = (pi / pi_old)(y_i)^(1 / |y_i|),   A_i = (r_i - mean r) / std r

s_i is the geometric mean of the ratios of an answer's tokens. So it stays near 1, and its clip range is narrow: the
defaults are the paper's, chosen for answers of many tokens. That of a short answer varies more, and is clipped more
often. |y| counts the tokens that the policy produced. An attempt whose turns do not continue each other has an answer
for each.
w_i = min((pi_old / pi_sampled)(y_i)^(1 / |y_i|), truncation) weighs rollouts of older adapters. Departures: tied groups
are dropped, the weight w_i, and KL to the base, which the paper leaves out, as `kl` 0 does.
"""

import torch

from algorithms.learning import grpo, terms
from algorithms.learning.batch import COMMON, Algorithm, Hyper, Terms


def loss(minibatch: Terms, hyper: Hyper) -> torch.Tensor:
    """The loss L above, a scalar."""
    mask_BT = minibatch.mask
    weight_B1 = terms.sequence_ratio(minibatch.old, minibatch.sampled, mask_BT).clamp(max=hyper["truncation"])
    ratio_B1 = terms.sequence_ratio(minibatch.logp, minibatch.old, mask_BT)
    clipped_BT = terms.clipped(ratio_B1, minibatch.advantages, hyper["clip_low"], hyper["clip_high"])
    return terms.sequence_mean(weight_B1 * clipped_BT + terms.kl_penalty(minibatch, hyper), mask_BT)


ALGORITHM = Algorithm(
    name="gspo",
    defaults={**COMMON, "clip_low": 3e-4, "clip_high": 4e-4},
    select=grpo.select,
    loss=loss,
    form="clipped_sequence",
)

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("gspo", toys.dense())
