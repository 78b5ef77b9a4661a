"""Causal language models of many shapes: the settings of tiny ones, and which of their layers get an adapter."""

from typing import Any

GQA: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
MHA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ATTENTION, MLP = ("k_proj", "o_proj", "q_proj", "v_proj"), ("down_proj", "gate_proj", "up_proj")
FUSED = ("dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value")
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SHAPES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "Llama": (GQA, tuple(sorted(ATTENTION + MLP))),
    "Qwen3": (GQA, tuple(sorted(ATTENTION + MLP))),
    "GPT2": ({"n_embd": 32, "n_layer": 2, "n_head": 2}, ("c_attn", "c_fc", "c_proj")),
    "Phi3": ({**GQA, "sliding_window": 4}, ("down_proj", "gate_up_proj", "o_proj", "qkv_proj")),
    "GPTNeoX": (MHA, FUSED),
    "Bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 2}, FUSED),
    "Falcon": (MHA, FUSED),
    "Gemma2": (
        {**GQA, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 16, "sliding_window": 4},
        tuple(sorted(ATTENTION + MLP)),
    ),
    "Granite": ({**GQA, "logits_scaling": 0.1}, tuple(sorted(ATTENTION + MLP))),
    "Cohere": ({**GQA, "logit_scale": 4.0}, tuple(sorted(ATTENTION + MLP))),
    "Mixtral": ({**GQA, **EXPERTS, "sliding_window": 4}, ATTENTION),
    "Qwen2Moe": ({**GQA, **EXPERTS, "shared_expert_intermediate_size": 48}, tuple(sorted(ATTENTION + MLP))),
}
