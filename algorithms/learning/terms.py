"""Pieces that losses over tokens share. Tensors have shape (B, T); every mean is over the tokens of the mask."""

import torch


def masked_mean(values_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """The mean over masked tokens, of the batch and not of each sequence (Yu 2025, DAPO, section 3.3)."""
    return (values_BT * mask_BT).sum() / mask_BT.sum()


def ratio(logp_BT: torch.Tensor, sampled_BT: torch.Tensor) -> torch.Tensor:
    """rho = pi_now / pi_sampled."""
    return torch.exp(logp_BT - sampled_BT)


def clipped(rho_BT: torch.Tensor, advantages: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A) (Schulman 2017, eq. 7)."""
    return -torch.minimum(rho_BT * advantages, rho_BT.clamp(1 - low, 1 + high) * advantages)


def k3(logp_BT: torch.Tensor, base_BT: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 with d = log pi_base - log pi: unbiased for KL(pi || pi_base) on samples of pi, never negative (Shao 2024, eq. 4)."""
    d = base_BT - logp_BT
    return torch.exp(d) - d - 1


def clip_share(rho_BT: torch.Tensor, mask_BT: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """The share of masked tokens whose ratio lies outside the clip range."""
    return masked_mean(((rho_BT < 1 - low) | (rho_BT > 1 + high)).to(mask_BT.dtype), mask_BT)
