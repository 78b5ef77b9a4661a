"""Models of Hugging Face's format as policies: tiny random ones in the shapes of Qwen3 and Llama, with a real tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import Place, one_sentence

pytest.importorskip("peft")
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from algorithms.learning import tiny_lm, toys
from algorithms.learning.batch import Rollout
from algorithms.learning.tiny_lm import TinyLM
from events.errors import CheckFailed, NotFound, UsageError
from runtime.policies import hf
from runtime.policies.bases import kind_of, open_policy
from runtime.policies.interface import SampleRequest
from runtime.policies.training import Attempt, Call, Order, Sources, open_trainee, train

NUMBERS = Path(__file__).parent / "numbers"
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


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, as one would have fetched it."""
    folder = tmp_path_factory.mktemp("models") / request.param
    TinyLM.pretrain(toys.traces(0, 500), seed=0, steps=1).save(folder)  # for its tokenizer and chat template
    (folder / "base.json").unlink()
    torch.manual_seed(1)
    kinds = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
    config, model = kinds[request.param]
    size = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    model(config(vocab_size=size, **SHAPE)).save_pretrained(folder)
    return folder


@pytest.fixture
def base(model: Path, tmp_path: Path) -> Path:
    hf.describe(str(model), tmp_path / "base")
    return tmp_path / "base"


def test_a_prompt_is_a_turn_of_the_chat_template_and_an_answer_ends_with_the_models_end(base: Path) -> None:
    found = hf.HFModel.load(base)
    assert found.tokenizer.decode(found.encode("task 0")) == "<|user|>task 0<|assistant|>"
    assert found.encode_completion("41 07")[-1] == 3 and found.decode(found.encode_completion("41 07")) == "41 07"
    with pytest.raises(UsageError, match="reads at most 127; shorten it"):
        found.encode("x" * 500)


def test_it_is_sampled_as_it_scores_and_the_same_in_any_company(base: Path) -> None:
    policy = open_policy(base, None)
    requests = [SampleRequest(prompt=f"task {n}", seed=n, n=2, max_tokens=8) for n in range(3)]
    together = policy.sample(requests)
    assert together == [policy.sample([request])[0] for request in requests]
    plain = hf.HFModel.load(base)
    ids = torch.tensor([[*plain.encode("task 1"), *together[1].tokens[0]]])
    logs = torch.log_softmax(plain.model(ids).logits[0].double(), 1)
    start = len(plain.encode("task 1"))
    expected = [float(logs[start + place - 1, token]) for place, token in enumerate(together[1].tokens[0])]
    assert list(together[1].logprobs[0]) == pytest.approx(expected, abs=1e-4)


def test_it_is_trained_to_an_ordinary_adapter_and_served_as_it_was_trained(base: Path, tmp_path: Path) -> None:
    (sampled,) = open_policy(base, None).sample([SampleRequest(prompt="task 0", n=8, max_tokens=6)])
    attempts = [
        Attempt(
            id=str(place),
            group="g",
            item="i",
            adapter="",
            answer=sampled.texts[place],
            reward=float(place == 0),
            calls=(Call(SampleRequest(prompt="task 0"), sampled.tokens[place], sampled.logprobs[place]),),
        )
        for place in range(8)
    ]
    order = Order(base=base, parent="", parent_folder=None, state=None, algorithm="ppo", hyper={}, seed=0, about={})
    done = train(order, attempts, Sources(str, lambda items: {}), tmp_path / "adapter", tmp_path / "left")
    assert done.steps[0].ratio_mean == pytest.approx(1, abs=1e-4)
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert files == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    served = open_policy(base, tmp_path / "adapter")
    assert served.log_probs("task 0") == pytest.approx(done.canary[0][1], abs=1e-4)
    assert served.log_probs("task 0") != pytest.approx(open_policy(base, None).log_probs("task 0"), abs=1e-4)
    assert open_trainee(base, tmp_path / "adapter", 0, False).log_probs("task 0") == pytest.approx(done.canary[0][1], abs=1e-5)


def test_checkpointing_gives_the_same_gradient(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient(checkpointing: str) -> "list[torch.Tensor]":
        monkeypatch.setenv("EVOLOG_CHECKPOINTING", checkpointing)
        model = hf.Trainee(hf.HFModel.load(base), None, seed=0)
        with torch.no_grad():
            for number, parameter in enumerate(model.adapter):
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
        rollout = Rollout(group="g", item="i", prompt="task 0", tokens=(5, 6, 7), logprobs=(-1.0,) * 3, reward=1.0)
        model.outputs([rollout]).logp.sum().backward()
        assert model.model.get_base_model().model.gradient_checkpointing == (checkpointing == "1")
        return [parameter.grad for parameter in model.adapter if parameter.grad is not None]

    for plain, again in zip(gradient("0"), gradient("1"), strict=True):
        assert torch.allclose(plain, again, atol=1e-6)


def test_a_host_whose_files_differ_refuses(base: Path, model: Path) -> None:
    assert kind_of(base) == "hf"
    config = (model / "config.json").read_text()
    try:
        (model / "config.json").write_text(config + "\n")
        with pytest.raises(CheckFailed, match="fetch the same version here"):
            hf.HFModel.load(base)
    finally:
        (model / "config.json").write_text(config)


def test_a_model_that_is_not_to_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match=r"holds no config.json"):
        hf.describe(str(tmp_path), tmp_path / "base")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NotFound, match="The model nobody/nothing is no folder here and could not be had"):
        hf.describe("nobody/nothing", tmp_path / "base")


def test_a_model_that_is_not_there_stops_the_run_before_it_starts(tmp_path: Path) -> None:
    said = Place(tmp_path).evolog("run", str(NUMBERS), "--policy", f"hf:{tmp_path}/no", code=4, HF_HUB_OFFLINE="1")
    one_sentence(said, "no folder here")


def test_a_run_of_a_model_by_its_path_is_trained_by_trl_and_served(models: Path, tmp_path: Path) -> None:
    base = tiny_lm.cached(toys.traces(0), models / "evolog" / "models")  # an ordinary transformers folder that knows the task's words
    task = tmp_path / "compared"
    shutil.copytree(NUMBERS, task)
    (task / "task.py").write_text((task / "task.py").read_text() + 'SIGNAL = "comparisons"\n')
    place = Place(tmp_path, XDG_CACHE_HOME=str(models), EVOLOG_TRAINER="trl")
    place.evolog("run", str(task), "--levers", "weights", "--policy", f"hf:{base}", "--name", "n", "--json")
    asked = "SELECT DISTINCT policy, algorithm, back_end, error < 1e-3 AS served FROM adapter_published JOIN adapter_served "
    asked += "USING (run, generation, round) JOIN run_started USING (run)"
    found = json.loads(place.evolog("sql", asked, "--format", "json").out)
    assert found == [{"policy": f"hf:{base}", "algorithm": "dpo", "back_end": "trl", "served": True}]
