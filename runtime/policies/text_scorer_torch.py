"""The text scorer in training: the factors of a LoRA adapter, in torch.

The loss needs sum_f w_f (A[f] B) only, so the forward sums over the features first and multiplies by B once; a test
holds it equal to peft's forward. peft itself is not imported: that takes several seconds, and a run waits for them
whenever its trainer starts again.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from algorithms.learning.batch import REFERENCE_WIDTH, Rollout
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
_UNUSED = [
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "kasa_config",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "lora_ga_config",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "revision",
    "target_parameters",
    "task_type",
    "trainable_token_indices",
    "use_bdlora",
    "velora_config",
]
"""The keys of peft's configuration that are null here."""


class Features(msgspec.Struct, frozen=True):
    """Features of U prompts: buckets and weights (N,) end to end, where each prompt begins (U,), and the base's scores
    (U, labels).
    """

    buckets: torch.Tensor
    weights: torch.Tensor
    starts: torch.Tensor
    base: torch.Tensor


class Scorer(nn.Module):
    """The base's scores z = sum_f w_f E[f] as a plain torch module, which peft can wrap with an adapter's folder."""

    def __init__(self, base: TextScorerBase) -> None:
        super().__init__()
        self.name_or_path = base_name(base)
        self.scores = nn.Embedding(
            len(base.idf), len(base.labels), _weight=torch.from_numpy(base.table()), _freeze=True
        )

    def forward(self, buckets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The scores (labels,) of one prompt, from its buckets (F,) and weights (F,)."""
        scores: torch.Tensor = weights @ self.scores(buckets)
        return scores


def peft_config(base: TextScorerBase) -> dict[str, object]:
    """The content of `adapter_config.json`, as peft writes it for `Scorer`; a test holds them equal."""
    return dict.fromkeys(_UNUSED) | {
        "alpha_pattern": {},
        "auto_mapping": {"base_model_class": Scorer.__name__, "parent_library": Scorer.__module__},
        "base_model_name_or_path": base_name(base),
        "bias": "none",
        "ensure_weight_tying": False,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "loftq_config": {},
        "lora_alpha": ALPHA,
        "lora_bias": False,
        "lora_dropout": 0.0,
        "megatron_core": "megatron.core",
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "qalora_group_size": 16,
        "r": RANK,
        "rank_pattern": {},
        "target_modules": ["scores"],
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
    }


def fresh_adapter(base: TextScorerBase, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A transposed (BUCKETS, RANK), drawn from `seed`, and B (labels, RANK), which is 0."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn((len(base.idf), RANK), generator=draw) * SPREAD, torch.zeros((len(base.labels), RANK))


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

    width = REFERENCE_WIDTH

    def __init__(self, base_folder: Path, parent: Path | None, seed: int, critic: bool) -> None:
        """Load the parent's adapter, or draw a fresh one from `seed` where it is None.

        Raises NotFound, CheckFailed or Misconfigured for a folder that is missing, damaged or of another base.
        """
        torch.set_num_threads(1)
        self.base = load_base(base_folder)
        if parent is None:
            a, b = fresh_adapter(self.base, seed)
        else:
            adapter = load_adapter(parent, self.base)
            a, b = torch.tensor(adapter.a), torch.tensor(adapter.b.T)
        self._a, self._b = nn.Parameter(a.contiguous()), nn.Parameter(b.contiguous())
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

    @property
    def at_base(self) -> bool:
        """Whether B is 0, as in a fresh adapter."""
        return not bool(self._b.any())

    def prompts_read_once(self) -> AbstractContextManager[None]:
        """No prompt is read by itself."""
        return nullcontext()

    def split(self, rollouts: Sequence[Rollout], tokens: int, width: int = 1) -> list[list[int]]:
        """The indices of the rollouts of each forward, in order: a rollout is one token here, and its prompt none."""
        rows = max(1, tokens // width) * width
        return [list(range(at, min(at + rows, len(rollouts)))) for at in range(0, len(rollouts), rows)]

    def outputs(self, rollouts: Sequence[Rollout], *, base: bool = False, dropout: float = 0.0) -> Outputs:
        """The model's outputs (B, 1) for rollouts of one token each, at its temperature; with `base`, without the
        adapter.

        Dropout is on the inner sums of each prompt, drawn anew in each forward: a minibatch that is cut into several
        draws more.
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
        temperature = torch.tensor([[r.temperature] for r in rollouts])
        logs = torch.log_softmax((scores[index] + label_bias) / temperature, 1)
        return Outputs(
            logp=logs.gather(1, torch.tensor([[r.tokens[0]] for r in rollouts])),
            entropy=-(logs.exp() * logs.clamp_min(-1e4)).sum(1, keepdim=True),
            values=values,
        )

    positions: int | None = None

    def encode(self, prompt: str, plain: bool = False) -> tuple[int, ...] | None:
        """Always None: a prompt is a set of features here and no token sequence, so that no turn can
        continue another.
        """
        return None

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """The label's token; none for any other text."""
        return (self._labels[text],) if text in self._labels else ()

    def encode_choices(self, choices: Sequence[str], plain: bool = False) -> tuple[int, ...]:
        """The token of each of these labels."""
        return tuple(self._labels[choice] for choice in choices)

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
        out.mkdir(parents=True)
        factors = {KEY_A: self._a.detach().T.contiguous(), KEY_B: self._b.detach().contiguous()}
        save_file(factors, out / ADAPTER, metadata={"format": "pt"})
        (out / CONFIG).write_text(json.dumps(peft_config(self.base), indent=2, sort_keys=True), encoding="utf-8")
        (out / "README.md").write_text(card, encoding="utf-8")

    @property
    def name(self) -> str:
        """The name by which an adapter's config refers to the base."""
        return base_name(self.base)


def _label_bias(labels: Mapping[str, int], rollout: Rollout) -> np.ndarray:
    """The recorded bias over all labels (float32), minus infinity where a label was not on offer."""
    tokens, bias = closed_vocabulary.offered(
        labels, SampleRequest(prompt="", choices=rollout.choices, bias=rollout.bias)
    )
    label_bias = np.full(len(labels), -np.inf, np.float32)
    label_bias[tokens] = bias
    return label_bias
