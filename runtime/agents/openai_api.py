"""The chat completions API of OpenAI and of all servers that are compatible with it, streamed.

Compatible servers stream tool calls in ways of their own: several under one index, a name in each fragment, ids that
change or lack. `CallFragments` sorts that out. What a server calls its reasoning is given it back as it was, since some
refuse an answer without it.
"""

from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import openai

from events.kinds import CallStatus
from events.secret import Secret
from runtime.agents.conversation import (
    ANSWER_LIMIT,
    IDLE_TIMEOUT,
    AgentMessage,
    Failure,
    ModelRequest,
    ModelTurn,
    ToolCall,
    Usage,
    failure_of,
    require_stream,
)

_STATUS: Mapping[str, CallStatus] = {
    "stop": "answered",
    "tool_calls": "answered",
    "function_call": "answered",
    "end_turn": "answered",
    "eos": "answered",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "refused",
    "refusal": "refused",
    "safety": "refused",
}
"""By finish reason. Any other, such as `abort` or `error`, is a failure of the server."""
_REASONING = ("reasoning_content", "reasoning")
"""The fields in which servers stream a model's reasoning as text."""


def call_model(key: Secret, base_url: str, request: ModelRequest) -> ModelTurn:
    """One answer; raises `Failure` where there is none. Not repeated here."""
    answer = _StreamedAnswer([tool.name for tool in request.tools])
    try:
        with (
            openai.OpenAI(api_key=key.reveal(), base_url=base_url, max_retries=0, timeout=IDLE_TIMEOUT) as client,
            client.chat.completions.with_streaming_response.create(**_body(request, base_url), stream=True) as response,
        ):
            if response.headers.get("content-type", "").startswith("text/html"):
                require_stream(response.headers, response.read().decode(errors="replace"))
            for chunk in response.parse():
                answer.take(chunk.model_dump())
                if answer.size > ANSWER_LIMIT:
                    return answer.turn("length")
    except openai.APIStatusError as wrong:
        raise failure_of(wrong.status_code, wrong.message, wrong.response.headers) from wrong
    except (openai.APIConnectionError, httpx2.HTTPError) as wrong:
        raise Failure("cut", f"the connection was cut ({wrong.__cause__ or wrong})", usage=answer.used) from wrong
    except openai.APIError as wrong:  # within a stream
        raise _failure(wrong, answer.used) from wrong
    except (openai.OpenAIError, ValueError) as wrong:
        raise Failure("cut", f"the answer cannot be read ({wrong})"[:400], usage=answer.used) from wrong
    if not answer.stop:
        raise Failure("cut", "the answer ended in the middle", usage=answer.used)
    if answer.refused:
        return answer.turn("refused")
    if answer.stop not in _STATUS:
        raise Failure("server_error", f"the answer ended with finish_reason {answer.stop!r}"[:400], usage=answer.used)
    return answer.turn(_STATUS[answer.stop])


def _failure(wrong: openai.APIError, usage: Usage) -> Failure:
    """What an error within a stream means: by the status that it names, else a failure of the server."""
    body = wrong.body if isinstance(wrong.body, dict) else {}
    named = [str(body.get("code") or ""), str(wrong.code or "")]
    code = next((int(one) for one in named if one.isdecimal() and 400 <= int(one) < 600), 500)
    failure = failure_of(code, f"the server broke off: {wrong.message}", {})
    if failure.status == "server_error" and failure_of(400, wrong.message, {}).status == "too_long":
        failure.status = "too_long"
    failure.usage = usage
    return failure


class CallFragments:
    """The tool calls of one answer, put together from the fragments in which they are streamed.

    A fragment belongs to the call with its id, else to the present one under its index, else to the last. It begins a
    call of its own where that one is of another tool, or is whole already. `tools` are the names on offer, by which a
    name that comes in pieces is known from a second name.
    """

    def __init__(self, tools: Collection[str]) -> None:
        self._tools = tools
        self._calls: list[dict[str, str]] = []
        self._by_id: dict[str, dict[str, str]] = {}
        self._by_index: dict[int, dict[str, str]] = {}

    def add(self, index: int | None, id: str, name: str, arguments: str) -> None:
        """One fragment; what it does not say is empty."""
        call = self._call(index, id, name, arguments)
        if id:
            call["id"] = call["id"] or id
            self._by_id[id] = call
        if index is not None:
            self._by_index[index] = call
        if name and name != call["name"]:
            call["name"] += name
        call["arguments"] += arguments

    def _call(self, index: int | None, id: str, name: str, arguments: str) -> dict[str, str]:
        known = self._by_id.get(id) if id else None
        present = self._by_index.get(index) if index is not None else (self._calls[-1] if self._calls else None)
        call = known or present
        if call is not None and not self._begins(call, id, name, arguments):
            return call
        self._calls.append({"id": "", "name": "" if name or call is None else call["name"], "arguments": ""})
        return self._calls[-1]

    def _begins(self, call: Mapping[str, str], id: str, name: str, arguments: str) -> bool:
        """Whether a fragment begins another call than the one that it would go on with."""
        if name and call["name"] and name != call["name"]:
            joined = call["name"] + name
            return call["name"] in self._tools or not any(tool.startswith(joined) for tool in self._tools)
        if not _is_whole(call["arguments"]):
            return False
        return bool(arguments.strip()) or bool(name and id and id != call["id"])

    def calls(self) -> tuple[ToolCall, ...]:
        """The calls in their order, each with an id of its own."""
        made: list[ToolCall] = []
        ids: set[str] = set()
        for call in self._calls:
            if not call["arguments"].strip() and made and made[-1].name == call["name"]:
                continue  # a last fragment that says nothing more
            id = call["id"] if call["id"] and call["id"] not in ids else f"call_{len(made)}"
            while id in ids:
                id += "_"
            ids.add(id)
            made.append(ToolCall(id, call["name"], call["arguments"] or "{}"))
        return tuple(made)


def _is_whole(arguments: str) -> bool:
    try:
        msgspec.json.decode(arguments, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False
    return True


class _StreamedAnswer:
    """The part of the answer that has been received so far."""

    def __init__(self, tools: Collection[str] = ()) -> None:
        self.usage: Usage | None = None
        self.stop, self.size, self.refused = "", 0, False
        self._text: list[str] = []
        self._fragments = CallFragments(tools)
        self._reasoning: dict[str, str] = {}
        self._details: list[dict[str, Any]] = []

    @property
    def used(self) -> Usage:
        """As far as known, of an answer that never comes."""
        return self.usage or Usage()

    def take(self, chunk: dict[str, Any]) -> None:
        usage = chunk.get("usage") or {}
        if usage.get("prompt_tokens") or usage.get("completion_tokens"):  # some send zeros, which no call takes
            details = usage.get("prompt_tokens_details") or {}
            self.usage = Usage(
                usage.get("prompt_tokens") or 0,
                usage.get("completion_tokens") or 0,
                details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0,
                details.get("cache_write_tokens") or 0,
            )
        for choice in (chunk.get("choices") or [])[:1]:
            delta = choice.get("delta") or {}
            self.refused |= bool(delta.get("refusal"))
            self._add(delta.get("content") or delta.get("refusal") or "")
            for name in _REASONING:
                if isinstance(piece := delta.get(name), str) and piece:
                    self._reasoning[name] = self._reasoning.get(name, "") + piece
                    self.size += len(piece)
            for detail in delta.get("reasoning_details") or []:
                if isinstance(detail, dict):
                    self._add_detail(detail)
            for piece in delta.get("tool_calls") or []:
                function = piece.get("function") or {}
                arguments = function.get("arguments") or ""
                if not isinstance(arguments, str):  # an object, where its text belongs
                    arguments = msgspec.json.encode(arguments).decode()
                index = piece.get("index")
                self._fragments.add(
                    index if isinstance(index, int) else None,
                    piece.get("id") or "",
                    function.get("name") or "",
                    arguments,
                )
                self.size += len(arguments)
            self.stop = choice.get("finish_reason") or self.stop

    def _add(self, text: str) -> None:
        self._text.append(text)
        self.size += len(text)

    def _add_detail(self, detail: Mapping[str, Any]) -> None:
        """OpenRouter's form of reasoning, whose pieces of one index and type belong together."""
        last = self._details[-1] if self._details else {}
        if (last.get("index"), last.get("type")) != (detail.get("index"), detail.get("type")):
            self._details.append(last := {})
        for name, value in detail.items():
            if name in ("text", "summary", "data") and isinstance(value, str):
                last[name] = (last.get(name) or "") + value
                self.size += len(value)
            elif value is not None:
                last[name] = value

    def turn(self, status: CallStatus) -> ModelTurn:
        calls = self._fragments.calls() if status == "answered" else ()
        reasoning: dict[str, Any] = {
            **self._reasoning,
            **({"reasoning_details": self._details} if self._details else {}),
        }
        private = (reasoning,) if reasoning and status == "answered" else ()
        return ModelTurn(status, "".join(self._text)[:ANSWER_LIMIT], calls, self.usage, private)


def _body(request: ModelRequest, base_url: str) -> dict[str, Any]:
    # OpenAI's newer models refuse max_tokens, and older servers do not know the other
    limit_name = "max_completion_tokens" if (urlsplit(base_url).hostname or "").endswith("openai.com") else "max_tokens"
    tools = [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema},
        }
        for tool in request.tools
    ]
    return {
        "model": request.model,
        limit_name: request.max_tokens,
        "messages": [
            *([{"role": "system", "content": request.system}] if request.system else []),
            *(entry for message in request.messages for entry in _messages(message)),
        ],
        **({"tools": tools} if tools else {}),
        **({"reasoning_effort": request.effort} if request.effort else {}),
        "stream_options": {"include_usage": True},
    }


def _messages(message: AgentMessage) -> list[dict[str, Any]]:
    if message.role == "assistant":
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.calls
        ]
        private = {name: value for fields in message.private for name, value in fields.items()}
        return [
            {
                "role": "assistant",
                "content": message.text or (None if calls else "(nothing)"),
                **({"tool_calls": calls} if calls else {}),
                **private,
            }
        ]
    results = [{"role": "tool", "tool_call_id": result.id, "content": result.text} for result in message.results]
    return [*results, {"role": "user", "content": message.text}] if message.text or not results else results
