"""A conversation with a language model, whichever API it goes through."""

import datetime
import email.utils
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
OVERFLOWS = (
    "prompt is too long",
    "context_length_exceeded",
    "maximum context length",
    "exceeds the available context size",
    "exceed_context_size",
    "context window",
    "context length",
    "input token count",
    "input is too long",
    "too many tokens",
    "request too large",
    "request_too_large",
    "string_above_max_length",
    "maximum allowed number of output tokens",
    "max_tokens is too large",
)
"""What servers say of a request that does not fit the model's context, in lower case."""
UNPAID = ("insufficient_quota", "credit balance is too low", "insufficient balance")
"""What servers say where the account has nothing left to spend, whatever status they say it with; in lower case."""


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
    """What only the API that made it knows, such as thoughts with a signature; it is given it back as it was. Blocks of
    Anthropic's are all of an answer's, in their order, its text and calls among them.
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
    effort: str = ""
    """How much the model is to think, in the API's own word; empty: as it does by itself."""


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
    usage: Usage | None = Usage()
    """None where the server does not say what it used."""
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
    said = reason.lower()
    if code in (401, 402, 403) or any(words in said for words in UNPAID):
        return Failure("unauthenticated", message)
    if code == 404:
        return Failure("not_found", message)
    if code == 413 or (code in (400, 422) and any(words in said for words in OVERFLOWS)):
        return Failure("too_long", message)
    if code == 429:
        return Failure("rate_limited", message, _seconds(headers))
    if code in (408, 409) or code >= 500:
        return Failure("server_error", message, _seconds(headers))
    return Failure("bad_request", message)


def require_stream(headers: Mapping[str, str], begins: str) -> None:
    """Raise `Failure` for an answer that is a page and no stream, as a wrong address or a proxy gives."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        page = " ".join(begins.split())[:120]
        raise Failure("not_found", f"the server answered with a page in HTML and no completion, which begins {page!r}")


def _seconds(headers: Mapping[str, str]) -> float | None:
    """How long the server asks to be left alone: in milliseconds, in seconds, or up to an HTTP date by its own
    clock.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            seconds = float(value) * unit
        except ValueError:
            until = _date(value)
            if until is None:
                continue
            seconds = max(0.0, (until - (_date(headers.get("date", "")) or _now())).total_seconds())
        if 0 <= seconds < 86_400:
            return seconds
    return None


def _date(value: str) -> datetime.datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=datetime.UTC)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
