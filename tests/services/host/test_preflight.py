"""The question that each language model is asked before anything is started for a run."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from events.errors import Misconfigured, TryAgain, Unavailable, UserError
from runtime.agents.conversation import Failure, ModelRequest, ModelTurn
from runtime.agents.providers import LanguageModel, model_client
from runtime.run.order import RunOrder
from services.host import preflight
from services.host.node import Node, Running
from tasks.loading import Task
from tests.harness.llm_server import Fail, LlmServer, Page, Say, Step

MODEL = LanguageModel("openai", "m")
HERE = {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "OPENAI_API_KEY": "sk-0123456789"}


def said(answer: ModelTurn | Exception | None, environment: Mapping[str, str] = HERE) -> UserError:
    """What is said of an answer; None is one that does not come."""

    def client(request: ModelRequest) -> ModelTurn:
        assert request.model == "m" and request.max_tokens < 1000
        if answer is None:
            threading.Event().wait(5.0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, ModelTurn)
        return answer

    with pytest.raises(UserError) as wrong:
        preflight.ask(MODEL, environment, client, patience=0.05 if answer is None else 5.0, pause=lambda seconds: None)
    return wrong.value


@pytest.mark.parametrize(
    ("status", "reason", "kind", "words"),
    [
        (
            "unauthenticated",
            "HTTP 401: no such key",
            Misconfigured,
            "refuses the key .HTTP 401.*: set OPENAI_API_KEY",
        ),
        ("unauthenticated", "HTTP 403: not yours", Misconfigured, "refuses the key"),
        ("bad_request", "HTTP 404: model `m` is not found", Misconfigured, "knows no such model.*with --agent, or put"),
        ("not_found", "HTTP 404: nothing", Misconfigured, "knows no such model"),
        ("server_error", "HTTP 503: busy", TryAgain, "is overloaded or out of order .HTTP 503.*start again later"),
        ("rate_limited", "HTTP 429: slowly", TryAgain, "the agents then ask again for ten minutes"),
        ("cut", "the connection was cut (Connection refused)", Unavailable, "cannot be reached .*: start it, or put"),
        (
            "bad_request",
            "HTTP 400: tools are not supported",
            Misconfigured,
            "does not answer such a question .HTTP",
        ),
        ("bad_request", "HTTP 403: <html>login</html>", Misconfigured, "answers with a web page .*such as https"),
    ],
)
def test_what_is_wrong_with_a_model_is_one_sentence_with_what_to_do(
    status: Any, reason: str, kind: type[UserError], words: str
) -> None:
    wrong = said(Failure(status, reason))
    assert type(wrong) is kind
    assert str(wrong).startswith("The model openai:m at http://127.0.0.1:1/v1 ")
    with pytest.raises(UserError, match=words):
        raise wrong
    assert "--no-preflight" in str(wrong).lower()


def test_a_server_that_says_nothing_is_given_up() -> None:
    assert "has not answered within 0.05 s" in str(said(None))


def test_a_password_in_an_address_is_not_printed() -> None:
    wrong = said(Failure("cut", "gone"), HERE | {"OPENAI_BASE_URL": "http://me:secretpw@127.0.0.1:1/v1"})
    assert "secretpw" not in str(wrong)


def test_a_server_that_is_overloaded_for_a_moment_is_asked_again() -> None:
    answers: list[ModelTurn | Failure] = [
        Failure("server_error", "HTTP 529: overloaded"),
        ModelTurn("answered", "ready"),
    ]

    def client(request: ModelRequest) -> ModelTurn:
        answer = answers.pop(0)
        if isinstance(answer, Failure):
            raise answer
        return answer

    preflight.ask(MODEL, HERE, client, pause=lambda seconds: None)
    assert answers == []


def test_the_models_of_other_hosts_and_those_that_only_the_services_can_ask_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, task = Node(tmp_path), cast(Task, type("NoJudge", (), {"judge_model": ""}))
    order = RunOrder(task="t", levers="both", seed=0, generations=None, budget="", agent="openai:m")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    up = Running(pid=1, url="nats://127.0.0.1:4222", policy_url="", started="", version="", providers=("openai",))
    elsewhere = Running(pid=1, url="nats://broker.example:4222", policy_url="", started="", version="")
    for running in (up, elsewhere):
        monkeypatch.setattr(node, "running", lambda running=running: running)
        preflight.preflight(order, task, node)
    monkeypatch.setattr(node, "running", lambda: None)
    with pytest.raises(Misconfigured):
        preflight.preflight(order, task, node)


@pytest.mark.slow  # it imports both SDKs
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_real_servers_are_understood_through_both_sdks(provider: str) -> None:
    pytest.importorskip(provider)
    model = LanguageModel(provider, "m")
    cases: list[tuple[Step, str]] = [
        (Say("ready"), ""),
        (Fail(401, "bad key"), "refuses the key"),
        (Fail(404, "no model m"), "knows no such model"),
        (Fail(529, "overloaded"), "is overloaded"),
        (Page(), "answers with a web page"),
    ]
    for step, words in cases:
        with LlmServer([], preflight=step) as server:
            environment = server.environment(provider)
            client = model_client(model, environment)
            if not words:
                preflight.ask(model, environment, client)
                continue
            with pytest.raises(UserError, match=words):
                preflight.ask(model, environment, client, pause=lambda seconds: None)
            assert server.requests == []
    with pytest.raises(Unavailable, match="cannot be reached"):
        preflight.ask(model, environment, client)
