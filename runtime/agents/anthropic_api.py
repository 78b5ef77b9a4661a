"""Anthropic's Messages API, streamed, so that a truncated answer is seen to be one.

An answer's blocks are kept as they came, and given back in that order: thoughts belong to the calls that they led to,
and the API refuses an answer that lacks them.
"""

import re
from collections.abc import Mapping
from typing import Any

import anthropic
import httpx2
import msgspec

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

PAUSES = 8
"""How often an answer may be paused by the server, which is told to go on."""
_STREAMED: Mapping[str, int] = {
    "rate_limit_error": 429,
    "overloaded_error": 529,
    "api_error": 500,
    "timeout_error": 504,
    "authentication_error": 401,
    "permission_error": 403,
    "billing_error": 402,
    "not_found_error": 404,
    "request_too_large": 413,
}
"""The HTTP status that an error within a stream would have had outside one."""
_STATUS: Mapping[str, CallStatus] = {
    "end_turn": "answered",
    "stop_sequence": "answered",
    "tool_use": "answered",
    "refusal": "refused",
    "max_tokens": "length",
}
_PAUSED, _FULL = "pause_turn", "model_context_window_exceeded"
_EPHEMERAL = {"type": "ephemeral"}
_WITHOUT_ADAPTIVE = re.compile(r"claude-(2|3|(opus|sonnet|haiku)-4(-[015])?(-\d{8})?$)")
"""Models that know no adaptive thinking."""


def call_model(key: Secret, base_url: str, request: ModelRequest) -> ModelTurn:
    """One answer; raises `Failure` where there is none. Not repeated here, but for an answer that the server pauses."""
    body, answer = _body(request), _StreamedAnswer()
    try:
        with anthropic.Anthropic(
            api_key=key.reveal(), base_url=base_url, max_retries=0, timeout=IDLE_TIMEOUT
        ) as client:
            for left in reversed(range(PAUSES)):
                with client.messages.with_streaming_response.create(**body, stream=True) as response:
                    if response.headers.get("content-type", "").startswith("text/html"):
                        require_stream(response.headers, response.read().decode(errors="replace"))
                    for event in response.parse():
                        answer.take(event.model_dump())
                        if answer.size > ANSWER_LIMIT:
                            return answer.turn("length")
                if answer.stop != _PAUSED or not answer.ended or not left:
                    break
                body = {**body, "messages": [*body["messages"], {"role": "assistant", "content": answer.resume()}]}
    except anthropic.APIStatusError as wrong:
        raise _failure(wrong, answer.used) from wrong
    except (anthropic.APIConnectionError, httpx2.HTTPError) as wrong:
        raise Failure("cut", f"the connection was cut ({wrong.__cause__ or wrong})", usage=answer.used) from wrong
    except (anthropic.AnthropicError, ValueError) as wrong:  # a stream that is no stream of messages
        raise Failure("cut", f"the answer cannot be read ({wrong})"[:400], usage=answer.used) from wrong
    if not answer.ended:
        raise Failure("cut", "the answer ended in the middle", usage=answer.used)
    if answer.stop == _FULL:
        raise Failure("too_long", "the model's context was full before the answer's end", usage=answer.used)
    if answer.stop not in _STATUS:
        raise Failure("server_error", f"the answer ended with stop_reason {answer.stop!r}"[:400], usage=answer.used)
    return answer.turn(_STATUS[answer.stop])


class _StreamedAnswer:
    """The part of the answer that has been received so far, of one message or of those that a pause divides."""

    def __init__(self) -> None:
        self.stop, self.ended, self.size = "", False, 0
        self._refusal = ""
        self._before = Usage()
        """Of the messages before a pause."""
        self._usage: dict[str, int] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._first = 0
        """The place of the present message's first block."""

    def take(self, event: Mapping[str, Any]) -> None:
        match event:
            case {"type": "message_start", "message": dict(message)}:
                self._count(message.get("usage"))
            case {"type": "content_block_start", "index": int(index), "content_block": dict(block)}:
                self._blocks[self._first + index] = {**block, "partial": ""}
            case {"type": "content_block_delta", "index": int(index), "delta": dict(delta)} if (
                self._first + index in self._blocks
            ):
                block = self._blocks[self._first + index]
                for name in ("text", "partial_json", "thinking", "signature"):
                    if piece := delta.get(name):
                        key = "partial" if name == "partial_json" else name
                        block[key] = (block.get(key) or "") + piece
                        self.size += len(piece)
            case {"type": "message_delta", "delta": dict(delta)}:
                self.stop = delta.get("stop_reason") or self.stop
                details = delta.get("stop_details") or {}
                self._refusal = str(details.get("explanation") or details.get("category") or "")
                self._count(event.get("usage"))
            case {"type": "message_stop"}:
                self.ended = True

    def _count(self, usage: Mapping[str, Any] | None) -> None:
        """Counts are of the whole message so far, and may come at its beginning, its end, or both."""
        for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            if count := (usage or {}).get(name):
                self._usage[name] = count

    @property
    def usage(self) -> Usage | None:
        """What the server says that it used; None where it does not."""
        if not self._usage:
            return None
        read, written = (self._usage.get(f"cache_{name}_input_tokens", 0) for name in ("read", "creation"))
        prompt = self._usage.get("input_tokens", 0) + read + written
        return self._before + Usage(prompt, self._usage.get("output_tokens", 0), read, written)

    @property
    def used(self) -> Usage:
        """As far as known, of an answer that never comes."""
        return self.usage or self._before

    def resume(self) -> list[dict[str, Any]]:
        """The paused message's blocks, which the server goes on from, in a message of its own."""
        self._before, self._usage = self.used, {}
        blocks = [_plain(self._blocks[index]) for index in sorted(self._blocks) if index >= self._first]
        self._first = max(self._blocks, default=-1) + 1
        self.stop, self.ended = "", False
        return blocks

    def turn(self, status: CallStatus) -> ModelTurn:
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        text = "".join(block.get("text") or "" for block in blocks if block["type"] == "text")[:ANSWER_LIMIT]
        if status != "answered":  # a call may be half said, and a thought without the signature that the API wants back
            return ModelTurn(status, text or self._refusal, (), self.usage)
        calls = tuple(ToolCall(block["id"], block["name"], _said(block)) for block in blocks if _is_call(block))
        whole = tuple(_plain(block) for block in blocks)
        thought = any(block["type"] not in ("text", "tool_use") for block in blocks)
        return ModelTurn(status, text, calls, self.usage, whole if thought else ())


def _is_call(block: Mapping[str, Any]) -> bool:
    return bool(block["type"] == "tool_use")


def _said(block: Mapping[str, Any]) -> str:
    """A call's arguments as the model wrote them."""
    return block["partial"] or msgspec.json.encode(block.get("input") or {}).decode()


def _plain(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block as it is given back."""
    plain = {name: value for name, value in block.items() if name != "partial" and value is not None}
    return {**plain, "input": _input(_said(block))} if "input" in plain else plain


def _body(request: ModelRequest) -> dict[str, Any]:
    contents = [_content(message) for message in request.messages]
    for content in contents[::-2][:2]:  # the user's; the next call begins with all that this one says
        content[-1] = {**content[-1], "cache_control": _EPHEMERAL}
    system = {"type": "text", "text": request.system, "cache_control": _EPHEMERAL}
    thinks = request.effort and not _WITHOUT_ADAPTIVE.match(request.model)
    return {
        "model": request.model,
        "max_tokens": request.max_tokens,
        **({"system": [system]} if request.system else {}),
        "messages": [
            {"role": message.role, "content": content}
            for message, content in zip(request.messages, contents, strict=True)
        ],
        **(
            {
                "tools": [
                    {"name": tool.name, "description": tool.description, "input_schema": tool.schema}
                    for tool in request.tools
                ]
            }
            if request.tools
            else {}
        ),
        **({"output_config": {"effort": request.effort}} if request.effort else {}),
        **({"thinking": {"type": "adaptive"}} if thinks else {}),
    }


def _content(message: AgentMessage) -> list[dict[str, Any]]:
    results = [
        {"type": "tool_result", "tool_use_id": result.id, "content": result.text, "is_error": result.failed}
        for result in message.results
    ]
    private = [dict(block) for block in message.private]
    if any(block["type"] in ("text", "tool_use") for block in private) or (
        private and not (message.text.strip() or message.calls)
    ):
        return [block for block in private if block["type"] != "text" or block["text"].strip()]
    content: list[dict[str, Any]] = [*private, *results]
    if message.text.strip() or not (message.results or message.calls):
        content.append({"type": "text", "text": message.text.strip() or "(nothing)"})
    calls = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)}
        for call in message.calls
    ]
    return [*content, *calls]


def _input(arguments: str) -> dict[str, Any]:
    """The arguments as an object, which the API insists on; those that are none are quoted in the error that answers
    them.
    """
    try:
        return msgspec.json.decode(arguments, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def _failure(wrong: anthropic.APIStatusError, usage: Usage) -> Failure:
    code = wrong.status_code
    match wrong.body:
        case {"error": {"type": str(kind)}} if code < 400:
            code = _STREAMED.get(kind, 400)
    failure = failure_of(code, wrong.message, wrong.response.headers)
    failure.usage = usage
    return failure
