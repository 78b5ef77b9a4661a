"""Log-probabilities of a few tokens after many prompts, where an answer is one of a few words.

A prompt is read in blocks, each after the keys and values of those before it, so that what prompts begin with is read
once, in one call and in the next. Every forward has the same number of rows and tokens, whatever else is asked, so
equal prompts get equal figures, to the bit on a CPU, unless the model is a mixture of experts.
"""

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import DynamicCache

from algorithms.models.causal_lm import logits_after
from events.errors import UsageError

LONG, MIDDLE, SHORT = 64, 16, 4
"""Tokens of a block: of those that a long prompt begins with, of the rest of a long prompt, and of a short prompt."""
FORWARD = 128
"""Tokens of a forward: of two long blocks, of eight middle ones or of 32 short ones."""
AT_ONCE = 8192
"""Tokens of the prompts that are read together: their keys and values are held until all of them are read."""
KEPT_BYTES = 512 << 20
"""Bytes of keys and values that are kept for the next call."""
KEPT_SCORES = 1 << 16
"""Prompts whose log-probabilities are kept."""


class _Place(NamedTuple):
    """A block: the adapter, how many long blocks its prompt begins with, and all tokens up to its end."""

    adapter: str
    longs: int
    tokens: tuple[int, ...]

    @property
    def start(self) -> int:
        """How many tokens stand before the block."""
        after = len(self.tokens) - self.longs * LONG
        return len(self.tokens) - (LONG if after == 0 else (after - 1) % self.width + 1)

    @property
    def width(self) -> int:
        """The tokens that it is padded to."""
        if len(self.tokens) == self.longs * LONG:
            return LONG
        return MIDDLE if self.longs else SHORT

    @property
    def before(self) -> "_Place | None":
        """The block before it."""
        if self.start == 0:
            return None
        return _Place(self.adapter, self.longs - (self.width == LONG), self.tokens[: self.start])


class _Read(NamedTuple):
    """What is kept of a block: of each layer its keys and values (2, heads, tokens, size), and the state (hidden,) of
    its last token.
    """

    layers: tuple[torch.Tensor, ...]
    state: torch.Tensor

    @property
    def bytes(self) -> int:
        return sum(each.numel() * each.element_size() for each in (*self.layers, self.state))


class ChoiceScores:
    """Log-probabilities of given tokens after prompts, by a model whose weights under an adapter's name stay the same.

    For one thread; it computes on those of the pool, each of which must have one thread of torch's.
    """

    def __init__(self, model: Any, pool: Executor, positions: int) -> None:
        self._model, self._pool, self._positions = model, pool, positions
        self._kept: OrderedDict[_Place, _Read] = OrderedDict()
        self._bytes = 0
        self._scores: OrderedDict[tuple[_Place, tuple[int, ...]], np.ndarray] = OrderedDict()
        self._output: Any = None

    def after(self, adapter: str, asked: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[np.ndarray]:
        """For each (prompt, tokens) the natural log-probability (tokens,), float64, of each of these tokens as the
        first after the prompt, among all of the vocabulary.

        `adapter` names the weights that the model has now. Raises UsageError for a model that keeps more than keys and
        values, such as Mamba's state.
        """
        keys = [(_Place(adapter, (len(prompt) - 1) // LONG, prompt), tokens) for prompt, tokens in asked]
        missing = list(dict.fromkeys(key for key in keys if key not in self._scores))
        found = {key: self._scores[key] for key in keys if key in self._scores}
        while missing:
            tokens = itertools.accumulate(len(place.tokens) for place, _ in missing)
            count = max(1, sum(1 for total in tokens if total <= AT_ONCE))
            part, missing = missing[:count], missing[count:]
            found |= zip(part, self._computed(part), strict=True)
        for key in keys:
            self._scores[key] = found[key]
            self._scores.move_to_end(key)
        while len(self._scores) > KEPT_SCORES:
            self._scores.popitem(last=False)
        return [found[key] for key in keys]

    def _computed(self, keys: Sequence[tuple[_Place, tuple[int, ...]]]) -> list[np.ndarray]:
        read = self._read([place for place, _ in keys])
        parts = [keys[start : start + FORWARD] for start in range(0, len(keys), FORWARD)]
        scores: list[np.ndarray] = []
        for part in parts:
            states = [read[place].state for place, _ in part]
            with torch.inference_mode():
                logits = logits_after(self._model, self._output, torch.stack(filled(states, FORWARD))).float()
                totals = torch.logsumexp(logits, 1).tolist()
            scores += [
                logits[row, list(tokens)].double().cpu().numpy() - totals[row] for row, (_, tokens) in enumerate(part)
            ]
        return scores

    def _read(self, places: Sequence[_Place]) -> Mapping[_Place, _Read]:
        """The blocks of all these prompts, of which those that are not kept are read now."""
        needed: dict[_Place, _Read | None] = {}
        for place in places:
            at: _Place | None = place
            while at is not None and at not in needed:
                needed[at] = self._kept.get(at)
                at = at.before
        groups: dict[tuple[int, int], list[_Place]] = {}
        for place, read in needed.items():
            if read is None:
                groups.setdefault((place.start, place.width), []).append(place)
        blocks = {place: read for place, read in needed.items() if read is not None}
        for (_, width), group in sorted(groups.items()):
            rows = FORWARD // width
            parts = [group[first : first + rows] for first in range(0, len(group), rows)]
            read_parts = self._pool.map(self._forward, parts, itertools.repeat(blocks))
            for part, new in zip(parts, read_parts, strict=False):
                blocks |= zip(part, new, strict=True)
        self._keep(blocks)
        return blocks

    @torch.inference_mode()
    def _forward(self, part: Sequence[_Place], blocks: Mapping[_Place, _Read]) -> list[_Read]:
        """What becomes of blocks that have as many tokens before them; copies of the first fill the rows."""
        start = part[0].start
        width = min(part[0].width, self._positions - start)
        rows = filled(part, FORWARD // part[0].width)
        new = [place.tokens[start:] for place in rows]
        ids = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens in new], device=self._model.device)
        cache = DynamicCache()  # of every position, also where a layer looks back through a window
        if start:
            before = [_chain(place, blocks) for place in rows]
            for layer in range(len(before[0][0].layers)):
                each = torch.stack([torch.cat([read.layers[layer] for read in reads], 2) for reads in before], 1)
                cache.update(each[0], each[1], layer)
        model = self._model.get_base_model() if hasattr(self._model, "get_base_model") else self._model
        output = model.base_model(ids, past_key_values=cache, use_cache=True)
        self._output = type(output)
        if len(cache.layers) != model.config.get_text_config().num_hidden_layers or not all(
            map(_is_whole, cache.layers)
        ):
            raise UsageError(
                f"{type(model).__name__} keeps more of a prompt than keys and values, so choices cannot be compared "
                "after it here; ask it without choices, or use another model."
            )
        kept = []
        for row, tokens in enumerate(new[: len(part)]):
            end = start + len(tokens)
            layers = tuple(
                torch.stack((layer.keys[row, :, start:end], layer.values[row, :, start:end])) for layer in cache.layers
            )
            kept.append(_Read(layers, output.last_hidden_state[row, len(tokens) - 1].clone()))
        return kept

    def _keep(self, blocks: Mapping[_Place, _Read]) -> None:
        for place, read in blocks.items():
            if place not in self._kept:
                self._bytes += read.bytes
            self._kept[place] = read
            self._kept.move_to_end(place)
        while self._bytes > KEPT_BYTES:
            self._bytes -= self._kept.popitem(last=False)[1].bytes


def _chain(place: _Place, blocks: Mapping[_Place, _Read]) -> list[_Read]:
    """All blocks before this one, in order."""
    reads: list[_Read] = []
    at = place.before
    while at is not None:
        reads.append(blocks[at])
        at = at.before
    return reads[::-1]


def _is_whole(layer: Any) -> bool:
    """Whether a layer's cache holds keys and values."""
    return isinstance(getattr(layer, "keys", None), torch.Tensor)


def filled(values: Sequence[Any], count: int) -> list[Any]:
    """As many as `count` values: these, and copies of the first."""
    return [*values, *[values[0]] * (count - len(values))]
