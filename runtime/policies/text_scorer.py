"""The text scorer, a policy for classification: it scores labels from hashed character n-grams. Inference needs numpy
alone.

    z(prompt) = sum_f w_f (E[f] + alpha / r A[f] B),
    w = L2-normalised tf-idf weights of the prompt's unigrams and bigrams

E[f] (labels,) is `SCALE` times the tf-idf weight of f in each label's name, so the base answers with the label whose
name is nearest. A (BUCKETS, r) and B (r, labels) are the factors of a LoRA adapter. A base is a folder of base.json and
base.safetensors; an adapter is an ordinary peft folder, which names the digest of its base.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from events.errors import CheckFailed, Misconfigured, NotFound, NotHere
from runtime.policies import closed_vocabulary
from runtime.policies.closed_vocabulary import Vector
from runtime.policies.interface import Sampled, SampleRequest

KIND = "text-scorer"
BITS = 16
BUCKETS = 1 << BITS
"""Hash buckets of n-grams."""
SCALE = 20.0
"""What turns a cosine of a prompt and a label's name into a score."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Knuth's multiplicative hashing, 2^64 over the golden ratio."""
ADAPTER = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
KEY_A = "base_model.model.scores.lora_embedding_A"
KEY_B = "base_model.model.scores.lora_embedding_B"
_CACHED_PROMPTS = 8192
_CACHED_LENGTH = 20_000
"""Characters of the longest prompt whose scores are cached."""


class TextScorerBase:
    """The base model: labels, the idf of each bucket (BUCKETS,), and the nonzero entries of E as (bucket, label, value)
    triples.
    """

    def __init__(
        self, labels: Sequence[str], idf: np.ndarray, bucket: np.ndarray, label: np.ndarray, value: np.ndarray
    ) -> None:
        self.labels = tuple(labels)
        self.idf, self.bucket, self.label, self.value = idf, bucket, label, value
        self.digest = self._digest()

    def features(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The buckets (F,) of a text, ascending int64, and their weights w (F,), float32."""
        buckets, counts = _buckets(text)
        weights = (1 + np.log(counts)) * self.idf[buckets]
        return buckets, (weights / max(float(np.sqrt((weights * weights).sum())), 1e-12)).astype(np.float32)

    def scores(self, buckets: np.ndarray, weights: np.ndarray) -> Vector:
        """The base's scores (labels,) in float64, from a prompt's features."""
        spread = np.zeros(BUCKETS)
        spread[buckets] = weights
        scores: Vector = np.bincount(
            self.label, weights=spread[self.bucket] * self.value, minlength=len(self.labels)
        ).astype(np.float64)
        return scores

    def table(self) -> np.ndarray:
        """The embedding E in full, (BUCKETS, labels) float32."""
        table = np.zeros((BUCKETS, len(self.labels)), np.float32)
        table[self.bucket, self.label] = self.value
        return table

    def save(self, folder: Path) -> None:
        """Write the folder; the same base gives the same bytes."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._arrays(), folder / "base.safetensors")
        card = {"kind": KIND, "digest": self.digest, "buckets": BUCKETS, "scale": SCALE, "labels": self.labels}
        (folder / "base.json").write_text(json.dumps(card, ensure_ascii=False, indent=1), encoding="utf-8")

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"bucket": self.bucket, "idf": self.idf, "label": self.label, "value": self.value}

    def _digest(self) -> str:
        total = hashlib.sha256(json.dumps([KIND, BUCKETS, SCALE, self.labels], ensure_ascii=False).encode())
        for name, array in self._arrays().items():
            total.update(name.encode() + array.tobytes())
        return total.hexdigest()


def build_base(labels: Sequence[str], texts: Sequence[str]) -> TextScorerBase:
    """Build a base for these labels. The idf is counted over `texts`, whose own labels are not used."""
    spread = np.zeros(BUCKETS)
    for text in texts:
        spread[_buckets(text)[0]] += 1
    idf = (np.log((1 + len(texts)) / (1 + spread)) + 1).astype(np.float32)
    empty = TextScorerBase(labels, idf, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    names = [empty.features(label.replace("[", "").replace("]", "")) for label in labels]
    bucket = np.concatenate([buckets for buckets, _ in names])
    label = np.repeat(np.arange(len(labels)), [len(buckets) for buckets, _ in names])
    value = (SCALE * np.concatenate([weights for _, weights in names])).astype(np.float32)
    return TextScorerBase(labels, idf, bucket, label, value)


def load_base(folder: Path) -> TextScorerBase:
    """The base in a folder; raises NotFound for a missing file, CheckFailed for a damaged one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        card = json.loads((folder / "base.json").read_text(encoding="utf-8"))
        arrays = load_file(folder / "base.safetensors")
        base = TextScorerBase(card["labels"], arrays["idf"], arrays["bucket"], arrays["label"], arrays["value"])
        recorded = str(card["digest"])
    except FileNotFoundError as missing:
        raise NotHere(
            f"The base model folder {folder} lacks {Path(str(missing.filename)).name}; build the base again."
        ) from missing
    except (SafetensorError, ValueError, KeyError, TypeError) as wrong:
        raise CheckFailed(
            f"The base model in {folder} is damaged ({type(wrong).__name__}: {wrong}); build it again."
        ) from wrong
    if base.digest != recorded:
        raise CheckFailed(
            f"The base model in {folder} has digest {base.digest[:12]}, its card says {recorded[:12]}; build it again."
        )
    return base


class Adapter:
    """A LoRA adapter: the factors A (BUCKETS, r) and B (r, labels), both float32, and their scale alpha / r."""

    def __init__(self, a: np.ndarray, b: np.ndarray, scale: float) -> None:
        self.a, self.b, self.scale = a, b, scale


def load_adapter(folder: Path, base: TextScorerBase) -> Adapter:
    """The adapter in a peft folder; raises NotFound for a missing file, Misconfigured for one of another base or other
    shapes.
    """
    from safetensors.numpy import load_file

    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / ADAPTER)
    except FileNotFoundError as missing:
        raise NotFound(
            f"The adapter folder {folder} lacks {Path(str(missing.filename)).name}; it is no peft adapter."
        ) from missing
    config_base = str(config.get("base_model_name_or_path") or "")
    if config_base != base_name(base):
        raise Misconfigured(
            f"The adapter in {folder} was made for the base {config_base or '(none named)'}, not for "
            f"{base_name(base)}; train it anew."
        )
    a, b = tensors.get(KEY_A), tensors.get(KEY_B)
    rank = int(config["r"])
    if a is None or b is None or a.shape != (rank, BUCKETS) or b.shape != (len(base.labels), rank):
        raise Misconfigured(
            f"The adapter in {folder} does not hold {KEY_A} and {KEY_B} in the shapes of rank {rank}; train it anew."
        )
    return Adapter(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), float(config["lora_alpha"]) / rank)


def base_name(base: TextScorerBase) -> str:
    """The name by which an adapter's config refers to its base."""
    return f"{KIND}@{base.digest}"


class TextScorer:
    """The policy of a base, with an adapter or without. For one thread at a time. Scores of prompts are cached."""

    def __init__(self, base: TextScorerBase, adapter: Adapter | None = None) -> None:
        self.base, self.adapter = base, adapter
        self._labels = {label: token for token, label in enumerate(base.labels)}
        self._memo = lru_cache(maxsize=_CACHED_PROMPTS)(self._score)

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request; at temperature 0 the label of the highest score, the first of equals.

        Raises UsageError for a choice that is no label, or a bias that does not fit.
        """
        return [
            closed_vocabulary.complete(self._labels, self._cached_scores, request, closed_vocabulary.first_best)
            for request in requests
        ]

    def log_probs(self, prompt: str) -> list[float]:
        """The natural log-probability (labels,) of each label, with all on offer and no bias."""
        return closed_vocabulary.log_softmax(self._cached_scores(prompt)).tolist()

    def _cached_scores(self, prompt: str) -> Vector:
        return self._memo(prompt) if len(prompt) <= _CACHED_LENGTH else self._score(prompt)

    def _score(self, prompt: str) -> Vector:
        buckets, weights = self.base.features(prompt)
        scores = self.base.scores(buckets, weights)
        if self.adapter is not None:
            hidden = np.einsum("f,fr->r", weights, self.adapter.a[buckets], dtype=np.float64)
            scores += self.adapter.scale * np.einsum("r,rl->l", hidden, self.adapter.b, dtype=np.float64)
        return scores


def load(base_folder: Path, adapter_folder: Path | None = None) -> TextScorer:
    """Open the policy of a base folder, with the adapter of a peft folder if one is given.

    Raises NotFound, CheckFailed or Misconfigured for a folder that is missing, damaged or of another base.
    """
    base = load_base(base_folder)
    return TextScorer(base, None if adapter_folder is None else load_adapter(adapter_folder, base))


def _buckets(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The buckets of the text's unigrams and bigrams, ascending, and how often each occurs."""
    signs = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    grams = np.concatenate([signs, (signs[:-1] << np.uint64(21)) | signs[1:]])
    buckets, counts = np.unique((grams * _MULTIPLIER) >> np.uint64(64 - BITS), return_counts=True)
    return buckets.astype(np.int64), counts
