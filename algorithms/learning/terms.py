"""The terms of losses over tokens: masked means, importance ratios, clipping, estimates of KL, preference terms.

Names end in their shape: B sequences, T tokens, P pairs. Log-probabilities are natural. A mask is 1 on the tokens that
a loss is about, and every mean is over those.
"""

import torch
from torch.nn.functional import logsigmoid


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
    """rho = pi / pi_other, from two log-probabilities (B, T)."""
    return torch.exp(logp_BT - other_BT)


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
    """
    d = base_BT - logp_BT
    return torch.exp(d) - d - 1


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
