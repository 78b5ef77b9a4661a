"""The server of the OpenAI API that programs in a sandbox call, with a policy that anyone can follow by hand."""

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from events.errors import CheckFailed
from runtime.policies.interface import Sampled
from runtime.rollouts.openai.dialect import BridgeAnswer, BridgeCall, hashed_ngrams
from runtime.rollouts.openai.server import AnswerCall, Bridge, CallBudget
from tests.harness.polling import PATIENCE

TOKEN = "a-token-of-one-attempt"
CHAT: dict[str, Any] = {"model": "policy", "messages": [{"role": "user", "content": "hello"}]}


class OccurrenceKey(NamedTuple):
    """A call by its body's digest, and by how often that body was sent before."""

    key: str
    occurrence: int


class RecordedAnswers:
    """Answers calls from a record: the same call gets the same answer, in whatever order threads arrive.

    A call that is not in it raises `CheckFailed`, and `first_miss` says which was the first.
    """

    def __init__(self, answers: Mapping[OccurrenceKey, BridgeAnswer]) -> None:
        self.answers = answers
        self.first_miss = ""

    def __call__(self, call: BridgeCall) -> BridgeAnswer:
        answer = self.answers.get(OccurrenceKey(call.key, call.occurrence))
        if answer is None:
            self.first_miss = self.first_miss or (
                f"The replay left the record at a {call.kind} call of {call.model!r}, body {call.key[:12]}, "
                f"occurrence {call.occurrence}, "
                f"whose prompt begins {call.prompts[0][:80]!r}; none of the {len(self.answers)} recorded calls is "
                "that one."
            )
            raise CheckFailed(self.first_miss)
        return answer


class BackwardsPolicy:
    """Says the prompt backwards, one token a character, and keeps a record in the order of the calls."""

    def __init__(self) -> None:
        self.calls: list[BridgeCall] = []
        self.record: dict[OccurrenceKey, BridgeAnswer] = {}
        self.before: Callable[[BridgeCall], None] = lambda call: None

    def __call__(self, call: BridgeCall) -> BridgeAnswer:
        self.before(call)
        if call.kind == "embedding":
            vectors = tuple(hashed_ngrams(text, call.dimensions) for text in call.prompts)
            answer = BridgeAnswer(vectors=vectors, prompt_tokens=sum(map(len, call.prompts)))
        else:
            answer = BridgeAnswer(samples=tuple(self.sample(prompt, call) for prompt in call.prompts), micro_usd=7)
        self.calls.append(call)
        self.record[OccurrenceKey(call.key, call.occurrence)] = answer
        return answer

    def sample(self, prompt: str, call: BridgeCall) -> Sampled:
        """The first choice, or the prompt backwards; from the second call on it ends in the number of calls."""
        said = call.choices[0] if call.choices else prompt[::-1][: call.max_tokens]
        text = said if len(self.calls) == 0 else f"{said[: call.max_tokens - 1]}{len(self.calls) % 10}"
        tokens = tuple(map(ord, text))
        return Sampled((text,) * call.n, (tokens,) * call.n, ((-0.5,) * len(tokens),) * call.n, len(prompt))


@contextmanager
def serving(folder: Path, answer: AnswerCall, budget: CallBudget | None = None) -> Iterator[Bridge]:
    """A server of the OpenAI API on a socket in the folder."""
    with Bridge(
        folder / "b.sock", answer, token=TOKEN, models=["policy", "openai/gpt-oss-120b"], budget=budget
    ) as made:
        yield made


def post(
    path: Path,
    body: object,
    route: str = "/v1/chat/completions",
    *,
    token: str = TOKEN,
    retry: int = 0,
    method: str = "POST",
) -> tuple[int, dict[str, str], Any]:
    """One request without any client's help: status, headers and body."""
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(PATIENCE)
        end.connect(str(path))
        end.sendall(request(body, route, token, retry, method))
        return answered(end)


def request(
    body: object, route: str = "/v1/chat/completions", token: str = TOKEN, retry: int = 0, method: str = "POST"
) -> bytes:
    """The bytes of a request that is the last of its connection."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"{method} {route} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nx-stainless-retry-count: {retry}\r\n"
    )
    return f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def answered(end: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of the one reply that comes before a connection is closed."""
    with end.makefile("rb") as file:
        head, _, data = file.read().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), json.loads(data)
