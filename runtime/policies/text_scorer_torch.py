"""Trains the text scorer's LoRA adapter: the scorer as a torch module, peft's adapter on its embedding, and one round of training.

The loss needs sum_f w_f (A[f] B) only, so the forward sums over the features first and multiplies by B once, with the adapter's own
factors; a test holds it equal to peft's forward.
"""

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import nn

from algorithms.learning import algorithm as find_algorithm
from algorithms.learning import terms
from algorithms.learning.batch import Algorithm, Diverged, Hyper, Rollout, Selected, Step, Terms, by_group
from events.errors import UsageError
from runtime.policies import closed_vocabulary
from runtime.policies.interface import SampleRequest
from runtime.policies.text_scorer import ADAPTER, CONFIG, KEY_A, KEY_B, Base, base_name, load_adapter, load_base

RANK, ALPHA, SPREAD = 32, 320, 0.1
"""LoRA rank, its alpha (so the update is scaled by 10), and the standard deviation at which A starts; B starts at 0."""
CANARIES = 4


class Features(msgspec.Struct, frozen=True):
    """U prompts, their buckets and weights (N,) end to end, where each begins (U,), and the base's scores of them (U, labels)."""

    buckets: torch.Tensor
    weights: torch.Tensor
    starts: torch.Tensor
    base: torch.Tensor


class Scorer(nn.Module):
    """z = sum_f w_f scores(f) as a plain module, which peft can wrap."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.name_or_path = base_name(base)  # peft copies it into the adapter's config
        self.scores = nn.Embedding(len(base.idf), len(base.labels), _weight=torch.from_numpy(base.table()), _freeze=True)

    def forward(self, buckets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The scores (labels,) of one prompt, from its buckets (F,) and weights (F,)."""
        scores: torch.Tensor = weights @ self.scores(buckets)
        return scores


class TrainResult(msgspec.Struct, frozen=True):
    """The optimiser's steps, canaries (prompt, log-probability of each label) and the number of rollouts that carried a gradient."""

    steps: tuple[Step, ...]
    canary: tuple[tuple[str, tuple[float, ...]], ...]
    trained_on: int


def wrapped(base: Base, seed: int) -> PeftModel:
    """The scorer under a fresh peft adapter, drawn from `seed`."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=["scores"])
    model = get_peft_model(Scorer(base), config)
    assert isinstance(model, PeftModel)
    draw = torch.Generator().manual_seed(seed)
    _set(model, torch.randn((len(base.idf), RANK), generator=draw) * SPREAD, torch.zeros((len(base.labels), RANK)))
    return model


def factors(model: PeftModel) -> tuple[nn.Parameter, nn.Parameter]:
    """The adapter's A (RANK, BUCKETS) and B (labels, RANK), as peft holds them."""
    layer: Any = model.get_submodule("base_model.model.scores")
    return layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]


class Prompts:
    """The features of distinct prompts, computed once."""

    def __init__(self, base: Base, prompts: Sequence[str]) -> None:
        self.place = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        self._found = [base.features(prompt) for prompt in self.place]
        self._base = np.stack([base.scores(*one) for one in self._found]).astype(np.float32)

    def rows(self, places: Sequence[int]) -> Features:
        """The features and the base's scores of the prompts at these places."""
        found = [self._found[place] for place in places]
        return Features(
            buckets=torch.from_numpy(np.concatenate([buckets for buckets, _ in found])),
            weights=torch.from_numpy(np.concatenate([weights for _, weights in found])),
            starts=torch.from_numpy(np.cumsum([0, *(len(buckets) for buckets, _ in found[:-1])])),
            base=torch.from_numpy(self._base[list(places)]),
        )


def adapted(of: Features, a: torch.Tensor, b: torch.Tensor, dropout: float, draw: torch.Generator) -> torch.Tensor:
    """The scores (U, labels) with the adapter, from A transposed (BUCKETS, RANK) and B (labels, RANK); dropout falls on the RANK sums."""
    hidden = nn.functional.embedding_bag(of.buckets, a, of.starts, mode="sum", per_sample_weights=of.weights)
    if dropout:
        hidden = hidden * (torch.rand(hidden.shape, generator=draw) >= dropout) / (1 - dropout)
    scores: torch.Tensor = of.base + ALPHA / RANK * (hidden @ b.T)
    return scores


def train(
    base_folder: Path,
    parent_folder: Path | None,
    rollouts: Sequence[Rollout],
    algorithm: str,
    hyper: Hyper,
    seed: int,
    out: Path,
) -> TrainResult:
    """One round of training from recorded rollouts, with a fresh AdamW: a peft folder at `out`.

    The same arguments give the same bytes (one thread). Raises Diverged, NothingToLearn, or a UserError for an unknown
    hyper-parameter or an adapter that does not fit the base.
    """
    torch.set_num_threads(1)
    found = find_algorithm(algorithm)
    settings = _settings(found, hyper)
    selected = found.select(rollouts, settings)
    base = load_base(base_folder)
    model = wrapped(base, seed)
    if parent_folder is not None:
        parent = load_adapter(parent_folder, base)
        _set(model, torch.from_numpy(parent.a), torch.from_numpy(parent.b.T))
    held = [factor.detach() for factor in factors(model)]
    a, b = nn.Parameter(held[0].T.contiguous()), nn.Parameter(held[1].clone())
    optimiser = torch.optim.AdamW([a, b], lr=settings["lr"], weight_decay=settings["weight_decay"], fused=True)
    steps = _descend(base, found, settings, selected, a, b, optimiser, seed)
    _set(model, a.detach(), b.detach())
    _save(model, base, algorithm, out)
    return TrainResult(tuple(steps), _canary(base, selected, a, b), len(selected.rollouts))


def _set(model: PeftModel, a: torch.Tensor, b: torch.Tensor) -> None:
    """Give the adapter these factors, A transposed (BUCKETS, RANK) and B (labels, RANK)."""
    with torch.no_grad():
        for factor, value in zip(factors(model), (a.T, b), strict=True):
            factor.copy_(value)


def _descend(
    base: Base,
    found: Algorithm,
    settings: Hyper,
    selected: Selected,
    a: nn.Parameter,
    b: nn.Parameter,
    optimiser: torch.optim.Optimizer,
    seed: int,
) -> list[Step]:
    groups = list(by_group(selected.rollouts).values())
    prompts = Prompts(base, [rollout.prompt for rollout in selected.rollouts])
    size = int(settings["batch_groups"])
    labels = {label: token for token, label in enumerate(base.labels)}
    shuffle, draw = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    steps = []
    for _ in range(int(settings["epochs"])):
        order = shuffle.permutation(len(groups)).tolist()
        for start in range(0, len(order), size):
            began = time.perf_counter()
            rows = [row for group in order[start : start + size] for row in groups[group]]
            chosen = [selected.rollouts[row] for row in rows]
            places, inverse = np.unique([prompts.place[r.prompt] for r in chosen], return_inverse=True)
            index, of = torch.from_numpy(inverse), prompts.rows(places.tolist())
            tilt = torch.from_numpy(np.stack([_tilt(labels, r) for r in chosen]))
            token = torch.tensor([[r.token] for r in chosen])
            logs = torch.log_softmax(adapted(of, a, b, settings["dropout"], draw)[index] + tilt, 1)
            part = Terms(
                logp=logs.gather(1, token),
                sampled=torch.tensor([[r.logprob] for r in chosen]),
                base=torch.log_softmax(of.base[index] + tilt, 1).gather(1, token),
                advantages=torch.tensor([[selected.advantages[row]] for row in rows]),
                mask=torch.ones(len(rows), 1),
            )
            loss = found.loss(part, settings)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_([a, b], settings["max_grad_norm"])
            step = _report(part, logs.detach(), float(loss.detach()), float(norm), selected.tied_groups, settings, began)
            optimiser.step()
            steps.append(step)
    return steps


def _report(part: Terms, logs: torch.Tensor, loss: float, norm: float, tied: float, settings: Hyper, began: float) -> Step:
    rho = terms.ratio(part.logp.detach(), part.sampled)
    step = Step(
        loss=loss,
        kl_to_base=float(terms.masked_mean(terms.k3(part.logp.detach(), part.base), part.mask)),
        entropy=float(-(logs.exp() * logs.clamp_min(-1e4)).sum(1).mean()),
        clip_share=float(terms.clip_share(rho, part.mask, settings["clip_low"], settings["clip_high"])),
        ratio_mean=float(terms.masked_mean(rho, part.mask)),
        ratio_max=float(rho.max()),
        grad_norm=norm,
        tied_groups=tied,
        tokens=int(part.mask.sum()),
        seconds=time.perf_counter() - began,
    )
    odd = {name: value for name, value in msgspec.structs.asdict(step).items() if not math.isfinite(value)}
    if odd:
        raise Diverged(f"The step's {', '.join(f'{name} is {value}' for name, value in odd.items())}; order a smaller learning rate.")
    return step


def _settings(found: Algorithm, hyper: Hyper) -> Mapping[str, float]:
    unknown = sorted(set(hyper) - set(found.defaults))
    if unknown:
        raise UsageError(f"{found.name} has no hyper-parameter {unknown[0]!r}; it has {', '.join(sorted(found.defaults))}.")
    return {**found.defaults, **hyper}


def _tilt(labels: Mapping[str, int], rollout: Rollout) -> np.ndarray:
    """The recorded bias over all labels (float32), minus infinity where a label was not on offer."""
    tokens, bias = closed_vocabulary.offered(labels, SampleRequest(prompt="", choices=rollout.choices, bias=rollout.bias))
    tilt = np.full(len(labels), -np.inf, np.float32)
    tilt[tokens] = bias
    return tilt


def _canary(base: Base, selected: Selected, a: torch.Tensor, b: torch.Tensor) -> tuple[tuple[str, tuple[float, ...]], ...]:
    prompts = list(dict.fromkeys(rollout.prompt for rollout in selected.rollouts))[:CANARIES]
    with torch.no_grad():
        of = Prompts(base, prompts).rows(range(len(prompts)))
        logs = torch.log_softmax(adapted(of, a, b, 0.0, torch.Generator()), 1)
    return tuple((prompt, tuple(row)) for prompt, row in zip(prompts, logs.tolist(), strict=True))


def _save(model: PeftModel, base: Base, algorithm: str, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(str(out), save_embedding_layers=False)
    a, b = factors(model)
    save_file({KEY_A: a.detach().contiguous(), KEY_B: b.detach().contiguous()}, out / ADAPTER, metadata={"format": "pt"})
    config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    card = f"---\nbase_model: {base_name(base)}\nlibrary_name: peft\ntags: [evolog, text-scorer, lora]\n---\n"
    card += f"LoRA of rank {RANK} on the text scorer's embedding, trained by {algorithm} from recorded rollouts.\n"
    card += f"It fits one base only, {base_name(base)}, and its labels: {len(base.labels)} of them.\n"
    (out / "README.md").write_text(card, encoding="utf-8")
