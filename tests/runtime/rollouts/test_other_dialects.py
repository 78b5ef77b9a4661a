"""The bridge in Anthropic's and Google's dialects: what is asked, what comes back, and what is refused."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.policies.interface import Sampled
from runtime.rollouts.openai.dialect import BridgeAnswer, BridgeCall
from runtime.rollouts.openai.server import Bridge
from tests.harness.openai_server import TOKEN, answered, post, request, serving

MESSAGES, GENERATE = "/v1/messages", "/v1beta/models/gemini-3:generateContent"
TOOL = {"name": "bash", "description": "Run a command.", "input_schema": {"type": "object"}}
HELLO = [{"role": "user", "content": "hello"}]


class Says:
    """A policy that always says the same, in as many tokens as are named."""

    def __init__(self) -> None:
        self.text, self.tokens, self.calls = "olleh", 5, list[BridgeCall]()
        self.cut: tuple[bool, ...] = ()

    def __call__(self, call: BridgeCall) -> BridgeAnswer:
        self.calls.append(call)
        tokens, logprobs = tuple(range(self.tokens)), (-0.5,) * self.tokens
        return BridgeAnswer(samples=(Sampled((self.text,), (tokens,), (logprobs,), 7, self.cut),))


@pytest.fixture
def says() -> Says:
    return Says()


@pytest.fixture
def served(tmp_path: Path, says: Says) -> Iterator[Bridge]:
    with serving(tmp_path, says) as made:
        yield made


def message(served: Bridge, **fields: Any) -> tuple[int, Any]:
    status, _, reply = post(served.path, {"model": "claude-9", "max_tokens": 9, "messages": HELLO, **fields}, MESSAGES)
    return status, reply


def test_a_message_is_answered_whatever_the_model_is_called(served: Bridge, says: Says) -> None:
    status, reply = message(served)
    assert status == 200 and reply["content"] == [{"type": "text", "text": "olleh"}]
    assert (reply["model"], reply["role"], reply["stop_reason"]) == ("claude-9", "assistant", "end_turn")
    assert reply["usage"] == {"input_tokens": 7, "output_tokens": 5}
    (call,) = says.calls
    assert (call.model, call.prompts, call.max_tokens, call.kind) == ("policy", ("hello",), 9, "chat")


def test_a_tool_is_described_and_its_call_is_read(served: Bridge, says: Says) -> None:
    says.text = 'I look.\n<tool_call>{"name": "bash", "arguments": {"command": "ls"}}</tool_call>'
    status, reply = message(served, tools=[TOOL], system="Be brief.")
    assert status == 200 and reply["stop_reason"] == "tool_use"
    assert reply["content"][0] == {"type": "text", "text": "I look."}
    use = reply["content"][1]
    assert (use["type"], use["name"], use["input"]) == ("tool_use", "bash", {"command": "ls"})
    prompt = says.calls[0].prompts[0]
    assert prompt.startswith("system: Be brief.\n") and '"name":"bash"' in prompt and prompt.endswith("assistant:")
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "a.txt"}
    message(served, tools=[TOOL], messages=[*HELLO, {"role": "assistant", "content": reply["content"]},
                                            {"role": "user", "content": [result]}])  # fmt: skip
    assert "<tool_response>a.txt</tool_response>" in says.calls[1].prompts[0]
    assert '<tool_call>{"name":"bash","arguments":{"command":"ls"}}</tool_call>' in says.calls[1].prompts[0]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
        "<tool_call>{no json}</tool_call>",
        '<tool_call>{"name": "bash", "arguments": "ls"}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
    ],
)
def test_what_is_no_call_of_a_tool_on_offer_is_text(served: Bridge, says: Says, text: str) -> None:
    says.text = text
    _, reply = message(served, tools=[TOOL])
    assert reply["content"] == [{"type": "text", "text": text}] and reply["stop_reason"] == "end_turn"


def test_a_message_ends_at_a_stop_sequence_or_at_its_length(served: Bridge, says: Says) -> None:
    _, reply = message(served, stop_sequences=["zz", "le"])
    assert (reply["content"][0]["text"], reply["stop_reason"], reply["stop_sequence"]) == ("ol", "stop_sequence", "le")
    says.tokens = 9
    assert message(served)[1]["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(("cut", "words"), [(True, ("max_tokens", "MAX_TOKENS")), (False, ("end_turn", "STOP"))])
def test_a_policys_word_on_whether_it_was_cut_counts_and_not_the_number_of_tokens(
    served: Bridge, says: Says, cut: bool, words: tuple[str, str]
) -> None:
    says.cut, says.tokens = (cut,), 5 if cut else 9
    assert message(served)[1]["stop_reason"] == words[0]
    status, _, reply = post(served.path, {"contents": CONTENTS, "generationConfig": {"maxOutputTokens": 9}}, GENERATE)
    assert status == 200 and reply["candidates"][0]["finishReason"] == words[1]


def test_content_is_generated(served: Bridge, says: Says) -> None:
    body = {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [{"role": "user", "parts": [{"text": "a"}, {"text": "b"}]}],
        "generationConfig": {"maxOutputTokens": 9, "stopSequences": ["h"]},
    }
    status, _, reply = post(served.path, body, GENERATE)
    (candidate,) = reply["candidates"]
    assert status == 200 and candidate["content"] == {"parts": [{"text": "olle"}], "role": "model"}
    assert candidate["finishReason"] == "STOP"
    assert reply["usageMetadata"] == {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}
    assert says.calls[0].prompts == ("system: Be brief.\nuser: a\nb\nassistant:",)
    assert says.calls[0].model == "policy"


CONTENTS = [{"parts": [{"text": "a"}]}]
REFUSED: dict[str, tuple[str, Any]] = {
    "an image": (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}),
    "a server's tool": (MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    "a stream": (MESSAGES, {"stream": True}),
    "remote tools": (MESSAGES, {"mcp_servers": []}),
    "no messages": (MESSAGES, {"messages": []}),
    "too many tokens": (MESSAGES, {"max_tokens": 8193}),
    "a file": (GENERATE, {"contents": [{"parts": [{"fileData": {"fileUri": "gs://a"}}]}]}),
    "a search": (GENERATE, {"contents": CONTENTS, "tools": [{"googleSearch": {}}]}),
    "two candidates": (GENERATE, {"contents": CONTENTS, "generationConfig": {"candidateCount": 2}}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_spoken_is_refused_and_costs_nothing(served: Bridge, says: Says, what: str) -> None:
    route, body = REFUSED[what]
    base = {"model": "m", "max_tokens": 9, "messages": HELLO} if route == MESSAGES else {}
    status, _, reply = post(served.path, {**base, **body}, route)
    assert status == 400 and reply["error"]["message"] and not says.calls


@pytest.mark.parametrize("header", ["x-api-key", "x-goog-api-key"])
@pytest.mark.parametrize(("key", "status"), [(TOKEN, 200), ("another", 401)])
def test_each_client_says_its_key_in_its_own_way(served: Bridge, header: str, key: str, status: int) -> None:
    sent = request({"model": "m", "max_tokens": 9, "messages": HELLO}, MESSAGES)
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(str(served.path))
        end.sendall(sent.replace(f"Authorization: Bearer {TOKEN}".encode(), f"{header}: {key}".encode()))
        assert answered(end)[0] == status


def test_paths_beside_the_known_ones_are_none(served: Bridge, says: Says) -> None:
    for route in ("/v1beta/models/m:streamGenerateContent", "/v1/messages/batches", "/v1beta/models/:generateContent"):
        assert post(served.path, {"contents": CONTENTS}, route)[0] == 404
    assert json.loads(json.dumps(says.calls)) == []
