"""Adapters that are some way from their base, as after training."""

import torch
from torch import nn


def move_adapter(model: nn.Module, scale: float, seed: int) -> None:
    """Draw the model's LoRA B matrices, which begin at 0, from a normal distribution of this standard deviation."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=draw))
