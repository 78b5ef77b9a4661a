"""Causal language models of many shapes: tiny random ones, each trained and asked as transformers itself says that it
speaks.
"""

import os
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
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
from algorithms.models import causal_lm, choice_scores, sampling
from algorithms.models.causal_lm import CausalTrainee, linear_layers
from algorithms.models.choice_scores import ChoiceScores
from algorithms.models.sampling import CompletionRequest, Sampler
from events.errors import UsageError
from tests.harness.adapters import move_adapter
from tests.harness.architectures import GQA, SHAPES
from tests.harness.few import few

QUICK = ("Qwen3", "GPT2", "Gemma2", "Mixtral")
VOCABULARY, POSITIONS = 61, 64
PROMPTS = {"short": (5, 6, 7), "long": (8, 9, 10, 11, 12, 13)}
WORDS: Any = SimpleNamespace(
    name="tiny@0",
    encode=lambda prompt, plain=False: PROMPTS[prompt],
    encode_completion=lambda text: (3,),
    encode_choices=lambda choices, plain=False: tuple(map(int, choices)),
    decode=str,
    ends=frozenset({3}),
    positions=POSITIONS,
    vocabulary=VOCABULARY,
)
ROLLOUTS = [
    Rollout(group="g", item="i", prompt=prompt, tokens=tokens, logprobs=(0.0,) * len(tokens), reward=1.0)
    for prompt, tokens in (("short", (20, 21, 22, 3)), ("long", (23, 24)), ("short", (25, 26, 27, 28, 29, 30, 31)))
]


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
    return own_after(model, PROMPTS[rollout.prompt], rollout.tokens)


def own_after(model: Any, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> torch.Tensor:
    """The same of tokens after a prompt."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), 1)


@pytest.mark.parametrize("name", few(SHAPES, *QUICK))
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


ANSWERS = [
    Rollout(group="g", item="i", prompt="long", tokens=tokens, logprobs=(0.0,) * len(tokens), reward=1.0)
    for tokens in ((20, 21, 22, 3), (23, 24), (25, 26, 27, 28, 29, 30, 31), (25,))
]
"""Several answers to one prompt, which is longer than a window of 4."""


def seen_by(trainee: CausalTrainee, rollouts: list[Rollout]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """A model's outputs, and the gradient of a sum of them that weighs each token otherwise."""
    found = trainee.outputs(rollouts)
    with torch.no_grad():
        before = trainee.outputs(rollouts, base=True)
    weights = torch.linspace(-1, 2, found.logp.numel()).view_as(found.logp)
    (found.logp * weights + 0.3 * found.entropy * weights.flip(1)).sum().backward()
    gradient = [parameter.grad for parameter in trainee.adapter if parameter.grad is not None]
    return [found.logp, found.entropy, found.values, before.logp, before.entropy], gradient


def reads(trainee: CausalTrainee) -> list[tuple[int, ...]]:
    """The shapes of the token ids that the model's decoder will have read."""
    shapes: list[tuple[int, ...]] = []
    trainee.model.get_base_model().base_model.get_input_embeddings().register_forward_hook(
        lambda module, given, output: shapes.append(tuple(given[0].shape))
    )
    return shapes


@pytest.mark.parametrize("name", few(SHAPES, *QUICK))
def test_a_shared_prompt_and_logits_in_parts_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, lean = trained(made(name), critic=True), trained(made(name), critic=True)
    for each in (plain, lean):
        nn.init.normal_(each.critic[0], generator=torch.Generator().manual_seed(0))
    expected = seen_by(plain, ANSWERS)
    monkeypatch.setattr(causal_lm, "SHARED", 2)
    monkeypatch.setattr(causal_lm, "LOGITS", 3 * VOCABULARY)
    shapes = reads(lean)
    found = seen_by(lean, ANSWERS)
    assert shapes == [(1, 5), (4, 7)] * 2, "the prompt but for its last token, then that and the answers"
    assert found[0][2].abs().max() > 0.1
    for one, other in zip(found[0], expected[0], strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert len(found[1]) == len(lean.adapter)
    for one, other in zip(found[1], expected[1], strict=True):
        assert float((one - other).abs().max()) < 1e-5 * max(float(each.abs().max()) for each in expected[1])


class Stateful(Qwen3ForCausalLM):  # type: ignore[misc]  # mypy does not read transformers
    """Says of itself that keys and values are not all that it keeps."""

    _is_stateful = True


@pytest.mark.parametrize(
    ("rollouts", "checkpointing", "stateful", "expected"),
    [
        (ANSWERS, False, False, [(1, 5), (4, 7)]),
        (ANSWERS, False, True, [(4, 12)]),
        (ANSWERS, True, False, [(4, 12)]),
        (ANSWERS[:1], False, False, [(1, 9)]),
        (ROLLOUTS, False, False, [(3, 9)]),
    ],
)
def test_a_prompt_is_read_once_where_that_is_possible(
    rollouts: list[Rollout],
    checkpointing: bool,
    stateful: bool,
    expected: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(causal_lm, "SHARED", 6)
    model = made("Qwen3")
    if stateful:
        model.__class__ = Stateful
    trainee = trained(model, checkpointing=checkpointing)
    shapes = reads(trainee)
    trainee.outputs(rollouts)
    assert shapes == expected
    with torch.no_grad():
        trainee.outputs(ANSWERS)
    assert shapes[-1] == ((4, 12) if stateful else (4, 7))
    monkeypatch.setattr(causal_lm, "SHARED", 7)
    trainee.outputs(ANSWERS)
    assert shapes[-1] == (4, 12)


def test_rows_come_together_by_their_prompt_where_it_is_shared_and_else_by_their_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainee = trained(made("Qwen3"))
    rows = [*ROLLOUTS, *ANSWERS]  # lengths 7, 8, 10, 10, 8, 13, 7; the prompt "long" of 6 tokens in rows 1, 3 to 6
    assert trainee.split(rows, 20) == [[5], [2, 3], [0, 1, 4], [6]]  # rows 1 and 4 are one
    assert trainee.split(rows[:6], 20, width=2) == [[4, 5], [2, 3], [0, 1]]
    monkeypatch.setattr(causal_lm, "SHARED", 6)
    assert trainee.split(rows, 20) == [[3, 5], [1, 4, 6], [0, 2]]  # of 15 tokens beside the prompt: 2 by 7, 4 by 3
    assert trainee.split(rows[3:], 20, width=2) == [[2, 3], [0, 1]]
    for part in trainee.split(rows, 20):
        read = reads(trainee)
        trainee.outputs([rows[i] for i in part])
        assert sum(height * width for height, width in read) <= 20
    # a prompt that is longer than half of the budget is read once for answers of as many tokens together
    assert trainee.split(rows, 4) == [[5], [3], [1, 4, 6], [2], [0]]


@pytest.mark.parametrize("name", ["Qwen3", "Gemma2", "GPT2"])
def test_several_forwards_of_one_prompt_read_it_once_with_the_same_gradient(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainee = trained(made(name))
    rows = [row for row in [*ROLLOUTS, *ANSWERS] if row.prompt == ANSWERS[0].prompt]
    read = reads(trainee)

    def gradient(parts: list[list[int]], context: Any) -> list[torch.Tensor]:
        trainee.model.zero_grad()
        read.clear()
        with context:
            for part in parts:
                found = trainee.outputs([rows[i] for i in part])
                (found.logp.sum() + 0.5 * found.entropy.sum()).backward()
        return [each.grad.clone() for each in trainee.adapter if each.grad is not None]

    plain = gradient([list(range(len(rows)))], nullcontext())
    monkeypatch.setattr(causal_lm, "SHARED", 6)
    once = gradient([[i] for i in range(len(rows))], trainee.prompts_read_once())
    assert read.count((1, 5)) == 1 and max(width for _, width in read) == 7  # the prompt, and the longest answer
    assert len(once) == len(plain) > 0
    for mine, theirs in zip(once, plain, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5 * float(theirs.abs().max().clamp(min=1e-3)), rtol=1e-4)


def chosen(prompt: str, token: int, choices: tuple[str, ...], **more: Any) -> Rollout:
    return Rollout(
        group="g", item="i", prompt=prompt, choices=choices, tokens=(token,), logprobs=(0.0,), reward=1.0, **more
    )


CHOSEN = [
    chosen("long", 23, ("20", "23", "3"), bias=(0.5, 0.0, -1.0), temperature=2.0),
    chosen("long", 20, ("20", "23", "3"), bias=(0.5, 0.0, -1.0), temperature=2.0),
    ROLLOUTS[0],
    chosen("short", 40, ("7", "40")),
    chosen("short", 7, ("7", "40", "41", "42")),
]


@pytest.mark.parametrize("name", few(SHAPES, *QUICK))
def test_a_choice_has_its_probability_and_gradient_among_the_choices_on_offer(name: str) -> None:
    trainee = trained(made(name))
    found = trainee.outputs(CHOSEN)
    found.logp[:, 0].sum().backward()
    gradient = [parameter.grad.clone() for parameter in trainee.adapter if parameter.grad is not None]
    trainee.model.zero_grad()
    total: Any = 0.0
    for row, rollout in enumerate(CHOSEN):
        prompt = PROMPTS[rollout.prompt]
        logits = trainee.model(torch.tensor([prompt])).logits[0, -1].float()
        offered = list(map(int, rollout.choices)) or list(range(VOCABULARY))
        bias = torch.tensor(rollout.bias or [0.0] * len(offered))
        logs = torch.log_softmax((logits[offered] + bias) / rollout.temperature, 0)
        logp = logs[offered.index(rollout.tokens[0])]
        assert torch.allclose(found.logp[row, 0], logp, atol=1e-4)
        assert torch.allclose(found.entropy[row, 0], -(logs.exp() * logs).sum(), atol=1e-4)
        total = total + logp
    total.backward()
    expected = [parameter.grad for parameter in trainee.adapter if parameter.grad is not None]
    assert len(gradient) == len(expected) > 0
    for mine, theirs in zip(gradient, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5 * float(theirs.abs().max().clamp(min=1e-3)), rtol=1e-4)


def test_answers_of_a_token_to_one_prompt_are_one_row_and_prompts_that_begin_alike_one_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PROMPTS, "longer", (*PROMPTS["long"], 14))
    monkeypatch.setitem(PROMPTS, "other", (*PROMPTS["long"][:5], 15, 16))
    trainee = trained(made("Qwen3"))
    rows = [chosen(prompt, token, ("20", "23")) for prompt in ("long", "longer", "other") for token in (20, 23, 20)]
    shapes = reads(trainee)
    bare = trainee.outputs(rows)
    assert shapes == [(3, 7)]
    monkeypatch.setattr(causal_lm, "SHARED", 10)
    monkeypatch.setattr(causal_lm, "LEAST_SHARED", 5)
    found = trainee.outputs(rows)
    assert shapes[1:] == [(1, 5), (3, 2)]
    assert torch.allclose(found.logp, bare.logp, atol=1e-5)
    assert trainee.split(rows, 9) == [[3, 4, 5, 6, 7, 8], [0, 1, 2]]  # two rows of two tokens beside the beginning
    monkeypatch.setattr(causal_lm, "LEAST_SHARED", 6)
    trainee.outputs(rows)
    assert shapes[3:] == [(3, 7)]


VARYING = ("Falcon", "Mixtral", "Qwen2Moe")
"""Models that sum in another order where other rows stand beside: mixtures, by how many rows an expert has."""


@pytest.mark.parametrize("name", few(SHAPES, *QUICK))
def test_scores_of_choices_are_the_models_own_and_the_same_to_the_bit_whatever_is_asked_beside(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice_scores, "LONG", 8)
    monkeypatch.setattr(choice_scores, "MIDDLE", 5)
    monkeypatch.setattr(choice_scores, "SHORT", 3)
    monkeypatch.setattr(choice_scores, "AT_ONCE", 40)
    monkeypatch.setattr(choice_scores, "FORWARD", 16)
    model = trained(made(name)).model
    draw = random.Random(0)
    stem = tuple(draw.randrange(5, VOCABULARY) for _ in range(30))
    prompts = [(*stem[: draw.randrange(31)], draw.randrange(5, VOCABULARY)) for _ in range(12)] + [stem[:9], stem[:8]]
    prompts.append(tuple(draw.randrange(5, VOCABULARY) for _ in range(POSITIONS - 1)))  # up to the last position
    tokens = (4, 9, 33)
    together = ChoiceScores(model, ThreadPoolExecutor(2), POSITIONS).after(
        "a", [(prompt, tokens) for prompt in prompts]
    )
    for prompt, scores in zip(prompts, together, strict=True):
        with torch.no_grad():
            logs = torch.log_softmax(model(torch.tensor([prompt])).logits[0, -1].double(), 0)
        assert scores.tolist() == pytest.approx(logs[list(tokens)].tolist(), abs=1e-4)
        alone = ChoiceScores(model, ThreadPoolExecutor(1), POSITIONS).after("a", [(prompt, tokens)])
        same = alone[0].tolist() == scores.tolist()
        assert same or name in VARYING


def test_a_model_that_keeps_a_state_takes_no_choices_and_no_padding() -> None:
    config = transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    assert Sampler(WORDS, model).width(3 * sampling.STEP - 1) == 3 * sampling.STEP - 1
    with pytest.raises(UsageError, match="MambaForCausalLM keeps more of a prompt than keys and values"):
        ChoiceScores(model, ThreadPoolExecutor(1), POSITIONS).after("", [((5, 6, 7), (4, 9))])


def test_what_prompts_begin_with_is_read_once_and_again_under_another_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_scores, "FORWARD", 16)
    trainee = trained(made("Qwen3"))
    scores = ChoiceScores(trainee.model, ThreadPoolExecutor(1), POSITIONS)
    shapes = reads(trainee)
    first, second = (*range(5, 13), 20), (*range(5, 13), 21)
    before = scores.after("a", [(first, (4, 9))])
    assert shapes == [(4, 4)] * 3  # blocks of four: eight tokens, and the last
    scores.after("a", [(second, (4, 9)), (first, (4, 9))])
    assert shapes[3:] == [(4, 4)]
    move_adapter(trainee.model, 0.2, seed=5)
    assert scores.after("a", [(first, (4, 9))])[0].tolist() == before[0].tolist()  # under a name nothing changes
    assert scores.after("b", [(first, (4, 9))])[0].tolist() != before[0].tolist()
    monkeypatch.setattr(choice_scores, "KEPT_BYTES", 0)
    scores.after("b", [(second, (4, 9))])
    assert not scores._kept and scores._bytes == 0


def test_an_update_holds_few_logits_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    trainee = trained(made("Gemma2"))
    counts: list[int] = []
    trainee.model.get_output_embeddings().register_forward_hook(
        lambda module, given, output: counts.append(output.numel())
    )
    monkeypatch.setattr(causal_lm, "LOGITS", 3 * VOCABULARY + 1)
    updated(update, trainee, "grpo")
    assert max(counts) == 3 * VOCABULARY
    assert sum(counts) > 13 * 4 * VOCABULARY, "under both weights, in the step, and again in its backward pass"


@pytest.mark.parametrize("name", few(SHAPES, *QUICK))
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


@pytest.mark.parametrize("kind", ["default", "dynamic"])
def test_a_model_whose_positions_depend_on_its_company_is_not_padded(kind: str) -> None:
    how = {"rope_theta": 1e4, "rope_type": kind, "factor": 2.0}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=VOCABULARY, max_position_embeddings=16, rope_parameters=how, **GQA))
    words: Any = SimpleNamespace(**{**vars(WORDS), "positions": 256})
    assert Sampler(words, model).width(65) == (65 if kind == "dynamic" else 128)


@pytest.mark.parametrize("name", few(SHAPES, *QUICK))
def test_long_prompts_are_padded_to_share_forwards_and_sampled_as_if_they_were_not(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "STEP", 4)
    monkeypatch.setattr(sampling, "PREFILL", 16)
    model = made(name)
    sampler = Sampler(WORDS, model)
    draw = random.Random(0)
    lengths = (3, 5, 6, 8, POSITIONS - 3)  # the last fills the model's positions before its answer ends
    asks = [
        CompletionRequest(prompt=tuple(draw.randrange(5, VOCABULARY) for _ in range(length)), seed=length, max_tokens=6)
        for length in lengths
    ]
    assert [sampler.width(length) for length in lengths] == (
        list(lengths) if name == "Bloom" else [3, 8, 8, 8, POSITIONS]  # Bloom takes no positions
    )
    assert [sampler.slots(width) for width in (3, 4, 8)] == [32, 32, 8]
    together = sampler.sample(asks)
    for ask, said in zip(asks, together, strict=True):
        logs = own_after(model, ask.prompt, said.tokens)
        expected = logs.gather(1, torch.tensor(said.tokens)[:, None])[:, 0].tolist()
        assert said.logprobs == pytest.approx(expected, abs=1e-4)
        assert sampler.sample([ask])[0] == said or name in VARYING
    assert len(together[-1].tokens) <= 3


def test_a_large_model_is_trained_on_all_threads_to_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    gradients: list[list[torch.Tensor]] = []
    for large, processes, threads in ((causal_lm.LARGE, "1", 1), (1, "1", 4), (1, "2", 2)):
        monkeypatch.setattr(causal_lm, "LARGE", large)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        trainee = trained(made("Qwen3"))
        assert torch.get_num_threads() == threads
        trainee.outputs(ROLLOUTS).logp.sum().backward()
        gradients.append([each.grad for each in trainee.adapter if each.grad is not None])
    torch.set_num_threads(1)
    for other in gradients[1:]:
        assert all(torch.allclose(one, each, atol=1e-6) for one, each in zip(gradients[0], other, strict=True))


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
@pytest.mark.parametrize("of", few(["grpo", "dpo", "best_of_n"], "dpo"))
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
