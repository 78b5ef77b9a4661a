"""Sampling from a causal language model so that equal requests get equal answers, to the bit on CPU, whatever else is
asked with them.

Prompts share a forward only with others of their width, in a number of slots that the width fixes, on one thread. A
short prompt's width is its length; a long one is padded on its left. A slot whose completion has ended stays in the
batch. Each completion has a random stream of its own.
"""

import hashlib
import inspect
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
from transformers import DynamicCache

from algorithms.models.choice_scores import ChoiceScores, filled
from events.errors import UsageError

SLOTS, PREFILL_SLOTS = 32, 8
"""Rows of every forward while sampling and while reading prompts.

Another number would change the last bits of log-probabilities.
"""
LONG_SLOTS, PREFILL = 8, 512
"""On a CPU, rows of a forward that samples after a long prompt, of which each costs as much for itself since its keys
and values are copied at each token; and the most tokens of a forward that reads several prompts.
"""
STEP = 64
"""Longer prompts are padded to a multiple of this: few tasks have two of them of one length."""


class SamplerBase(Protocol):
    """What a sampler needs of a base model beside its weights: the tokenizer, and the limits of its context."""

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a completion."""

    @property
    def positions(self) -> int:
        """The most tokens that a prompt and its completion may have together."""

    @property
    def vocabulary(self) -> int:
        """The number of different tokens."""

    def encode(self, prompt: str, plain: bool = False) -> tuple[int, ...]:
        """The tokens of a prompt."""

    def encode_choices(self, choices: Sequence[str], plain: bool = False) -> tuple[int, ...]:
        """The first token of each of these answers; raises UsageError where two have the same."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without the special ones."""


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for one completion of a prompt in token ids.

    `index` numbers the completions of one prompt and seed. A temperature of 0 takes the most probable token, the first
    of equals.
    """

    prompt: tuple[int, ...]
    seed: int
    index: int = 0
    temperature: float = 1.0
    max_tokens: int = 64


class SampledCompletion(msgspec.Struct, frozen=True):
    """A completion: its tokens, the one that ends it included where it was reached, their natural log-probabilities,
    and the text.

    The log-probabilities are those at temperature 1, whatever the temperature of the request.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    cut: bool = False
    """Whether it ended because it reached its limit, or that of the model's positions."""


class Sampler:
    """Samples completions from a model, whose weights must not change while it does. For one thread; it computes on
    several.
    """

    def __init__(self, base: SamplerBase, model: Any, threads: int = 1) -> None:
        torch.set_num_threads(1)
        self.base, self._model = base, model.eval().requires_grad_(False)
        self._pads = takes_padding(model)
        self._cuda = next(model.parameters()).is_cuda
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        self.scores = ChoiceScores(self._model, self._pool, base.positions)

    def sample(self, requests: Sequence[CompletionRequest]) -> list[SampledCompletion]:
        """A completion for each request, in order; raises UsageError for a prompt, temperature or length out of range.

        A completion also stops where prompt and completion fill the model's positions.
        """
        by_width: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            if not (
                0 < len(request.prompt) < self.base.positions
                and request.max_tokens > 0
                and 0 <= request.temperature < math.inf
            ):
                raise UsageError(
                    f"Asked for a completion of a prompt of {len(request.prompt)} tokens, of {request.max_tokens} at "
                    "most, at temperature "
                    f"{request.temperature}; ask for 1 to {self.base.positions - 1}, 1 or more, and a finite "
                    "temperature of 0 or more."
                )
            by_width.setdefault(self.width(len(request.prompt)), []).append(index)
        parts = [
            indices[start : start + self.slots(width)]
            for width, indices in by_width.items()
            for start in range(0, len(indices), self.slots(width))
        ]
        asked = [[requests[index] for index in part] for part in parts]
        completions: dict[int, SampledCompletion] = {}
        for part, answers in zip(parts, self._pool.map(self._slots, asked), strict=True):
            completions.update(zip(part, answers, strict=True))
        return [completions[index] for index in range(len(requests))]

    def width(self, length: int) -> int:
        """To how many tokens a prompt of this length is padded; those of one width are computed together."""
        if length <= STEP or not self._pads:
            return length
        return min(-(-length // STEP) * STEP, self.base.positions)

    def slots(self, width: int) -> int:
        """The rows of a forward that samples after prompts of this width."""
        return SLOTS if width <= STEP or self._cuda else LONG_SLOTS

    def next_log_probs(self, prompt: str) -> list[float]:
        """The natural log-probability (vocabulary,) of each token as the first after a prompt."""
        logits, _ = self._prefill([self.base.encode(prompt)])
        return [float(value) for value in _log_softmax(logits)[0]]

    @torch.inference_mode()
    def _slots(self, requests: Sequence[CompletionRequest]) -> list[SampledCompletion]:
        """Completions for at most as many prompts of one width as it has slots.

        Copies of the first fill the slots; what follows a row's end is dropped.
        """
        slots = self.slots(self.width(len(requests[0].prompt)))
        rows = filled(requests, slots)
        limits = [min(request.max_tokens, self.base.positions - len(request.prompt)) for request in requests]
        uniform = np.stack([_uniforms(request.seed, request.index, max(limits)) for request in rows], axis=1)
        temperature = np.array([[request.temperature] for request in rows])
        prompts = [request.prompt for request in rows]
        logits, cache = self._prefill(prompts)
        tokens: list[np.ndarray] = []
        logprobs: list[np.ndarray] = []
        active = set(range(len(requests)))
        while True:
            chosen = _choose(logits, uniform[len(tokens), :, None], temperature)
            tokens.append(chosen)
            logprobs.append(np.take_along_axis(_log_softmax(logits), chosen[:, None], 1)[:, 0])
            active -= {row for row in active if chosen[row] in self.base.ends or len(tokens) == limits[row]}
            if not active:
                break
            output = self._model(
                torch.from_numpy(chosen[:, None]).to(self._model.device),
                past_key_values=cache,
                use_cache=True,
                **self._places(prompts, len(tokens)),
            )
            logits = output.logits[:, -1].double().cpu().numpy()
        return [self._completion(row, limits[row], tokens, logprobs) for row in range(len(requests))]

    def _completion(
        self, row: int, limit: int, tokens: Sequence[np.ndarray], logprobs: Sequence[np.ndarray]
    ) -> SampledCompletion:
        ids = [int(step[row]) for step in tokens[:limit]]
        end = next((index for index, token in enumerate(ids) if token in self.base.ends), len(ids))
        cut, ids = end == len(ids), ids[: end + 1]
        return SampledCompletion(
            tuple(ids), tuple(float(step[row]) for step in logprobs[: len(ids)]), self.base.decode(ids), cut
        )

    @torch.inference_mode()
    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, DynamicCache]:
        """The logits (prompts, vocabulary) (float64) after prompts of one width, and their keys and values.

        Equal ones are read once.
        """
        distinct = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
        width = self.width(len(prompts[0]))
        slots = PREFILL_SLOTS if self._cuda else max(1, min(PREFILL_SLOTS, PREFILL // width))
        unread, outputs = list(distinct), []
        while unread:
            part, unread = filled(unread[:slots], slots), unread[slots:]
            ids = torch.tensor([[*[0] * (width - len(each)), *each] for each in part], device=self._model.device)
            whole = DynamicCache()  # of every position, also where a layer looks back through a window
            how = {"past_key_values": whole, "use_cache": True, "logits_to_keep": 1}
            outputs.append(self._model(ids, **how, **self._places(part)))
        rows = torch.tensor([distinct[prompt] for prompt in prompts], device=self._model.device)
        cache = DynamicCache()
        for layer in range(len(outputs[0].past_key_values.layers)):
            parts = [output.past_key_values.layers[layer] for output in outputs]
            cache.update(
                torch.cat([output.keys for output in parts])[rows],
                torch.cat([output.values for output in parts])[rows],
                layer,
            )
        return torch.cat([output.logits[:, -1] for output in outputs])[rows].double().cpu().numpy(), cache

    def _places(self, prompts: Sequence[tuple[int, ...]], sampled: int = 0) -> dict[str, torch.Tensor]:
        """What a model must be told where prompts are padded: which tokens count, and the positions of those that it
        reads now, a prompt's own or the last of `sampled`. Of short prompts nothing.
        """
        width = self.width(len(prompts[0]))
        if width <= STEP or not self._pads:
            return {}
        pads = torch.tensor([[width - len(prompt)] for prompt in prompts], device=self._model.device)
        at = torch.arange(width + sampled, device=self._model.device)
        read = at[-1:] if sampled else at
        return {"attention_mask": (at >= pads).long(), "position_ids": (read - pads).clamp(min=0)}


def takes_padding(model: Any) -> bool:
    """Whether a model can be told that tokens before a prompt do not count: where it keeps keys and values alone, takes
    positions, and turns by none but each row's own (dynamic and long RoPE go by the batch's last).
    """
    own = model.get_base_model() if hasattr(model, "get_base_model") else model
    takes = inspect.signature(own.forward).parameters
    rope = str(getattr(own.config.get_text_config(), "rope_parameters", None))
    return (
        not getattr(own, "_is_stateful", False)
        and {"attention_mask", "position_ids"} <= set(takes)
        and not any(kind in rope for kind in ("dynamic", "longrope"))
    )


def choose_one(logits: np.ndarray, seed: int, index: int, temperature: float) -> int:
    """The place of one of these logits (choices,), drawn by the stream of (seed, index)."""
    row = logits[None].astype(np.float64)
    return int(_choose(row, _uniforms(seed, index, 1)[:, None], np.array([[temperature]]))[0])


def _uniforms(seed: int, index: int, count: int) -> np.ndarray:
    """Uniform numbers (count,) in [0, 1), one for each token: 53 bits of Philox (Salmon 2011), keyed by a hash of seed
    and index.
    """
    key = int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:16], "big")
    numbers: np.ndarray = (np.random.Philox(key=key).random_raw(count) >> np.uint64(11)) * 2.0**-53
    return numbers


def _choose(logits: np.ndarray, uniform: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """The token of each row: the first whose cumulated probability exceeds `uniform` (rows, 1); at temperature 0 the
    most probable.
    """
    tilted = logits - logits.max(1, keepdims=True)
    cumulated = np.exp(tilted / np.where(temperature > 0, temperature, 1.0)).cumsum(1)
    drawn = (cumulated <= uniform * cumulated[:, -1:]).sum(1).clip(max=logits.shape[1] - 1)
    chosen: np.ndarray = np.where(temperature[:, 0] > 0, drawn, logits.argmax(1))
    return chosen


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    logs: np.ndarray = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return logs
