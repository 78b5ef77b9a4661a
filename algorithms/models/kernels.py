"""Two functions that run as Triton kernels or in plain torch: the masked GAE scan, and log-probability, entropy and KL
of logits.

`gae` and `joint` take the Triton path where `available` says so, on a GPU or under Triton's interpreter, and the torch
path elsewhere. Triton is optional; this module imports without it.

With z the logits over the temperature, p = softmax z, q the base's, H = -sum p log p and K = KL(p || q) = sum p (log p
- log q):

    d log p_y / dz_j = [j = y] - p_j        dH / dz_j = -p_j (log p_j + H)
    dK / dz_j = p_j (log p_j - log q_j - K)

The sums run over tiles of the vocabulary with a running maximum (Milakov 2018, arXiv 1805.02867, algorithm 3), so that
no probability is ever stored. The scan is that of Blelloch 1990, section 1.4, for first-order recurrences.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.autograd.function import once_differentiable

from algorithms.learning import credit


def _optional(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


triton = _optional("triton")
tl = _optional("triton.language")
if TYPE_CHECKING:
    tensor: TypeAlias = Any
    constexpr: TypeAlias = int
elif tl:
    # Triton reads annotations too, and refuses a name that is not its own.
    tensor, constexpr = tl.tensor, tl.constexpr

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton's interpreter runs the kernels on CPU; Triton reads the variable when a kernel is defined, which is at
import.
"""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels read; they compute in float32, so float64 stays on the torch path."""
TOKENS, TILE = 1024, 4096
"""Tokens that the scan takes at once, and logits; powers of two."""
LAUNCH = {"num_warps": 8, "enable_fp_fusion": True}
"""Options of a launch. Triton's own default for fused multiply-adds changes between releases."""
LOWEST = tl.constexpr(-1e30) if tl else -1e30
"""Below every logit that counts; not -inf, whose product with a sum of 0 is no number."""


def available(tensor: torch.Tensor) -> bool:
    """Whether `gae` and `joint` use Triton for this tensor: it is installed, can run on that device, and reads the
    tensor's type.
    """
    return triton is not None and (tensor.is_cuda or INTERPRETED) and tensor.dtype in DTYPES


def gae(
    rewards_BT: torch.Tensor, values_BT: torch.Tensor, mask_BT: torch.Tensor, gamma: float, lam: float
) -> torch.Tensor:
    """Advantages (B, T) as `credit.gae` gives them, 0 where the mask is 0, from one kernel instead of several launches
    a token.

    They carry no gradient. Triton computes in float32; the result has the values' type. Raises ValueError if the shapes
    differ.
    """
    if not available(values_BT):
        return credit.gae(rewards_BT, values_BT, mask_BT, gamma, lam)
    if values_BT.dim() != 2 or not rewards_BT.shape == values_BT.shape == mask_BT.shape:
        shapes = ", ".join(str(tuple(each.shape)) for each in (rewards_BT, values_BT, mask_BT))
        raise ValueError(f"Rewards, values and mask have the shapes {shapes}; expected one (B, T) for all three.")
    rewards_BT, values_BT, mask_BT = (each.detach().contiguous() for each in (rewards_BT, values_BT, mask_BT > 0))
    advantages_BT = torch.empty_like(values_BT)
    rows, width = values_BT.shape
    with torch.cuda.device_of(values_BT):
        _gae[(rows,)](
            rewards_BT,
            values_BT,
            mask_BT,
            advantages_BT,
            width,
            float(gamma),
            float(gamma * lam),
            BLOCK=TOKENS,
            **LAUNCH,
        )
    return advantages_BT


def joint(
    logits_NV: torch.Tensor, base_logits_NV: torch.Tensor | None, tokens_N: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probability of each token, entropy and exact KL(pi || pi_base), (N,) each, in nats, both models at
    `temperature`.

    KL is 0 without base logits. A logit of -inf is a probability of 0. Gradients flow to `logits_NV` alone, once;
    results are float32, or float64 for float64 logits. Raises ValueError for shapes that do not fit or a temperature
    that is not above 0. A token outside the vocabulary raises RuntimeError in torch and has the log-probability NaN in
    Triton, which cannot raise.
    """
    (rows, _), base = logits_NV.shape, base_logits_NV
    if tokens_N.shape != (rows,) or (base is not None and base.shape != logits_NV.shape):
        shapes = f"{tuple(logits_NV.shape)}, {None if base is None else tuple(base.shape)} and {tuple(tokens_N.shape)}"
        raise ValueError(
            f"Logits, base logits and tokens have the shapes {shapes}; expected (N, V), (N, V) or None, and (N,)."
        )
    if not temperature > 0:
        raise ValueError(
            f"The temperature is {temperature:g}; expected one above 0, the one that the tokens were sampled at."
        )
    if not available(logits_NV):
        return joint_torch(logits_NV, base, tokens_N, temperature)
    apply: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = _Joint.apply
    return apply(logits_NV, base, tokens_N, temperature)


def joint_torch(
    logits_NV: torch.Tensor, base_logits_NV: torch.Tensor | None, tokens_N: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The results of `joint` in plain torch, which holds several tensors (N, V) in float32 for the backward pass."""
    logp_NV = _log_softmax(logits_NV, temperature)
    p_NV = logp_NV.exp()
    logp_N = logp_NV.gather(1, tokens_N.unsqueeze(1)).squeeze(1)
    entropy_N = -(p_NV * torch.where(p_NV > 0, logp_NV, 0.0)).sum(1)
    if base_logits_NV is None:
        return logp_N, entropy_N, torch.zeros_like(logp_N)
    gain_NV = torch.where(p_NV > 0, logp_NV - _log_softmax(base_logits_NV.detach(), temperature), 0.0)
    return logp_N, entropy_N, (p_NV * gain_NV).sum(1)


def _log_softmax(logits_NV: torch.Tensor, temperature: float) -> torch.Tensor:
    exact = torch.promote_types(logits_NV.dtype, torch.float32)
    return torch.log_softmax(logits_NV.to(exact) / temperature, 1)


class _Joint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_NV: torch.Tensor, base_NV: torch.Tensor | None, tokens_N: torch.Tensor, temperature: float
    ) -> Any:
        logits_NV, tokens_N = logits_NV.contiguous(), tokens_N.contiguous()
        ctx.has_base, ctx.scale = base_NV is not None, 1.0 / temperature
        base_NV = logits_NV if base_NV is None else base_NV.contiguous()
        rows, vocabulary = logits_NV.shape
        results = [torch.empty(rows, dtype=torch.float32, device=logits_NV.device) for _ in range(5)]
        with torch.cuda.device_of(logits_NV):
            _forward[(rows,)](
                logits_NV,
                base_NV,
                tokens_N,
                *results,
                vocabulary,
                ctx.scale,
                HAS_BASE=ctx.has_base,
                BLOCK=TILE,
                **LAUNCH,
            )
        logp_N, entropy_N, kl_N, log_sum_N, base_log_sum_N = results
        ctx.save_for_backward(logits_NV, base_NV, tokens_N, entropy_N, kl_N, log_sum_N, base_log_sum_N)
        if not ctx.has_base:
            ctx.mark_non_differentiable(kl_N)
        return logp_N, entropy_N, kl_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients_N: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        logits_NV, base_NV, tokens_N, *statistics = ctx.saved_tensors
        rows, vocabulary = logits_NV.shape
        to_logits_NV = torch.empty_like(logits_NV)
        towards = [each.contiguous() for each in gradients_N]
        with torch.cuda.device_of(logits_NV):
            _backward[(rows, triton.cdiv(vocabulary, TILE))](
                logits_NV,
                base_NV,
                tokens_N,
                *statistics,
                *towards,
                to_logits_NV,
                vocabulary,
                ctx.scale,
                HAS_BASE=ctx.has_base,
                BLOCK=TILE,
                **LAUNCH,
            )
        return to_logits_NV, None, None, None


def _jit(kernel: Any) -> Any:
    return triton.jit(kernel) if triton else kernel


@_jit
def _compose(a: tensor, b: tensor, next_a: tensor, next_b: tensor) -> tuple[tensor, tensor]:
    """The map x -> a x + b, and then the next: associative, as the scan needs, since composing maps is."""
    return a * next_a, next_a * b + next_b


@_jit
def _gae(
    rewards: tensor,
    values: tensor,
    mask: tensor,
    advantages: tensor,
    width: tensor,
    gamma: tensor,
    gamma_lam: tensor,
    BLOCK: constexpr,
) -> None:
    # One program a row, from the last token back. What lies ahead of a token, V_{t+1} and A_{t+1}, comes of what lies
    # ahead of the next by a map x -> a x + b: a token of the policy sets the value (0 x + V) and steps the advantage
    # (gamma lambda x + delta); another passes both on (1 x + 0).
    row = tl.program_id(0).to(tl.int64) * width
    offsets = tl.arange(0, BLOCK)
    value_carried = 0.0
    carried = 0.0
    for start in range(0, width, BLOCK):
        t = width - 1 - start - offsets
        inside = t >= 0
        mine = tl.load(mask + row + t, mask=inside, other=0) != 0
        next_mine = tl.load(mask + row + t + 1, mask=inside & (t + 1 < width), other=0) != 0
        reward = tl.load(rewards + row + t, mask=mine, other=0.0).to(tl.float32)
        value = tl.load(values + row + t, mask=mine, other=0.0).to(tl.float32)
        next_value = tl.load(values + row + t + 1, mask=next_mine, other=0.0).to(tl.float32)

        a, b = tl.associative_scan((tl.where(next_mine, 0.0, 1.0), next_value), 0, _compose)
        value_ahead = a * value_carried + b
        delta = tl.where(mine, reward + gamma * value_ahead - value, 0.0)
        a, b = tl.associative_scan((tl.where(mine, gamma_lam, 1.0), delta), 0, _compose)
        advantage = a * carried + b
        tl.store(advantages + row + t, tl.where(mine, advantage, 0.0), mask=inside)

        last = offsets == BLOCK - 1
        value_carried = tl.sum(tl.where(last, value_ahead, 0.0), axis=0)
        carried = tl.sum(tl.where(last, advantage, 0.0), axis=0)


@_jit
def _forward(
    logits: tensor,
    base_logits: tensor,
    tokens: tensor,
    logp: tensor,
    entropy: tensor,
    kl: tensor,
    log_sum: tensor,
    base_log_sum: tensor,
    vocabulary: tensor,
    scale: tensor,
    HAS_BASE: constexpr,
    BLOCK: constexpr,
) -> None:
    # One program a row, one pass. Kept with the running maximum m: sum e, sum e (z - m) and sum e (z - z_base), where e
    # = exp(z - m); the entropy is then log sum e - sum e (z - m) / sum e, in which large logits do not cancel.
    n = tl.program_id(0).to(tl.int64)
    row = logits + n * vocabulary
    base_row = base_logits + n * vocabulary
    m = LOWEST
    e_sum = 0.0
    depth_sum = 0.0
    gain_sum = 0.0
    base_m = LOWEST
    base_e_sum = 0.0
    for start in range(0, vocabulary, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        inside = offsets < vocabulary
        z = tl.load(row + offsets, mask=inside, other=-float("inf")).to(tl.float32) * scale
        above = tl.maximum(m, tl.max(z, axis=0))
        shrink = tl.exp(m - above)
        e = tl.exp(z - above)
        depth_sum = shrink * (depth_sum + (m - above) * e_sum) + tl.sum(e * tl.where(e > 0, z - above, 0.0), axis=0)
        e_sum = shrink * e_sum + tl.sum(e, axis=0)
        m = above
        if HAS_BASE:
            base_z = tl.load(base_row + offsets, mask=inside, other=-float("inf")).to(tl.float32) * scale
            gain_sum = shrink * gain_sum + tl.sum(e * tl.where(e > 0, z - base_z, 0.0), axis=0)
            above = tl.maximum(base_m, tl.max(base_z, axis=0))
            base_e_sum = tl.exp(base_m - above) * base_e_sum + tl.sum(tl.exp(base_z - above), axis=0)
            base_m = above

    y = tl.load(tokens + n)
    z_y = tl.load(row + y, mask=(y >= 0) & (y < vocabulary), other=float("nan")).to(tl.float32) * scale
    tl.store(logp + n, z_y - m - tl.log(e_sum))
    tl.store(entropy + n, tl.log(e_sum) - depth_sum / e_sum)
    tl.store(log_sum + n, m + tl.log(e_sum))
    if HAS_BASE:
        tl.store(base_log_sum + n, base_m + tl.log(base_e_sum))
        tl.store(kl + n, gain_sum / e_sum + (base_m - m) + tl.log(base_e_sum / e_sum))
    else:
        tl.store(kl + n, 0.0)


@_jit
def _backward(
    logits: tensor,
    base_logits: tensor,
    tokens: tensor,
    entropy: tensor,
    kl: tensor,
    log_sum: tensor,
    base_log_sum: tensor,
    to_logp: tensor,
    to_entropy: tensor,
    to_kl: tensor,
    to_logits: tensor,
    vocabulary: tensor,
    scale: tensor,
    HAS_BASE: constexpr,
    BLOCK: constexpr,
) -> None:
    # One program a tile: the three derivatives at the head of this file, each times what flows in.
    n = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < vocabulary
    z = tl.load(logits + n * vocabulary + offsets, mask=inside, other=-float("inf")).to(tl.float32) * scale
    log_p = z - tl.load(log_sum + n)
    p = tl.exp(log_p)
    gradient = tl.load(to_logp + n) * (tl.where(offsets == tl.load(tokens + n), 1.0, 0.0) - p)
    gradient -= tl.load(to_entropy + n) * p * tl.where(p > 0, log_p + tl.load(entropy + n), 0.0)
    if HAS_BASE:
        base_z = (
            tl.load(base_logits + n * vocabulary + offsets, mask=inside, other=-float("inf")).to(tl.float32) * scale
        )
        gain = log_p - (base_z - tl.load(base_log_sum + n))
        gradient += tl.load(to_kl + n) * p * tl.where(p > 0, gain - tl.load(kl + n), 0.0)
    tl.store(to_logits + n * vocabulary + offsets, gradient * scale, mask=inside)
