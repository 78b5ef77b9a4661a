"""Which dialect a request is in, by its path: OpenAI's, Anthropic's or Google's."""

from runtime.rollouts.openai import dialect, generate_content, messages
from runtime.rollouts.openai.dialect import BridgeAnswer, BridgeCall
from runtime.rollouts.openai.generate_content import GenerateContentBody
from runtime.rollouts.openai.messages import MessagesBody

AnyBody = dialect.RequestBody | MessagesBody | GenerateContentBody
KNOWN = (*dialect.BODIES, messages.PATH, "/v1beta/models/NAME:generateContent")
"""The paths of POST requests, as an error message names them."""


def is_known(path: str) -> bool:
    """Whether requests to this path are answered."""
    path = _without_query(path)
    return path in dialect.BODIES or path == messages.PATH or bool(generate_content.PATH.fullmatch(path))


def read(path: str, data: bytes, model: str) -> tuple[AnyBody, BridgeCall]:
    """A request's body and its call, from its bytes; raises `Refusal` for what is not allowed.

    Anthropic's and Google's clients ask by the names of hosted models: each means `model`.
    """
    if path in dialect.BODIES:
        return dialect.read(path, data)
    if _without_query(path) == messages.PATH:
        return messages.read(data, model)
    return generate_content.read(data, model)


def reply_size(body: AnyBody, call: BridgeCall) -> int:
    """Bytes that the answer to a call, and the reply to it, can take while they are made; a rough bound."""
    if isinstance(body, MessagesBody | GenerateContentBody):
        return call.written_tokens * 64
    return dialect.reply_size(body, call)


def write(body: AnyBody, call: BridgeCall, answer: BridgeAnswer) -> tuple[str, bytes]:
    """The reply to a call: its content type and its bytes."""
    match body:
        case MessagesBody():
            return "application/json", messages.write(body, call, answer)
        case GenerateContentBody():
            return "application/json", generate_content.write(body, call, answer)
        case _:
            return dialect.write(body, call, answer)


def _without_query(path: str) -> str:
    return path.partition("?")[0]
