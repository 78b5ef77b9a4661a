"""A language model small enough to learn in seconds on one CPU thread: a Qwen3 of 0.8 M parameters, its sampler, and its LoRA adapter.

A prompt reads `<|user|>prompt<|assistant|>` and a completion ends with `<|end|>`. Role tokens written in a prompt are those tokens, so a
transcript of several turns is a prompt too: "q<|assistant|>a<|end|><|user|>what the tool said". Digits are single tokens.

A base is an ordinary transformers folder beside a base.json with its digest; an adapter is an ordinary peft folder that names this digest.
The same request gives the same tokens and log-probabilities, to the bit, whatever else is asked with it: rows share a forward only
with prompts of their length, in a fixed number of slots, on one thread, and each draws from a random stream of its own.
"""

import copy
import hashlib
import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

from algorithms.learning.batch import Rollout
from algorithms.learning.update import Outputs
from events.errors import CheckFailed, Misconfigured, NotFound, UsageError

KIND = "tiny-lm"
PAD, USER, ASSISTANT, END = SPECIALS = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
"""Their ids are 0 to 3."""
END_ID = SPECIALS.index(END)
VOCABULARY = 280
"""At most: the specials, 256 bytes, and as many merges as the traces have."""
HIDDEN, POSITIONS = 128, 512
SHAPE = {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 384}
INIT, THETA = 0.14, 100.0
"""The spread of the first weights and the base of the rotary angles; at Qwen's own, copying a number takes several times the steps."""
STEPS, BATCH = 160, 64
LR, WARM_UP, BETAS, WEIGHT_DECAY, MAX_GRAD_NORM = 4e-3, 20, (0.9, 0.95), 0.01, 1.0
"""AdamW's while pre-training; the learning rate falls along a cosine to a twentieth."""
RANK, ALPHA = 32, 32
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SLOTS, PREFILL_SLOTS = 32, 8
"""Rows of every forward while sampling and while reading prompts. Another number would change the last bits of log-probabilities."""
ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One completion that is wanted, of a prompt in token ids.

    `place` tells apart those of one prompt and seed; a temperature of 0 takes the most probable, the first of equals.
    """

    prompt: tuple[int, ...]
    seed: int
    place: int = 0
    temperature: float = 1.0
    max_tokens: int = 64


class Completion(msgspec.Struct, frozen=True):
    """Tokens with `<|end|>` where it was reached, their natural log-probabilities at temperature 1, and the text without special tokens."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str


class TinyLM:
    """The base: a frozen model and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        torch.set_num_threads(1)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._plain = Tokenizer.from_str(tokenizer.to_str())
        self._plain.encode_special_tokens = True  # in a completion, "<|end|>" is text like any other
        of = hashlib.sha256()
        for name, tensor in sorted(self._tensors().items()):
            of.update(name.encode() + tensor.numpy().tobytes())
        of.update(tokenizer.to_str(pretty=True).encode())
        self.digest = of.hexdigest()

    @property
    def name(self) -> str:
        """The name under which an adapter's config refers to this base."""
        return f"{KIND}@{self.digest[:16]}"

    @classmethod
    def pretrain(
        cls,
        traces: Sequence[tuple[str, str]],
        seed: int,
        steps: int = STEPS,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> "TinyLM":
        """A base that has learned these (prompt, completion) pairs; the same arguments give the same bytes on one kind of machine.

        The loss is the mean of -log p over the completions' tokens. `progress` is told the step from 1, the steps, and the loss in
        nats a token. Raises UsageError for a pair that is too long.
        """
        torch.set_num_threads(1)
        tokenizer = _train_tokenizer(traces)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            base = cls(_model(tokenizer), tokenizer)
        pairs = [(base.encode(prompt), base.encode_completion(completion)) for prompt, completion in traces]
        ids, wanted = _padded([p + c for p, c in pairs]), _padded([(0,) * len(p) + (1,) * len(c) for p, c in pairs])
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
            learned = wanted[chosen, 1:width] > 0
            loss = functional.cross_entropy(model.lm_head(hidden[learned]), ids[chosen, 1:width][learned])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            optimiser.step()
            if progress:
                progress(step + 1, steps, float(loss.detach()))
        return cls(model, tokenizer)

    def encode(self, prompt: str) -> tuple[int, ...]:
        """The tokens of a prompt between its role tokens; raises UsageError if they leave no room for a completion."""
        tokens = tuple(self.tokenizer.encode(USER + prompt + ASSISTANT, add_special_tokens=False).ids)
        if len(tokens) >= POSITIONS:
            raise UsageError(f"A prompt has {len(tokens)} tokens and {KIND} reads at most {POSITIONS - 1}; shorten it.")
        return tokens

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """The tokens of a completion and `<|end|>`; special tokens written in it are plain text."""
        return (*self._plain.encode(text, add_special_tokens=False).ids, END_ID)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without the special ones; bytes that are no UTF-8 become U+FFFD."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def sampler(self, adapter: Path | None = None) -> "Sampler":
        """What can be asked, with the adapter of a peft folder merged in; raises as Trainee does."""
        return Trainee(self, adapter, seed=0).sampler() if adapter else Sampler(self, self.model)

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
        _write_json(folder / "tokenizer_config.json", card)
        _write_json(folder / "base.json", {"kind": KIND, "digest": self.digest})

    @classmethod
    def load(cls, folder: Path) -> "TinyLM":
        """The base in `folder`; raises NotFound for a missing file, CheckFailed for a damaged one."""
        try:
            said = json.loads((folder / "base.json").read_text(encoding="utf-8"))["digest"]
            tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "model.safetensors")
            with torch.random.fork_rng(devices=[]):
                model = _model(tokenizer)
            model.load_state_dict(tensors, strict=False)
            base = cls(model, tokenizer)
        except FileNotFoundError as missing:
            raise NotFound(f"The base model folder {folder} lacks a file ({missing}); pre-train the base again.") from missing
        except Exception as wrong:  # tokenizers raises nothing narrower
            raise CheckFailed(f"The base model in {folder} is damaged ({type(wrong).__name__}: {wrong}); pre-train it again.") from wrong
        if base.digest != said:
            raise CheckFailed(f"The base model in {folder} has digest {base.digest[:16]}, its card says {said[:16]}; pre-train it again.")
        return base

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in self.model.state_dict().items() if name != "lm_head.weight"}  # it is the embedding


class Sampler:
    """A model that can be asked, its weights fixed when it was made."""

    def __init__(self, base: TinyLM, model: Any) -> None:
        torch.set_num_threads(1)
        self.base, self._model = base, model.eval().requires_grad_(False)

    def sample(self, asks: Sequence[Ask]) -> list[Completion]:
        """A completion of each, in order; raises UsageError for a prompt, temperature or length out of range.

        A completion also stops where prompt and completion fill the model's positions.
        """
        of_length: dict[int, list[int]] = {}
        for place, ask in enumerate(asks):
            if not (0 < len(ask.prompt) < POSITIONS and ask.max_tokens > 0 and 0 <= ask.temperature < math.inf):
                raise UsageError(
                    f"Asked for a completion of a prompt of {len(ask.prompt)} tokens, of {ask.max_tokens} at most, at temperature "
                    f"{ask.temperature}; ask for a prompt of 1 to {POSITIONS - 1}, 1 or more, and a finite temperature of 0 or more."
                )
            of_length.setdefault(len(ask.prompt), []).append(place)
        found: dict[int, Completion] = {}
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
    def _slots(self, asks: Sequence[Ask]) -> list[Completion]:
        """Completions of at most SLOTS prompts of one length. Copies of the first fill the slots; a row that has ended goes on unheard."""
        filled = [*asks, *[asks[0]] * (SLOTS - len(asks))]
        room = [min(ask.max_tokens, POSITIONS - len(ask.prompt)) for ask in asks]
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
            going -= {row for row in going if chosen[row] == END_ID or len(tokens) == room[row]}
            if not going:
                break
            said = self._model(torch.from_numpy(chosen[:, None]), past_key_values=cache, use_cache=True)
            logits = said.logits[:, -1].double().numpy()
        return [self._completion(row, room[row], tokens, logprobs) for row in range(len(asks))]

    def _completion(self, row: int, room: int, tokens: Sequence[np.ndarray], logprobs: Sequence[np.ndarray]) -> Completion:
        said = [int(step[row]) for step in tokens[:room]]
        said = said[: said.index(END_ID) + 1] if END_ID in said else said
        return Completion(tuple(said), tuple(float(step[row]) for step in logprobs[: len(said)]), self.base.decode(said))

    @torch.inference_mode()
    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, DynamicCache]:
        """The logits (rows, vocabulary) after prompts of one length, float64, and their keys and values; each distinct one is read once."""
        distinct = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        unread, read = list(distinct), []
        while unread:
            part, unread = unread[:PREFILL_SLOTS], unread[PREFILL_SLOTS:]
            ids = torch.tensor([*part, *[part[0]] * (PREFILL_SLOTS - len(part))])
            read.append(self._model(ids, use_cache=True, logits_to_keep=1))
        rows = torch.tensor([distinct[prompt] for prompt in prompts])
        cache = DynamicCache()
        for layer in range(len(read[0].past_key_values.layers)):
            held = [one.past_key_values.layers[layer] for one in read]
            cache.update(torch.cat([one.keys for one in held])[rows], torch.cat([one.values for one in held])[rows], layer)
        return torch.cat([one.logits[:, -1] for one in read])[rows].double().numpy(), cache


class Trainee:
    """The base under a LoRA adapter that is trained, and a value head where `critic`: a linear map of the hidden state, zero at first.

    The adapter is drawn from `seed`, or read from a peft folder. Raises NotFound if the folder lacks a file, CheckFailed if one is
    damaged, and Misconfigured if the adapter was made for another base or has other shapes.
    """

    def __init__(self, base: TinyLM, adapter: Path | None, seed: int, critic: bool = False) -> None:
        torch.set_num_threads(1)
        self._base = base
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", target_modules=list(TARGETS), task_type="CAUSAL_LM")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model: Any = get_peft_model(copy.deepcopy(base.model), config).eval()
            self._head = nn.Linear(HIDDEN, 1) if critic else None
        config.base_model_name_or_path = base.name
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
        """The value head's weight (1, HIDDEN) and bias (1,); none where there is no critic."""
        return list(self._head.parameters()) if self._head else []

    @property
    def name(self) -> str:
        """The base's name in the adapter's config."""
        return self._base.name

    def encode(self, prompt: str) -> tuple[int, ...]:
        """As the base's."""
        return self._base.encode(prompt)

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """As the base's."""
        return self._base.encode_completion(text)

    def log_probs(self, prompt: str) -> list[float]:
        """As the sampler's `next_log_probs`, with the weights as they are now."""
        return self.sampler().next_log_probs(prompt)

    def outputs(self, rollouts: Sequence[Rollout], *, base: bool = False, dropout: float = 0.0) -> Outputs:
        """What the model says of each rollout's tokens after its prompt, (B, T); `base`: without the adapter.

        A value belongs to the state before its token, and its gradient stops at the head. Raises UsageError for a sequence that is too
        long, or for dropout, which there is none of.
        """
        if dropout > 0:
            raise UsageError(f"{KIND} has no dropout and {dropout:g} was ordered; order dropout 0.")
        prompts = [self._base.encode(rollout.prompt) for rollout in rollouts]
        ids = _padded([prompt + rollout.tokens for prompt, rollout in zip(prompts, rollouts, strict=True)])
        target = _padded([rollout.tokens for rollout in rollouts])
        mask = _padded([(1,) * len(rollout.tokens) for rollout in rollouts])
        before = torch.tensor([[len(prompt) - 1] for prompt in prompts]) + torch.arange(target.shape[1])
        model = self.model.get_base_model()
        if base:
            with self.model.disable_adapter():
                hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state
        else:
            hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state
        hidden = hidden[torch.arange(len(ids))[:, None], before.clamp(max=hidden.shape[1] - 1)]
        logs = torch.log_softmax(model.lm_head(hidden), 2)
        logp = logs.gather(2, target[:, :, None])[:, :, 0]
        values = self._head(hidden.detach())[:, :, 0] if self._head else torch.zeros_like(logp)
        return Outputs(logp=logp * mask, entropy=-(logs.exp() * logs).sum(2) * mask, values=values * mask)

    def sampler(self) -> Sampler:
        """The weights as they are now, to be asked; training on does not change it."""
        return Sampler(self._base, copy.deepcopy(self.model).merge_and_unload())

    def save(self, out: Path, card: str) -> None:
        """Write a peft folder with `card` as its README.md, in place of what was there; the same weights give the same bytes."""
        shutil.rmtree(out, ignore_errors=True)
        self.model.save_pretrained(str(out), save_embedding_layers=False)
        config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
        _write_json(out / CONFIG, {**config, "target_modules": sorted(config["target_modules"])})
        (out / "README.md").write_text(card, encoding="utf-8")

    def _read(self, folder: Path) -> None:
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            tensors = load_file(folder / ADAPTER)
        except FileNotFoundError as missing:
            raise NotFound(f"The adapter folder {folder} lacks a file ({missing}); name a whole peft adapter.") from missing
        except (SafetensorError, ValueError) as wrong:
            raise CheckFailed(f"The adapter in {folder} is damaged ({type(wrong).__name__}: {wrong}); train it anew.") from wrong
        said = config.get("base_model_name_or_path")
        if said != self._base.name:
            raise Misconfigured(f"The adapter in {folder} was made for the base {said}, not for {self._base.name}; train it anew.")
        own = {name.replace(".default", ""): value for name, value in self.model.named_parameters() if value.requires_grad}
        shapes = {name: tuple(value.shape) for name, value in own.items()}
        scale = (config.get("r"), config.get("lora_alpha"), bool(config.get("use_rslora")))
        if scale != (RANK, ALPHA, False) or {name: tuple(value.shape) for name, value in tensors.items()} != shapes:
            raise Misconfigured(
                f"The adapter in {folder} has rank and alpha {scale[:2]} and {len(tensors)} tensors; expected {(RANK, ALPHA)} and the "
                f"{len(shapes)} factors of {', '.join(TARGETS)} in a {KIND}; train it anew."
            )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])


load = TinyLM.load


def cached(traces: Sequence[tuple[str, str]], cache: Path, progress: Callable[[int, int, float], None] | None = None) -> Path:
    """The folder under `cache` of a base pre-trained on these traces (seed 0), made where it is missing or damaged."""
    made_of = [KIND, SHAPE, VOCABULARY, HIDDEN, INIT, THETA, STEPS, BATCH, LR, WARM_UP, BETAS, WEIGHT_DECAY, MAX_GRAD_NORM, list(traces)]
    target = cache / f"{KIND}-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]}"
    try:
        load(target)
    except (NotFound, CheckFailed):
        shutil.rmtree(target, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as room:
            made = Path(room) / "made"
            TinyLM.pretrain(traces, 0, STEPS, progress).save(made)
            try:
                made.rename(target)
            except OSError:  # another process was first
                load(target)
    return target


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
    return Qwen3ForCausalLM(Qwen3Config(**shape))  # type: ignore[no-untyped-call]


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


def _padded(sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """Token ids (rows, longest), zeros on the right; raises UsageError for more than POSITIONS."""
    longest = max(map(len, sequences))
    if longest > POSITIONS:
        raise UsageError(f"A prompt and its completion have {longest} tokens and {KIND} reads at most {POSITIONS}; shorten them.")
    return torch.tensor([[*sequence, *[0] * (longest - len(sequence))] for sequence in sequences])


def _uniforms(ask: Ask, count: int) -> np.ndarray:
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


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
