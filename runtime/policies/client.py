"""The client of the policy's HTTP endpoint: OpenAI's completions, with a list of requests in one body."""

import http.client
import itertools
import json
import os
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from events.errors import Misconfigured, NotHere, TryAgain, UserError
from runtime.policies.interface import Sampled, SampleRequest
from runtime.status import UNHEARD, Waits

PATIENCE = 120.0
"""Seconds that a call waits for a server that is away, as while it starts again, before it gives up."""
CALL_TIMEOUT = 3600.0
"""Seconds that a call may take.

They are many: large models are slow, and a call that is repeated does the same work again.
"""
BUSY = (429, 502, 503, 504)
"""HTTP statuses of a server that is busy, or of a proxy that does not reach it, which is waited for like one that is
away.
"""
OWN_VERSION = "evolog"
"""The version that `hf_server` gives as its own."""
NOT_HERE = 424
"""The HTTP status of the policy's server where its host lacks the model: WebDAV's word for a failed dependency."""
URL_VARIABLE = "EVOLOG_ENGINE_URL"
"""The environment variable with the address of a server with vLLM's interface."""
KEY_VARIABLE = "VLLM_API_KEY"
"""The environment variable with the key of that server, if it asks for one."""


class _Logprobs(msgspec.Struct):
    token_logprobs: tuple[float, ...]


class _Choice(msgspec.Struct):
    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: _Logprobs
    finish_reason: str


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage = msgspec.field(default_factory=_Usage)


_decoder = msgspec.json.Decoder(list[_Completion])


def model_name(base: str, adapter: str) -> str:
    """The name under which a server offers a base model with an adapter, from their digests; an empty adapter is the
    base alone.
    """
    return f"{base}@{adapter}" if adapter else base


class Caller:
    """A client of one HTTP server that speaks JSON. It waits for a server that is away. For one thread.

    `server_name` is its name in errors; `patience` and `timeout` are the seconds to wait for it, and for an answer.
    `waits` hears that it is away.
    """

    def __init__(
        self,
        url: str,
        token: str,
        server_name: str,
        *,
        patience: float = PATIENCE,
        timeout: float = 300.0,
        waits: Waits = UNHEARD,
    ) -> None:
        self._waits, self._awaited = waits, f"the {server_name}"
        self._token, self._patience = token, patience
        self._no_answer = f"No {server_name} answers at {url}"
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)
        self._prefix = parts.path.rstrip("/")

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """The status and body of the answer; raises TryAgain where none comes within the patience."""
        deadline = time.monotonic() + self._patience
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        for attempt in itertools.count():
            try:
                self._connection.request(method, self._prefix + path, data, headers)
                answer = self._connection.getresponse()
                status, content = answer.status, answer.read()
                if status not in BUSY:
                    if attempt:
                        self._waits.clear()
                    return status, content
                why = reason(content)
            except (OSError, http.client.HTTPException) as wrong:
                self._connection.close()
                why = str(wrong)
            self._waits.report(self._awaited, why)
            if time.monotonic() > deadline:
                self._waits.clear()
                raise TryAgain(f"{self._no_answer} ({why}); see logs/policy-0.log.")
            time.sleep(0.1)
        raise AssertionError("it is tried until it answers, or given up")


class PolicyClient:
    """A client of one policy server, which it waits for while the server is away. For one thread."""

    def __init__(self, url: str, token: str, *, patience: float = PATIENCE, waits: Waits = UNHEARD) -> None:
        self._caller = Caller(url, token, "policy server", patience=patience, timeout=CALL_TIMEOUT, waits=waits)

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request by the named model.

        Raises UserError where the server refuses a request, NotHere where its host lacks the model, and TryAgain where
        it stays away.
        """
        status, answer = self._caller.ask("POST", "/v1/completions", [_body(model, request) for request in requests])
        if status == NOT_HERE:
            raise NotHere(f"The policy's host lacks the model: {reason(answer)}")
        if status != 200:
            raise UserError(f"The policy server refused a call: {reason(answer)}")
        return [
            Sampled(
                tuple(choice.text for choice in completion.choices),
                tuple(choice.token_ids for choice in completion.choices),
                tuple(choice.logprobs.token_logprobs for choice in completion.choices),
                completion.usage.prompt_tokens,
                tuple(choice.finish_reason == "length" for choice in completion.choices),
            )
            for completion in _decoder.decode(answer)
        ]


def _body(model: str, request: SampleRequest) -> dict[str, object]:
    return {
        "model": model,
        "prompt": request.prompt + request.hint,
        "n": request.n,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "logprobs": 1,
        "return_token_ids": True,
        "structured_outputs": {"choice": list(request.choices)},
        "choice_bias": list(request.bias),
        "plain": request.plain,
        **request.sampling,
    }


def reason(data: bytes) -> str:
    """The message in the body of an error answer, or the beginning of the body."""
    try:
        return str(json.loads(data)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return repr(data[:200])


def engine_url() -> str | None:
    """The address in EVOLOG_ENGINE_URL, or None where it is not set; raises Misconfigured for what is no address."""
    if not (url := os.environ.get(URL_VARIABLE)):
        return None
    if not is_address(url):
        raise Misconfigured(f"{URL_VARIABLE} is {url!r}; expected an address such as http://127.0.0.1:8000.")
    return url


def is_address(url: str) -> bool:
    """Whether this is the URL of an HTTP server."""
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        )  # reading the port checks it
    except ValueError:
        return False
