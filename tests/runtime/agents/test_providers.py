"""Asking language models over HTTP: what comes back, what is tried again, what it costs, and what it takes to begin."""

import json
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness.llm_server import Fail, InStream, LlmServer, Page, Say, Shape, Step, call
from tests.harness.needs import needs

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
from runtime.agents.openai_api import _StreamedAnswer
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

pytestmark = needs("anthropic")

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
    assert asking.asked.usage and asking.asked.usage.prompt == (2000 if provider == "anthropic" else 1000)


@BOTH
def test_the_server_says_how_long_to_wait(provider: str) -> None:
    assert Asking(provider, [Fail(429, after="3"), Say("Yes.")]).pauses == [3.0]
    hopeless = Asking(provider, [Fail(429, after="3600")])
    assert hopeless.turn.status == "rate_limited" and hopeless.pauses == [] and "429" in hopeless.turn.text


@BOTH
@pytest.mark.parametrize(
    ("failing", "status"),
    [
        (Fail(400, "no such parameter"), "bad_request"),
        (Fail(400, "prompt is too long: 210000 tokens > 200000 maximum"), "too_long"),
        (Fail(400, "This model's maximum context length is 4096 tokens."), "too_long"),
        (Fail(413, "request_too_large"), "too_long"),
        (Fail(404, "no such model"), "not_found"),
        (Fail(400, "Your credit balance is too low to access the API"), "unauthenticated"),
        (Fail(402, "pay"), "unauthenticated"),
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


QUESTION = AgentMessage("user", "?")


def next_request(provider: str, said: Say) -> dict[str, Any]:
    """What a server is sent after this answer, whose calls are answered."""
    turn = Asking(provider, [said]).turn
    answer = AgentMessage("assistant", turn.text, turn.calls, private=turn.private)
    results = tuple(ToolResult(call.id, "done") for call in turn.calls)
    conversation = (QUESTION, answer, AgentMessage("user", "" if results else "Go on.", results=results))
    return Asking(provider, [Say("Yes.")], ModelRequest("m", "s", conversation, (STOP,), 5)).requests[0]


def test_thoughts_are_given_back_in_their_place_with_their_signature() -> None:
    said = Say("Well.", (("stop", {"reason": "a"}), ("stop", {"reason": "b"})), thinking="Hm, what now?")
    first, *others = next_request("anthropic", said)["messages"][1]["content"]
    assert first == {"type": "thinking", "thinking": "Hm, what now?", "signature": "signed:Hm, what "}
    assert [block["type"] for block in others] == ["text", "tool_use", "tool_use"]
    assert [block["input"] for block in others[1:]] == [{"reason": "a"}, {"reason": "b"}]


def test_a_thought_alone_is_given_back_alone() -> None:
    content = next_request("anthropic", Say(thinking="Hm."))["messages"][1]["content"]
    assert [block["type"] for block in content] == ["thinking"]


def test_reasoning_is_given_back_to_the_server_that_gave_it() -> None:
    said = Say("Well.", (("stop", {"reason": "a"}),), thinking="Hm, what now?")
    assert next_request("openai", said)["messages"][2]["reasoning_content"] == "Hm, what now?"
    assert "reasoning_content" not in next_request("openai", Say("Well."))["messages"][2]


def test_a_thought_that_was_cut_off_is_not_given_back() -> None:
    turn = Asking("anthropic", [Say("So", thinking="Hm.", stop="length")]).turn
    assert (turn.status, turn.text, turn.private) == ("length", "So", ())


def test_details_of_reasoning_are_joined_by_their_place() -> None:
    answer = _StreamedAnswer()
    for detail in ({"text": "Hm, "}, {"text": "so."}, {"signature": "s1"}):
        delta = {"reasoning_details": [{"type": "reasoning.text", "index": 0, **detail}]}
        answer.take({"choices": [{"delta": delta, "finish_reason": "stop"}]})
    (private,) = answer.turn("answered").private
    assert private["reasoning_details"] == [
        {"type": "reasoning.text", "index": 0, "text": "Hm, so.", "signature": "s1"}
    ]


def test_a_paused_answer_goes_on_from_where_it_stood() -> None:
    asking = Asking(
        "anthropic",
        [Say("One, ", thinking="Hm.", stop="pause_turn"), Say("two.", (("stop", {"reason": "x"}),), prompt=1100)],
    )
    assert (asking.turn.status, asking.turn.text, asking.turn.calls[0].name) == ("answered", "One, two.", "stop")
    assert asking.asked.usage == Usage(2100, 100) and asking.asked.attempts == 1
    assert [block["type"] for block in asking.requests[1]["messages"][1]["content"]] == ["thinking", "text"]


def test_an_answer_that_is_paused_for_ever_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.agents import anthropic_api

    monkeypatch.setattr(anthropic_api, "PAUSES", 2)
    monkeypatch.setattr(providers, "ATTEMPTS", 1)
    for_ever = Asking("anthropic", [Say("On.", stop="pause_turn")] * 2)
    assert for_ever.turn.status == "server_error" and "pause_turn" in for_ever.turn.text


@BOTH
def test_an_end_that_means_nothing_is_no_answer(provider: str) -> None:
    words = ["error", "abort", "insufficient_system_resource", "something_new"]
    asking = Asking(provider, [*(Say("Half of", stop=word) for word in words), Say("Whole.")])
    assert (asking.turn.text, asking.asked.attempts, asking.asked.usage) == ("Whole.", 5, Usage(5000, 250))


@BOTH
def test_an_end_that_means_nothing_is_named(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "ATTEMPTS", 1)
    turn = Asking(provider, [Say("Half of", stop="abort")]).turn
    assert turn.status == "server_error" and "'abort'" in turn.text


def test_a_pause_that_only_the_other_api_knows_is_no_answer() -> None:
    assert Asking("openai", [Say("Half of", stop="pause_turn"), Say("Whole.")]).turn.text == "Whole."


@pytest.mark.parametrize(("provider", "stop"), [("anthropic", "refusal"), ("openai", "content_filter")])
def test_a_filter_is_a_refusal(provider: str, stop: str) -> None:
    assert Asking(provider, [Say("I", stop=stop)]).turn.status == "refused"


def test_a_context_that_is_full_before_the_answers_end_is_too_long() -> None:
    asking = Asking("anthropic", [Say("So", stop="model_context_window_exceeded")])
    assert asking.turn.status == "too_long" and asking.asked.usage == Usage(1000, 50)


@BOTH
def test_a_page_in_place_of_an_answer_is_an_address_that_is_wrong(provider: str) -> None:
    asking = Asking(provider, [Page("<!doctype html>\n<title>Welcome</title>")])
    assert (asking.turn.status, asking.asked.attempts) == ("not_found", 1)
    assert "a page in HTML" in asking.turn.text and "Welcome" in asking.turn.text


TWO = (("query", {"sql": "SELECT 1"}), ("read_scaffold", {"path": "agent.py"}))
TWICE = (("query", {"sql": "SELECT 1"}), ("query", {"sql": "SELECT 2"}))


@pytest.mark.parametrize("shape", typing.get_args(Shape))
def test_calls_are_told_apart_however_they_are_streamed(shape: Shape) -> None:
    scripts = [TWO, TWICE, TWO[:1]]
    with LlmServer([Say(calls=calls, shape=shape) for calls in scripts]) as server:
        client = model_client(LanguageModel("openai", "m"), server.environment("openai"))
        for calls in scripts:
            turn = client(QUERYING)
            assert [(call.name, json.loads(call.arguments)) for call in turn.calls] == list(calls)
            assert len({call.id for call in turn.calls}) == len(calls) and all(call.id for call in turn.calls)


QUERYING = ModelRequest("m", "s", (QUESTION,), (STOP, *(Tool(name, "", {}) for name, _ in TWO)), 100)


@BOTH
def test_tokens_that_a_server_does_not_count_are_not_none(provider: str) -> None:
    asking = Asking(provider, [Say("Yes.", usage=False)])
    assert asking.turn.status == "answered" and asking.turn.usage is None and asking.asked.usage is None
    if provider == "openai":
        assert Asking(provider, [Say("Yes.", prompt=0, completion=0)]).asked.usage is None


def test_what_is_not_counted_costs_nothing_where_nothing_costs() -> None:
    assert Price(1, 2).micro_usd(None) is None and Price(0, 0).micro_usd(None) == 0


@BOTH
def test_what_the_cache_held_is_counted(provider: str) -> None:
    assert Asking(provider, [Say("Yes.", cached=800)]).asked.usage == Usage(1000, 50, 800)


def test_the_cache_is_told_where_the_next_call_begins() -> None:
    request = next_request("anthropic", Say("Well.", (("stop", {"reason": "a"}),)))
    marked = [block for message in request["messages"] for block in message["content"] if "cache_control" in block]
    assert [block["type"] for block in marked] == ["text", "tool_result"] and "cache_control" in request["system"][0]


def test_effort_and_room_are_told_as_the_api_has_it() -> None:
    from runtime.agents import anthropic_api

    request = msgspec.structs.replace(REQUEST, effort="high", max_tokens=32_000)
    (told,) = Asking("anthropic", [Say("Yes.")], request).requests
    assert told["output_config"] == {"effort": "high"} and told["thinking"] == {"type": "adaptive"}
    assert told["max_tokens"] == 32_000
    for model, thinks in (("claude-opus-4-5-20251101", False), ("claude-opus-4-6", True), ("claude-sonnet-5", True)):
        assert ("thinking" in anthropic_api._body(msgspec.structs.replace(request, model=model))) is thinks
    (told,) = Asking("openai", [Say("Yes.")], request).requests
    assert told["reasoning_effort"] == "high"
    for provider in ("anthropic", "openai"):
        (told,) = Asking(provider, [Say("Yes.")]).requests
        assert not {"output_config", "thinking", "reasoning_effort"} & set(told)


def test_who_follows_is_told_of_every_try() -> None:
    class Told:
        def __init__(self) -> None:
            self.said: list[tuple[Any, ...]] = []

        def report(self, *said: Any) -> None:
            self.said.append(said)

        def clear(self) -> None:
            self.said.append(())

    told = Told()
    with LlmServer([Fail(503, "busy"), Say("Yes.")]) as server:
        client = model_client(LanguageModel("openai", "m"), server.environment("openai"))
        ask_with_retries(client, REQUEST, 0, lambda seconds: None, told, "openai:m")
    assert [said[:1] for said in told.said] == [("an answer of openai:m",)] * 2 + [()]
    _, error, attempt, attempts, retry_at = told.said[1]
    assert "HTTP 503" in error and "busy" in error and (attempt, attempts) == (1, 10) and retry_at > 1.7e9


def test_agents_are_named_by_provider_and_model() -> None:
    assert model_of("rules") is None
    assert model_of("anthropic:claude-opus-5") == LanguageModel("anthropic", "claude-opus-5")
    assert model_of("openai:qwen3:8b") == LanguageModel("openai", "qwen3:8b")
    assert model_of("anthropic:m,effort=max,output=32000") == LanguageModel("anthropic", "m", "max", 32_000)
    for setting in ("effort=huge", "output=10", "output=x", "efort=low", ""):
        with pytest.raises(UsageError, match="expected effort= with one of low, medium"):
            model_of(f"anthropic:m,{setting}")
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


def test_a_retry_after_may_be_a_date_by_the_servers_clock() -> None:
    date = {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:27:30 GMT"}
    assert failure_of(429, "", date).after == 30.0
    assert failure_of(503, "", {**date, "date": "Wed, 21 Oct 2026 07:29:00 GMT"}).after == 0.0
    assert failure_of(503, "", {"retry-after": "Wed, 21 Oct 2020 07:28:00 GMT"}).after == 0.0
    assert failure_of(503, "", {"retry-after": "soon"}).after is None
    assert failure_of(503, "", {"retry-after-ms": "250"}).after == 0.25
