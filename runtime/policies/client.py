"""The policy's HTTP endpoint, from the side that asks: OpenAI's completions, a list of them in one body."""

import http.client
import json
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from events.errors import TryAgain, UserError
from runtime.policies.interface import Sampled, SampleRequest

PATIENCE = 120.0
"""Seconds for which a policy server may be away, as while it starts again, before a call gives up."""


class _Logprobs(msgspec.Struct):
    token_logprobs: tuple[float, ...]


class _Choice(msgspec.Struct):
    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: _Logprobs


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage = msgspec.field(default_factory=_Usage)


_decoder = msgspec.json.Decoder(list[_Completion])


def model_name(base: str, adapter: str) -> str:
    """The name under which a server offers a base model with an adapter (both digests; no adapter is the base alone)."""
    return f"{base}@{adapter}" if adapter else base


class PolicyClient:
    """Asks one policy server, waiting for it while it is away. For one thread."""

    def __init__(self, url: str, token: str, *, patience: float = PATIENCE) -> None:
        self._url, self._token, self._patience = url, token, patience
        where = urlsplit(url)
        self._connection = http.client.HTTPConnection(where.hostname or "127.0.0.1", where.port or 80, timeout=300)

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request by the named model; raises `UserError` if the server says that it cannot."""
        body = json.dumps([_body(model, request) for request in requests])
        completions = _decoder.decode(self._post("/v1/completions", body))
        return [
            Sampled(
                tuple(choice.text for choice in completion.choices),
                tuple(choice.token_ids for choice in completion.choices),
                tuple(choice.logprobs.token_logprobs for choice in completion.choices),
                completion.usage.prompt_tokens,
            )
            for completion in completions
        ]

    def _post(self, path: str, body: str) -> bytes:
        deadline = time.monotonic() + self._patience
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        while True:
            try:
                self._connection.request("POST", path, body.encode(), headers)
                answer = self._connection.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException) as wrong:
                self._connection.close()
                if time.monotonic() > deadline:
                    raise TryAgain(f"No policy server answers at {self._url} ({wrong}); see logs/policy-0.log.") from wrong
                time.sleep(0.1)
                continue
            if answer.status == 200:
                return data
            raise UserError(f"The policy server refused a call: {_reason(data)}")


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
    }


def _reason(data: bytes) -> str:
    try:
        return str(json.loads(data)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return repr(data[:200])
