"""Any causal language model of Hugging Face's format as a policy, by the path of its folder or its id on the hub.

The base that a run names is a small folder that says which model is meant and how its files looked, not the model itself: weights of many
gigabytes stay where they are, and a host whose files differ refuses.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from algorithms.learning.causal_lm import CausalTrainee, write_json
from algorithms.learning.sampling import Sampler
from events.errors import CheckFailed, NotFound, UsageError

KIND = "hf"
PREFIX = "hf:"
CHECKPOINTING = "EVOLOG_CHECKPOINTING"
"""Set to 1, training keeps no activations and computes them again in the backward pass."""
EDGE = 1 << 20
"""Bytes of a large file's beginning and end that its digest covers, beside its size."""
TARGETS = {"gpt_oss": ("q_proj", "k_proj", "v_proj", "o_proj")}
"""Linear layers that get an adapter, by the model's type; all of the decoder's for any other."""
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def describe(named: str, into: Path) -> None:
    """Write the base folder of a model, a path or an id; raises NotFound where the model is not to be had."""
    folder = resolve(named)
    card = {"kind": KIND, "model": str(folder.resolve()) if Path(named).is_dir() else named, "digest": digest_of(folder)}
    into.mkdir(parents=True, exist_ok=True)
    write_json(into / "base.json", card)


def resolve(named: str) -> Path:
    """The folder of a model, fetched from the hub if it is no folder here; raises NotFound in words that name it."""
    if Path(named).is_dir():
        if not (Path(named) / "config.json").is_file():
            raise NotFound(f"The folder {named} holds no config.json, so it is no model of transformers; give the folder that does.")
        return Path(named)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(named, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as wrong:
        why = (str(wrong).strip().splitlines() or [type(wrong).__name__])[0]
        raise NotFound(
            f"The model {named} is no folder here and could not be had from the Hugging Face hub ({why:.200}); "
            "give the path of a folder that holds it, or fetch it where there is a network."
        ) from wrong


def digest_of(folder: Path) -> str:
    """SHA-256 over the files that make a model what it is: name, size, and the first and last mebibyte of each."""
    of = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".txt", ".model", ".jinja")):
        size = path.stat().st_size
        of.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            of.update(file.read(EDGE))
            file.seek(max(0, size - EDGE))
            of.update(file.read(EDGE))
    return of.hexdigest()


class HFModel:
    """A frozen model with its tokenizer, on the GPU in bfloat16 if there is one, else on one thread of the CPU in float32."""

    def __init__(self, model: Any, tokenizer: Any, digest: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = f"{KIND}@{digest[:16]}"
        eos = model.generation_config.eos_token_id if model.generation_config.eos_token_id is not None else tokenizer.eos_token_id
        self.ends = frozenset(eos if isinstance(eos, list) else [eos])
        self.positions = int(model.config.max_position_embeddings)
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])

    @classmethod
    def load(cls, base: Path) -> "HFModel":
        """The model that a base folder names; raises NotFound or CheckFailed."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        card = json.loads((base / "base.json").read_text(encoding="utf-8"))
        folder = resolve(card["model"])
        seen = digest_of(folder)
        if seen != card["digest"]:
            raise CheckFailed(
                f"The model {card['model']} has digest {seen[:16]} on this host, the run was started on {card['digest'][:16]}; "
                "fetch the same version here."
            )
        cuda = torch.cuda.is_available()
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if cuda else torch.float32)
        except (OSError, ValueError, KeyError) as wrong:
            why = (str(wrong).strip().splitlines() or [type(wrong).__name__])[0]
            raise CheckFailed(f"The model in {folder} cannot be loaded as a causal language model ({why:.200}).") from wrong
        return cls(model.cuda() if cuda else model, tokenizer, seen)

    def encode(self, prompt: str) -> tuple[int, ...]:
        """The prompt as a user's turn in the model's chat template, or as it is where there is none; raises UsageError if too long."""
        if self.tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}]
            text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            tokens = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        else:
            tokens = tuple(self.tokenizer(prompt)["input_ids"])
        if len(tokens) >= self.positions:
            raise UsageError(f"A prompt has {len(tokens)} tokens and the model reads at most {self.positions - 1}; shorten it.")
        return tokens

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """The tokens of a completion and the one that ends it."""
        return (*self.tokenizer(text, add_special_tokens=False)["input_ids"], min(self.ends))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without the special ones."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def sampler(self, adapter: Path | None = None) -> Sampler:
        """What can be asked, with the adapter of a peft folder merged in; raises as Trainee does. With an adapter the model is used up."""
        return Trainee(self, adapter, seed=0).sampler() if adapter else Sampler(self, self.model)


class Trainee(CausalTrainee):
    """A model under a LoRA adapter that is trained; see `CausalTrainee`. It takes the model over."""

    def __init__(self, base: HFModel, adapter: Path | None, seed: int, critic: bool = False) -> None:
        self._base = base
        targets = TARGETS.get(base.model.config.model_type, LINEAR)
        checkpointing = os.environ.get(CHECKPOINTING, "") not in ("", "0")
        super().__init__(base, base.model, targets, adapter, seed, critic, checkpointing)

    @torch.no_grad()
    def log_probs(self, prompt: str) -> list[float]:
        """The natural log-probability of each first token, with the weights as they are now."""
        ids = torch.tensor([self.encode(prompt)], device=self.model.device)
        logits = self.model(ids, logits_to_keep=1).logits[0, -1].double()
        return [float(value) for value in torch.log_softmax(logits, 0)]

    def sampler(self) -> Sampler:
        """The adapter merged into the weights, to be asked; there is nothing left to train."""
        return Sampler(self._base, self.model.merge_and_unload())
