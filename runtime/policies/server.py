"""The embedded policy's HTTP endpoint: OpenAI's `POST /v1/completions` and `GET /v1/models`, on loopback, behind a
token.

Two extensions: a body may be a list of requests, which are answered as a list; and `choice_bias` gives a logit bias for
each text in `structured_outputs.choice` (vLLM's field). A field that is not known is refused, since what it asks for
would not be given.
"""

import hmac
import json
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from events.errors import NotHere, TryAgain, UserError
from runtime.policies.client import NOT_HERE
from runtime.policies.interface import WHOLE, Sampled, SampleRequest

BODY_LIMIT = 64 * 1024 * 1024
"""The most bytes of a request's body."""
SampleByModel = Callable[[str, Sequence[SampleRequest]], list[Sampled]]
"""From a model's name and requests to their completions."""


class _Structured(msgspec.Struct):
    choice: tuple[str, ...] = ()


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    prompt: str
    n: int = 1
    temperature: float = 1.0
    seed: int = 0
    max_tokens: int = 64
    structured_outputs: _Structured = msgspec.field(default_factory=_Structured)
    choice_bias: tuple[float, ...] = ()
    plain: bool = False
    """Whether a language model reads the prompt as it stands, outside its chat template."""
    top_p: float = WHOLE["top_p"]
    top_k: float = WHOLE["top_k"]
    min_p: float = WHOLE["min_p"]
    presence_penalty: float = WHOLE["presence_penalty"]
    frequency_penalty: float = WHOLE["frequency_penalty"]
    repetition_penalty: float = WHOLE["repetition_penalty"]
    logprobs: int = 1
    """With token ids, they are always told."""
    return_token_ids: bool = True


_decoder = msgspec.json.Decoder(list[_Body] | _Body)


class PolicyServer(ThreadingHTTPServer):
    """The HTTP server, on a port of 127.0.0.1 (0: any), for callers that have the token.

    `sample` completes requests, and `names` lists the models on offer.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, token: str, sample: SampleByModel, names: Callable[[], list[str]]) -> None:
        self.token, self.sample, self.names = token, sample, names
        super().__init__(("127.0.0.1", port), _Handler)

    def complete(self, body: bytes) -> object:
        """The JSON answer to the body of a completions request; raises UserError for a body that is none, and what
        `sample` raises.
        """
        try:
            decoded = _decoder.decode(body)
        except msgspec.DecodeError as wrong:
            raise UserError(f"the body is no completions request: {wrong}") from wrong
        bodies = decoded if isinstance(decoded, list) else [decoded]
        by_model: dict[str, list[int]] = {}
        for index, request in enumerate(bodies):
            by_model.setdefault(request.model, []).append(index)
        answers: list[object] = [None] * len(bodies)
        for model, indices in by_model.items():
            sampled = self.sample(model, [_request(bodies[index]) for index in indices])
            for index, completions in zip(indices, sampled, strict=True):
                answers[index] = {
                    "object": "text_completion",
                    "model": model,
                    "choices": [
                        {
                            "index": i,
                            "text": text,
                            "token_ids": tokens,
                            "logprobs": {"token_logprobs": logprobs},
                            "finish_reason": "length" if completions.is_cut(i, bodies[index].max_tokens) else "stop",
                        }
                        for i, (text, tokens, logprobs) in enumerate(
                            zip(completions.texts, completions.tokens, completions.logprobs, strict=True)
                        )
                    ],
                    "usage": {
                        "prompt_tokens": completions.prompt_tokens,
                        "completion_tokens": sum(map(len, completions.tokens)),
                    },
                }
        return answers if isinstance(decoded, list) else answers[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: PolicyServer

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._say(
                200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.names()]}
            )
        else:
            self._refuse(404, f"no such path: {self.path}")

    def do_POST(self) -> None:
        given = self.headers.get("Authorization", "").encode(errors="replace")
        if not hmac.compare_digest(given, f"Bearer {self.server.token}".encode()):
            self.close_connection = True  # its body is left unread
            return self._refuse(401, "the token is not this server's")
        size = self.headers.get("Content-Length", "0")
        if not (size.isascii() and size.isdigit()) or len(size) > 12 or int(size) > BODY_LIMIT:
            self.close_connection = True
            return self._refuse(413, f"a body of {size[:20]} bytes, at most {BODY_LIMIT}")
        body = self.rfile.read(int(size))
        if self.path != "/v1/completions":
            return self._refuse(404, f"no such path: {self.path}")
        try:
            self._say(200, self.server.complete(body))
        except TryAgain as wrong:
            self._refuse(503, str(wrong))
        except NotHere as wrong:
            self._refuse(NOT_HERE, str(wrong))
        except (UserError, ValueError) as wrong:
            self._refuse(400, str(wrong))

    def _refuse(self, status: int, message: str) -> None:
        self._say(status, {"error": {"message": message}})

    def _say(self, status: int, answer: object) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are on the event log; there is no second one."""


def _request(body: _Body) -> SampleRequest:
    return SampleRequest(
        prompt=body.prompt,
        choices=body.structured_outputs.choice,
        bias=body.choice_bias,
        plain=body.plain,
        n=body.n,
        temperature=body.temperature,
        seed=body.seed,
        max_tokens=body.max_tokens,
        sampling={name: value for name in WHOLE if (value := getattr(body, name)) != WHOLE[name]},
    )
