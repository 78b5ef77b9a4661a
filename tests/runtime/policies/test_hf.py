"""Models of Hugging Face's format as policies: tiny random ones in the shapes of Qwen3 and Llama, with a real
tokenizer.
"""

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness.cli import CliHarness, one_sentence
from tests.harness.paths import TASKS

pytest.importorskip("peft")
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from algorithms.demos import toys
from algorithms.learning.batch import Rollout
from algorithms.models.tiny_lm import TinyLM
from events.errors import CheckFailed, Misconfigured, NotFound, NotHere, UsageError
from runtime.blobs.directory import Blobs
from runtime.effects.serve import ServedModels
from runtime.policies import hf
from runtime.policies.bases import kind_of
from runtime.policies.client import Caller
from runtime.policies.engine import Engine, EnginePolicy, connect
from runtime.policies.hf_server import in_parts
from runtime.policies.interface import WHOLE, SampleRequest
from runtime.policies.training import (
    Sources,
    TrainingResult,
    open_trainee,
    train,
)
from tests.harness.attempts import attempts_at, first_order

NUMBERS = TASKS / "numbers"
LETTERS = '''"""The more letters the better: what a model of random weights differs in."""

from tasks.contract import Scored

VERSION = "letters-1"


def score(answer: str | None, label: str) -> Scored:
    """The share of letters."""
    text = answer or ""
    return Scored(sum(each.isascii() and each.isalpha() for each in text) / max(1, len(text)), "wrong")
'''
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 3,
}


@pytest.fixture(scope="module", params=["qwen3", pytest.param("llama", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, as one would have fetched it."""
    name: str = request.param
    folder = tmp_path_factory.mktemp("models") / name
    TinyLM.pretrain(toys.traces(0, 500), seed=0, steps=1).save(folder)  # for its tokenizer and chat template
    (folder / "base.json").unlink()
    torch.manual_seed(1)
    kinds: dict[str, tuple[Any, Any]] = {
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }
    config, model = kinds[name]
    size = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    model(config(vocab_size=size, **SHAPE)).save_pretrained(folder)
    return folder


@pytest.fixture
def base(model: Path, tmp_path: Path) -> Path:
    hf.write_base(str(model), tmp_path / "base")
    return tmp_path / "base"


def test_code_that_a_model_brings_is_not_run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *words: "y")  # to what transformers would ask at a terminal
    folder, mark = shutil.copytree(model, tmp_path / "model"), tmp_path / "mark"
    (folder / "mine.py").write_text(f"open({str(mark)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}})
    )
    with pytest.raises(CheckFailed, match="contains custom code"):
        hf.HFTokenizer(folder, "0" * 64)
    assert not mark.exists()


def test_a_prompt_is_a_turn_of_the_chat_template_and_an_answer_ends_with_the_models_end(base: Path) -> None:
    found = hf.HFModel.load(base)
    assert found.tokenizer.decode(found.encode("task 0")) == "<|user|>task 0<|assistant|>"
    assert found.encode_completion("41 07")[-1] == 3 and found.decode(found.encode_completion("41 07")) == "41 07"
    with pytest.raises(UsageError, match="reads at most 127; shorten it"):
        found.encode("x" * 500)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Engine]:
    """The model's own server, as the policy service starts it."""
    found = connect(hf.HFTokenizer(model, hf.digest_of(model)))
    yield found
    found.close()


@pytest.fixture
def policy(server: Engine, base: Path) -> EnginePolicy:
    return EnginePolicy(server, hf.HFTokenizer.load(base))


def trained(base: Path, policy: EnginePolicy, out: Path, seed: int = 0) -> TrainingResult:
    """An adapter of one PPO update, the first of eight answers being rewarded."""
    (sampled,) = policy.sample([SampleRequest(prompt="task 0", n=8, max_tokens=6)])
    attempts = attempts_at(SampleRequest(prompt="task 0"), sampled, [float(place == 0) for place in range(8)])
    order = first_order(base, "ppo", {"lr": 0.01}, seed)
    return train(order, attempts, Sources(str, lambda items: {}), out, out.with_suffix(".left"))


def test_it_is_sampled_as_it_scores_and_the_same_in_any_company(base: Path, policy: EnginePolicy) -> None:
    requests = [SampleRequest(prompt=f"task {n}", seed=n, n=2, max_tokens=8) for n in range(3)]
    together = policy.sample(requests)
    assert together == [policy.sample([request])[0] for request in requests]
    plain = hf.HFModel.load(base)
    ids = torch.tensor([[*plain.encode("task 1"), *together[1].tokens[0]]])
    logs = torch.log_softmax(plain.model(ids).logits[0].double(), 1)
    start = len(plain.encode("task 1"))
    expected = [float(logs[start + place - 1, token]) for place, token in enumerate(together[1].tokens[0])]
    assert list(together[1].logprobs[0]) == pytest.approx(expected, abs=1e-4)
    assert policy.score("task 1", together[1].tokens[0]) == pytest.approx(expected, abs=1e-4)


def test_calls_that_share_forwards_are_computed_together_and_none_waits_for_all() -> None:
    calls = [Counter({64: 8}), Counter({128: 8}), Counter({64: 24}), Counter({64: 1}), Counter({30: 200}), Counter()]
    slots = {30: 32, 64: 32, 128: 8}.__getitem__
    assert in_parts(calls, 2, slots) == [[5], [4], [0, 2, 3], [1]]  # a call is never divided
    assert in_parts(calls, 3, slots) == [[5], [4], [0, 2, 3, 1]]
    assert in_parts(calls, 1, slots) == [[5], [4], [0, 2], [3], [1]]
    assert in_parts([], 2, slots) == []


CHOICES = ("7", "4", "a")


def test_of_choices_one_is_drawn_by_its_first_token_in_plain_text_and_in_a_chat(
    base: Path, policy: EnginePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = hf.HFModel.load(base)
    bias = (0.5, 0.0, -1.0)
    requests = [
        SampleRequest(prompt="task 1", choices=CHOICES, bias=bias, n=40, seed=seed, plain=way)
        for seed in (0, 1)
        for way in (False, True)
    ]
    bodies: list[Any] = []
    complete = policy._engine.complete

    def kept(name: str, folder: Path | None, body: dict[str, Any]) -> Any:
        bodies.append(body)
        return complete(name, folder, body)

    monkeypatch.setattr(policy._engine, "complete", kept)
    together = policy.sample([*requests, SampleRequest(prompt="task 1", max_tokens=3)])
    asked = [body for body in bodies if "logprob_token_ids" in body]
    assert [len(body["prompt"]) for body in asked] == [2]  # four requests: two seeds, whose chances are the same
    for request, sampled in zip(requests, together, strict=False):
        tokens = plain.encode_choices(CHOICES, request.plain)
        prompt = plain.encode("task 1", request.plain)
        with torch.no_grad():
            logits = plain.model(torch.tensor([prompt])).logits[0, -1, list(tokens)].double()
        logs = torch.log_softmax(logits + torch.tensor(bias), 0)
        assert sampled == policy.sample([request])[0]
        assert (
            set(sampled.texts) <= set(CHOICES) and len(set(sampled.texts)) > 1 and sampled.prompt_tokens == len(prompt)
        )
        for text, ids, (logprob,) in zip(sampled.texts, sampled.tokens, sampled.logprobs, strict=True):
            assert ids == (tokens[CHOICES.index(text)],)
            assert logprob == pytest.approx(float(logs[CHOICES.index(text)]), abs=1e-4)
    assert len(plain.encode("task 1", True)) == len(plain.encode("task 1")) - 2  # without the template's two
    first, _, second, _ = (sampled.texts for sampled in together[:4])
    assert first != second  # of other seeds
    greedy = policy.sample([msgspec.structs.replace(requests[0], temperature=0.0, n=2)])[0]
    assert len(set(greedy.texts)) == 1 and greedy.logprobs[0][0] == pytest.approx(max(map(max, together[0].logprobs)))


@pytest.mark.parametrize("model", ["qwen3"], indirect=True)
@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"choices": ("71", "72")}, "'71' and '72' begin with the same token"),
        ({"choices": ("", "7")}, "A choice is empty"),
        ({"choices": CHOICES, "bias": (1.0,)}, "1 biases were given for 3 choices"),
        ({"choices": CHOICES, "bias": (1.0, math.inf, 0.0)}, "not finite"),
        ({"bias": (1.0,)}, "without choices"),
        ({"choices": CHOICES, "sampling": {"top_p": 0.5}}, "samples from its whole distribution"),
    ],
)
def test_choices_that_cannot_be_told_apart_and_biases_that_do_not_fit_are_refused(
    policy: EnginePolicy, asked: dict[str, Any], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        policy.sample([SampleRequest(prompt="task 0", **asked)])


@pytest.mark.parametrize("model", ["qwen3"], indirect=True)
def test_what_was_chosen_is_trained_on_at_the_probability_it_was_chosen_with(
    base: Path, policy: EnginePolicy, tmp_path: Path
) -> None:
    request = SampleRequest(prompt="task 0", choices=CHOICES, bias=(0.5, 0.0, -1.0), n=8, plain=True)
    (sampled,) = policy.sample([request])
    attempts = attempts_at(request, sampled, [float(text == sampled.texts[0]) for text in sampled.texts])
    order = first_order(base, "grpo", {"lr": 0.01}, back_end="trl")
    result = train(order, attempts, Sources(str, lambda items: {}), tmp_path / "adapter", tmp_path / "left")
    assert result.back_end == "native"  # trl knows no choices
    assert result.steps[0].ratio_mean == pytest.approx(1, abs=1e-4)
    served = EnginePolicy(policy._engine, hf.HFTokenizer.load(base), "chosen", tmp_path / "adapter")
    (later,) = served.sample([msgspec.structs.replace(request, n=400)])
    (earlier,) = policy.sample([msgspec.structs.replace(request, n=400)])
    assert later.texts.count(sampled.texts[0]) > earlier.texts.count(sampled.texts[0])
    spin = msgspec.structs.replace(order, algorithm="spin", hyper={})
    train(spin, attempts, Sources(lambda item: "4", lambda items: {}), tmp_path / "spin", tmp_path / "left")


@pytest.mark.parametrize("model", ["qwen3"], indirect=True)
def test_the_server_chooses_among_allowed_tokens_and_says_what_it_does_not_know(server: Engine) -> None:
    body = {
        "model": server.base,
        "prompt": [[5, 6], [7, 8, 9]],
        "n": 2,
        "max_tokens": 1,
        "seed": 3,
        "logprobs": 0,
        "allowed_token_ids": [9, 12],
        "logprob_token_ids": [9, 12],
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    }
    said = json.loads(server.ask("POST", "/v1/completions", body))["choices"]
    assert [choice["index"] for choice in said] == [0, 1, 2, 3]
    for choice in said:
        (shown,), (token,) = choice["logprobs"]["top_logprobs"], choice["token_ids"]
        assert list(shown) == ["token_id:9", "token_id:12"]
        assert (
            choice["logprobs"]["token_logprobs"] == [shown[f"token_id:{token}"]] and choice["finish_reason"] == "length"
        )
    for changed, why in (
        ({"max_tokens": 2}, "order max_tokens 1"),
        ({"logprob_token_ids": [9]}, "the same logprob_token_ids"),
        ({"return_tokens_as_token_ids": False}, "return_tokens_as_token_ids"),
        ({"allowed_token_ids": [9, 10**6], "logprob_token_ids": [9, 10**6]}, "has no token 1000000"),
        ({"allowed_token_ids": []}, "knows allowed_token_ids"),
    ):
        with pytest.raises(UsageError, match=why):
            server.ask("POST", "/v1/completions", {**body, **changed})


@pytest.mark.parametrize("model", ["qwen3"], indirect=True)
def test_a_server_that_shows_no_chances_of_given_tokens_is_named(
    policy: EnginePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = policy._engine.complete

    def older(name: str, folder: Path | None, body: dict[str, Any]) -> Any:
        found = complete(name, folder, body)
        for choice in found.choices:
            choice.logprobs.top_logprobs = ({"token_id:5": -1.0},)
        return found

    monkeypatch.setattr(policy._engine, "complete", older)
    with pytest.raises(NotHere, match=r"such as vLLM from 0\.31 on"):
        policy.sample([SampleRequest(prompt="task 0", choices=CHOICES)])


def test_adapters_share_one_base_and_are_served_as_they_were_trained(
    base: Path, server: Engine, policy: EnginePolicy, tmp_path: Path
) -> None:
    alone = policy.sample([SampleRequest(prompt="task 0", n=4, max_tokens=6)])
    done = [trained(base, policy, tmp_path / f"adapter{seed}", seed) for seed in range(2)]
    assert done[0].steps[0].ratio_mean == pytest.approx(1, abs=1e-4)
    files = {path.name for path in (tmp_path / "adapter0").iterdir()}
    assert files == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    served = [
        EnginePolicy(server, hf.HFTokenizer.load(base), f"v{seed}", tmp_path / f"adapter{seed}") for seed in range(2)
    ]
    for place in (0, 1, 0):
        canary = done[place].canary[0]
        mine, other, none = (
            each.score(canary.prompt, canary.tokens) for each in (served[place], served[1 - place], policy)
        )
        assert mine == pytest.approx(canary.logprobs, abs=1e-4)
        assert other != pytest.approx(canary.logprobs, abs=1e-3) and none != pytest.approx(canary.logprobs, abs=1e-3)
    again = open_trainee(base, tmp_path / "adapter0", 0, False)
    assert isinstance(again, hf.HFTrainee) and again.score("task 0", done[0].canary[0].tokens) == pytest.approx(
        done[0].canary[0].logprobs, abs=1e-5
    )
    assert policy.sample([SampleRequest(prompt="task 0", n=4, max_tokens=6)]) == alone
    listed = json.loads(server.ask("GET", "/v1/models"))["data"]
    assert {(one["id"], one["parent"]) for one in listed} >= {
        (server.base, None),
        ("v0", server.base),
        ("v1", server.base),
    }
    server.ask(
        "POST", "/v1/unload_lora_adapter", {"lora_name": "v1"}
    )  # as a server that was started again has forgotten it
    assert served[1].score("task 0", (5, 6)) == pytest.approx(again_scored(base, tmp_path / "adapter1"), abs=1e-4)


def again_scored(base: Path, adapter: Path) -> list[float]:
    return hf.HFTrainee(hf.HFModel.load(base), adapter, 0).score("task 0", (5, 6))


def test_an_adapter_that_is_not_this_models_is_refused(
    base: Path, server: Engine, policy: EnginePolicy, tmp_path: Path
) -> None:
    words = hf.HFTokenizer.load(base)
    trained(base, policy, tmp_path / "good")
    with pytest.raises(CheckFailed, match="no readable adapter_config"):
        EnginePolicy(server, words, "none", tmp_path)
    config = json.loads((tmp_path / "good" / "adapter_config.json").read_text())
    shutil.copytree(tmp_path / "good", tmp_path / "other")
    (tmp_path / "other" / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "hf@00"}))
    with pytest.raises(Misconfigured, match="made for the base hf@00"):
        EnginePolicy(server, words, "other", tmp_path / "other")
    tensors = load_file(tmp_path / "good" / "adapter_model.safetensors")
    for name, changed in (
        ("damaged", None),
        ("foreign", {key.replace("layers.1", "layers.9"): value for key, value in tensors.items()}),
        ("small", {key: value[:1].contiguous() for key, value in tensors.items()}),
    ):
        shutil.copytree(tmp_path / "good", tmp_path / name)
        file = tmp_path / name / "adapter_model.safetensors"
        save_file(changed, file) if changed else file.write_bytes(b"junk")
        with pytest.raises(UsageError, match="cannot be loaded"):
            EnginePolicy(server, words, name, tmp_path / name)
    before = policy.score("task 0", (5, 6))
    EnginePolicy(server, words, "good", tmp_path / "good")
    assert policy.score("task 0", (5, 6)) == before


@pytest.mark.parametrize("model", ["qwen3"], indirect=True)
def test_the_server_speaks_as_vllm_does(model: Path, server: Engine) -> None:
    words = hf.HFTokenizer(model, hf.digest_of(model))
    asked = {"model": server.base, "n": 2, "max_tokens": 4, "seed": 7, "return_token_ids": True}
    turns = [{"role": "user", "content": "task 0"}]
    prompt = list(words.encode("task 0"))
    assert json.loads(server.ask("POST", "/tokenize", {"messages": turns}))["tokens"] == prompt
    said = json.loads(
        server.ask("POST", "/v1/completions", {**asked, "prompt": prompt, "logprobs": 1, "prompt_logprobs": 0})
    )
    assert [choice["finish_reason"] for choice in said["choices"]] == ["length", "length"]
    first = said["choices"][0]
    assert (
        first["prompt_token_ids"] == prompt and len(first["token_ids"]) == len(first["logprobs"]["token_logprobs"]) == 4
    )
    assert first["prompt_logprobs"][0] is None and list(first["prompt_logprobs"][1]) == [str(prompt[1])]
    assert said["usage"] == {"prompt_tokens": len(prompt), "completion_tokens": 8, "total_tokens": len(prompt) + 8}
    chat = json.loads(server.ask("POST", "/v1/chat/completions", {**asked, "messages": turns, "logprobs": True}))
    assert chat["prompt_token_ids"] == prompt
    assert [choice["token_ids"] for choice in chat["choices"]] == [choice["token_ids"] for choice in said["choices"]]
    assert chat["choices"][0]["message"] == {"role": "assistant", "content": first["text"]}
    assert [one["logprob"] for one in chat["choices"][0]["logprobs"]["content"]] == first["logprobs"]["token_logprobs"]
    several = json.loads(server.ask("POST", "/v1/completions", {**asked, "prompt": ["task 0", prompt]}))["choices"]
    assert [choice["token_ids"] for choice in several[2:]] == [choice["token_ids"] for choice in said["choices"]]


@pytest.mark.parametrize("model", ["qwen3"], indirect=True)
@pytest.mark.parametrize(
    ("path", "changed", "why"),
    [
        ("/v1/completions", {"top_p": 0.9}, "samples from all of the distribution"),
        ("/v1/completions", {"min_p": 0.1}, "samples from all of the distribution"),
        ("/v1/completions", {"repetition_penalty": 1.1}, "samples from all of the distribution"),
        ("/v1/completions", {"guided_regex": "a"}, "guided_regex"),
        ("/v1/completions", {"stop_token_ids": [5]}, "ends a completion at"),
        ("/v1/completions", {"prompt": [1] * 200}, "the model reads 1 to 127"),
        ("/v1/completions", {"n": 0}, "ask for 1 to 4096"),
        ("/v1/completions", {"model": "else"}, "The model `else` does not exist"),
        ("/v1/unload_lora_adapter", {"lora_name": "else"}, "cannot be found"),
        ("/v2/completions", {}, "There is no POST"),
    ],
)
def test_the_server_refuses_what_it_would_not_honour(
    server: Engine, path: str, changed: dict[str, Any], why: str
) -> None:
    with pytest.raises((UsageError, NotFound), match=why):
        server.ask("POST", path, changed if "lora" in path else {"model": server.base, "prompt": [5, 6], **changed})


@pytest.mark.parametrize("model", ["qwen3"], indirect=True)
def test_a_server_of_another_model_or_at_no_address_is_refused(
    server: Engine, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOLOG_ENGINE_URL", server.url)
    monkeypatch.setenv("VLLM_API_KEY", server._key)
    words = hf.HFTokenizer.load(base)
    assert connect(words).base == server.base
    words.folder, words.model_name = Path("/other"), "/other"
    with pytest.raises(Misconfigured, match="this run is of /other"):
        connect(words)
    monkeypatch.setenv("EVOLOG_ENGINE_URL", "localhost:8000")
    with pytest.raises(Misconfigured, match="expected an address such as http"):
        connect(words)


@pytest.mark.parametrize("model", ["qwen3"], indirect=True)
def test_an_answer_that_ends_says_so_and_holds_its_end(server: Engine) -> None:
    asked = {"model": server.base, "prompt": [5, 6], "n": 64, "max_tokens": 120, "seed": 1, "return_token_ids": True}
    choices = json.loads(server.ask("POST", "/v1/completions", asked))["choices"]
    ended = [choice for choice in choices if choice["finish_reason"] == "stop"]
    assert ended and all(choice["token_ids"][-1] == 3 and 3 not in choice["token_ids"][:-1] for choice in ended)
    assert all(len(choice["token_ids"]) == 120 for choice in choices if choice["finish_reason"] == "length")


@pytest.mark.parametrize("model", ["qwen3"], indirect=True)
def test_a_policy_names_every_setting_of_sampling_and_says_which_answers_were_cut(
    policy: EnginePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: list[dict[str, Any]] = []
    complete = policy._engine.complete

    def kept(name: str, folder: Path | None, body: dict[str, Any]) -> Any:
        bodies.append(body)
        return complete(name, folder, body)

    monkeypatch.setattr(policy._engine, "complete", kept)
    (sampled,) = policy.sample([SampleRequest(prompt="task 0", n=64, max_tokens=60)])
    assert bodies[0].items() >= WHOLE.items()  # or vLLM takes those of the model's generation_config.json
    assert set(sampled.cut) == {False, True}
    assert all(cut == (tokens[-1] != 3) for cut, tokens in zip(sampled.cut, sampled.tokens, strict=True))
    with pytest.raises(UsageError, match="all of the distribution"):
        policy.sample([SampleRequest(prompt="task 0", sampling={"top_p": 0.5})])


@pytest.mark.long
@pytest.mark.parametrize("model", ["qwen3"], indirect=True)
def test_a_server_that_died_is_started_again(base: Path, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    name, asked = blobs.put_folder(base), [SampleRequest(prompt="task 0", max_tokens=4)]
    models = ServedModels(blobs, tmp_path / "work")
    try:
        before = models.sample(name, asked)
        models._engines[name]._child.kill()
        models._engines[name]._child.wait()
        assert models.sample(name, asked) == before
        vocabulary = hf.HFTokenizer.load(base).vocabulary
        assert models.find(f"{name}@uniform").sample(asked)[0].logprobs[0][0] == pytest.approx(-math.log(vocabulary))
    finally:
        models.close()


@pytest.mark.parametrize("model", ["qwen3"], indirect=True)
def test_no_one_without_the_key_is_answered(server: Engine) -> None:
    status, _ = Caller(server.url, "another", "inference server").ask("GET", "/v1/models")
    assert status == 401


@pytest.mark.parametrize("model", ["qwen3"], indirect=True)
def test_checkpointing_gives_the_same_gradient(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient(checkpointing: str) -> "list[torch.Tensor]":
        monkeypatch.setenv("EVOLOG_CHECKPOINTING", checkpointing)
        model = hf.HFTrainee(hf.HFModel.load(base), None, seed=0)
        with torch.no_grad():
            for number, parameter in enumerate(model.adapter):
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
        rollout = Rollout(group="g", item="i", prompt="task 0", tokens=(5, 6, 7), logprobs=(-1.0,) * 3, reward=1.0)
        model.outputs([rollout]).logp.sum().backward()
        assert model.model.get_base_model().model.gradient_checkpointing == (checkpointing == "1")
        return [parameter.grad for parameter in model.adapter if parameter.grad is not None]

    for plain, again in zip(gradient("0"), gradient("1"), strict=True):
        assert torch.allclose(plain, again, atol=1e-6)


def test_of_several_ends_an_answer_takes_the_tokenizers_and_a_model_without_any_is_refused(
    model: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "m")
    file = tmp_path / "m" / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": [1, 3]}))
    assert hf.HFTokenizer(tmp_path / "m", "").encode_completion("41")[-1] == 3
    for name in ("generation_config.json", "tokenizer_config.json", "config.json"):
        held = json.loads((tmp_path / "m" / name).read_text())
        (tmp_path / "m" / name).write_text(
            json.dumps({key: value for key, value in held.items() if not key.startswith("eos_token")})
        )
    with pytest.raises(CheckFailed, match="says no token that ends an answer"):
        hf.write_base(str(tmp_path / "m"), tmp_path / "base")
    (tmp_path / "m" / "config.json").write_text("[]")
    with pytest.raises(CheckFailed, match="cannot be loaded as a causal language model"):
        hf.write_base(str(tmp_path / "m"), tmp_path / "base")


def test_a_host_whose_files_differ_refuses(base: Path, model: Path) -> None:
    assert kind_of(base) == "hf"
    config = (model / "config.json").read_text()
    try:
        (model / "config.json").write_text(config + "\n")
        with pytest.raises(NotHere, match="fetch the same version here"):
            hf.HFModel.load(base)
    finally:
        (model / "config.json").write_text(config)


def test_a_model_that_is_not_to_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match=r"holds no config.json"):
        hf.write_base(str(tmp_path), tmp_path / "base")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NotFound, match="The model nobody/nothing is no folder here and could not be had"):
        hf.write_base("nobody/nothing", tmp_path / "base")


@pytest.mark.long
def test_a_model_that_is_not_there_stops_the_run_before_it_starts(tmp_path: Path) -> None:
    said = CliHarness(tmp_path).evolog(
        "run", str(NUMBERS), "--levers", "weights", "--policy", f"hf:{tmp_path}/no", code=4, HF_HUB_OFFLINE="1"
    )
    one_sentence(said, "no folder here")


@pytest.mark.long
@pytest.mark.parametrize("model", ["qwen3", "llama"], indirect=True)
def test_a_run_by_the_models_path_is_sampled_trained_and_served(model: Path, tmp_path: Path) -> None:
    back_end, signal = {"qwen3": ("native", "scores"), "llama": ("trl", "comparisons")}[model.name]
    task = tmp_path / "letters"
    shutil.copytree(NUMBERS, task)
    (task / "task.py").write_text((task / "task.py").read_text() + f'SIGNAL = "{signal}"\n')
    (task / "verifier.py").write_text(LETTERS)
    place = CliHarness(tmp_path, EVOLOG_TRAINER=back_end)
    limited = ("--budget", "rollouts=200", "--generations", "1")
    place.evolog("run", str(task), "--levers", "weights", "--policy", f"hf:{model}", *limited, "--name", "n", "--json")
    asked = "SELECT DISTINCT policy, back_end, error < 1e-3 AS served FROM adapter_published JOIN adapter_served "
    asked += "USING (run, generation, round) JOIN run_started USING (run)"
    found = json.loads(place.evolog("sql", asked, "--format", "json").out)
    assert found == [{"policy": f"hf:{model}", "back_end": back_end, "served": True}]
    asked = "SELECT count(*) AS calls FROM model_called WHERE adapter <> ''"
    assert json.loads(place.evolog("sql", asked, "--format", "json").out)[0]["calls"] > 0
