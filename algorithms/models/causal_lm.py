"""A causal language model of transformers under a LoRA adapter that is trained: log-probabilities, entropies and values
of tokens.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from algorithms.learning.batch import Rollout
from algorithms.learning.update import Outputs
from algorithms.models import kernels
from events.errors import CheckFailed, Misconfigured, NotFound, UsageError

RANK, ALPHA = 32, 32
"""Of LoRA: the update of a weight is alpha / rank times the product of its factors."""
ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
ROUTERS = {"router", "gate", "shared_expert_gate"}
"""Names in transformers of the part of a mixture that chooses experts; a layer in such a part gets no adapter."""


class BaseTokenizer(Protocol):
    """The base model's name and its tokenizer."""

    @property
    def name(self) -> str:
        """The name by which an adapter's config refers to the base."""

    def encode(self, prompt: str) -> tuple[int, ...]:
        """The tokens of a prompt as the policy reads it, role tokens included."""

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """The tokens of a completion and the token that ends it."""


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
        torch.set_num_threads(1)
        self.name, self.encode, self.encode_completion = tokenizer.name, tokenizer.encode, tokenizer.encode_completion
        self._targets = tuple(targets)
        self._checkpointing = checkpointing
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

    def outputs(self, rollouts: Sequence[Rollout], *, base: bool = False, dropout: float = 0.0) -> Outputs:
        """The model's outputs for each rollout's tokens after its prompt, (B, T); with `base`, those of the model
        without the adapter.

        A value belongs to the state before its token, and its gradient stops at the head. Raises UsageError for a
        sequence that is too long, and for a dropout above 0, since these models have none.
        """
        if dropout > 0:
            raise UsageError(f"{self.name} has no dropout and {dropout:g} was ordered; order dropout 0.")
        prompts = [self.encode(rollout.prompt) for rollout in rollouts]
        sequences = [prompt + rollout.tokens for prompt, rollout in zip(prompts, rollouts, strict=True)]
        ids = pad(sequences, getattr(self.model.config.get_text_config(), "max_position_embeddings", None))
        target = pad([rollout.tokens for rollout in rollouts])
        mask = pad([(1,) * len(rollout.tokens) for rollout in rollouts])
        positions = torch.tensor([[len(prompt) - 1] for prompt in prompts]) + torch.arange(target.shape[1])
        positions = positions.clamp(max=ids.shape[1] - 2)
        device = self.model.device
        ids, target, positions = ids.to(device), target.to(device), positions.to(device)
        with self.model.disable_adapter() if base else nullcontext():
            logits, hidden = self._logits(ids[:, :-1], positions)
        logp, entropy, _ = (
            each.view(target.shape) for each in kernels.joint(logits.flatten(0, 1), None, target.flatten())
        )
        values = self._head(hidden.detach().float())[:, :, 0] if self._head else torch.zeros_like(logp)
        return Outputs(logp=logp.cpu() * mask, entropy=entropy.cpu() * mask, values=values.cpu() * mask)

    def _logits(self, ids: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's logits (B, T, vocabulary) at `positions` (B, T), and the states (B, T, hidden) that they are
        computed from.

        Only the states at these positions enter the output embeddings, so that no other logits are computed. What the
        model does to logits after them, such as Gemma's soft cap or Granite's scale, is done. Raises UsageError unless
        they are used once in a forward.
        """
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        states: list[torch.Tensor] = []

        def select(head: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
            states.append(inputs[0][rows, positions])
            return states[-1]

        model = self.model.get_base_model()
        self.set_mode()
        hook = model.get_output_embeddings().register_forward_pre_hook(select)
        try:
            logits = model(ids, use_cache=False).logits
        finally:
            hook.remove()
        if len(states) != 1:
            raise UsageError(
                f"{type(model).__name__} used its output embeddings {len(states)} times in a forward, expected once; "
                "use another model."
            )
        return logits, states[0]

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


def pad(sequences: Sequence[Sequence[int]], limit: int | None = None) -> torch.Tensor:
    """The sequences as rows (sequences, longest), padded with zeros on the right; raises UsageError for one longer than
    `limit`.
    """
    longest = max(map(len, sequences))
    if limit is not None and longest > limit:
        raise UsageError(
            f"A prompt and its completion have {longest} tokens and the model reads at most {limit}; shorten them."
        )
    return torch.tensor([[*sequence, *[0] * (longest - len(sequence))] for sequence in sequences])


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a value as JSON with sorted keys, so that equal values give equal bytes."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
