"""A language model small enough to learn in seconds on one CPU thread: a Qwen3 of 0.8 M parameters, its sampler, and
its LoRA adapter.

A prompt reads `<|user|>prompt<|assistant|>` and a completion ends with `<|end|>`. Role tokens written in a prompt are
those tokens, so a transcript of several turns is a prompt too: "q<|assistant|>a<|end|><|user|>what the tool said".
Digits are single tokens.

A base is an ordinary transformers folder with a base.json that holds its digest. An adapter is an ordinary peft folder
that names this digest. Equal requests give equal tokens and log-probabilities, to the bit, whatever else is asked with
them (`sampling.py`).
"""

import copy
import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from algorithms.models.cache import build_cached
from algorithms.models.causal_lm import CausalTrainee, pad, write_json
from algorithms.models.choices import first_tokens
from algorithms.models.sampling import Sampler
from events.errors import CheckFailed, NotFound, UsageError

KIND = "tiny-lm"
PAD, USER, ASSISTANT, END = SPECIALS = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
"""Their ids are 0 to 3."""
END_ID = SPECIALS.index(END)
VOCABULARY = 280
"""The most tokens of the tokenizer: the special ones, 256 bytes, and merges that are learned from the traces."""
HIDDEN, POSITIONS = 128, 512
SHAPE = {
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 384,
}
INIT, THETA = 0.14, 100.0
"""The spread of the first weights and the base of the rotary angles; at Qwen's own, copying a number takes several
times the steps.
"""
STEPS, BATCH = 160, 64
"""Optimiser steps of pre-training, and traces of each."""
LR, WARM_UP, BETAS, WEIGHT_DECAY, MAX_GRAD_NORM = 4e-3, 20, (0.9, 0.95), 0.01, 1.0
"""Settings of AdamW in pre-training; the learning rate falls along a cosine to a twentieth."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The layers that get an adapter."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class TinyLM:
    """The base model: frozen weights and a tokenizer."""

    ends = frozenset({END_ID})
    positions = POSITIONS

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        torch.set_num_threads(1)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.vocabulary: int = tokenizer.get_vocab_size()
        self._plain = Tokenizer.from_str(tokenizer.to_str())
        self._plain.encode_special_tokens = True  # in a completion, "<|end|>" is text like any other
        total = hashlib.sha256()
        for name, tensor in sorted(self._tensors().items()):
            total.update(name.encode() + tensor.numpy().tobytes())
        total.update(tokenizer.to_str(pretty=True).encode())
        self.digest = total.hexdigest()

    @property
    def name(self) -> str:
        """The name by which an adapter's config refers to this base."""
        return f"{KIND}@{self.digest[:16]}"

    @classmethod
    def pretrain(
        cls,
        traces: Sequence[tuple[str, str]],
        seed: int,
        steps: int = STEPS,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> "TinyLM":
        """Train a base on (prompt, completion) pairs; the same arguments give the same bytes on one kind of machine.

        The loss is the mean of -log p over the completions' tokens. `progress` is called after each step with its
        number from 1, the number of steps, and the loss in nats a token. Raises UsageError for a pair that is too long.
        """
        torch.set_num_threads(1)
        tokenizer = _train_tokenizer(traces)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            base = cls(_model(tokenizer), tokenizer)
        pairs = [(base.encode(prompt), base.encode_completion(completion)) for prompt, completion in traces]
        ids, completion = (
            pad([p + c for p, c in pairs], POSITIONS),
            pad([(0,) * len(p) + (1,) * len(c) for p, c in pairs]),
        )
        lengths = torch.tensor([len(p) + len(c) for p, c in pairs])
        model = base.model.train().requires_grad_(True)
        optimiser = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
        draw = torch.Generator().manual_seed(seed)
        for step in range(steps):
            chosen = torch.randint(len(pairs), (BATCH,), generator=draw)
            width = int(lengths[chosen].max())
            for group in optimiser.param_groups:
                group["lr"] = LR * min(1.0, (step + 1) / WARM_UP) * (0.525 + 0.475 * math.cos(math.pi * step / steps))
            hidden = model.model(ids[chosen, : width - 1], use_cache=False).last_hidden_state
            learned = completion[chosen, 1:width] > 0
            loss = functional.cross_entropy(model.lm_head(hidden[learned]), ids[chosen, 1:width][learned])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            optimiser.step()
            if progress:
                progress(step + 1, steps, float(loss.detach()))
        return cls(model, tokenizer)

    def encode(self, prompt: str, plain: bool = False) -> tuple[int, ...]:
        """The tokens of a prompt, with the role tokens around it unless it is plain; raises UsageError if they leave no
        room for a completion.
        """
        text = prompt if plain else USER + prompt + ASSISTANT
        tokens = tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)
        if len(tokens) >= POSITIONS:
            raise UsageError(f"A prompt has {len(tokens)} tokens and {KIND} reads at most {POSITIONS - 1}; shorten it.")
        return tokens

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """The tokens of a completion and `<|end|>`; special tokens written in it are plain text."""
        return (*self._plain.encode(text, add_special_tokens=False).ids, END_ID)

    def encode_choices(self, choices: Sequence[str], plain: bool = False) -> tuple[int, ...]:
        """The first token of each of these answers; raises UsageError where two have the same."""
        return first_tokens(choices, [self.encode_completion(choice)[:-1] for choice in choices])

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without the special ones; bytes that are no UTF-8 become U+FFFD."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def sampler(self, adapter: Path | None = None) -> "Sampler":
        """A sampler of the base, or of the base with the adapter of a peft folder merged in; raises as `TinyTrainee`
        does.
        """
        return TinyTrainee(self, adapter, seed=0).sampler() if adapter else Sampler(self, self.model)

    def save(self, folder: Path) -> None:
        """Write a transformers folder and base.json; the same base gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.config.save_pretrained(folder)
        self.model.generation_config.save_pretrained(folder)
        save_file(self._tensors(), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "tokenizer.json").write_text(self.tokenizer.to_str(pretty=True), encoding="utf-8")
        card = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": PAD,
            "eos_token": END,
            "additional_special_tokens": [USER, ASSISTANT],
            "model_max_length": POSITIONS,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        }
        write_json(folder / "tokenizer_config.json", card)
        write_json(folder / "base.json", {"kind": KIND, "digest": self.digest})

    @classmethod
    def load(cls, folder: Path) -> "TinyLM":
        """The base in `folder`; raises NotFound for a missing file, CheckFailed for a damaged one."""
        try:
            stored = json.loads((folder / "base.json").read_text(encoding="utf-8"))["digest"]
            tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "model.safetensors")
            with torch.random.fork_rng(devices=[]):
                model = _model(tokenizer)
            model.load_state_dict(tensors, strict=False)
            base = cls(model, tokenizer)
        except FileNotFoundError as missing:
            raise NotFound(
                f"The base model folder {folder} lacks a file ({missing}); pre-train the base again."
            ) from missing
        except Exception as wrong:  # tokenizers raises nothing narrower
            raise CheckFailed(
                f"The base model in {folder} is damaged ({type(wrong).__name__}: {wrong}); pre-train it again."
            ) from wrong
        if base.digest != stored:
            raise CheckFailed(
                f"The base model in {folder} has digest {base.digest[:16]}, its card says {stored[:16]}; pre-train "
                "it again."
            )
        return base

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {
            name: tensor for name, tensor in self.model.state_dict().items() if name != "lm_head.weight"
        }  # it is the embedding


class TinyTrainee(CausalTrainee):
    """The base under a LoRA adapter that is trained; see `CausalTrainee`."""

    def __init__(self, base: TinyLM, adapter: Path | None, seed: int, critic: bool = False) -> None:
        self._base = base
        super().__init__(base, copy.deepcopy(base.model), TARGETS, adapter, seed, critic)

    def log_probs(self, prompt: str) -> list[float]:
        """The natural log-probability of each token as the first after a prompt, with the weights as they are now."""
        return self.sampler().next_log_probs(prompt)

    def sampler(self) -> Sampler:
        """A sampler of a copy of the weights as they are now; further training does not change it."""
        return Sampler(self._base, copy.deepcopy(self.model).merge_and_unload())


load = TinyLM.load


def pretrain_cached(
    traces: Sequence[tuple[str, str]], cache: Path, progress: Callable[[int, int, float], None] | None = None
) -> Path:
    """The folder under `cache` of a base pre-trained on these (prompt, completion) traces with seed 0, built if missing
    or damaged.

    The folder's name holds a digest of the traces and of all constants above that shape the base. `progress` is as in
    `pretrain`.
    """
    inputs = [
        KIND,
        SHAPE,
        VOCABULARY,
        HIDDEN,
        INIT,
        THETA,
        STEPS,
        BATCH,
        LR,
        WARM_UP,
        BETAS,
        WEIGHT_DECAY,
        MAX_GRAD_NORM,
        list(traces),
    ]
    target = cache / f"{KIND}-{hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]}"
    return build_cached(target, load, lambda into: TinyLM.pretrain(traces, 0, STEPS, progress).save(into))


def _model(tokenizer: Tokenizer) -> Any:
    """A model with random weights, from torch's global generator."""
    shape: dict[str, Any] = {
        **SHAPE,
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": HIDDEN,
        "max_position_embeddings": POSITIONS,
        "rope_parameters": {"rope_type": "default", "rope_theta": THETA},
        "initializer_range": INIT,
        "tie_word_embeddings": True,
        "pad_token_id": SPECIALS.index(PAD),
        "eos_token_id": END_ID,
        "attn_implementation": "sdpa",
    }
    return Qwen3ForCausalLM(Qwen3Config(**shape))


def _train_tokenizer(traces: Sequence[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    roles = re.compile("|".join(map(re.escape, SPECIALS)))
    tokenizer.train_from_iterator((piece for trace in traces for text in trace for piece in roles.split(text)), trainer)
    return tokenizer
