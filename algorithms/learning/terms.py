"""The terms of losses over tokens: masked means, importance ratios, clipping, estimates of KL, preference terms.

Names end in their shape: B sequences, T tokens, P pairs. Log-probabilities are natural. A mask is 1 on the tokens that
a loss is about, and every mean is over those.
"""

import torch
from torch.nn.functional import logsigmoid

from algorithms.learning.batch import Hyper, Terms

FAR = 20.0
"""Nats beyond which no difference of log-probabilities is exponentiated: exp of 89 is infinite in single precision."""


def masked(values_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """The values on masked tokens and 0 elsewhere, whatever stands there, infinity included."""
    return torch.where(mask_BT > 0, values_BT, 0.0)


def masked_mean(values_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """The mean over masked tokens, of the batch and not of each sequence (Yu 2025, DAPO, arXiv 2503.14476, section
    3.3).
    """
    return masked(values_BT, mask_BT).sum() / mask_BT.sum()


def sequence_mean(values_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """The mean over sequences of each one's mean over masked tokens (Shao 2024, eq. 3)."""
    return (masked(values_BT, mask_BT).sum(1) / mask_BT.sum(1)).mean()


def constant_mean(values_BT: torch.Tensor, mask_BT: torch.Tensor, length: float) -> torch.Tensor:
    """The mean over sequences of each one's sum over masked tokens, over a constant length (Liu 2025, Dr.

    GRPO, section 3.2).
    """
    return (masked(values_BT, mask_BT).sum(1) / length).mean()


def ratio(logp_BT: torch.Tensor, other_BT: torch.Tensor) -> torch.Tensor:
    """rho = pi / pi_other, from two log-probabilities (B, T); at most exp(FAR), where its gradient is 0."""
    return torch.exp((logp_BT - other_BT).clamp(max=FAR))


def sequence_ratio(logp_BT: torch.Tensor, other_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """(pi / pi_other)^(1 / |y|) of each sequence (B, 1): the geometric mean of the ratios of its |y| masked tokens
    (Zheng 2025, GSPO, arXiv 2507.18071, eq. 7).
    """
    gain_B1 = masked(logp_BT - other_BT, mask_BT).sum(1, keepdim=True)
    return torch.exp(gain_B1 / mask_BT.sum(1, keepdim=True).clamp(min=1))


def truncated(logp_BT: torch.Tensor, sampled_BT: torch.Tensor, most: float) -> torch.Tensor:
    """min(pi / pi_sampled, most) without gradient: what a sample of another policy counts for (Ionides 2008; Espeholt
    2018).
    """
    return ratio(logp_BT.detach(), sampled_BT).clamp(max=most)


def clipped(rho_BT: torch.Tensor, advantages: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A) (Schulman 2017, arXiv 1707.06347, eq. 7; low != high: Yu 2025,
    section 3.1).
    """
    return -torch.minimum(rho_BT * advantages, rho_BT.clamp(1 - low, 1 + high) * advantages)


def clipped_value(values_BT: torch.Tensor, old_BT: torch.Tensor, returns_BT: torch.Tensor, clip: float) -> torch.Tensor:
    """max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2) / 2 (the clipped value loss of Schulman 2017's
    code).
    """
    near_BT = old_BT + (values_BT - old_BT).clamp(-clip, clip)
    return torch.maximum((values_BT - returns_BT) ** 2, (near_BT - returns_BT) ** 2) / 2


def k3(logp_BT: torch.Tensor, base_BT: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 with d = log pi_base - log pi: unbiased for KL(pi || pi_base) on samples of pi, never negative
    (Shao 2024, eq. 4).

    Ours: beyond d = FAR the exponential goes on as its tangent, so value and gradient are finite and of the right sign.
    """
    d = base_BT - logp_BT
    near = d.clamp(max=FAR)
    return torch.exp(near) * (1 + (d - near)) - d - 1


def weighted_kl(logp_BT: torch.Tensor, base_BT: torch.Tensor, sampled_BT: torch.Tensor, most: float) -> torch.Tensor:
    """w k3 with w = min(pi / pi_sampled, most), and the gradient of KL(pi || pi_base) in expectation.

    Untruncated, the expectation over samples of pi_sampled is KL(pi || pi_base) itself, whatever the sampler. Its
    gradient goes through the ratio too (DeepSeek-AI 2025, DeepSeek-V3.2, arXiv 2512.02556, section 3.1), and the two
    parts add up to w log(pi / pi_base) grad log pi, in which nothing is exponential. A truncated w keeps that form.
    """
    now_BT = logp_BT.detach()
    weight_BT = truncated(now_BT, sampled_BT, most)
    slope_BT = weight_BT * (now_BT - base_BT)
    return weight_BT * k3(now_BT, base_BT) + slope_BT * (logp_BT - now_BT)


def kl_penalty(minibatch: Terms, hyper: Hyper) -> torch.Tensor:
    """The KL term of a loss, (B, T): hyper["kl"] times an estimate of the divergence between policy and base.

    Two forms that look alike pull in different directions. As a loss on samples of pi,

        w k3, w = min(pi / pi_sampled, truncation), with gradient through w, has the gradient of KL(pi || pi_base): the
        default. A token that the base finds unlikely costs, one that the policy gave up costs nothing;
        k3 as GRPO published it (`kl_published` 1) has the gradient -(pi_base / pi) grad log pi, which in expectation is
        that of KL(pi_base || pi): the policy must keep all that the base says. Stale rows are weighed by
        min(pi_old / pi_sampled, truncation).

    Both are 0 where pi is the base. Rows that the policy did not sample (demonstrations, hinted answers) have no
    sampler, and `sampled` is `old` there. Rows that were chosen (cloning) are no sample of anything. On both the term
    estimates no divergence: it is a pull back to the base on just these tokens.
    """
    if not hyper["kl"]:
        return torch.zeros_like(minibatch.logp)
    if hyper["kl_published"]:
        weight_BT = truncated(minibatch.old, minibatch.sampled, hyper["truncation"])
        return hyper["kl"] * weight_BT * k3(minibatch.logp, minibatch.base)
    return hyper["kl"] * weighted_kl(minibatch.logp, minibatch.base, minibatch.sampled, hyper["truncation"])


def preference(margin_P: torch.Tensor, beta: float) -> torch.Tensor:
    """-log sigmoid(beta `margin_P`), for P pairs whose first gained so many nats on the second (Rafailov
    2023, eq. 7).
    """
    return -logsigmoid(beta * margin_P)


def pair_margin(logp_BT: torch.Tensor, reference_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """log pi/pi_ref of rows 0, 2, ... less that of rows 1, 3, ..., summed over masked tokens: (B,) rows give (B / 2,)
    pairs.
    """
    gain_B = masked(logp_BT - reference_BT, mask_BT).sum(1)
    return gain_B[0::2] - gain_B[1::2]


def clip_share(rho_BT: torch.Tensor, mask_BT: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """The share of masked tokens, a scalar, whose ratio lies outside 1 - low to 1 + high."""
    return masked_mean(((rho_BT < 1 - low) | (rho_BT > 1 + high)).to(mask_BT.dtype), mask_BT)
