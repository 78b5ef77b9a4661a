"""Any causal language model of Hugging Face's format as a base model, by the path of its folder or its id on the hub.

The base folder of a run is small: it holds the model's path or id and a digest of its files. The weights, many
gigabytes, stay where they are. A host on which the files have another digest refuses.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from algorithms.models.causal_lm import CausalTrainee, linear_layers, write_json
from algorithms.models.choices import first_tokens
from events.errors import CheckFailed, NotHere, UsageError, raise_if_hosts
from runtime.policies import published

KIND = "hf"
PREFIX = "hf:"
CHECKPOINTING = "EVOLOG_CHECKPOINTING"
"""An environment variable. Set to 1, training stores no activations and computes them again in the backward pass."""
SUFFIXES = (".json", ".safetensors", ".bin", ".txt", ".model", ".jinja")
"""Endings of the files of a model."""
UNLIMITED = 1 << 30
"""The positions of a model whose config says no number."""
EDGE = 1 << 20
"""Bytes of a file's beginning, and of its end, that the digest covers."""
WORD = "so"
"""What a choice is written after to learn its tokens: some tokenizers read a text's first space apart."""
CHOICES = 4096
"""Sets of choices whose tokens are kept."""


def write_base(model: str, target: Path) -> None:
    """Write the base folder of a model that is named by a path or an id.

    Raises NotFound for a model that cannot be had, and CheckFailed for one that is no causal language model.
    """
    folder = resolve(model)
    tokenizer = HFTokenizer(folder, digest_of(folder))
    card = {"kind": KIND, "model": _named(model, folder), "digest": tokenizer.digest}
    target.mkdir(parents=True, exist_ok=True)
    write_json(target / "base.json", card)


def _named(model: str, folder: Path) -> str:
    """How a base folder names a model: a folder or file of this machine by its full path."""
    if model in published.MODELS or not Path(model).exists():
        return model
    return str(Path(model).resolve())


def resolve(model: str) -> Path:
    """The folder of a model that is named by a path, an id, or a name of `published`.

    It is fetched from the hub if it is none of these here. A GGUF file is made a folder first. Raises NotFound.
    """
    if model in published.MODELS:
        return published.folder_of(model)
    if model.endswith(published.GGUF) and Path(model).is_file():
        return published.from_gguf(Path(model))
    if Path(model).is_dir():
        if not (Path(model) / "config.json").is_file():
            raise NotHere(
                f"The folder {model} holds no config.json, so it is no model of transformers; give the folder that "
                "does."
            )
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=[f"*{suffix}" for suffix in SUFFIXES]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as wrong:
        reason = (str(wrong).strip().splitlines() or [type(wrong).__name__])[0]
        raise_if_hosts(wrong)
        raise NotHere(
            f"The model {model} is no folder here and could not be had from the Hugging Face hub ({reason:.200}); "
            "give the path of a folder that holds it, or fetch it where there is a network."
        ) from wrong


def digest_of(folder: Path) -> str:
    """SHA-256 over the files of a model: the name, the size, and the first and last mebibyte of each."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES):
        size = path.stat().st_size
        total.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            total.update(file.read(EDGE))
            file.seek(max(0, size - EDGE))
            total.update(file.read(EDGE))
    return total.hexdigest()


class HFTokenizer:
    """A model without its weights: its tokenizer, the tokens that end an answer, and how many positions it has.

    Raises CheckFailed for a folder that transformers cannot read or that names no token to end an answer.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        from transformers import AutoConfig, AutoTokenizer, GenerationConfig

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            if (folder / "generation_config.json").is_file():
                generation: Any = GenerationConfig.from_pretrained(folder)
            else:
                generation = GenerationConfig.from_model_config(config)
        except Exception as wrong:  # whatever a folder of any content makes transformers raise
            raise _unreadable(folder, wrong) from wrong
        self.folder, self.digest, self.model_name = folder, digest, str(folder)
        self._choice_tokens = lru_cache(CHOICES)(self._tokens_of_choices)
        self.name = f"{KIND}@{digest[:16]}"
        configured, own = generation.eos_token_id, self.tokenizer.eos_token_id
        self.ends = frozenset(
            configured if isinstance(configured, list) else [own if configured is None else configured]
        ) - {None}
        if not self.ends:
            raise CheckFailed(
                f"The model in {folder} says no token that ends an answer; set eos_token_id in its "
                "generation_config.json."
            )
        self.end = own if own in self.ends else min(self.ends)
        text = config.get_text_config()
        self.positions = int(getattr(text, "max_position_embeddings", UNLIMITED))
        self.vocabulary = int(text.vocab_size)

    @classmethod
    def load(cls, base: Path) -> Self:
        """Load the model that a base folder names.

        Raises NotHere for a model that cannot be had, and where this host's files have another digest than the folder
        says.
        """
        card = json.loads((base / "base.json").read_text(encoding="utf-8"))
        folder = resolve(card["model"])
        digest = digest_of(folder)
        if digest != card["digest"]:
            raise NotHere(
                f"The model {card['model']} has digest {digest[:16]} on this host, the run was started on "
                f"{card['digest'][:16]}; "
                "fetch the same version here.",
                code=CheckFailed.code,
            )
        loaded = cls(folder, digest)
        loaded.model_name = card["model"]
        return loaded

    def encode(self, prompt: str, plain: bool = False) -> tuple[int, ...]:
        """The prompt as a user's turn in the model's chat template, or as it is where it is plain or there is none;
        raises UsageError if too long.
        """
        return (
            self.encode_turns([{"role": "user", "content": prompt}])
            if self.tokenizer.chat_template and not plain
            else self.encode_plain(prompt)
        )

    def encode_turns(self, turns: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """The tokens of a conversation in the model's chat template, up to the model's turn; raises UsageError if they
        are too many.
        """
        text = self.tokenizer.apply_chat_template(list(turns), add_generation_prompt=True, tokenize=False)
        return self._fitting(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_plain(self, text: str) -> tuple[int, ...]:
        """The tokens of a text outside any template, with those that the tokenizer puts before every text; raises
        UsageError as above.
        """
        return self._fitting(self.tokenizer(text)["input_ids"])

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """The tokens of a completion and the token that ends it."""
        return (*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.end)

    def encode_choices(self, choices: Sequence[str], plain: bool = False) -> tuple[int, ...]:
        """The first token of each of these answers; raises UsageError where two have the same.

        In plain text they follow a space, unless their first tokens are then the same: some tokenizers make the space
        before a digit a token by itself.
        """
        return self._choice_tokens(tuple(choices), plain or not self.tokenizer.chat_template)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without the special ones."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _tokens_of_choices(self, choices: tuple[str, ...], spaced: bool) -> tuple[int, ...]:
        def tokens(text: str) -> list[int]:
            found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            return found

        if spaced:
            before = len(tokens(WORD))
            after = [tokens(f"{WORD} {choice}")[before:] for choice in choices]
            if len({tuple(each[:1]) for each in after}) == len(choices):
                return first_tokens(choices, after)
        return first_tokens(choices, [tokens(choice) for choice in choices])

    def _fitting(self, tokens: Sequence[int]) -> tuple[int, ...]:
        if len(tokens) >= self.positions:
            raise UsageError(
                f"A prompt has {len(tokens)} tokens and the model reads at most {self.positions - 1}; shorten it."
            )
        return tuple(tokens)


class HFModel(HFTokenizer):
    """A frozen model with its tokenizer, on the GPU in bfloat16 if there is one, else on the CPU in float32."""

    DEVICE: ClassVar[str] = ""
    """Where the weights are; empty: on the GPU if there is one, else on the CPU. On `meta` there are none."""

    def __init__(self, folder: Path, digest: str) -> None:
        super().__init__(folder, digest)
        cuda = torch.cuda.is_available()
        try:
            model = self._read(torch.bfloat16 if cuda else torch.float32)
        except Exception as wrong:
            raise _unreadable(folder, wrong) from wrong
        self.model = model.to(self.DEVICE or ("cuda" if cuda else "cpu")).eval().requires_grad_(False)
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])

    def _read(self, dtype: torch.dtype) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        if self.DEVICE != "meta":
            return AutoModelForCausalLM.from_pretrained(self.folder, dtype=dtype, trust_remote_code=False)
        config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


class HFTrainee(CausalTrainee):
    """A model under a LoRA adapter that is trained; see `CausalTrainee`.

    It changes the base's model, which must not be used further.
    """

    def __init__(self, base: HFModel, adapter: Path | None, seed: int, critic: bool = False) -> None:
        checkpointing = os.environ.get(CHECKPOINTING, "") not in ("", "0")
        super().__init__(base, base.model, linear_layers(base.model), adapter, seed, critic, checkpointing)

    @torch.no_grad()
    def log_probs(self, prompt: str) -> list[float]:
        """The natural log-probability (vocabulary,) of each token as the first after a prompt, with the weights as they
        are now.
        """
        ids = torch.tensor([self.encode(prompt)], device=self.model.device)
        logits = self.model(ids, logits_to_keep=1).logits[0, -1].double()
        return [float(value) for value in torch.log_softmax(logits, 0)]

    @torch.no_grad()
    def score(self, prompt: str, tokens: Sequence[int]) -> list[float]:
        """The natural log-probability of each of the tokens after a prompt, with the weights as they are now."""
        return log_probs_of(self.model, self.encode(prompt), tokens)


def log_probs_of(model: Any, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """The natural log-probabilities (tokens,) of these tokens, one after the other, after a prompt."""
    ids = torch.tensor([[*prompt, *tokens]], device=model.device)
    logits = model(ids[:, :-1], logits_to_keep=len(tokens)).logits[0].double()
    logs = torch.log_softmax(logits, 1)[torch.arange(len(tokens)), list(tokens)]
    return [float(value) for value in logs]


def _unreadable(folder: Path, wrong: Exception) -> CheckFailed:
    reason = (str(wrong).strip().splitlines() or [type(wrong).__name__])[0]
    return CheckFailed(f"The model in {folder} cannot be loaded as a causal language model ({reason:.200}).")
