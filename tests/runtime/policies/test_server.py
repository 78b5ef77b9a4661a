"""The policy's endpoint and who may not use it: the token comes before the body, and a body has a length."""

import socket
import threading
from collections.abc import Iterator

import pytest

from runtime.policies.interface import Sampled
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
