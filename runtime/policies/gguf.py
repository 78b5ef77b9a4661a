"""From a GGUF file of a Llama to an ordinary Hugging Face folder in float32.

transformers reads GGUF files of many shapes and types, slowly, and through a package of its own. Here is what one
published model needs, read as a stream: three types of tensors, a Llama's names, and a byte-level BPE. Anything else
goes by `convert`, which is transformers' way.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Blocks of 32 weights: Q4_1 holds a scale d and
a minimum m in float16, and 32 integers q of four bits, w = d q + m; Q8_0 a scale d in float16 and 32 integers of
eight bits, w = d q. Both are computed in float32. GGUF stores the rows of q_proj and k_proj in the order of
interleaved rotary pairs; transformers rotates halves, so the rows are put back.
"""

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from algorithms.models.causal_lm import write_json
from events.errors import CheckFailed

MAGIC, VERSIONS = b"GGUF", (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The types of metadata by number, as `struct` writes them; 8 is a string, 9 an array."""
STRING, ARRAY = 8, 9
F32, Q4_1, Q8_0 = 0, 3, 8
"""The types of tensors that are read here."""
BLOCK = 32
Q4_1_BLOCK = np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", BLOCK // 2)])
Q8_0_BLOCK = np.dtype([("d", "<f2"), ("q", "i1", BLOCK)])
CONTROL = 3
"""The type of a token that is no text, such as the end of a turn."""
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_down": "mlp.down_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
"""The names of a layer's tensors in GGUF, and in transformers."""
OTHER_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


class Tensor(msgspec.Struct, frozen=True):
    """A stored tensor: its shape as torch writes it, its type's number, and its first byte in the file."""

    shape: tuple[int, ...]
    kind: int
    start: int


class Contents(msgspec.Struct, frozen=True):
    """The head of a GGUF file: its metadata, and where its tensors are."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def contents(path: Path) -> Contents:
    """Read the head of a GGUF file; raises CheckFailed for a file that is none."""
    with path.open("rb") as file:
        try:
            return _contents(file)
        except (struct.error, KeyError, UnicodeDecodeError, ValueError, OverflowError, MemoryError) as wrong:
            raise CheckFailed(
                f"{path} is no GGUF file that can be read ({type(wrong).__name__}: {wrong}); fetch it again."
            ) from wrong


def dequantised(path: Path, tensor: Tensor) -> np.ndarray:
    """A tensor in float32; raises CheckFailed for a type that is not read here, and for a file that ends too early."""
    count = int(np.prod(tensor.shape))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        try:
            return _values(whole, tensor, count).reshape(tensor.shape)
        except ValueError as wrong:
            raise CheckFailed(f"{path} ends before its tensors do ({wrong}); fetch it again.") from wrong


def write_folder(path: Path, folder: Path) -> None:
    """Write the Llama of a GGUF file as a Hugging Face folder: config, tokenizer with its chat template, and weights.

    The same file gives the same bytes. Raises CheckFailed for a file that cannot be read, or that holds another model.
    """
    from safetensors.numpy import save_file

    head = contents(path)
    meta = head.metadata
    if meta.get("general.architecture") != "llama" or meta.get("tokenizer.ggml.pre") != "smollm":
        raise CheckFailed(
            f"{path} holds a {meta.get('general.architecture')} with the tokenizer {meta.get('tokenizer.ggml.pre')}, "
            "expected a llama with smollm's; convert it by transformers."
        )
    folder.mkdir(parents=True, exist_ok=True)
    heads = {"attn_q": meta["llama.attention.head_count"], "attn_k": meta["llama.attention.head_count_kv"]}
    tensors = {}
    for name, tensor in head.tensors.items():
        part = name.removesuffix(".weight").split(".")[-1]
        values = dequantised(path, tensor)
        tensors[_name(name)] = rotated_by_halves(values, heads[part]) if part in heads else values
    write_json(folder / "config.json", _config(meta, tied="lm_head.weight" not in tensors))
    write_json(folder / "generation_config.json", _special_ids(meta))
    _write_tokenizer(meta, folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def convert(path: Path, folder: Path) -> None:
    """Write the model of any GGUF file that transformers can dequantise as a Hugging Face folder.

    Raises CheckFailed for a file that it cannot, and ModuleNotFoundError where the package gguf is missing.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, trust_remote_code=False
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.hf_quantizer = None
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except ImportError:
        raise
    except Exception as wrong:  # whatever a file of any content makes transformers raise
        reason = (str(wrong).strip().splitlines() or [type(wrong).__name__])[0]
        raise CheckFailed(f"{path} is no GGUF file that transformers can read ({reason:.200}).") from wrong


def rotated_by_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows (heads x size, width) of a query or key projection, from interleaved rotary pairs to halves.

    Within a head, GGUF has rows 0, 1, 2, ... where transformers has 0, size / 2, 1, size / 2 + 1, ...
    """
    size = len(rows) // heads
    return np.ascontiguousarray(rows.reshape(heads, size // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape))


def _contents(file: BinaryIO) -> Contents:
    def scalar(form: str) -> Any:
        return struct.unpack(f"<{form}", file.read(struct.calcsize(form)))[0]

    def text() -> str:
        return file.read(scalar("Q")).decode()

    def value(kind: int) -> Any:
        if kind == STRING:
            return text()
        if kind == ARRAY:
            inner, count = scalar("I"), scalar("Q")
            return [value(inner) for _ in range(count)]
        return scalar(SCALARS[kind])

    if file.read(4) != MAGIC or scalar("I") not in VERSIONS:
        raise ValueError("it does not begin as one of version 2 or 3 does")
    tensor_count, metadata_count = scalar("Q"), scalar("Q")
    metadata: dict[str, Any] = {}
    for _ in range(metadata_count):
        key = text()
        metadata[key] = value(scalar("I"))
    found: dict[str, Tensor] = {}
    for _ in range(tensor_count):
        name = text()
        sizes = [scalar("Q") for _ in range(scalar("I"))]
        kind, offset = scalar("I"), scalar("Q")
        found[name] = Tensor(tuple(reversed(sizes)), kind, offset)
    alignment = metadata.get("general.alignment", BLOCK)
    first = -(-file.tell() // alignment) * alignment
    moved = {name: msgspec.structs.replace(each, start=first + each.start) for name, each in found.items()}
    return Contents(metadata, moved)


def _values(whole: mmap.mmap, tensor: Tensor, count: int) -> np.ndarray:
    match tensor.kind:
        case _ if tensor.kind == F32:
            return np.frombuffer(whole, "<f4", count, tensor.start).copy()
        case _ if tensor.kind == Q4_1:
            blocks = np.frombuffer(whole, Q4_1_BLOCK, count // BLOCK, tensor.start)
            q = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=1).astype(np.float32)
            return (blocks["d"].astype(np.float32)[:, None] * q + blocks["m"].astype(np.float32)[:, None]).ravel()
        case _ if tensor.kind == Q8_0:
            blocks = np.frombuffer(whole, Q8_0_BLOCK, count // BLOCK, tensor.start)
            return (blocks["d"].astype(np.float32)[:, None] * blocks["q"].astype(np.float32)).ravel()
        case _:
            raise CheckFailed(f"A tensor has the type {tensor.kind}, expected float32, Q4_1 or Q8_0; use transformers.")


def _name(name: str) -> str:
    plain = name.removesuffix(".weight")
    if plain in OTHER_NAMES:
        return f"{OTHER_NAMES[plain]}.weight"
    try:
        block, layer, part = plain.split(".")
        assert block == "blk"
        return f"model.layers.{int(layer)}.{LAYER_NAMES[part]}.weight"
    except (ValueError, KeyError, AssertionError):
        raise CheckFailed(f"A tensor is called {name}, which no Llama has; convert the file by transformers.") from None


def _special_ids(meta: Mapping[str, Any]) -> dict[str, int]:
    return {
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
    }


def _config(meta: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    return {
        **_special_ids(meta),
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "vocab_size": len(meta["tokenizer.ggml.tokens"]),
        "hidden_size": meta["llama.embedding_length"],
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": meta["llama.attention.head_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "head_dim": meta["llama.rope.dimension_count"],
        "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": meta["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": meta["llama.rope.freq_base"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
    }


def _write_tokenizer(meta: Mapping[str, Any], folder: Path) -> None:
    """The byte-level BPE of SmolLM: digits are single tokens, then words as GPT-2 divides them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ", 1)) for pair in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, meta["tokenizer.ggml.token_type"], strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    ids = _special_ids(meta)
    card = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[ids["bos_token_id"]],
        "eos_token": tokens[ids["eos_token_id"]],
        "pad_token": tokens[ids["pad_token_id"]],
        "unk_token": tokens[meta["tokenizer.ggml.unknown_token_id"]],
        "additional_special_tokens": control,
        "model_max_length": meta["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": meta["tokenizer.chat_template"],
    }
    write_json(folder / "tokenizer_config.json", card)
