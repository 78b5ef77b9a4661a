"""Anthropic's Messages API as the bridge speaks it: texts and tools, without streams, images or documents.

A policy writes text alone. So tools are described to it, and its calls of them read, in the form that Hermes' models
are taught: a call stands between <tool_call> and </tool_call>, as JSON with `name` and `arguments`. The reply to a call
follows from it: no time and no random number is in it.
"""

import re
from typing import Any, Literal

import msgspec

from runtime.rollouts.openai.dialect import BridgeAnswer, BridgeCall, ChatMessage, call_of_chat, cut_at, decode

PATH = "/v1/messages"
TOOLS = """You may call these tools:
<tools>
{tools}
</tools>
To call one, write <tool_call>{{"name": NAME, "arguments": OBJECT}}</tool_call>."""
_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a body in which a field that is not named here is refused."""


class _Text(_Strict, tag_field="type", tag="text"):
    text: str
    citations: None = None
    cache_control: dict[str, str] | None = None


class _ToolUse(_Strict, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]
    cache_control: dict[str, str] | None = None
    caller: dict[str, str] | None = None


class _ToolResult(_Strict, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: str | list[_Text] = ""
    is_error: bool = False
    cache_control: dict[str, str] | None = None


class _Message(_Strict):
    role: Literal["user", "assistant"]
    content: str | list[_Text | _ToolUse | _ToolResult]


class _Tool(_Strict):
    name: str
    input_schema: dict[str, Any]
    description: str = ""
    type: Literal["custom"] | None = None
    cache_control: dict[str, str] | None = None


class MessagesBody(_Strict):
    """The body of POST /v1/messages. Fields without effect: those of sampling, `metadata` and `tool_choice`."""

    model: str
    max_tokens: int
    messages: list[_Message]
    system: str | list[_Text] = ""
    stop_sequences: list[str] = []
    tools: list[_Tool] = []
    tool_choice: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: dict[str, Any] | None = None
    stream: Literal[False] = False


def read(data: bytes, model: str) -> tuple[MessagesBody, BridgeCall]:
    """A request's body and its call of the bridge's model, whatever name the client has for it; raises `Refusal`."""
    body, canonical = decode(data, MessagesBody)
    system = [_joined(body.system)] if body.system else []
    if body.tools:
        system.append(TOOLS.format(tools="\n".join(_described(tool) for tool in body.tools)))
    chat = [ChatMessage("system", text) for text in system]
    chat += [ChatMessage(message.role, _joined(message.content)) for message in body.messages]
    return body, call_of_chat(chat, body.max_tokens, body.stop_sequences, model, canonical)


def _described(tool: _Tool) -> str:
    described = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return msgspec.json.encode(described).decode()


def _joined(content: "str | list[_Text] | list[_Text | _ToolUse | _ToolResult]") -> str:
    if isinstance(content, str):
        return content
    return "\n".join(map(_as_text, content))


def _as_text(block: _Text | _ToolUse | _ToolResult) -> str:
    match block:
        case _Text():
            return block.text
        case _ToolUse():
            call = msgspec.json.encode({"name": block.name, "arguments": block.input}).decode()
            return f"<tool_call>{call}</tool_call>"
        case _ToolResult():
            return f"<tool_response>{_joined(block.content)}</tool_response>"


def write(body: MessagesBody, call: BridgeCall, answer: BridgeAnswer) -> bytes:
    """The reply to a call."""
    (sample,) = answer.samples
    text, stop = cut_at(sample.texts[0], body.stop_sequences)
    content = _blocks(text, {tool.name for tool in body.tools}, f"toolu_{call.key[:20]}{call.occurrence}")
    if any(block["type"] == "tool_use" for block in content):
        reason = "tool_use"
    elif stop is not None:
        reason = "stop_sequence"
    else:
        reason = "max_tokens" if sample.is_cut(0, call.max_tokens) else "end_turn"
    read_tokens, written = answer.usage
    return msgspec.json.encode(
        {
            "id": f"msg_{call.key[:24]}{call.occurrence}",
            "type": "message",
            "role": "assistant",
            "model": body.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": {"input_tokens": read_tokens, "output_tokens": written},
        }
    )


def _blocks(text: str, tools: set[str], id: str) -> list[dict[str, Any]]:
    """The blocks of a completion: its text, and its calls of these tools."""
    calls = [call for call in map(_call, _CALL.findall(text)) if call and call["name"] in tools]
    if calls:
        text = _CALL.sub("", text).strip()
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text or not calls else []
    for number, call in enumerate(calls):
        blocks.append({"type": "tool_use", "id": f"{id}_{number}", "name": call["name"], "input": call["arguments"]})
    return blocks


def _call(text: str) -> dict[str, Any] | None:
    try:
        call = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    well_formed = isinstance(call.get("name"), str) and isinstance(call.get("arguments"), dict)
    return call if well_formed else None
