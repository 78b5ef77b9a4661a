"""Causal language models of many shapes: tiny random ones, each trained and asked as transformers itself says that it
speaks.
"""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

pytest.importorskip("peft")
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from algorithms.learning import algorithm
from algorithms.learning.batch import Rollout
from algorithms.learning.update import UpdateResult, update
from algorithms.models.causal_lm import CausalTrainee, linear_layers
from algorithms.models.sampling import CompletionRequest, Sampler
from events.errors import UsageError
from tests.harness.adapters import move_adapter

VOCABULARY, POSITIONS = 61, 64
PROMPTS = {"short": (5, 6, 7), "long": (8, 9, 10, 11, 12, 13)}
WORDS: Any = SimpleNamespace(
    name="tiny@0",
    encode=PROMPTS.__getitem__,
    encode_completion=lambda text: (3,),
    decode=str,
    ends=frozenset({3}),
    positions=POSITIONS,
    vocabulary=VOCABULARY,
)
ROLLOUTS = [
    Rollout(group="g", item="i", prompt=prompt, tokens=tokens, logprobs=(0.0,) * len(tokens), reward=1.0)
    for prompt, tokens in (("short", (20, 21, 22, 3)), ("long", (23, 24)), ("short", (25, 26, 27, 28, 29, 30, 31)))
]
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


def made(name: str) -> Any:
    """A model of this shape, with weights far enough from 0 that a cap or scale of its logits shows."""
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, bos_token_id=None, eos_token_id=3, **SHAPES[name][0]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2)
    return model


def trained(model: Any, **how: Any) -> CausalTrainee:
    """The model under an adapter that is some way from the base."""
    trainee = CausalTrainee(WORDS, model, linear_layers(model), None, 0, **how)
    move_adapter(trainee.model, 0.05, seed=1)
    return trainee


def own(model: Any, rollout: Rollout) -> torch.Tensor:
    """Natural log-probabilities (T, V) of what stands at each token's place, from all logits of the model itself."""
    prompt = PROMPTS[rollout.prompt]
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *rollout.tokens]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), 1)


@pytest.mark.parametrize("name", SHAPES)
def test_a_model_is_trained_on_its_own_log_probabilities(name: str) -> None:
    model = made(name)
    assert linear_layers(model) == SHAPES[name][1]
    bare = [own(model, rollout) for rollout in ROLLOUTS]
    trainee = trained(model, critic=True)
    found, before = trainee.outputs(ROLLOUTS), trainee.outputs(ROLLOUTS, base=True)
    for row, rollout in enumerate(ROLLOUTS):
        count = len(rollout.tokens)
        for outputs, logs in ((found, own(trainee.model, rollout)), (before, bare[row])):
            expected = logs.gather(1, torch.tensor(rollout.tokens)[:, None])[:, 0]
            assert torch.allclose(outputs.logp[row, :count], expected, atol=1e-4)
            assert torch.allclose(outputs.entropy[row, :count], -(logs.exp() * logs).sum(1), atol=1e-4)
            assert not outputs.logp[row, count:].any() and not outputs.values[row].any()
    assert not torch.allclose(found.logp, before.logp, atol=1e-2)
    found.logp.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in trainee.adapter)


@pytest.mark.parametrize("name", SHAPES)
def test_it_is_sampled_as_it_scores(name: str) -> None:
    model = made(name)
    asks = [CompletionRequest(prompt=prompt, seed=seed, max_tokens=8) for seed, prompt in enumerate(PROMPTS.values())]
    for said, prompt in zip(Sampler(WORDS, model).sample(asks), PROMPTS, strict=True):
        logs = own(
            model, Rollout(group="g", item="i", prompt=prompt, tokens=said.tokens, logprobs=said.logprobs, reward=0.0)
        )
        assert said.logprobs == pytest.approx(
            logs.gather(1, torch.tensor(said.tokens)[:, None])[:, 0].tolist(), abs=1e-4
        )


@pytest.mark.parametrize("name", ["GPT2", "Gemma2", "GPTNeoX"])
def test_checkpointing_gives_the_same_gradient_without_the_models_dropout(name: str) -> None:
    plain, again = trained(made(name)), trained(made(name), checkpointing=True)
    for trainee in (plain, again):
        trainee.outputs(ROLLOUTS).logp.sum().backward()
    assert any(each.training for each in again.model.modules())
    for one, other in zip(plain.adapter, again.adapter, strict=True):
        assert one.grad is not None and other.grad is not None and torch.allclose(one.grad, other.grad, atol=1e-6)


class Apart(Qwen3ForCausalLM):  # type: ignore[misc]  # mypy does not read transformers
    """Makes its logits without calling its output embeddings."""

    def forward(self, ids: Any = None, **how: Any) -> Any:
        return SimpleNamespace(
            logits=nn.functional.linear(self.model(ids, use_cache=False).last_hidden_state, self.lm_head.weight)
        )


def test_a_model_that_does_not_call_its_output_embeddings_is_refused() -> None:
    model = Apart(Qwen3Config(vocab_size=VOCABULARY, **GQA))
    with pytest.raises(UsageError, match="Apart used its output embeddings 0 times in a forward"):
        CausalTrainee(WORDS, model, linear_layers(model), None, 0).outputs(ROLLOUTS)


class Bare(PreTrainedModel):  # type: ignore[misc]  # mypy does not read transformers
    """No layers at all."""

    config_class = Qwen3Config


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(UsageError, match="Bare has no linear layers"):
        linear_layers(Bare(Qwen3Config()))


def updated(back_end: Any, trainee: CausalTrainee, of: str) -> UpdateResult:
    """One step on rollouts that the model sampled, as their log-probabilities say."""
    with torch.no_grad():
        logp = trainee.outputs(ROLLOUTS).logp
    batch = [
        msgspec.structs.replace(rollout, logprobs=tuple(row[: len(rollout.tokens)].tolist()), reward=place / 2)
        for place, (rollout, row) in enumerate(zip(ROLLOUTS, logp, strict=True))
    ]
    done = back_end(trainee, algorithm(of), batch, {"max_grad_norm": 1e9, "epochs": 1}, seed=5, parent="")
    assert isinstance(done, UpdateResult)
    return done


@pytest.mark.parametrize("name", ["Mixtral", "Gemma2"])
@pytest.mark.parametrize("of", ["grpo", "dpo", "best_of_n"])
def test_both_back_ends_give_the_same_loss_and_gradient(name: str, of: str) -> None:
    pytest.importorskip("trl")
    from runtime.policies import trl_backend

    one, other = updated(update, trained(made(name)), of), updated(trl_backend.update, trained(made(name)), of)
    assert one.steps[0].loss == pytest.approx(other.steps[0].loss, abs=1e-5)
    moments = [key for key in one.state if key.startswith("exp_avg.")]
    largest = max(float(one.state[key].abs().max()) for key in moments)
    assert largest > 0
    for key in moments:
        assert float((one.state[key] - other.state[key]).abs().max()) < 1e-5 * largest, key


@pytest.mark.parametrize("back_end", ["native", "trl"])
def test_both_back_ends_checkpoint(back_end: str) -> None:
    pytest.importorskip("trl")
    from runtime.policies import trl_backend

    trainee, seen = trained(made("Qwen3"), checkpointing=True), []
    layer = next(each for each in trainee.model.modules() if hasattr(each, "self_attn"))
    layer.register_forward_pre_hook(
        lambda module, given: seen.append(module.training and module.gradient_checkpointing)
    )
    updated(update if back_end == "native" else trl_backend.update, trainee, "grpo")
    assert sum(seen) >= 2, "the layer is computed once forward, and once more in the backward pass"
