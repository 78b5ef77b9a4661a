"""The client of a server with vLLM's interface, against a server that forgets, breaks off, and answers by the wrong
model.
"""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("peft")

from events.errors import Misconfigured, NotHere, TryAgain, UsageError
from events.weights import Canary
from runtime.blobs.directory import Blobs
from runtime.effects.serve import ServedModels
from runtime.policies import engine
from runtime.policies.engine import ADAPTERS, TRIES, Engine, EnginePolicy
from runtime.policies.interface import Sampled, SampleRequest
from tests.harness.fake_vllm import BASE, FakeVLLM

NAME = "a" * 64
ASK = SampleRequest(prompt="abc", n=2, max_tokens=3)
CANARIES = (Canary("ab", (-0.5, -0.5), (5, 6)), Canary("cd", (-0.5,), (7,)))


class Letters:
    """A tokenizer: a token a letter."""

    name, positions, ends = "hf@fake", 128, frozenset({3})

    def encode(self, prompt: str, plain: bool = False) -> tuple[int, ...]:
        return tuple(map(ord, prompt))


@pytest.fixture
def server() -> Iterator[FakeVLLM]:
    fake = FakeVLLM()
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def client(server: FakeVLLM) -> Engine:
    found = Engine(server.url, "", patience=5.0)
    server.calls.clear()
    return found


def adapter(tmp_path: Path, server: FakeVLLM, name: str = "adapter", logprob: float = -0.5) -> Path:
    """An adapter's folder, whose weights give that log-probability."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": Letters.name}))
    server.logprob_of[str(folder)] = logprob
    return folder


def policy_of(client: Engine, name: str = "", folder: Path | None = None) -> EnginePolicy:
    return EnginePolicy(client, cast(Any, Letters()), name, folder)


def logprob(sampled: list[Sampled]) -> float:
    return sampled[0].logprobs[0][0]


@pytest.mark.parametrize("fault", ["forget", "as the base"])
def test_an_adapter_that_is_not_there_is_loaded_again_and_never_answered_by_the_base(
    server: FakeVLLM, client: Engine, tmp_path: Path, fault: str
) -> None:
    policy = policy_of(client, NAME, adapter(tmp_path, server))
    server.faults.append(fault)
    assert logprob(policy.sample([ASK])) == -0.5
    assert server.loaded() == [NAME, NAME]


def test_a_server_that_answers_by_the_base_alone_gives_no_completion(
    server: FakeVLLM, client: Engine, tmp_path: Path
) -> None:
    policy = policy_of(client, NAME, adapter(tmp_path, server))
    server.faults.extend(["as the base"] * TRIES)
    with pytest.raises(TryAgain, match=f"asked {TRIES} times for {NAME}: it answered by the model '{BASE}'"):
        policy.sample([ASK])


@pytest.mark.parametrize("reason", ["abort", "error", "repetition"])
def test_completions_that_were_broken_off_are_asked_for_again(server: FakeVLLM, client: Engine, reason: str) -> None:
    server.faults.extend([reason, reason, "stop"])
    (sampled,) = policy_of(client).sample([ASK])
    assert sampled.cut == (False, False) and len(server.calls) == 3
    server.faults.extend([reason] * TRIES)
    with pytest.raises(TryAgain, match=rf"broke completions off \({reason}\)"):
        policy_of(client).sample([ASK])


@pytest.mark.parametrize(("reason", "cut"), [("length", True), ("stop", False)])
def test_a_servers_word_says_whether_an_answer_was_cut(
    server: FakeVLLM, client: Engine, reason: str, cut: bool
) -> None:
    server.faults.append(reason)
    assert policy_of(client).sample([ASK])[0].cut == (cut, cut)


def test_a_server_that_fails_is_no_refusal_of_the_call(server: FakeVLLM, client: Engine) -> None:
    server.faults.append(500)
    with pytest.raises(TryAgain, match="failed with 500"):
        policy_of(client).sample([ASK])
    server.faults.append(400)
    with pytest.raises(UsageError, match="refused"):
        policy_of(client).sample([ASK])


def test_a_server_that_starts_again_is_waited_for_and_its_adapters_are_loaded_again(
    server: FakeVLLM, client: Engine, tmp_path: Path
) -> None:
    policy = policy_of(client, NAME, adapter(tmp_path, server))
    server.stop()
    answers: list[list[Sampled]] = []
    calling = threading.Thread(target=lambda: answers.append(policy.sample([ASK])))
    calling.start()
    server.start()
    calling.join()
    assert logprob(answers[0]) == -0.5 and list(server.adapters) == [NAME]


def test_an_adapter_that_cannot_be_loaded_again_is_the_hosts_fault_and_no_refusal(
    server: FakeVLLM, client: Engine, tmp_path: Path
) -> None:
    folder = adapter(tmp_path, server)
    policy = policy_of(client, NAME, folder)
    server.refused.add(str(folder))
    server.faults.append("forget")
    with pytest.raises(NotHere, match="cannot be loaded"):
        policy.sample([ASK])


def test_the_server_holds_so_many_adapters_and_those_of_an_earlier_process_go_first(
    server: FakeVLLM, client: Engine, tmp_path: Path
) -> None:
    names = [f"{number:064x}" for number in range(ADAPTERS + 1)]
    policies = [policy_of(client, name, adapter(tmp_path, server, name)) for name in names[:ADAPTERS]]
    policies[0].sample([ASK])
    policy_of(client, names[ADAPTERS], adapter(tmp_path, server, names[ADAPTERS]))
    assert names[1] not in server.adapters and len(server.adapters) == ADAPTERS
    server.adapters["another's"] = "/elsewhere"
    again = Engine(server.url, "", patience=5.0)
    for name in ("1" * 64, "2" * 64):
        policy_of(again, name, adapter(tmp_path, server, name))
    assert len(server.adapters) == ADAPTERS + 1 and "another's" in server.adapters


def test_an_adapter_of_an_earlier_process_is_loaded_anew(server: FakeVLLM, tmp_path: Path) -> None:
    server.adapters[NAME] = "/of/an/earlier/process"
    policy = policy_of(Engine(server.url, "", patience=5.0), NAME, adapter(tmp_path, server))
    assert logprob(policy.sample([ASK])) == -0.5


@pytest.mark.parametrize("setting", sorted(engine.IMPOSSIBLE))
def test_a_server_that_does_not_read_a_setting_of_sampling_is_refused(server: FakeVLLM, setting: str) -> None:
    server.unread.add(setting)
    with pytest.raises(Misconfigured, match=f"does not read {setting}"):
        Engine(server.url, "", patience=5.0)


def test_a_server_that_refuses_a_setting_of_sampling_is_refused(server: FakeVLLM) -> None:
    server.unknown.add("min_p")
    with pytest.raises(Misconfigured, match=r"not permitted: min_p\. Expected was one token"):
        Engine(server.url, "", patience=5.0)


def served(client: Engine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServedModels:
    """The models of a policy service that has its adapter's canaries from the log."""
    models = ServedModels(Blobs(tmp_path / "blobs"), tmp_path / "work", lambda name: CANARIES if name == NAME else ())
    monkeypatch.setattr(
        models, "find", lambda name: policy_of(client, NAME, folder) if "@" in name else policy_of(client)
    )
    return models


def test_other_weights_under_an_adapters_name_are_found_and_loaded_again(
    server: FakeVLLM, client: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = served(client, adapter(tmp_path, server), tmp_path, monkeypatch)
    assert logprob(models.sample(f"base@{NAME}", [ASK])) == -0.5
    server.adapters[NAME] = str(adapter(tmp_path, server, "other", -0.7))
    assert logprob(models.sample(f"base@{NAME}", [ASK])) == -0.5
    assert server.loaded() == [NAME, NAME]


def test_other_weights_that_stay_give_no_completion(
    server: FakeVLLM, client: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter(tmp_path, server)
    models = served(client, folder, tmp_path, monkeypatch)
    server.logprob_of[str(folder)] = -0.7
    for _ in CANARIES:  # each in turn
        with pytest.raises(NotHere, match=f"adapter {NAME} with other weights .* by 0.2 nats, at most 0.001"):
            models.sample(f"base@{NAME}", [ASK])


def test_a_call_costs_one_prompt_more_and_the_canaries_are_looked_up_once(
    server: FakeVLLM, client: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = served(client, adapter(tmp_path, server), tmp_path, monkeypatch)
    looked_up: list[str] = []

    def find_canaries(name: str) -> tuple[Canary, ...]:
        looked_up.append(name)
        return CANARIES

    monkeypatch.setattr(models, "_find_canaries", find_canaries)
    for _ in range(3):
        models.sample(f"base@{NAME}", [ASK, ASK])
    scored = [body["prompt"] for path, body in server.calls if "logprob_token_ids" in body]
    assert len(scored) == 3 and scored[0] == scored[2] != scored[1] and looked_up == [NAME]


def test_a_few_tokens_of_a_canary_are_scored_and_all_where_these_are_off(
    server: FakeVLLM, client: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tuple(range(10, 26))
    models = served(client, adapter(tmp_path, server), tmp_path, monkeypatch)
    monkeypatch.setattr(models, "_find_canaries", lambda name: (Canary("ab", (-0.5,) * 16, tokens),))
    models.sample(f"base@{NAME}", [ASK])
    assert server.calls[-1][1]["prompt"] == [[97, 98, *tokens[:index]] for index in (0, 4, 8, 12)]
    models.sample(f"base@{NAME}", [ASK])
    assert server.calls[-1][1]["logprob_token_ids"] == [tokens[index] for index in (1, 5, 9, 13)]
    rounded = (-0.5, -0.5, -0.505, *(-0.5,) * 13)  # off by more than the mean of four may be, not of sixteen
    monkeypatch.setattr(models, "_canaries", {NAME: (Canary("ab", rounded, tokens),)})
    models.sample(f"base@{NAME}", [ASK])
    assert len(server.calls[-1][1]["prompt"]) == 16 and server.loaded() == [NAME]


def test_a_server_that_serves_another_base_by_now_gives_no_completion(
    server: FakeVLLM, client: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = served(client, tmp_path, tmp_path, monkeypatch)
    assert logprob(models.sample("base", [ASK])) == -1.0
    server.root = "/models/another"
    with pytest.raises(NotHere, match="no longer serves"):
        models.sample("base", [ASK])
