"""Anthropic's Messages API, streamed, so that a truncated answer is seen to be one."""

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
)

_STREAMED: Mapping[str, int] = {
    "rate_limit_error": 429,
    "overloaded_error": 529,
    "api_error": 500,
    "timeout_error": 504,
    "authentication_error": 401,
    "permission_error": 403,
}
"""The HTTP status that an error within a stream would have had outside one."""
_STATUS: Mapping[str, CallStatus] = {
    "refusal": "refused",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}


def call_model(key: Secret, base_url: str, request: ModelRequest) -> ModelTurn:
    """One answer; raises `Failure` where there is none. Not repeated here."""
    answer = _StreamedAnswer()
    try:
        with (
            anthropic.Anthropic(api_key=key.reveal(), base_url=base_url, max_retries=0, timeout=IDLE_TIMEOUT) as client,
            client.messages.create(**_body(request), stream=True) as stream,
        ):
            for event in stream:
                answer.take(event.model_dump())
                if answer.size > ANSWER_LIMIT:
                    return answer.turn("length")
    except anthropic.APIStatusError as wrong:
        raise _failure(wrong, answer.usage) from wrong
    except (anthropic.APIConnectionError, httpx2.HTTPError) as wrong:
        raise Failure("cut", f"the connection was cut ({wrong.__cause__ or wrong})", usage=answer.usage) from wrong
    except (anthropic.AnthropicError, ValueError) as wrong:  # a stream that is no stream of messages
        raise Failure("cut", f"the answer cannot be read ({wrong})"[:400], usage=answer.usage) from wrong
    if not answer.ended:
        raise Failure("cut", "the answer ended in the middle", usage=answer.usage)
    return answer.turn(_STATUS.get(answer.stop, "answered"))


class _StreamedAnswer:
    """The part of the answer that has been received so far."""

    def __init__(self) -> None:
        self.usage, self.stop, self.ended, self.size = Usage(), "", False, 0
        self._blocks: dict[int, dict[str, Any]] = {}

    def take(self, event: Mapping[str, Any]) -> None:
        match event:
            case {"type": "message_start", "message": {"usage": dict(usage)}}:
                read, written = usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
                prompt = (usage.get("input_tokens") or 0) + read + written
                self.usage = Usage(prompt, usage.get("output_tokens") or 0, read, written)
            case {"type": "content_block_start", "index": index, "content_block": dict(block)}:
                self._blocks[index] = {**block, "partial": ""}
            case {"type": "content_block_delta", "index": index, "delta": dict(delta)} if index in self._blocks:
                block = self._blocks[index]
                for name in ("text", "partial_json", "thinking", "signature"):
                    if piece := delta.get(name):
                        key = "partial" if name == "partial_json" else name
                        block[key] = (block.get(key) or "") + piece
                        self.size += len(piece)
            case {"type": "message_delta", "delta": dict(delta)}:
                self.stop = delta.get("stop_reason") or self.stop
                completion = (event.get("usage") or {}).get("output_tokens") or self.usage.completion
                self.usage = msgspec.structs.replace(self.usage, completion=completion)
            case {"type": "message_stop"}:
                self.ended = True

    def turn(self, status: CallStatus) -> ModelTurn:
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        text = "".join(block.get("text") or "" for block in blocks if block["type"] == "text")[:ANSWER_LIMIT]
        calls = tuple(
            ToolCall(
                block["id"], block["name"], block["partial"] or msgspec.json.encode(block.get("input") or {}).decode()
            )
            for block in blocks
            if block["type"] == "tool_use"
        )
        private = tuple(
            {name: value for name, value in block.items() if name != "partial" and value is not None}
            for block in blocks
            if block["type"] not in ("text", "tool_use")
        )
        if status != "answered":  # a call may be half said, and a thought without the signature that the API wants back
            calls, private = (), ()
        return ModelTurn(status, text, calls, self.usage, private)


def _body(request: ModelRequest) -> dict[str, Any]:
    contents = [_content(message) for message in request.messages]
    contents[-1][-1]["cache_control"] = {"type": "ephemeral"}  # the next call begins with all that this one says
    return {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "system": request.system,
        "messages": [
            {"role": message.role, "content": content}
            for message, content in zip(request.messages, contents, strict=True)
        ],
        "tools": [
            {"name": tool.name, "description": tool.description, "input_schema": tool.schema} for tool in request.tools
        ],
    }


def _content(message: AgentMessage) -> list[dict[str, Any]]:
    results = [
        {"type": "tool_result", "tool_use_id": result.id, "content": result.text, "is_error": result.failed}
        for result in message.results
    ]
    content: list[dict[str, Any]] = [*(dict(block) for block in message.private), *results]
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
