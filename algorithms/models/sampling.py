"""Sampling from a causal language model so that the same request gives the same answer, to the bit on CPU, whatever else is asked with it.

Rows share a forward only with prompts of their length, in a fixed number of slots that is never compacted, on one thread, and each draws
from a random stream of its own.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
from transformers import DynamicCache

from events.errors import UsageError

SLOTS, PREFILL_SLOTS = 32, 8
"""Rows of every forward while sampling and while reading prompts. Another number would change the last bits of log-probabilities."""


class SamplerBase(Protocol):
    """What a sampler must know of a model: its words."""

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a completion."""

    @property
    def positions(self) -> int:
        """Tokens that a prompt and its completion may have together."""

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""

    def encode(self, prompt: str) -> tuple[int, ...]:
        """The tokens of a prompt."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without the special ones."""


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One completion that is wanted, of a prompt in token ids.

    `place` tells apart those of one prompt and seed; a temperature of 0 takes the most probable, the first of equals.
    """

    prompt: tuple[int, ...]
    seed: int
    place: int = 0
    temperature: float = 1.0
    max_tokens: int = 64


class SampledCompletion(msgspec.Struct, frozen=True):
    """Tokens with the one that ends them where it was reached, natural log-probabilities at temperature 1, and the text of it all."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str


class Sampler:
    """A model that can be asked, its weights fixed when it was made."""

    def __init__(self, base: SamplerBase, model: Any) -> None:
        torch.set_num_threads(1)
        self.base, self._model = base, model.eval().requires_grad_(False)

    def sample(self, asks: Sequence[CompletionRequest]) -> list[SampledCompletion]:
        """A completion of each, in order; raises UsageError for a prompt, temperature or length out of range.

        A completion also stops where prompt and completion fill the model's positions.
        """
        of_length: dict[int, list[int]] = {}
        for place, ask in enumerate(asks):
            if not (0 < len(ask.prompt) < self.base.positions and ask.max_tokens > 0 and 0 <= ask.temperature < math.inf):
                raise UsageError(
                    f"Asked for a completion of a prompt of {len(ask.prompt)} tokens, of {ask.max_tokens} at most, at temperature "
                    f"{ask.temperature}; ask for 1 to {self.base.positions - 1}, 1 or more, and a finite temperature of 0 or more."
                )
            of_length.setdefault(len(ask.prompt), []).append(place)
        found: dict[int, SampledCompletion] = {}
        for places in of_length.values():
            for start in range(0, len(places), SLOTS):
                part = places[start : start + SLOTS]
                found.update(zip(part, self._slots([asks[place] for place in part]), strict=True))
        return [found[place] for place in range(len(asks))]

    def next_log_probs(self, prompt: str) -> list[float]:
        """The natural log-probability of each token of the vocabulary as the first after a prompt."""
        logits, _ = self._prefill([self.base.encode(prompt)])
        return [float(value) for value in _log_softmax(logits)[0]]

    @torch.inference_mode()
    def _slots(self, asks: Sequence[CompletionRequest]) -> list[SampledCompletion]:
        """Completions of at most SLOTS prompts of one length. Copies of the first fill the slots; a row that has ended goes on unheard."""
        filled = [*asks, *[asks[0]] * (SLOTS - len(asks))]
        room = [min(ask.max_tokens, self.base.positions - len(ask.prompt)) for ask in asks]
        uniform = np.stack([_uniforms(ask, max(room)) for ask in filled], axis=1)
        temperature = np.array([[ask.temperature] for ask in filled])
        logits, cache = self._prefill([ask.prompt for ask in filled])
        tokens: list[np.ndarray] = []
        logprobs: list[np.ndarray] = []
        going = set(range(len(asks)))
        while True:
            chosen = _choose(logits, uniform[len(tokens), :, None], temperature)
            tokens.append(chosen)
            logprobs.append(np.take_along_axis(_log_softmax(logits), chosen[:, None], 1)[:, 0])
            going -= {row for row in going if chosen[row] in self.base.ends or len(tokens) == room[row]}
            if not going:
                break
            said = self._model(torch.from_numpy(chosen[:, None]).to(self._model.device), past_key_values=cache, use_cache=True)
            logits = said.logits[:, -1].double().cpu().numpy()
        return [self._completion(row, room[row], tokens, logprobs) for row in range(len(asks))]

    def _completion(self, row: int, room: int, tokens: Sequence[np.ndarray], logprobs: Sequence[np.ndarray]) -> SampledCompletion:
        said = [int(step[row]) for step in tokens[:room]]
        end = next((place for place, token in enumerate(said) if token in self.base.ends), len(said))
        said = said[: end + 1]
        return SampledCompletion(tuple(said), tuple(float(step[row]) for step in logprobs[: len(said)]), self.base.decode(said))

    @torch.inference_mode()
    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, DynamicCache]:
        """The logits (rows, vocabulary) after prompts of one length, float64, and their keys and values; each distinct one is read once."""
        distinct = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        unread, read = list(distinct), []
        while unread:
            part, unread = unread[:PREFILL_SLOTS], unread[PREFILL_SLOTS:]
            ids = torch.tensor([*part, *[part[0]] * (PREFILL_SLOTS - len(part))], device=self._model.device)
            whole = DynamicCache()  # of every position, also where a layer looks back through a window
            read.append(self._model(ids, past_key_values=whole, use_cache=True, logits_to_keep=1))
        rows = torch.tensor([distinct[prompt] for prompt in prompts], device=self._model.device)
        cache = DynamicCache()
        for layer in range(len(read[0].past_key_values.layers)):
            held = [one.past_key_values.layers[layer] for one in read]
            cache.update(torch.cat([one.keys for one in held])[rows], torch.cat([one.values for one in held])[rows], layer)
        return torch.cat([one.logits[:, -1] for one in read])[rows].double().cpu().numpy(), cache


def _uniforms(ask: CompletionRequest, count: int) -> np.ndarray:
    """Uniform numbers in [0, 1), one for each token: 53 bits of Philox, whose key is a hash of seed and place."""
    key = int.from_bytes(hashlib.sha256(f"{ask.seed}:{ask.place}".encode()).digest()[:16], "big")
    numbers: np.ndarray = (np.random.Philox(key=key).random_raw(count) >> np.uint64(11)) * 2.0**-53
    return numbers


def _choose(logits: np.ndarray, uniform: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """A token for each row: the first whose cumulated probability exceeds `uniform` (rows, 1); the most probable at temperature 0."""
    tilted = logits - logits.max(1, keepdims=True)
    cumulated = np.exp(tilted / np.where(temperature > 0, temperature, 1.0)).cumsum(1)
    drawn = (cumulated <= uniform * cumulated[:, -1:]).sum(1).clip(max=logits.shape[1] - 1)
    chosen: np.ndarray = np.where(temperature[:, 0] > 0, drawn, logits.argmax(1))
    return chosen


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    logs: np.ndarray = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return logs
