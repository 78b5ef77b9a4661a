"""Google's generateContent, of the Gemini API, as the bridge speaks it: texts alone, without streams or tools.

The reply to a call follows from it: no time and no random number is in it.
"""

import re
from typing import Any, Literal

import msgspec

from runtime.rollouts.openai.dialect import BridgeAnswer, BridgeCall, ChatMessage, call_of_chat, cut_at, decode

PATH = re.compile(r"/v1(?:beta|alpha)?/models/[\w.@/-]{1,200}:generateContent")


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A part of a body in which a field that is not named here is refused."""


class _Part(_Strict, frozen=True):
    text: str
    thought: bool | None = None


class _Content(_Strict, frozen=True):
    parts: list[_Part]
    role: Literal["user", "model"] = "user"


class _Config(_Strict, frozen=True):
    max_output_tokens: int | None = None
    stop_sequences: list[str] = []
    candidate_count: Literal[1] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_mime_type: Literal["text/plain", "application/json"] | None = None
    response_schema: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None
    thinking_config: dict[str, Any] | None = None


class GenerateContentBody(_Strict, frozen=True):
    """The body of POST /v1beta/models/NAME:generateContent. Without effect: what sampling, schemas and safety say."""

    contents: list[_Content]
    generation_config: _Config = _Config()
    system_instruction: _Content | None = None
    safety_settings: list[dict[str, str]] = []


def read(data: bytes, model: str) -> tuple[GenerateContentBody, BridgeCall]:
    """A request's body and its call of the bridge's model, whatever name the path has for it; raises `Refusal`."""
    body, canonical = decode(data, GenerateContentBody)
    config = body.generation_config
    chat = [ChatMessage("system", _joined(body.system_instruction))] if body.system_instruction else []
    roles: dict[str, Literal["user", "assistant"]] = {"user": "user", "model": "assistant"}
    chat += [ChatMessage(roles[content.role], _joined(content)) for content in body.contents]
    return body, call_of_chat(chat, config.max_output_tokens, config.stop_sequences, model, canonical)


def _joined(content: _Content) -> str:
    return "\n".join(part.text for part in content.parts)


def write(body: GenerateContentBody, call: BridgeCall, answer: BridgeAnswer) -> bytes:
    """The reply to a call."""
    (sample,) = answer.samples
    text, stop = cut_at(sample.texts[0], body.generation_config.stop_sequences)
    reason = "MAX_TOKENS" if stop is None and sample.is_cut(0, call.max_tokens) else "STOP"
    read_tokens, written = answer.usage
    return msgspec.json.encode(
        {
            "candidates": [
                {"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": reason, "index": 0}
            ],
            "usageMetadata": {
                "promptTokenCount": read_tokens,
                "candidatesTokenCount": written,
                "totalTokenCount": read_tokens + written,
            },
            "modelVersion": call.model,
            "responseId": f"{call.key[:24]}{call.occurrence}",
        }
    )
