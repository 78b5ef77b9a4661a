"""OpenAI's API as the bridge speaks it: what may be asked for, field by field, and how the answers are written.

A field that is not named here is refused. So nothing passes that makes a provider reach out: no web search, no remote
tool, no file, no address. `temperature`, `top_p` and the penalties are accepted and have no effect: the run says how
the policy samples, and that is recorded with the call. Replies hold no time and no random number, so the same answer to
the same call is the same bytes.
"""

import base64
import hashlib
import math
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import msgspec

from events.errors import UsageError
from runtime.policies.interface import Sampled

MAX_COMPLETIONS = 64
MAX_TOKENS = 8192
MAX_CALL_TOKENS = MAX_COMPLETIONS * MAX_TOKENS
"""Tokens of all completions of one call together."""
MAX_MESSAGES = 10_000
MAX_MARKS = 1_000_000
"""Commas, brackets and braces of a body: values without end would take 30 times its bytes, and long to read."""
MAX_TEXTS = 256
MAX_CHOICES = 10_000
MAX_STOPS = 16
MAX_CHARACTERS = 200_000
"""Characters of one prompt, and of all choices of one call together."""
DEFAULT_MAX_TOKENS = 256
"""Tokens of a completion where the client names no number."""
DEFAULT_DIMENSIONS = 256
MAX_DIMENSIONS = 2048


class BridgeCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call over the bridge. `key` and `occurrence` name it, in whatever order a scaffold's threads arrive."""

    key: str
    """sha256 of the canonical body."""
    occurrence: int = 0
    """How often the attempt has made the same call before."""
    kind: Literal["chat", "completion", "embedding"]
    model: str
    """The alias that the client named."""
    prompts: tuple[str, ...]
    n: int = 1
    max_tokens: int = 0
    choices: tuple[str, ...] = ()
    bias: tuple[float, ...] = ()
    body: bytes = b""
    """The canonical body: the request's JSON, its keys in order."""
    dimensions: int = DEFAULT_DIMENSIONS

    @property
    def written_tokens(self) -> int:
        """The most tokens that its completions can hold together."""
        return len(self.prompts) * self.n * self.max_tokens

    @property
    def reserved_tokens(self) -> int:
        """The most tokens that it can read and write: no token is less than a byte of what is read."""
        return sum(len(prompt.encode()) for prompt in self.prompts) + self.written_tokens


class BridgeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a call: completions of each prompt, or a vector of each text."""

    samples: tuple[Sampled, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()
    prompt_tokens: int = 0
    """Tokens that an embedding read; those of completions are in `samples`."""
    micro_usd: int = 0

    @property
    def usage(self) -> tuple[int, int]:
        """Tokens read, and tokens written."""
        return (
            self.prompt_tokens + sum(sample.prompt_tokens for sample in self.samples),
            sum(len(tokens) for sample in self.samples for tokens in sample.tokens),
        )


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a body in which a field that is not named here is refused."""


class _TextPart(_Strict):
    type: Literal["text"]
    text: str


class _FunctionCall(_Strict):
    name: str
    arguments: str


class _ToolCall(_Strict):
    id: str
    type: Literal["function"]
    function: _FunctionCall


class ChatMessage(_Strict):
    """One turn of a chat. The fields that must be null are those that clients copy from an earlier answer."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_TextPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[_ToolCall] | None = None
    refusal: None = None
    audio: None = None
    annotations: None = None
    function_call: None = None


class _Function(_Strict):
    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(_Strict):
    type: Literal["function"]
    function: _Function


class _FunctionName(_Strict):
    name: str


class _ToolChoice(_Strict):
    type: Literal["function"]
    function: _FunctionName


class _ResponseFormat(_Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class _StreamOptions(_Strict):
    include_usage: bool = False


class _StructuredOutputs(_Strict):
    choice: tuple[str, ...]


class _Sampling(_Strict):
    model: str
    n: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    user: str | None = None
    structured_outputs: _StructuredOutputs | None = None
    choice_bias: tuple[float, ...] = ()
    """What is added to the logit of each of `structured_outputs.choice` (a field of vLLM's)."""


class ChatBody(_Sampling, kw_only=True):
    """The body of POST /v1/chat/completions."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Literal[0, 1] | None = None
    response_format: _ResponseFormat | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None


class CompletionBody(_Sampling, kw_only=True):
    """The body of POST /v1/completions."""

    prompt: str | list[str]
    logprobs: Literal[0, 1] | None = None


class EmbeddingBody(_Strict):
    """The body of POST /v1/embeddings."""

    model: str
    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


RequestBody = ChatBody | CompletionBody | EmbeddingBody
BODIES: dict[str, type[RequestBody]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/embeddings": EmbeddingBody,
}


class Refusal(UsageError):
    """A request that is refused as it stands; `param` names the field."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.param, self.reason = param, code


def read(path: str, data: bytes) -> tuple[RequestBody, BridgeCall]:
    """A request's body and its call, from its bytes; raises `Refusal` for a field or a value that is not allowed."""
    body, canonical = decode(data, BODIES[path])
    if isinstance(body, ChatBody):
        _check_messages(len(body.messages))
    key = hashlib.sha256(canonical).hexdigest()
    match body:
        case EmbeddingBody():
            texts = _texts(body.input, "input")
            dimensions = _in_range("dimensions", body.dimensions, DEFAULT_DIMENSIONS, MAX_DIMENSIONS)
            return body, BridgeCall(
                key=key, kind="embedding", model=body.model, prompts=texts, n=0, body=canonical, dimensions=dimensions
            )
        case ChatBody():
            prompts = _texts(render(body.messages), "messages")
            named_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        case CompletionBody():
            prompts, named_tokens = _texts(body.prompt, "prompt"), body.max_tokens
    stops = (body.stop,) if isinstance(body.stop, str) else body.stop or ()
    if len(stops) > MAX_STOPS:
        raise Refusal(f"{len(stops)} stop sequences, at most {MAX_STOPS}.", "stop")
    choices = body.structured_outputs.choice if body.structured_outputs else ()
    if len(choices) > MAX_CHOICES:
        raise Refusal(f"{len(choices)} choices, at most {MAX_CHOICES}.", "structured_outputs")
    if sum(map(len, choices)) > MAX_CHARACTERS:
        raise Refusal(
            f"Choices of {sum(map(len, choices))} characters together, at most {MAX_CHARACTERS}.", "structured_outputs"
        )
    if body.choice_bias and len(body.choice_bias) != len(choices):
        raise Refusal(
            f"{len(body.choice_bias)} biases for {len(choices)} choices; give one for each, or none.", "choice_bias"
        )
    call = BridgeCall(
        key=key,
        kind="chat" if isinstance(body, ChatBody) else "completion",
        model=body.model,
        prompts=prompts,
        n=_in_range("n", body.n, 1, MAX_COMPLETIONS),
        max_tokens=_in_range("max_tokens", named_tokens, DEFAULT_MAX_TOKENS, MAX_TOKENS),
        choices=choices,
        bias=body.choice_bias,
        body=canonical,
    )
    if call.written_tokens > MAX_CALL_TOKENS:
        raise Refusal(
            f"The call may write {call.written_tokens} tokens, at most {MAX_CALL_TOKENS}; name fewer prompts, a "
            "smaller n or smaller max_tokens.",
            "max_tokens",
        )
    return body, call


B = TypeVar("B")


def decode(data: bytes, kind: type[B]) -> tuple[B, bytes]:
    """A request's body, and its JSON with the keys in order; raises `Refusal`."""
    if (marks := sum(map(data.count, (b",", b"[", b"{")))) > MAX_MARKS:
        raise Refusal(f"The body holds {marks} commas, brackets and braces, at most {MAX_MARKS}.")
    try:
        body = msgspec.json.decode(data, type=kind)
        return body, msgspec.json.encode(msgspec.json.decode(data), order="deterministic")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        named = re.search(r"unknown field `([^`]*)`", str(wrong)) or re.search(r"`\$\.?([^`]*)`", str(wrong))
        code = "unknown_field" if "unknown field" in str(wrong) else "invalid_request"
        raise Refusal(f"The body is refused: {wrong}.", named[1] if named else None, code) from wrong


def call_of_chat(
    chat: Sequence["ChatMessage"], max_tokens: int | None, stops: Sequence[str], model: str, canonical: bytes
) -> BridgeCall:
    """The call for one completion of a chat in another dialect; raises `Refusal`."""
    _check_messages(len(chat))
    if len(stops) > MAX_STOPS:
        raise Refusal(f"{len(stops)} stop sequences, at most {MAX_STOPS}.", "stop")
    return BridgeCall(
        key=hashlib.sha256(canonical).hexdigest(),
        kind="chat",
        model=model,
        prompts=_texts(render(chat), "messages"),
        max_tokens=_in_range("max_tokens", max_tokens, DEFAULT_MAX_TOKENS, MAX_TOKENS),
        body=canonical,
    )


def cut_at(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """A text up to the first of these sequences that occurs in it, and that sequence; None where none does."""
    cuts = [(at, stop) for stop in stops if stop and (at := text.find(stop)) >= 0]
    at, stop = min(cuts, default=(len(text), None))
    return text[:at], stop


def _check_messages(count: int) -> None:
    if not 1 <= count <= MAX_MESSAGES:
        raise Refusal(f"A chat of {count} messages; give 1 to {MAX_MESSAGES}.", "messages")


def reply_size(body: RequestBody, call: BridgeCall) -> int:
    """Bytes that the answer to a call, and the reply to it, can take while they are made; a rough bound."""
    if isinstance(body, EmbeddingBody):
        return len(call.prompts) * call.dimensions * 64
    return call.written_tokens * (512 if body.logprobs is not None else 64)


def render(messages: Sequence[ChatMessage]) -> str:
    """A chat as one prompt: a single user message as it is; otherwise a line `role: content` for each, and `assistant:`
    to go on from.
    """
    if len(messages) == 1 and messages[0].role == "user":
        return _content(messages[0])
    return "\n".join([*(f"{message.role}: {_content(message)}" for message in messages), "assistant:"])


def _content(message: ChatMessage) -> str:
    content = message.content
    parts = [content] if isinstance(content, str) else [part.text for part in content or ()]
    return "\n".join(parts + [f"{call.function.name}({call.function.arguments})" for call in message.tool_calls or ()])


def _texts(value: str | list[str], param: str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise Refusal(f"{param} holds {len(texts)} texts; give 1 to {MAX_TEXTS}.", param)
    if (longest := max(map(len, texts))) > MAX_CHARACTERS:
        raise Refusal(f"{param} holds a text of {longest} characters, at most {MAX_CHARACTERS}.", param)
    return texts


def _in_range(param: str, number: int | None, default: int, largest: int) -> int:
    value = default if number is None else number
    if not 1 <= value <= largest:
        raise Refusal(f"{param} is {value}; give 1 to {largest}.", param)
    return value


def hashed_ngrams(text: str, dimensions: int = DEFAULT_DIMENSIONS) -> tuple[float, ...]:
    """The text's embedding, made without a model: counts of its character 1-, 2- and 3-grams, by the hashing trick,
    scaled to length 1.

    N-grams are lower case. The CRC-32 of one gives the index and the sign of its count. An empty text is all zeros.
    """
    counts = [0] * dimensions
    text = text.lower()
    for size in (1, 2, 3):
        for at in range(len(text) - size + 1):
            hashed = zlib.crc32(text[at : at + size].encode())
            counts[hashed % dimensions] += 1 if hashed >> 31 else -1
    norm = math.sqrt(sum(count * count for count in counts)) or 1.0
    return tuple(count / norm for count in counts)


def write(body: RequestBody, call: BridgeCall, answer: BridgeAnswer) -> tuple[str, bytes]:
    """The reply to a call: its content type and its bytes."""
    read_tokens, written = answer.usage
    usage = {"prompt_tokens": read_tokens, "total_tokens": read_tokens + written}
    if isinstance(body, EmbeddingBody):
        data = [
            {"object": "embedding", "index": index, "embedding": _vector(vector, body.encoding_format)}
            for index, vector in enumerate(answer.vectors)
        ]
        return "application/json", _json({"object": "list", "data": data, "model": body.model, "usage": usage})
    usage["completion_tokens"] = written
    chat = isinstance(body, ChatBody)
    choices = [
        _choice(
            body,
            len(sample.texts) * prompt_index + index,
            text,
            tokens,
            logprobs,
            sample.is_cut(index, call.max_tokens),
        )
        for prompt_index, sample in enumerate(answer.samples)
        for index, (text, tokens, logprobs) in enumerate(zip(sample.texts, sample.tokens, sample.logprobs, strict=True))
    ]
    name = f"{'chatcmpl' if chat else 'cmpl'}-{call.key[:24]}-{call.occurrence}"
    head = {"id": name, "object": "chat.completion" if chat else "text_completion", "created": 0, "model": body.model}
    if not body.stream:
        return "application/json", _json({**head, "choices": choices, "usage": usage})
    if chat:
        head["object"] = "chat.completion.chunk"
        for choice in choices:
            choice["delta"] = choice.pop("message")
    chunks: list[object] = [{**head, "choices": [choice]} for choice in choices]
    if body.stream_options and body.stream_options.include_usage:
        chunks.append({**head, "choices": [], "usage": usage})
    return "text/event-stream", b"".join(b"data: " + line + b"\n\n" for line in [*map(_json, chunks), b"[DONE]"])


def _choice(
    body: ChatBody | CompletionBody,
    index: int,
    text: str,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    cut: bool,
) -> dict[str, Any]:
    """One completion as the reply has it. A token's name is `token_id:N`, as vLLM can name it, since the policy gives
    ids alone.

    A stop sequence shortens the text, and not what was sampled and recorded.
    """
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    text, stop = cut_at(text, stops)
    names = [f"token_id:{token}" for token in tokens]
    finish = "length" if cut and stop is None else "stop"
    choice: dict[str, Any] = {"index": index, "finish_reason": finish, "logprobs": None}
    if isinstance(body, CompletionBody):
        choice["text"] = text
        if body.logprobs is not None:
            choice["logprobs"] = {
                "tokens": names,
                "token_logprobs": logprobs,
                "top_logprobs": None,
                "text_offset": None,
            }
        return choice
    choice["message"] = {"role": "assistant", "content": text}
    if body.logprobs:
        choice["logprobs"] = {
            "content": [
                {"token": name, "logprob": value, "bytes": None, "top_logprobs": []}
                for name, value in zip(names, logprobs, strict=True)
            ]
        }
    return choice


def _vector(vector: Sequence[float], encoding: str) -> object:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if encoding == "base64" else vector


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
