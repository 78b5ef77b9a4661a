"""The text scorer: scores of a closed set of labels, from hashed character n-grams, with a LoRA adapter on top. Inference is numpy alone.

    z(prompt) = sum_f w_f (E[f] + alpha / r A[f] B),   w = L2-normalised tf-idf weights of the prompt's unigrams and bigrams

E[f] (labels) is `SCALE` times the tf-idf weight of f in each label's name, so the base answers with the label whose name is nearest.
A base is a folder of base.json and base.safetensors; an adapter is an ordinary peft folder, which names the digest of its base.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from events.errors import CheckFailed, Misconfigured, NotFound
from runtime.policies import closed_vocabulary
from runtime.policies.closed_vocabulary import Vector
from runtime.policies.interface import Sampled, SampleRequest

KIND = "text-scorer"
BITS = 16
BUCKETS = 1 << BITS
SCALE = 20.0
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Knuth's multiplicative hashing, 2^64 over the golden ratio."""
ADAPTER = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
KEY_A = "base_model.model.scores.lora_embedding_A"
KEY_B = "base_model.model.scores.lora_embedding_B"
_REMEMBERED = 8192
_REMEMBERED_LENGTH = 20_000
"""Characters of the longest prompt that is remembered."""


class TextScorerBase:
    """The frozen part: labels, the idf of each bucket, and the scores of the label names as (bucket, label, value) triples."""

    def __init__(self, labels: Sequence[str], idf: np.ndarray, bucket: np.ndarray, label: np.ndarray, value: np.ndarray) -> None:
        self.labels = tuple(labels)
        self.idf, self.bucket, self.label, self.value = idf, bucket, label, value
        self.digest = self._digest()

    def features(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The buckets of `text`, ascending (int64), and their weights (float32)."""
        buckets, counts = _buckets(text)
        weights = (1 + np.log(counts)) * self.idf[buckets]
        return buckets, (weights / max(float(np.sqrt((weights * weights).sum())), 1e-12)).astype(np.float32)

    def scores(self, buckets: np.ndarray, weights: np.ndarray) -> Vector:
        """The base's score of each label, in float64."""
        spread = np.zeros(BUCKETS)
        spread[buckets] = weights
        scores: Vector = np.bincount(self.label, weights=spread[self.bucket] * self.value, minlength=len(self.labels)).astype(np.float64)
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
        of = hashlib.sha256(json.dumps([KIND, BUCKETS, SCALE, self.labels], ensure_ascii=False).encode())
        for name, array in self._arrays().items():
            of.update(name.encode() + array.tobytes())
        return of.hexdigest()


def build_base(labels: Sequence[str], texts: Sequence[str]) -> TextScorerBase:
    """A base for `labels`, its idf counted over `texts` (no labels of theirs are used)."""
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
    """The base in `folder`; raises NotFound or CheckFailed."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        card = json.loads((folder / "base.json").read_text(encoding="utf-8"))
        arrays = load_file(folder / "base.safetensors")
        base = TextScorerBase(card["labels"], arrays["idf"], arrays["bucket"], arrays["label"], arrays["value"])
        said = str(card["digest"])
    except FileNotFoundError as missing:
        raise NotFound(f"The base model folder {folder} lacks {Path(str(missing.filename)).name}; build the base again.") from missing
    except (SafetensorError, ValueError, KeyError, TypeError) as wrong:
        raise CheckFailed(f"The base model in {folder} is damaged ({type(wrong).__name__}: {wrong}); build it again.") from wrong
    if base.digest != said:
        raise CheckFailed(f"The base model in {folder} has digest {base.digest[:12]}, its card says {said[:12]}; build it again.")
    return base


class Adapter:
    """The LoRA factors: A (BUCKETS, r), B (r, labels), both float32, and their scale alpha / r."""

    def __init__(self, a: np.ndarray, b: np.ndarray, scale: float) -> None:
        self.a, self.b, self.scale = a, b, scale


def load_adapter(folder: Path, base: TextScorerBase) -> Adapter:
    """The adapter in a peft folder; raises NotFound, or Misconfigured where it was made for another base."""
    from safetensors.numpy import load_file

    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / ADAPTER)
    except FileNotFoundError as missing:
        raise NotFound(f"The adapter folder {folder} lacks {Path(str(missing.filename)).name}; it is no peft adapter.") from missing
    made_for = str(config.get("base_model_name_or_path") or "")
    if made_for != base_name(base):
        raise Misconfigured(
            f"The adapter in {folder} was made for the base {made_for or '(none named)'}, not for {base_name(base)}; train it anew."
        )
    a, b = tensors.get(KEY_A), tensors.get(KEY_B)
    rank = int(config["r"])
    if a is None or b is None or a.shape != (rank, BUCKETS) or b.shape != (len(base.labels), rank):
        raise Misconfigured(f"The adapter in {folder} does not hold {KEY_A} and {KEY_B} in the shapes of rank {rank}; train it anew.")
    return Adapter(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), float(config["lora_alpha"]) / rank)


def base_name(base: TextScorerBase) -> str:
    """The name under which an adapter's config refers to its base."""
    return f"{KIND}@{base.digest}"


class TextScorer:
    """The policy: a base, with an adapter or without. One thread at a time."""

    def __init__(self, base: TextScorerBase, adapter: Adapter | None = None) -> None:
        self.base, self.adapter = base, adapter
        self._labels = {label: token for token, label in enumerate(base.labels)}
        self._memo = lru_cache(maxsize=_REMEMBERED)(self._score)

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request; at temperature 0 the highest score, the first of equals."""
        return [closed_vocabulary.complete(self._labels, self._remembered, request, _first_best) for request in requests]

    def log_probs(self, prompt: str) -> list[float]:
        """The log-probability of each label, all of them on offer and none favoured."""
        return closed_vocabulary.log_softmax(self._remembered(prompt)).tolist()

    def _remembered(self, prompt: str) -> Vector:
        return self._memo(prompt) if len(prompt) <= _REMEMBERED_LENGTH else self._score(prompt)

    def _score(self, prompt: str) -> Vector:
        buckets, weights = self.base.features(prompt)
        scores = self.base.scores(buckets, weights)
        if self.adapter is not None:
            hidden = np.einsum("f,fr->r", weights, self.adapter.a[buckets], dtype=np.float64)
            scores += self.adapter.scale * np.einsum("r,rl->l", hidden, self.adapter.b, dtype=np.float64)
        return scores


def load(base_folder: Path, adapter_folder: Path | None = None) -> TextScorer:
    """The policy of a base folder and, if given, a peft folder."""
    base = load_base(base_folder)
    return TextScorer(base, None if adapter_folder is None else load_adapter(adapter_folder, base))


def _first_best(scores: Vector, u: float) -> int:
    return int(np.argmax(scores))


def _buckets(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The buckets of the text's unigrams and bigrams, ascending, and how often each occurs."""
    signs = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    grams = np.concatenate([signs, (signs[:-1] << np.uint64(21)) | signs[1:]])
    buckets, counts = np.unique((grams * _MULTIPLIER) >> np.uint64(64 - BITS), return_counts=True)
    return buckets.astype(np.int64), counts
