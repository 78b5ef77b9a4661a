"""Asking language models over HTTP: what comes back, what is tried again, what it costs, and what it takes to begin."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.harness.llm_server import Fail, InStream, LlmServer, Say, Step, call

pytest.importorskip("anthropic")
pytest.importorskip("openai")

from events.errors import Misconfigured, UsageError
from runtime.agents import providers
from runtime.agents.conversation import (
    ANSWER_LIMIT,
    AgentMessage,
    ModelRequest,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
    failure_of,
)
from runtime.agents.prices import Price, find_price, load_prices
from runtime.agents.providers import (
    CallResult,
    LanguageModel,
    ask_with_retries,
    model_client,
    model_of,
    providers_with_key,
    require_key,
    without_login,
)

BOTH = pytest.mark.parametrize("provider", ["anthropic", "openai"])
STOP = Tool(
    "stop", "End here.", {"type": "object", "properties": {"reason": {"type": "string"}}, "required": ["reason"]}
)
REQUEST = ModelRequest("m", "You are asked.", (AgentMessage("user", "What now?"),), (STOP,), 1000)


class Asking:
    """What came of asking a scripted server: the pauses that were made, and the requests that it had."""

    def __init__(self, provider: str, steps: Sequence[Step], request: ModelRequest = REQUEST) -> None:
        self.pauses: list[float] = []
        with LlmServer(steps) as server:
            speak = model_client(LanguageModel(provider, "m"), server.environment(provider))
            self.asked: CallResult = ask_with_retries(speak, request, seed=7, pause=self.pauses.append)
        self.requests, self.headers = server.requests, server.headers
        self.turn = self.asked.turn


@BOTH
def test_a_tool_call_comes_back_with_its_tokens(provider: str) -> None:
    asking = Asking(provider, [Say("Well.", (("stop", {"reason": 'é "'}),))])
    (made,) = asking.turn.calls
    assert (asking.turn.status, asking.turn.text, made.name, made.arguments) == (
        "answered",
        "Well.",
        "stop",
        '{"reason": "\\u00e9 \\""}',
    )
    assert asking.asked.usage == Usage(1000, 50) and asking.asked.attempts == 1
    assert asking.requests[0]["model"] == "m" and asking.requests[0]["stream"] is True


@BOTH
def test_the_key_is_in_one_header_and_nowhere_else(provider: str) -> None:
    asking = Asking(provider, [Say("Yes.")])
    (name,) = [name for name, value in asking.headers[0].items() if value.endswith("sk-test-0123456789abcdef")]
    assert name in ("x-api-key", "authorization") and "sk-test" not in str(asking.requests)


@BOTH
def test_a_conversation_is_told_as_the_api_has_it(provider: str) -> None:
    said = AgentMessage(
        "assistant", "Hm.", calls=(ToolCall("id1", "stop", '{"reason": "a"}'), ToolCall("id2", "stop", "not JSON"))
    )
    heard = AgentMessage("user", "Go on.", results=(ToolResult("id1", "one"), ToolResult("id2", "two", failed=True)))
    asking = Asking(
        provider, [Say("Yes.")], ModelRequest("m", "s", (AgentMessage("user", "?"), said, heard), (STOP,), 10)
    )
    (told,) = asking.requests
    if provider == "openai":
        assert [message["role"] for message in told["messages"]] == [
            "system",
            "user",
            "assistant",
            "tool",
            "tool",
            "user",
        ]
        assert told["max_tokens"] == 10 and told["messages"][2]["tool_calls"][1]["function"]["arguments"] == "not JSON"
    else:
        assert [block["type"] for block in told["messages"][1]["content"]] == ["text", "tool_use", "tool_use"]
        assert [block["type"] for block in told["messages"][2]["content"]] == ["tool_result", "tool_result", "text"]
        assert (
            told["messages"][1]["content"][2]["input"] == {} and told["messages"][2]["content"][1]["is_error"] is True
        )


@BOTH
@pytest.mark.parametrize(
    "failing",
    [
        Fail(429),
        Fail(500),
        Fail(503),
        Fail(529),
        InStream(),
        Say("A long answer that never comes to its end.", cut=True),
    ],
    ids=["429", "500", "503", "529", "error-in-stream", "cut"],
)
def test_what_may_pass_is_tried_again(provider: str, failing: Step) -> None:
    asking = Asking(provider, [failing, failing, call("stop", reason="x")])
    assert asking.turn.status == "answered" and asking.asked.attempts == 3
    first, second = asking.pauses
    assert 0.25 <= first <= 0.5 <= second <= 1.0


@BOTH
def test_tokens_of_a_cut_answer_count_where_they_are_known(provider: str) -> None:
    asking = Asking(provider, [Say("A long answer that never comes to its end.", cut=True), Say("Yes.")])
    assert asking.asked.usage.prompt == (2000 if provider == "anthropic" else 1000)


@BOTH
def test_the_server_says_how_long_to_wait(provider: str) -> None:
    assert Asking(provider, [Fail(429, after="3"), Say("Yes.")]).pauses == [3.0]
    hopeless = Asking(provider, [Fail(429, after="3600")])
    assert hopeless.turn.status == "rate_limited" and hopeless.pauses == [] and "429" in hopeless.turn.text


@BOTH
@pytest.mark.parametrize(
    ("failing", "status"),
    [
        (Fail(400, "too many tokens"), "bad_request"),
        (Fail(404, "no such model"), "bad_request"),
        (Fail(401, "invalid x-api-key"), "unauthenticated"),
        (Fail(403), "unauthenticated"),
        (Fail(429, "insufficient_quota"), "unauthenticated"),
    ],
)
def test_what_stays_wrong_is_not_tried_again(provider: str, failing: Fail, status: str) -> None:
    asking = Asking(provider, [failing, Say("never asked")])
    assert (asking.turn.status, asking.asked.attempts, asking.pauses) == (status, 1, [])
    assert failing.message in asking.turn.text


@BOTH
def test_there_is_an_end_to_trying(provider: str) -> None:
    asking = Asking(provider, [Fail(500)] * 20)
    assert (asking.turn.status, asking.asked.attempts) == ("server_error", providers.ATTEMPTS)
    assert sum(asking.pauses) < providers.PATIENCE


def test_a_seed_spreads_the_pauses_the_same_way_again() -> None:
    steps = [Fail(500)] * 3 + [Say("Yes.")]
    assert Asking("openai", steps).pauses == Asking("anthropic", steps).pauses


@BOTH
def test_a_server_that_is_not_there_is_a_cut_connection(provider: str) -> None:
    with LlmServer([]) as server:
        environment = server.environment(provider)
    asked = ask_with_retries(
        model_client(LanguageModel(provider, "m"), environment), REQUEST, seed=0, pause=lambda seconds: None
    )
    assert asked.turn.status == "cut"


@BOTH
def test_a_refusal_is_one(provider: str) -> None:
    turn = Asking(provider, [Say("I will not.", stop="refusal")]).turn
    assert (turn.status, turn.text) == ("refused", "I will not.")


@BOTH
def test_an_answer_without_room_for_its_end_calls_no_tool(provider: str) -> None:
    turn = Asking(provider, [Say("So", (("stop", '{"reason": "hal'),), stop="length")]).turn
    assert (turn.status, turn.text, turn.calls) == ("length", "So", ())


@BOTH
def test_a_huge_answer_is_left_off(provider: str) -> None:
    turn = Asking(provider, [Say("x" * (3 * ANSWER_LIMIT))]).turn
    assert turn.status == "length" and len(turn.text) == ANSWER_LIMIT


@BOTH
def test_arguments_that_are_no_json_come_back_as_they_are(provider: str) -> None:
    (made,) = Asking(provider, [Say(calls=(("stop", '{"reason": oops'),))]).turn.calls
    assert made.arguments == '{"reason": oops'


def test_thoughts_are_given_back_as_they_were() -> None:
    from runtime.agents.anthropic_api import _StreamedAnswer

    heard = _StreamedAnswer()
    heard.take(
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""},
        }
    )
    heard.take({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}})
    heard.take({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s1"}})
    turn = heard.turn("answered")
    assert turn.private == ({"type": "thinking", "thinking": "hm", "signature": "s1"},)
    asking = Asking(
        "anthropic",
        [Say("Yes.")],
        ModelRequest(
            "m", "s", (AgentMessage("user", "?"), AgentMessage("assistant", "a", private=turn.private)), (), 5
        ),
    )
    assert asking.requests[0]["messages"][1]["content"][0] == turn.private[0]


def test_a_thought_that_was_cut_off_is_not_given_back() -> None:
    from runtime.agents.anthropic_api import _StreamedAnswer

    heard = _StreamedAnswer()
    heard.take(
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""},
        }
    )
    heard.take({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}})
    assert heard.turn("length").private == ()


def test_agents_are_named_by_provider_and_model() -> None:
    assert model_of("rules") is None
    assert model_of("anthropic:claude-opus-5") == LanguageModel("anthropic", "claude-opus-5")
    assert model_of("openai:qwen3:8b") == LanguageModel("openai", "qwen3:8b")
    for name in ("gpt-5", "openai:", "rules:x", ""):
        with pytest.raises(UsageError, match="expected rules, anthropic:MODEL or openai:MODEL"):
            model_of(name)


@BOTH
def test_without_a_key_it_is_said_which_variable_to_set(provider: str) -> None:
    with pytest.raises(Misconfigured, match=f"set {provider.upper()}_API_KEY"):
        require_key(LanguageModel(provider, "m"), {})


def test_a_server_on_this_machine_needs_no_key_and_costs_nothing() -> None:
    here = {"OPENAI_BASE_URL": "http://localhost:11434/v1"}
    assert require_key(LanguageModel("openai", "qwen3"), here).reveal() == "none" and providers_with_key(here) == (
        "openai",
    )
    assert providers.price_of_model(LanguageModel("openai", "qwen3"), here) == Price(0, 0)
    assert (
        providers.price_of_model(LanguageModel("openai", "qwen3"), {"OPENAI_BASE_URL": "https://openrouter.ai/api/v1"})
        is None
    )


@BOTH
@pytest.mark.parametrize(
    "url", ["http://[bad", "http://me:pw@[bad", "https://host:port/v1", "localhost:11434", "http://", "ftp://host/v1"]
)
def test_a_url_that_is_none_is_named(provider: str, url: str) -> None:
    environment = {f"{provider.upper()}_BASE_URL": url, f"{provider.upper()}_API_KEY": "k"}
    with pytest.raises(
        Misconfigured, match=rf"{provider.upper()}_BASE_URL is .*; expected a URL such as https"
    ) as wrong:
        require_key(LanguageModel(provider, "m"), environment)
    assert "pw" not in str(wrong.value)
    assert providers_with_key(environment) == ()


def test_a_login_in_a_url_is_not_printed() -> None:
    assert without_login("https://me:p@ss/w@host:8000/v1") == "https://host:8000/v1"
    assert without_login("http://[::1]:8000/v1") == "http://[::1]:8000/v1" and without_login("me:pw@host") == "host"


def test_a_package_that_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Misconfigured, match=r"pip install 'evolog\[agents\]'"):
        require_key(LanguageModel("openai", "m"), {"OPENAI_API_KEY": "k"})


def test_prices_are_by_token_and_a_user_may_set_them(tmp_path: Path) -> None:
    price = find_price(load_prices({}), "anthropic", "claude-opus-4-5-20251101")
    assert price == find_price(load_prices({}), "anthropic", "claude-opus-4-5") == Price(5, 25, 0.5, 6.25)
    assert price.micro_usd(Usage(prompt=1000, completion=100, cached=600, written=200)) == 200 * 5 + 300 + 1250 + 2500
    own = tmp_path / "prices.toml"
    own.write_text('[openai]\n"my-model" = { input = 1, output = 2 }\n')
    assert find_price(load_prices({"EVOLOG_PRICES": str(own)}), "openai", "my-model") == Price(1, 2)
    assert find_price(load_prices({"EVOLOG_PRICES": str(own)}), "openai", "no-such-model") is None


@pytest.mark.parametrize(
    "text",
    [
        "[openai",
        "[openai]\nm = 3",
        "[openai]\nm = { input = -1, output = 2 }",
        "[openai]\nm = { inptu = 1, output = 2 }",
    ],
)
def test_a_price_table_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(Misconfigured, match=r"The price table .*p\.toml"):
        load_prices({"EVOLOG_PRICES": str(tmp_path / "p.toml")})


def test_a_retry_after_that_is_a_date_is_not_counted_on() -> None:
    assert failure_of(429, "", {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}).after is None
    assert failure_of(503, "", {"retry-after-ms": "250"}).after == 0.25
