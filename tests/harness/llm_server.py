"""A real HTTP server that speaks Anthropic's Messages and OpenAI's chat completions from a script, streamed
or whole.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple

from services.host.preflight import SYSTEM

PATHS = {"/v1/messages": "anthropic", "/v1/chat/completions": "openai"}


Shape = Literal["openai", "one index", "no index", "repeated name", "changing ids", "no ids", "split name", "whole"]
"""The ways in which servers that are compatible with OpenAI stream tool calls.

`openai`: the name and id once, then the arguments in pieces, each call under an index of its own.
`one index`: each call whole, all under index 0 (Ollama); `whole`: each call whole, under its index.
`no index`: as `openai`, without an index. `no ids`: as `openai`, without an id, and an index of 0 throughout.
`repeated name`: the name and the id in each fragment. `changing ids`: the name in each fragment, with another id.
`split name`: the name comes in two pieces.
"""


class Say(NamedTuple):
    """An answer. `calls` are (tool, arguments); arguments that are a string are sent as they are, JSON or not."""

    text: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    stop: str = ""
    """`refusal` or `length`, which stand for the provider's own word, or any other word as it is; by default what fits
    the answer.
    """
    cut: bool = False
    """Whether the connection is cut in the middle."""
    prompt: int = 1000
    completion: int = 50
    cached: int = 0
    """Tokens of the prompt that the server's cache held."""
    usage: bool = True
    """Whether the server says what it used."""
    thinking: str = ""
    """What the model thinks before it answers: Anthropic's block with a signature, else `reasoning_content`."""
    shape: Shape = "openai"
    """How a compatible server streams its tool calls."""
    delay: float = 0.0
    """Seconds before the answer begins."""


class Fail(NamedTuple):
    """An HTTP error."""

    status: int
    message: str = "scripted"
    after: str | None = None
    """The Retry-After header."""


class InStream(NamedTuple):
    """An error after the stream has begun."""

    kind: str = "overloaded_error"


class Page(NamedTuple):
    """A page in HTML, as a wrong address or a proxy gives, with status 200."""

    text: str = "<!doctype html><title>Welcome</title>"


class Stall(NamedTuple):
    """No answer, until whoever asked has gone; `LlmServer.stalled` is set meanwhile."""


Step = Say | Fail | InStream | Page | Stall


def call(tool: str, **arguments: Any) -> Say:
    """One tool call."""
    return Say(calls=((tool, arguments),))


class LlmServer:
    """Runs while it is entered. Steps come one for each request, from one list or from a list for each provider.

    The question that comes before a run is answered by `preflight`, and is none of the requests.
    """

    KEY = "sk-test-0123456789abcdef"

    def __init__(
        self, script: Sequence[Step] | Mapping[str, Sequence[Step]], *, preflight: Step = Say("ready")
    ) -> None:
        lists = script if isinstance(script, Mapping) else dict.fromkeys(PATHS.values(), script)
        self._steps = {provider: iter(steps) for provider, steps in lists.items()}
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.stalled = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"  # an answer ends where the connection does

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                provider = PATHS[self.path.split("?")[0]]
                if SYSTEM in json.dumps(body):
                    assert not isinstance(preflight, Stall)
                    _answer(self, provider, preflight, body)
                    return
                with server._lock:
                    server.requests.append(body)
                    server.headers.append({name.lower(): value for name, value in self.headers.items()})
                    step = next(server._steps[provider], Fail(400, "the script is at its end"))
                if isinstance(step, Stall):
                    server.stalled.set()
                    self.connection.settimeout(60)
                    self.connection.recv(1)
                else:
                    _answer(self, provider, step, body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "LlmServer":
        self._thread.start()
        return self

    def __exit__(self, *wrong: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, provider: str) -> dict[str, str]:
        """What a client of this server has in its environment."""
        suffix = "/v1" if provider == "openai" else ""
        return {
            f"{provider.upper()}_BASE_URL": self.url + suffix,
            f"{provider.upper()}_API_KEY": self.KEY,
        }


def _answer(
    handler: BaseHTTPRequestHandler, provider: str, step: Say | Fail | InStream | Page, body: dict[str, Any]
) -> None:
    if isinstance(step, Page):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html; charset=utf-8")
        handler.end_headers()
        handler.wfile.write(step.text.encode())
        return
    if isinstance(step, Say) and step.delay:
        time.sleep(step.delay)
    if isinstance(step, Fail):
        error = {"type": "error", "error": {"type": "scripted", "message": step.message}}
        payload = json.dumps(error).encode()
        handler.send_response(step.status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(payload)))
        if step.after is not None:
            handler.send_header("Retry-After", step.after)
        handler.end_headers()
        handler.wfile.write(payload)
        return
    handler.send_response(200)
    streamed = bool(body.get("stream"))
    handler.send_header("Content-Type", "text/event-stream" if streamed else "application/json")
    handler.end_headers()
    events = list((_anthropic if provider == "anthropic" else _openai)(step))
    if not streamed:
        handler.wfile.write(json.dumps(_whole(provider, step)).encode())
        return
    if isinstance(step, Say) and step.cut:
        events = events[: max(2, len(events) // 2)]
    try:
        for event in events:
            handler.wfile.write(event)
    except (BrokenPipeError, ConnectionResetError):  # a client that has heard enough
        pass


def _pieces(text: str) -> list[str]:
    width = max(7, len(text) // 50)
    return [text[at : at + width] for at in range(0, len(text), width)]


def _written(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _anthropic(step: Say | InStream) -> Iterator[bytes]:
    def event(kind: str, **data: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()

    said = step if isinstance(step, Say) else Say()
    message: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}
    usage = {
        "input_tokens": said.prompt - said.cached,
        "output_tokens": 1,
        **({"cache_read_input_tokens": said.cached, "cache_creation_input_tokens": 0} if said.cached else {}),
    }
    message |= {"content": [], "stop_reason": None, **({"usage": usage} if said.usage else {})}
    yield event("message_start", message=message)
    yield event("ping")
    if isinstance(step, InStream):
        yield event("error", error={"type": step.kind, "message": "scripted"})
        return
    index = 0
    if step.thinking:
        yield event("content_block_start", index=index, content_block=_thought("", ""))
        for piece in _pieces(step.thinking):
            yield event("content_block_delta", index=index, delta={"type": "thinking_delta", "thinking": piece})
        signed = {"type": "signature_delta", "signature": f"signed:{step.thinking[:9]}"}
        yield event("content_block_delta", index=index, delta=signed)
        yield event("content_block_stop", index=index)
        index += 1
    if step.text:
        yield event("content_block_start", index=index, content_block={"type": "text", "text": ""})
        for piece in _pieces(step.text):
            yield event("content_block_delta", index=index, delta={"type": "text_delta", "text": piece})
        yield event("content_block_stop", index=index)
        index += 1
    for tool, arguments in step.calls:
        yield event(
            "content_block_start",
            index=index,
            content_block={"type": "tool_use", "id": f"toolu_{index}", "name": tool, "input": {}},
        )
        for piece in _pieces(_written(arguments)):
            yield event("content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": piece})
        yield event("content_block_stop", index=index)
        index += 1
    words = {"refusal": "refusal", "length": "max_tokens", "": "tool_use" if step.calls else "end_turn"}
    stop = words.get(step.stop, step.stop)
    yield event(
        "message_delta",
        delta={"stop_reason": stop, "stop_sequence": None},
        **({"usage": {"output_tokens": step.completion}} if step.usage else {}),
    )
    yield event("message_stop")


def _thought(thinking: str, signature: str) -> dict[str, str]:
    return {"type": "thinking", "thinking": thinking, "signature": signature}


def _openai(step: Say | InStream) -> Iterator[bytes]:
    def chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
        data = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": choices, **more}
        return f"data: {json.dumps(data)}\n\n".encode()

    yield chunk({"role": "assistant", "content": ""})
    if isinstance(step, InStream):
        yield f"data: {json.dumps({'error': {'type': step.kind, 'message': 'scripted'}})}\n\n".encode()
        return
    for piece in _pieces(step.thinking):
        yield chunk({"reasoning_content": piece})
    for piece in _pieces(step.text):
        yield chunk({"refusal": piece} if step.stop == "refusal" else {"content": piece})
    for index, (tool, arguments) in enumerate(step.calls):
        for fragment in _fragments(step.shape, index, tool, _written(arguments)):
            yield chunk({"tool_calls": [fragment]})
    words = {"refusal": "stop", "length": "length", "": "tool_calls" if step.calls else "stop"}
    yield chunk({}, words.get(step.stop, step.stop))
    usage = {
        "prompt_tokens": step.prompt,
        "completion_tokens": step.completion,
        "total_tokens": step.prompt + step.completion,
        **({"prompt_tokens_details": {"cached_tokens": step.cached}} if step.cached else {}),
    }
    if step.usage:
        yield chunk(None, usage=usage)
    yield b"data: [DONE]\n\n"


def _fragments(shape: Shape, number: int, tool: str, arguments: str) -> Iterator[dict[str, Any]]:
    """One tool call as a server streams it."""

    def fragment(at: int | None, id: str, name: str, text: str) -> dict[str, Any]:
        function = {**({"name": name} if name else {}), "arguments": text}
        index = {} if at is None else {"index": at}
        return {**index, **({"id": id} if id else {}), "type": "function", "function": function}

    id, pieces = f"call_{number}", _pieces(arguments)
    match shape:
        case "one index" | "whole":
            yield fragment(0 if shape == "one index" else number, id, tool, arguments)
        case "repeated name":
            yield from (fragment(number, id, tool, piece) for piece in ["", *pieces, ""])
        case "changing ids":
            yield from (fragment(number, f"{id}-{at}", tool, piece) for at, piece in enumerate(["", *pieces, ""]))
        case "split name":
            yield from (
                fragment(number, id if not at else "", piece, "") for at, piece in enumerate((tool[:3], tool[3:]))
            )
            yield from (fragment(number, "", "", piece) for piece in pieces)
        case "openai" | "no index" | "no ids":
            at = {"openai": number, "no index": None, "no ids": 0}[shape]
            yield fragment(at, "" if shape == "no ids" else id, tool, "")
            yield from (fragment(at, "", "", piece) for piece in pieces)


def _whole(provider: str, step: Say | InStream) -> dict[str, Any]:
    assert isinstance(step, Say)
    if provider == "anthropic":
        content = [{"type": "text", "text": step.text}] if step.text else []
        calls = [
            {"type": "tool_use", "id": f"toolu_{n}", "name": tool, "input": given}
            for n, (tool, given) in enumerate(step.calls)
        ]
        usage = {"input_tokens": step.prompt, "output_tokens": step.completion}
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None}
        return head | {"content": content + calls, "stop_reason": "tool_use" if calls else "end_turn", "usage": usage}
    functions = [
        {"id": f"call_{n}", "type": "function", "function": {"name": tool, "arguments": _written(given)}}
        for n, (tool, given) in enumerate(step.calls)
    ]
    message = {"role": "assistant", "content": step.text or None, **({"tool_calls": functions} if functions else {})}
    usage = {
        "prompt_tokens": step.prompt,
        "completion_tokens": step.completion,
        "total_tokens": step.prompt + step.completion,
    }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if functions else "stop"}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
