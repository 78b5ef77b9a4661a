"""The chat completions API of OpenAI and of all servers that are compatible with it, streamed."""

from typing import Any
from urllib.parse import urlsplit

import httpx2
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
)


def call_model(key: Secret, base_url: str, request: ModelRequest) -> ModelTurn:
    """One answer; raises `Failure` where there is none. Not repeated here."""
    answer = _StreamedAnswer()
    try:
        with (
            openai.OpenAI(api_key=key.reveal(), base_url=base_url, max_retries=0, timeout=IDLE_TIMEOUT) as client,
            client.chat.completions.create(**_body(request, base_url), stream=True) as stream,
        ):
            for chunk in stream:
                answer.take(chunk.model_dump())
                if answer.size > ANSWER_LIMIT:
                    return answer.turn("length")
    except openai.APIStatusError as wrong:
        raise failure_of(wrong.status_code, wrong.message, wrong.response.headers) from wrong
    except (openai.APIConnectionError, httpx2.HTTPError) as wrong:
        raise Failure("cut", f"the connection was cut ({wrong.__cause__ or wrong})", usage=answer.usage) from wrong
    except openai.APIError as wrong:  # within a stream
        raise Failure("server_error", f"the server broke off: {wrong.message}"[:400], usage=answer.usage) from wrong
    except (openai.OpenAIError, ValueError) as wrong:
        raise Failure("cut", f"the answer cannot be read ({wrong})"[:400], usage=answer.usage) from wrong
    if not answer.stop:
        raise Failure("cut", "the answer ended in the middle", usage=answer.usage)
    if answer.refused or answer.stop == "content_filter":
        return answer.turn("refused")
    return answer.turn("length" if answer.stop == "length" else "answered")


class _StreamedAnswer:
    """The part of the answer that has been received so far."""

    def __init__(self) -> None:
        self.usage, self.stop, self.size, self.refused = Usage(), "", 0, False
        self._text: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}

    def take(self, chunk: dict[str, Any]) -> None:
        if usage := chunk.get("usage"):
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            self.usage = Usage(usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0, cached)
        for choice in (chunk.get("choices") or [])[:1]:
            delta = choice.get("delta") or {}
            self.refused |= bool(delta.get("refusal"))
            self._add(delta.get("content") or delta.get("refusal") or "")
            for piece in delta.get("tool_calls") or []:
                call = self._calls.setdefault(piece.get("index") or 0, {"id": "", "name": "", "arguments": ""})
                call["id"] = call["id"] or piece.get("id") or ""
                function = piece.get("function") or {}
                call["name"] += function.get("name") or ""
                call["arguments"] += function.get("arguments") or ""
                self.size += len(function.get("arguments") or "")
            self.stop = choice.get("finish_reason") or self.stop

    def _add(self, text: str) -> None:
        self._text.append(text)
        self.size += len(text)

    def turn(self, status: CallStatus) -> ModelTurn:
        calls = tuple(
            ToolCall(call["id"] or f"call_{index}", call["name"], call["arguments"] or "{}")
            for index, call in sorted(self._calls.items())
        )
        return ModelTurn(status, "".join(self._text)[:ANSWER_LIMIT], calls if status == "answered" else (), self.usage)


def _body(request: ModelRequest, base_url: str) -> dict[str, Any]:
    # OpenAI's newer models refuse max_tokens, and older servers do not know the other
    limit_name = "max_completion_tokens" if (urlsplit(base_url).hostname or "").endswith("openai.com") else "max_tokens"
    return {
        "model": request.model,
        limit_name: request.max_tokens,
        "messages": [
            {"role": "system", "content": request.system},
            *(entry for message in request.messages for entry in _messages(message)),
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema},
            }
            for tool in request.tools
        ],
        "stream_options": {"include_usage": True},
    }


def _messages(message: AgentMessage) -> list[dict[str, Any]]:
    if message.role == "assistant":
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.calls
        ]
        return [
            {
                "role": "assistant",
                "content": message.text or (None if calls else "(nothing)"),
                **({"tool_calls": calls} if calls else {}),
            }
        ]
    results = [{"role": "tool", "tool_call_id": result.id, "content": result.text} for result in message.results]
    return [*results, {"role": "user", "content": message.text}] if message.text or not results else results
