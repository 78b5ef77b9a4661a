"""The policy's endpoint and who may not use it: the token comes before the body, and a body has a length."""

import socket
import threading
from collections.abc import Iterator, Sequence

import pytest

from events.errors import UserError
from runtime.policies.client import PolicyClient
from runtime.policies.interface import Sampled, SampleRequest
from runtime.policies.server import PolicyServer
from tests.harness.polling import PATIENCE

TOKEN = "a-token"


@pytest.fixture
def server() -> Iterator[PolicyServer]:
    made = PolicyServer(0, TOKEN, lambda name, requests: [Sampled(("a",), ((1,),), ((0.0,),))], lambda: ["m"])
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.mark.parametrize(
    ("token", "length", "status"),
    [
        ("another", "60000000", 401),
        ("\u00e9", "60000000", 401),
        ("another", "-1", 401),
        (TOKEN, "-1", 413),
        (TOKEN, "much", 413),
        (TOKEN, "9" * 5000, 413),
        (TOKEN, "67108865", 413),
    ],
)
def test_a_body_is_read_from_no_one_else_and_in_no_other_length(
    server: PolicyServer, token: str, length: str, status: int
) -> None:
    with socket.create_connection(server.server_address[:2], PATIENCE) as end:  # type: ignore[arg-type]  # host and port
        head = f"POST /v1/completions HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
        end.sendall(head.encode("latin-1"))
        with end.makefile("rb") as reply:
            said = reply.read()  # to the end: whoever is refused is hung up on
    assert int(said.split()[1]) == status and b"Connection: close" in said


@pytest.mark.parametrize("cut", [(True, False), (False, True)])
def test_a_client_learns_what_was_cut_and_the_policy_what_it_is_asked_for(cut: tuple[bool, ...]) -> None:
    asked: list[SampleRequest] = []

    def sample(name: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        asked.extend(requests)
        return [Sampled(("a", "b"), ((1,), (2,)), ((-0.5,), (-1.5,)), 3, cut)]

    made = PolicyServer(0, TOKEN, sample, lambda: ["m"])
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    try:
        client = PolicyClient(f"http://127.0.0.1:{made.server_port}", TOKEN)
        request = SampleRequest(prompt="p", n=2, max_tokens=1, temperature=0.7, sampling={"top_p": 0.9, "min_p": 0.1})
        (sampled,) = client.sample("m", [request])
    finally:
        made.shutdown()
        thread.join()
        made.server_close()
    assert sampled == Sampled(("a", "b"), ((1,), (2,)), ((-0.5,), (-1.5,)), 3, cut)
    assert asked == [request]


def test_a_field_that_would_have_no_effect_is_refused() -> None:
    server = PolicyServer(0, TOKEN, lambda name, requests: [], lambda: [])
    try:
        with pytest.raises(UserError, match="unknown field `logit_bias`"):
            server.complete(b'{"model": "m", "prompt": "p", "logit_bias": {"7": 5}}')
    finally:
        server.server_close()
