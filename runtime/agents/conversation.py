"""A conversation with a language model, whichever API it goes through."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from events.kinds import CallStatus

REPEATED: tuple[CallStatus, ...] = ("rate_limited", "server_error", "cut")
"""Failures after which another try may succeed."""
ANSWER_LIMIT = 1_000_000
"""Characters of one answer; a longer one is left off there."""
IDLE_TIMEOUT = 180.0
"""Seconds that a server may go without a word before it counts as cut off."""


class ToolCall(msgspec.Struct, frozen=True):
    """A tool call as the model wrote it: `arguments` should be JSON."""

    id: str
    name: str
    arguments: str


class ToolResult(msgspec.Struct, frozen=True):
    """What a tool call gave."""

    id: str
    text: str
    failed: bool = False


class AgentMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of either side."""

    role: Literal["user", "assistant"]
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()
    returned: bool = False
    """Whether this gives an ending back to the model, which may happen once."""
    private: tuple[dict[str, Any], ...] = ()
    """Blocks that only the API that made them knows, such as thoughts with a signature; it is given them back as they
    were.
    """


class Tool(msgspec.Struct, frozen=True):
    """A tool on offer; `schema` is JSON Schema of its arguments."""

    name: str
    description: str
    schema: dict[str, Any]


class ModelRequest(msgspec.Struct, frozen=True):
    """All that a model is told in one call."""

    model: str
    system: str
    messages: tuple[AgentMessage, ...]
    tools: tuple[Tool, ...]
    max_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Tokens; `cached` were read from the server's cache and `written` to it, and both are part of `prompt`."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    written: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.cached + other.cached,
            self.written + other.written,
        )


class ModelTurn(msgspec.Struct, frozen=True):
    """What the model answered; where `status` is a failure, `text` says what went wrong."""

    status: CallStatus
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    private: tuple[dict[str, Any], ...] = ()


class Failure(Exception):
    """There is no answer.

    `after` is how many seconds the server asks to be left alone, `usage` what it may charge all the same.
    """

    def __init__(self, status: CallStatus, reason: str, after: float | None = None, usage: Usage = Usage()) -> None:
        super().__init__(reason)
        self.status, self.after, self.usage = status, after, usage


def failure_of(code: int, reason: str, headers: Mapping[str, str]) -> Failure:
    """What an HTTP status means for the caller."""
    message = f"HTTP {code}: {' '.join(reason.split())[:400]}"
    if code in (401, 403) or "insufficient_quota" in reason:
        return Failure("unauthenticated", message)
    if code == 429:
        return Failure("rate_limited", message, _seconds(headers))
    if code in (408, 409) or code >= 500:
        return Failure("server_error", message, _seconds(headers))
    return Failure("bad_request", message)


def _seconds(headers: Mapping[str, str]) -> float | None:
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:  # not there, or a date
            continue
        if 0 <= seconds < 86_400:
            return seconds
    return None
