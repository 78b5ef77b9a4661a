"""The text scorer in training: a torch module under peft's LoRA adapter.

The loss needs sum_f w_f (A[f] B) only, so the forward sums over the features first and multiplies by B once, with the
adapter's own factors; a test holds it equal to peft's forward.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import nn

from algorithms.learning.batch import Rollout
from algorithms.learning.update import Outputs
from runtime.policies import closed_vocabulary
from runtime.policies.interface import SampleRequest
from runtime.policies.text_scorer import (
    ADAPTER,
    CONFIG,
    KEY_A,
    KEY_B,
    TextScorerBase,
    base_name,
    load_adapter,
    load_base,
)

RANK, ALPHA, SPREAD = 32, 320, 0.1
"""LoRA rank, its alpha (so the update is scaled by 10), and the standard deviation at which A starts; B starts at 0."""


class Features(msgspec.Struct, frozen=True):
    """Features of U prompts: buckets and weights (N,) end to end, where each prompt begins (U,), and the base's scores
    (U, labels).
    """

    buckets: torch.Tensor
    weights: torch.Tensor
    starts: torch.Tensor
    base: torch.Tensor


class Scorer(nn.Module):
    """The base's scores z = sum_f w_f E[f] as a plain torch module, which peft can wrap."""

    def __init__(self, base: TextScorerBase) -> None:
        super().__init__()
        self.name_or_path = base_name(base)  # peft copies it into the adapter's config
        self.scores = nn.Embedding(
            len(base.idf), len(base.labels), _weight=torch.from_numpy(base.table()), _freeze=True
        )

    def forward(self, buckets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The scores (labels,) of one prompt, from its buckets (F,) and weights (F,)."""
        scores: torch.Tensor = weights @ self.scores(buckets)
        return scores


def with_adapter(base: TextScorerBase, seed: int) -> PeftModel:
    """The scorer of a base under a fresh peft adapter, whose A is drawn from `seed` and whose B is 0."""
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


class PromptFeatures:
    """A cache of prompts' features."""

    def __init__(self, base: TextScorerBase) -> None:
        self._base = base
        self._cache: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def rows(self, prompts: Sequence[str]) -> Features:
        """The features of these prompts, in order."""
        parts = [self._features(prompt) for prompt in prompts]
        return Features(
            buckets=torch.from_numpy(np.concatenate([buckets for buckets, _, _ in parts])),
            weights=torch.from_numpy(np.concatenate([weights for _, weights, _ in parts])),
            starts=torch.from_numpy(np.cumsum([0, *(len(buckets) for buckets, _, _ in parts[:-1])])),
            base=torch.from_numpy(np.stack([scores for _, _, scores in parts])),
        )

    def _features(self, prompt: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if prompt not in self._cache:
            features = self._base.features(prompt)
            self._cache[prompt] = (*features, self._base.scores(*features).astype(np.float32))
        return self._cache[prompt]


def hidden_sums(features: Features, a: torch.Tensor) -> torch.Tensor:
    """The sums (U, RANK) over each prompt's features of w_f A[f], from A transposed, `a` (BUCKETS, RANK)."""
    sums: torch.Tensor = nn.functional.embedding_bag(
        features.buckets, a, features.starts, mode="sum", per_sample_weights=features.weights
    )
    return sums


def adapted_scores(features: Features, hidden: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The scores (U, labels) with the adapter, from `hidden_sums` and B, `b` (labels, RANK)."""
    scores: torch.Tensor = features.base + ALPHA / RANK * (hidden @ b.T)
    return scores


class TextScorerTrainee:
    """A base with an adapter in training, and with `critic` a value head on the adapter's inner sums."""

    def __init__(self, base_folder: Path, parent: Path | None, seed: int, critic: bool) -> None:
        """Load the parent's adapter, or draw a fresh one from `seed` where it is None.

        Raises NotFound, CheckFailed or Misconfigured for a folder that is missing, damaged or of another base.
        """
        torch.set_num_threads(1)
        self.base = load_base(base_folder)
        self._model = with_adapter(self.base, seed)
        if parent is not None:
            adapter = load_adapter(parent, self.base)
            _set(self._model, torch.from_numpy(adapter.a), torch.from_numpy(adapter.b.T))
        a, b = (factor.detach() for factor in factors(self._model))
        self._a, self._b = nn.Parameter(a.T.contiguous()), nn.Parameter(b.clone())
        self._head = nn.Linear(RANK, 1) if critic else None
        if self._head is not None:
            nn.init.zeros_(self._head.weight)
            nn.init.zeros_(self._head.bias)
        self._prompts = PromptFeatures(self.base)
        self._labels = {label: token for token, label in enumerate(self.base.labels)}

    @property
    def adapter(self) -> Sequence[torch.Tensor]:
        """A transposed (BUCKETS, RANK) and B (labels, RANK)."""
        return [self._a, self._b]

    @property
    def critic(self) -> Sequence[torch.Tensor]:
        """The value head's weight and bias."""
        return [] if self._head is None else [self._head.weight, self._head.bias]

    def outputs(self, rollouts: Sequence[Rollout], *, base: bool = False, dropout: float = 0.0) -> Outputs:
        """The model's outputs (B, 1) for rollouts of one token each; with `base`, without the adapter.

        Dropout is on the inner sums.
        """
        positions: dict[str, int] = {}
        index = torch.tensor([positions.setdefault(r.prompt, len(positions)) for r in rollouts])
        features = self._prompts.rows(list(positions))
        values = torch.zeros(len(rollouts), 1)
        scores = features.base
        if not base:
            hidden = hidden_sums(features, self._a)
            if self._head is not None:
                values = self._head(hidden.detach())[index]
            if dropout:
                hidden = hidden * (torch.rand(hidden.shape) >= dropout) / (1 - dropout)
            scores = adapted_scores(features, hidden, self._b)
        label_bias = torch.from_numpy(np.stack([_label_bias(self._labels, r) for r in rollouts]))
        logs = torch.log_softmax(scores[index] + label_bias, 1)
        return Outputs(
            logp=logs.gather(1, torch.tensor([[r.tokens[0]] for r in rollouts])),
            entropy=-(logs.exp() * logs.clamp_min(-1e4)).sum(1, keepdim=True),
            values=values,
        )

    def encode(self, prompt: str) -> tuple[int, ...] | None:
        """Always None: a prompt is a set of features here and no token sequence, so that no turn can
        continue another.
        """
        return None

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """The label's token; none for any other text."""
        return (self._labels[text],) if text in self._labels else ()

    def log_probs(self, prompt: str) -> list[float]:
        """The natural log-probability (labels,) of each label, with all on offer and no bias."""
        with torch.no_grad():
            features = self._prompts.rows([prompt])
            logs: list[float] = torch.log_softmax(adapted_scores(features, hidden_sums(features, self._a), self._b), 1)[
                0
            ].tolist()
        return logs

    def save(self, out: Path, card: str) -> None:
        """Write an ordinary peft folder; the same weights and card give the same bytes."""
        shutil.rmtree(out, ignore_errors=True)
        _set(self._model, self._a.detach(), self._b.detach())
        self._model.save_pretrained(str(out), save_embedding_layers=False)
        a, b = factors(self._model)
        save_file(
            {KEY_A: a.detach().contiguous(), KEY_B: b.detach().contiguous()}, out / ADAPTER, metadata={"format": "pt"}
        )
        config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
        (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
        (out / "README.md").write_text(card, encoding="utf-8")

    @property
    def name(self) -> str:
        """The name by which an adapter's config refers to the base."""
        return base_name(self.base)


def _set(model: PeftModel, a: torch.Tensor, b: torch.Tensor) -> None:
    """Set the adapter's factors, from A transposed (BUCKETS, RANK) and B (labels, RANK)."""
    with torch.no_grad():
        for factor, value in zip(factors(model), (a.T, b), strict=True):
            factor.copy_(value)


def _label_bias(labels: Mapping[str, int], rollout: Rollout) -> np.ndarray:
    """The recorded bias over all labels (float32), minus infinity where a label was not on offer."""
    tokens, bias = closed_vocabulary.offered(
        labels, SampleRequest(prompt="", choices=rollout.choices, bias=rollout.bias)
    )
    label_bias = np.full(len(labels), -np.inf, np.float32)
    label_bias[tokens] = bias
    return label_bias
