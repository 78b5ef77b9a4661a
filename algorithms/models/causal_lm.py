"""A causal language model of transformers under a LoRA adapter that is trained: log-probabilities, entropies and values
of tokens.

What is held is bounded. Logits are computed for a few tokens at a time, and again in the backward pass. A prompt that
several rollouts share is read once: its keys and values stand before each of them, and the gradient that comes to these
goes on into the adapter when all have been.
"""

import ctypes
import itertools
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from algorithms.learning.batch import Rollout
from algorithms.learning.update import Outputs, pack
from algorithms.models import kernels
from algorithms.models.choices import pad_choices
from events.errors import CheckFailed, Misconfigured, NotFound, UsageError

RANK, ALPHA = 32, 32
"""Of LoRA: the update of a weight is alpha / rank times the product of its factors."""
ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
ROUTERS = {"router", "gate", "shared_expert_gate"}
"""Names in transformers of the part of a mixture that chooses experts; a layer in such a part gets no adapter."""

LOGITS = 1 << 24
"""The most logits that are computed at once: 64 MiB in float32, of which a few copies are held."""
SHARED = 64
"""Tokens that must be spared for it to pay to read what prompts share once: that is a forward of its own."""
LEAST_SHARED = 8
"""Tokens that different prompts must begin with for that."""
HELD = 8
"""A token whose keys and values a rollout holds counts as the eighth part of one that is computed."""
MAPPED, M_MMAP_THRESHOLD = 1 << 21, -3
"""Bytes of a tensor from which on glibc maps its memory and hands it back when it is freed, and the name of that
setting in malloc.h.
"""
PROMPTS = 4096
"""Prompts whose tokens are kept."""
LARGE = 10_000_000
"""Weights from which a model is trained on several of a CPU's threads; those of a smaller one wait for each other."""
THREADS = 16
"""The most threads that train."""


def threads_for(model: nn.Module) -> int:
    """On how many threads to train a model: on those of this process's share of the host, if it is large.

    Another number may change the last bits of a gradient; with one and with two they were the same.
    """
    if sum(parameter.numel() for parameter in model.parameters()) < LARGE or torch.cuda.is_available():
        return 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of a launch by accelerate
    return max(1, min(THREADS, (os.cpu_count() or 1) // processes))


def hand_back_memory() -> None:
    """Let this process hand freed tensors back to the system, on the CPU, where its allocator is glibc's.

    By default glibc keeps them in a heap, which the gradients that stay cut into pieces: half of it lay idle.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED)


class BaseTokenizer(Protocol):
    """The base model's name and its tokenizer."""

    @property
    def name(self) -> str:
        """The name by which an adapter's config refers to the base."""

    def encode(self, prompt: str, plain: bool = False) -> tuple[int, ...]:
        """The tokens of a prompt as the policy reads it: role tokens included, unless it is plain."""

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """The tokens of a completion and the token that ends it."""

    def encode_choices(self, choices: Sequence[str], plain: bool = False) -> tuple[int, ...]:
        """The first token of each of these answers; raises UsageError where two have the same."""


def linear_layers(model: Any) -> tuple[str, ...]:
    """The layers of a model's decoder that get an adapter: the last parts of the names of its nn.Linear and Conv1D
    layers, in order.

    The output embeddings and a mixture's routers get none. Nor do the experts of a mixture, which transformers stacks
    into one tensor; its attention, and the layers that all tokens pass through, do. Raises UsageError if there are no
    linear layers.
    """
    head = model.get_output_embeddings()
    layers = [
        path
        for path, each in model.base_model.named_modules()
        if isinstance(each, nn.Linear | Conv1D) and each is not head
    ]
    names = {path.split(".")[-1] for path in layers if ROUTERS.isdisjoint(path.split("."))}
    if not names:
        raise UsageError(
            f"{type(model).__name__} has no linear layers to put an adapter into; use another model, or train no "
            "weights."
        )
    return tuple(sorted(names))


class _ReadPrompt(NamedTuple):
    """A prompt that was read: its tokens, under what, and each layer's keys and values, as computed and as the forwards
    after it take them.
    """

    tokens: tuple[int, ...]
    base: bool
    computed: list[torch.Tensor]
    taken: list[torch.Tensor]


class CausalTrainee:
    """A frozen model under a LoRA adapter. With `critic` it has a value head too, a linear map of the last hidden
    state, zero at first.

    `tokenizer` is the base's. `model` is changed in place: peft puts the adapter into its `targets`, names of linear
    layers. The adapter is read from the peft folder `adapter`, or drawn from `seed` where that is None. With
    `checkpointing`, activations are not stored but computed again in the backward pass: the same gradient for less
    memory and more time. Raises NotFound if the folder lacks a file, CheckFailed if one is damaged, and Misconfigured
    if the adapter was made for another base or has other shapes.
    """

    def __init__(
        self,
        tokenizer: BaseTokenizer,
        model: Any,
        targets: Sequence[str],
        adapter: Path | None,
        seed: int,
        critic: bool = False,
        checkpointing: bool = False,
    ) -> None:
        torch.set_num_threads(threads_for(model))
        hand_back_memory()
        self.name, self.encode_completion = tokenizer.name, tokenizer.encode_completion
        self.encode_choices = tokenizer.encode_choices
        self.encode: Callable[..., tuple[int, ...]] = lru_cache(PROMPTS)(tokenizer.encode)
        self._targets = tuple(targets)
        self._checkpointing = checkpointing
        self.one_forward = False
        """Whether no prompt is read by itself: processes that split a model must do the same forwards."""
        self._keeps_prompts = False
        self._last_prompt: _ReadPrompt | None = None
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        config = LoraConfig(
            r=RANK,
            lora_alpha=ALPHA,
            lora_dropout=0.0,
            bias="none",
            target_modules=list(targets),
            task_type="CAUSAL_LM",
            fan_in_fan_out=any(isinstance(each, Conv1D) for each in model.modules()),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model: Any = get_peft_model(model, config).eval()
            self._head = (
                nn.Linear(model.get_output_embeddings().weight.shape[1], 1, device=model.device) if critic else None
            )
        self.width: int = model.get_output_embeddings().weight.shape[1]
        self.positions: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        config.base_model_name_or_path = self.name
        if self._head:
            nn.init.zeros_(self._head.weight)
            nn.init.zeros_(self._head.bias)
        if adapter:
            self._read(adapter)

    @property
    def adapter(self) -> list[nn.Parameter]:
        """The adapter's parameters, always in the same order."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def critic(self) -> list[nn.Parameter]:
        """The value head's weight (1, hidden) and bias (1,); none where there is no critic."""
        return list(self._head.parameters()) if self._head else []

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that hold all weights: the model under its adapter, and the value head if there is one."""
        return [self.model, *([self._head] if self._head else [])]

    @property
    def at_base(self) -> bool:
        """Whether all factors B are 0, as in a fresh adapter."""
        return not any(bool(parameter.any()) for name, parameter in self.model.named_parameters() if ".lora_B." in name)

    def split(self, rollouts: Sequence[Rollout], tokens: int, width: int = 1) -> list[list[int]]:
        """The indices of the rollouts of each forward, so that none has more than `tokens` tokens, if it can be.

        Rollouts that share a prompt, if that pays, come together; the others by their length, and less what all of
        their prompts begin with. Those that read the same tokens are one row. Each `width` consecutive ones stay
        together. A shared prompt that is longer than half of `tokens` leaves its answers as many tokens as it has
        itself, so that it is not read for each of them.
        """
        by_prompt: dict[frozenset[tuple[str, bool]], list[range]] = {}
        for at in range(0, len(rollouts), width):
            unit = range(at, at + width)
            by_prompt.setdefault(frozenset((rollouts[i].prompt, rollouts[i].plain) for i in unit), []).append(unit)
        parts: list[list[int]] = []
        apart: list[range] = []
        for units in by_prompt.values():
            rows = [i for unit in units for i in unit]
            known = self._shared([rollouts[i] for i in rows])
            if known:
                parts += self._packed(units, rollouts, known, max(tokens - known, known))
            else:
                apart += units
        apart.sort(key=lambda unit: unit[0])
        known = self._shared([rollouts[i] for unit in apart for i in unit])
        return parts + self._packed(apart, rollouts, known, max(tokens - known, known))

    def _packed(
        self, units: Sequence[Sequence[int]], rollouts: Sequence[Rollout], known: int, tokens: int
    ) -> list[list[int]]:
        """`pack` of units whose rollouts have their first `known` tokens in common."""
        by_input: dict[object, list[int]] = {}
        for unit in units:
            key = self._input(rollouts[unit[0]]) if len(unit) == 1 else unit
            by_input.setdefault(key, []).extend(unit)
        lengths = {i: len(self._input(rollouts[i])) - known + known // HELD for unit in by_input.values() for i in unit}
        pairs = [unit for unit in units if len(unit) > 1]
        joined = list(by_input.values())  # where processes share the rollouts, each may read what others read
        return pack(joined, lengths, tokens, None if pairs or self.one_forward else [1] * len(joined))

    def _input(self, rollout: Rollout) -> tuple[int, ...]:
        """The tokens that are read for a rollout: all but the last, which is only predicted."""
        return (self.encode(rollout.prompt, rollout.plain) + rollout.tokens)[:-1]

    def outputs(self, rollouts: Sequence[Rollout], *, base: bool = False, dropout: float = 0.0) -> Outputs:
        """The model's outputs for each rollout's tokens after its prompt, (B, T), at its temperature; with `base`,
        those of the model without the adapter.

        A value belongs to the state before its token, and its gradient stops at the head. Raises UsageError for a
        sequence that is too long, and for a dropout above 0, since these models have none.
        """
        if dropout > 0:
            raise UsageError(f"{self.name} has no dropout and {dropout:g} was ordered; order dropout 0.")
        prompts = [self.encode(rollout.prompt, rollout.plain) for rollout in rollouts]
        sequences = [prompt + rollout.tokens for prompt, rollout in zip(prompts, rollouts, strict=True)]
        check_length(sequences, self.positions)
        inputs = [sequence[:-1] for sequence in sequences]
        row_of = {tokens: row for row, tokens in enumerate(dict.fromkeys(inputs))}
        known = self._known(rollouts, list(row_of), base)
        ids = pad([tokens[known:] for tokens in row_of])
        device = self.model.device
        rows = torch.tensor([row for row, rollout in enumerate(rollouts) for _ in rollout.tokens])
        places = torch.tensor([place for rollout in rollouts for place in range(len(rollout.tokens))])
        begins = torch.tensor([len(prompt) - known - 1 for prompt in prompts])
        reads = torch.tensor([row_of[tokens] for tokens in inputs])
        tokens = torch.tensor([token for rollout in rollouts for token in rollout.tokens], device=device)
        with self.model.disable_adapter() if base else nullcontext():
            cache = self._read_prompt(inputs[0][:known], len(row_of), base=base) if known else None
            at = (reads[rows].to(device), (begins[rows] + places).to(device))
            states, logits = self._states(ids.to(device), at, cache)
            temperatures = torch.tensor([rollout.temperature for rollout in rollouts], device=device)[rows.to(device)]
            logp, entropy = self._figures(
                states, tokens, temperatures, logits, [rollouts[row] for row in rows.tolist()]
            )
        values = self._head(states.detach().to(self._head.weight.dtype))[:, 0] if self._head else torch.zeros_like(logp)
        shape = len(rollouts), int(places.max()) + 1

        def table(each_N: torch.Tensor) -> torch.Tensor:
            each_N = each_N.cpu()
            return torch.zeros(shape, dtype=each_N.dtype).index_put((rows, places), each_N)

        return Outputs(logp=table(logp), entropy=table(entropy), values=table(values))

    def _shared(self, rollouts: Sequence[Rollout], least: int = 2) -> int:
        """How many tokens these rollouts have in common that are read once for all of them: what their prompts begin
        with, but for a prompt's last; 0 where each is read by itself.

        So it is for fewer than `least` rollouts, where little would be saved, for models whose state is more than keys
        and values or that processes split, and in the backward pass of checkpointing, which has none to go on from.
        """
        if len(rollouts) < least or getattr(self.model.get_base_model(), "_is_stateful", False):
            return 0
        if self.one_forward or (self._checkpointing and torch.is_grad_enabled()):
            return 0
        prompts = {self.encode(rollout.prompt, rollout.plain) for rollout in rollouts}
        first, last = min(prompts), max(prompts)  # what these two begin with, all between them do
        alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
        known = min(sum(1 for _ in alike), *(len(prompt) - 1 for prompt in prompts))
        if len(prompts) == 1:
            answered = any(len(rollout.tokens) > 1 for rollout in rollouts)  # else all of them are one row
            return known if known + 1 >= SHARED and answered else 0
        rows = len({self._input(rollout) for rollout in rollouts})
        return known if known >= LEAST_SHARED and known * (rows - 1) >= SHARED else 0

    def _known(self, rollouts: Sequence[Rollout], inputs: Sequence[tuple[int, ...]], base: bool) -> int:
        """`_shared`, or what was read last, where that is known and as good."""
        known = self._shared(rollouts, 1 if self._keeps_prompts else 2)
        last = self._last_prompt
        if known and last and last.base == base and known <= 2 * len(last.tokens):
            count = len(last.tokens)
            shortest = min(len(self.encode(rollout.prompt, rollout.plain)) for rollout in rollouts)
            if count < shortest and all(tokens[:count] == last.tokens for tokens in inputs):
                return count
        return known

    @contextmanager
    def prompts_read_once(self) -> Iterator[None]:
        """Within it, forwards one after the other that share a prompt read it once, however many they are.

        A backward pass through such a forward ends at the prompt's keys and values. What comes to these goes on into
        the adapter with the next prompt, or on leaving.
        """
        self._keeps_prompts = True
        try:
            yield
            self._leave_prompt()
        finally:
            self._keeps_prompts, self._last_prompt = False, None

    def _read_prompt(self, prompt: tuple[int, ...], count: int, *, base: bool) -> DynamicCache:
        """The keys and values of a prompt, as those of `count` rows."""
        last = self._last_prompt
        if last is None or (last.tokens, last.base) != (prompt, base):
            self._leave_prompt()
            last = self._computed(prompt, base)
            self._last_prompt = last if self._keeps_prompts else None
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(zip(last.taken[0::2], last.taken[1::2], strict=True)):
            cache.update(keys, values, layer)
        for each in cache.layers:
            each.keys = each.keys.expand(count, *each.keys.shape[1:])
            each.values = each.values.expand(count, *each.values.shape[1:])
        return cache

    def _computed(self, prompt: tuple[int, ...], base: bool) -> _ReadPrompt:
        cache = DynamicCache()  # of every position, also where a layer looks back through a window
        self.set_mode()
        ids = torch.tensor([prompt], device=self.model.device)
        self.model.get_base_model().base_model(ids, past_key_values=cache, use_cache=True)
        computed = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        kept = self._keeps_prompts and torch.is_grad_enabled()
        taken = [each.detach().requires_grad_(each.requires_grad) for each in computed] if kept else computed
        return _ReadPrompt(prompt, base, computed, taken)

    def _leave_prompt(self) -> None:
        """Hand on the gradient that has come to the keys and values of the prompt that was read last."""
        last, self._last_prompt = self._last_prompt, None
        if last is None:
            return
        pairs = zip(last.computed, last.taken, strict=True)
        gradients = [(computed, taken.grad) for computed, taken in pairs if taken is not computed]
        asked = [(computed, gradient) for computed, gradient in gradients if gradient is not None]
        if asked:
            torch.autograd.backward([computed for computed, _ in asked], [gradient for _, gradient in asked])

    def _states(
        self, ids: torch.Tensor, places: tuple[torch.Tensor, torch.Tensor], cache: DynamicCache | None
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """The states (N, hidden) at N places (rows, columns) of `ids`, and a function that gives the logits (n,
        vocabulary) of n of them.

        The function is what the model does after its decoder: its output embeddings, and what comes after them, such as
        Gemma's soft cap or Granite's scale. Raises UsageError unless the output embeddings are used once in a forward.
        """
        model = self.model.get_base_model()
        head, decoder = model.get_output_embeddings(), model.base_model
        entered: list[torch.Tensor] = []
        left: list[Any] = []

        def enter(module: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
            entered.append(inputs[0][places])
            return inputs[0][:1, :1]  # so that no other logits are computed here

        def leave(module: nn.Module, inputs: object, output: Any) -> None:
            left.append(type(output))

        self.set_mode()
        hooks = [head.register_forward_pre_hook(enter), decoder.register_forward_hook(leave)]
        try:
            model(ids, past_key_values=cache, use_cache=cache is not None)
        finally:
            for hook in hooks:
                hook.remove()
        if len(entered) != 1:
            raise UsageError(
                f"{type(model).__name__} used its output embeddings {len(entered)} times in a forward, expected once; "
                "use another model."
            )

        return entered[0], lambda states: logits_after(self.model, left[0], states)

    def _figures(
        self,
        states: torch.Tensor,
        tokens: torch.Tensor,
        temperatures: torch.Tensor,
        logits: Callable[[torch.Tensor], torch.Tensor],
        rollouts: Sequence[Rollout],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability and entropy (N,) of each token at its temperature, whose state is (N, hidden) and whose
        rollout is given: among the rollout's choices, if it has any.
        """
        asked = torch.tensor([bool(rollout.choices) for rollout in rollouts], device=tokens.device)
        if not bool(asked.any()):
            return self._free_figures(states, tokens, temperatures, logits)
        logp = torch.zeros(len(tokens), device=tokens.device)
        entropy = torch.zeros_like(logp)
        if not bool(asked.all()):
            at = (~asked).nonzero()[:, 0]
            free = self._free_figures(states[at], tokens[at], temperatures[at], logits)
            logp, entropy = (
                logp.index_put((at,), free[0].to(logp.dtype)),
                entropy.index_put((at,), free[1].to(logp.dtype)),
            )
        at = asked.nonzero()[:, 0]
        chosen = self._choice_figures(
            states[at], tokens[at], temperatures[at], logits, [rollouts[i] for i in at.tolist()]
        )
        return logp.index_put((at,), chosen[0]), entropy.index_put((at,), chosen[1])

    def _choice_figures(
        self,
        states: torch.Tensor,
        tokens: torch.Tensor,
        temperatures: torch.Tensor,
        logits: Callable[[torch.Tensor], torch.Tensor],
        rollouts: Sequence[Rollout],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability and entropy (N,) of tokens among the choices of their rollouts.

        Equal rows of a group have one distribution, which is computed once.
        """
        keys = [(r.prompt, r.plain, r.choices, r.bias, r.temperature) for r in rollouts]
        first: dict[object, int] = {}
        for index, key in enumerate(keys):
            first.setdefault(key, index)
        at = torch.tensor(list(first.values()), device=states.device)
        offered = [self.encode_choices(rollouts[i].choices, rollouts[i].plain) for i in first.values()]
        ids, bias = pad_choices(offered, [rollouts[i].bias for i in first.values()])
        size = self._tokens_at_once()
        rows = [
            logits(part).gather(1, part_ids).float()
            for part, part_ids in zip(states[at].split(size), ids.to(states.device).split(size), strict=True)
        ]
        scores = (torch.cat(rows) + bias.to(states.device)) / temperatures[at].unsqueeze(1)
        row_of = {key: row for row, key in enumerate(first)}
        row = torch.tensor([row_of[key] for key in keys], device=states.device)
        places = [offered[row_of[key]].index(token) for key, token in zip(keys, tokens.tolist(), strict=True)]
        logs = torch.log_softmax(scores, 1)
        entropy = -(logs.exp() * logs.clamp_min(-1e4)).sum(1)
        return logs[row, torch.tensor(places, device=states.device)], entropy[row]

    def _free_figures(
        self,
        states: torch.Tensor,
        tokens: torch.Tensor,
        temperatures: torch.Tensor,
        logits: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability and entropy (N,) of each token among all of the vocabulary, a part at a time.

        Where there are several parts, logits are not held for the backward pass, but computed again.
        """

        def at(temperatures: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
            if not bool((temperatures != 1).any()):
                return logits

            def tempered(states: torch.Tensor) -> torch.Tensor:
                scores = logits(states)
                return scores.to(torch.promote_types(scores.dtype, torch.float32)) / temperatures.unsqueeze(1)

            return tempered

        size = self._tokens_at_once()
        if len(states) <= size:
            return kernels.joint(at(temperatures)(states), None, tokens)[:2]
        apply: Callable[..., tuple[torch.Tensor, torch.Tensor]] = _Recomputed.apply
        parts = zip(states.split(size), tokens.split(size), map(at, temperatures.split(size)), strict=True)
        logps, entropies = zip(*(apply(*part) for part in parts), strict=True)
        return torch.cat(logps), torch.cat(entropies)

    def _tokens_at_once(self) -> int:
        """The tokens whose logits are computed at once."""
        return max(1, LOGITS // int(self.model.get_output_embeddings().weight.shape[0]))

    def set_mode(self) -> None:
        """Turn dropout off, and checkpointing on where it was asked for, which transformers does in
        training mode only.
        """
        for module in self.model.modules():
            module.training = (
                self._checkpointing and torch.is_grad_enabled() and getattr(module, "gradient_checkpointing", False)
            )

    def save(self, out: Path, card: str) -> None:
        """Write a peft folder with `card` as its README.md; a folder `out` that is there is replaced.

        Equal weights give equal bytes.
        """
        shutil.rmtree(out, ignore_errors=True)
        self.model.save_pretrained(str(out), save_embedding_layers=False)
        config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
        write_json(out / CONFIG, {**config, "target_modules": sorted(config["target_modules"])})
        (out / "README.md").write_text(card, encoding="utf-8")

    def _read(self, folder: Path) -> None:
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            tensors = load_file(folder / ADAPTER)
        except FileNotFoundError as missing:
            raise NotFound(
                f"The adapter folder {folder} lacks a file ({missing}); name a whole peft adapter."
            ) from missing
        except (SafetensorError, ValueError) as wrong:
            raise CheckFailed(
                f"The adapter in {folder} is damaged ({type(wrong).__name__}: {wrong}); train it anew."
            ) from wrong
        base_name = config.get("base_model_name_or_path")
        if base_name != self.name:
            raise Misconfigured(
                f"The adapter in {folder} was made for the base {base_name}, not for {self.name}; train it anew."
            )
        own = {
            name.replace(".default", ""): value for name, value in self.model.named_parameters() if value.requires_grad
        }
        shapes = {name: tuple(value.shape) for name, value in own.items()}
        scale = (config.get("r"), config.get("lora_alpha"), bool(config.get("use_rslora")))
        if scale != (RANK, ALPHA, False) or {name: tuple(value.shape) for name, value in tensors.items()} != shapes:
            raise Misconfigured(
                f"The adapter in {folder} has rank and alpha {scale[:2]} and {len(tensors)} tensors; expected "
                f"{(RANK, ALPHA)} and the "
                f"{len(shapes)} factors of {', '.join(self._targets)}; train it anew."
            )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])


def logits_after(model: Any, output: Any, states: torch.Tensor) -> torch.Tensor:
    """The logits (n, vocabulary) of n states (n, hidden): what a model does after its decoder, whose output is of the
    type `output`.

    That is its output embeddings, and what comes after them, such as Gemma's soft cap or Granite's scale.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoded = output(last_hidden_state=states.unsqueeze(0))
    any_ids = torch.zeros((1, 1), dtype=torch.long, device=states.device)
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda module, inputs: decoded.last_hidden_state)
    try:
        with _returning(model.base_model, decoded):
            # not called as a module: where processes split the model, each call's backward would end their step
            found: torch.Tensor = model.forward(any_ids, use_cache=False).logits[0]
    finally:
        hook.remove()
    return found


class _Recomputed(torch.autograd.Function):
    """Log-probabilities and entropies (n,) of tokens from states (n, hidden), of which the backward pass computes the
    logits again.

    torch's own checkpoint would hold what belongs to an entropy that no loss asks for, part by part.
    """

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, tokens: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(states, tokens)
        ctx.logits = logits
        return kernels.joint(logits(states), None, tokens)[:2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *towards: torch.Tensor | None) -> tuple[torch.Tensor | None, None, None]:
        states, tokens = ctx.saved_tensors
        with torch.enable_grad():
            states = states.detach().requires_grad_()
            figures = kernels.joint(ctx.logits(states), None, tokens)[:2]
        asked = [(figure, each) for figure, each in zip(figures, towards, strict=True) if each is not None]
        torch.autograd.backward([figure for figure, _ in asked], [each for _, each in asked])
        return states.grad, None, None


@contextmanager
def _returning(module: nn.Module, output: Any) -> Iterator[None]:
    """Within it, the module does nothing but return this output."""
    own = vars(module).get("forward")
    vars(module)["forward"] = lambda *inputs, **named: output
    try:
        yield
    finally:
        if own is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = own


def check_length(sequences: Sequence[Sequence[int]], limit: int | None) -> None:
    """Raise UsageError for a sequence that is longer than `limit`."""
    longest = max(map(len, sequences))
    if limit is not None and longest > limit:
        raise UsageError(
            f"A prompt and its completion have {longest} tokens and the model reads at most {limit}; shorten them."
        )


def pad(sequences: Sequence[Sequence[int]], limit: int | None = None) -> torch.Tensor:
    """The sequences as rows (sequences, longest), padded with zeros on the right; raises UsageError for one longer than
    `limit`.
    """
    check_length(sequences, limit)
    longest = max(map(len, sequences))
    return torch.tensor([[*sequence, *[0] * (longest - len(sequence))] for sequence in sequences])


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a value as JSON with sorted keys, so that equal values give equal bytes."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
