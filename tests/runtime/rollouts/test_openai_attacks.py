"""The bridge and a client that means harm: the status that each attack gets, and what is held meanwhile."""

import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from events.errors import UsageError
from runtime.rollouts.openai import server
from runtime.rollouts.openai.dialect import BridgeAnswer, BridgeCall
from runtime.rollouts.openai.server import Bridge, ByteLimit, CallBudget
from tests.harness.openai_server import CHAT, TOKEN, BackwardsPolicy, post, request, serving
from tests.harness.polling import PATIENCE, wait_until

MIB = 1024 * 1024
OTHER_KEY = "Authorization: Bearer another\r\n"
KEY = f"Authorization: Bearer {TOKEN}\r\n"
CHATS, TEXTS, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


@pytest.fixture
def policy() -> BackwardsPolicy:
    return BackwardsPolicy()


@pytest.fixture
def served(tmp_path: Path, policy: BackwardsPolicy) -> Iterator[Bridge]:
    with serving(tmp_path, policy, CallBudget(tokens=1_000_000)) as made:
        yield made


def connected(served: Bridge) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(PATIENCE)
    end.connect(str(served.path))
    return end


def statuses(served: Bridge, sent: bytes) -> list[int]:
    """The status of each reply to these bytes, after which the client sends nothing more."""
    with connected(served) as end:
        with suppress(BrokenPipeError, ConnectionResetError):
            end.sendall(sent)
            end.shutdown(socket.SHUT_WR)
        return received(end)


def received(end: socket.socket) -> list[int]:
    """The status of each reply until the bridge hangs up."""
    data = b""
    with suppress(ConnectionResetError):
        while chunk := end.recv(MIB):
            data += chunk
    return [int(part.split(b" ", 2)[1]) for part in data.split(b"HTTP/1.1")[1:]] if data else []


def head(*fields: str, line: str = f"POST {TEXTS} HTTP/1.1", key: str = KEY) -> bytes:
    return "".join([f"{line}\r\n", key, *(f"{field}\r\n" for field in fields), "\r\n"]).encode()


ON_THE_WIRE: dict[str, tuple[bytes, list[int]]] = {
    "another key, and a large body to come": (head("Content-Length: 16777216", key=OTHER_KEY), [401]),
    "no key, and a part of a body": (head("Content-Length: 16777216", key="") + b"x" * 4 * MIB, [401]),
    "another key, and a body that is too large": (head("Content-Length: 99999999999", key=""), [401]),
    "another key, that would be told to go on": (head("Expect: 100-continue", "Content-Length: 9", key=""), [401]),
    "another key, and a request in its body": (head("Content-Length: 0", key="") + head("Content-Length: 0"), [401]),
    "a body in chunks": (head("Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n\r\n", [411]),
    "a body in chunks that has a length": (head("Transfer-Encoding: chunked", "Content-Length: 2") + b"{}", [411]),
    "no length": (head("X: y"), [411]),
    "a negative length": (head("Content-Length: -1"), [411]),
    "a length in words": (head("Content-Length: 1e3"), [411]),
    "two lengths": (head("Content-Length: 2", "Content-Length: 3") + b"{}", [411]),
    "a length above the limit": (head(f"Content-Length: {16 * MIB + 1}"), [413]),
    "a length of 30 digits": (head(f"Content-Length: {'9' * 30}"), [413]),
    "less than its length": (head("Content-Length: 9") + b"{", []),
    "one long header": (head(f"X: {'y' * MIB}"), [431]),
    "headers without end": (head(*(f"X{number}: {'y' * 1000}" for number in range(99))), [431]),
    "many headers": (head(*(f"X{number}: y" for number in range(200))), [431]),
    "a long path": (head(line=f"GET /{'x' * MIB} HTTP/1.1"), [414]),
    "no HTTP": (b"\x16\x03\x01\x02\x00\r\n\r\n", [400]),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [505]),
    "another method": (head("Content-Length: 0", line=f"PUT {TEXTS} HTTP/1.1"), [404]),
    "a proxy's method": (head(line="CONNECT example.com:443 HTTP/1.1"), [404]),
    "a whole address": (head("Content-Length: 2", line="POST http://example.com/v1/x HTTP/1.1") + b"{}", [404]),
    "a path that leads up": (head(line="GET /v1/../../etc/passwd HTTP/1.1"), [404]),
    "three requests at once": (head(line="GET /v1/models HTTP/1.1") * 3, [200, 200, 200]),
    "a request in the body of a GET": (
        head("Content-Length: 9", line="GET /v1/models HTTP/1.1") + head(line="GET /v1/models HTTP/1.1"),
        [200],
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", ON_THE_WIRE)
def test_what_is_sent_gets_its_status_and_costs_nothing(served: Bridge, policy: BackwardsPolicy, attack: str) -> None:
    sent, expected = ON_THE_WIRE[attack]
    assert statuses(served, sent) == expected
    wait_until(lambda: not served._server._open, "the connection is closed")
    assert not policy.calls and served.failure is None
    assert post(served.path, CHAT)[0] == 200


def with_parameters(parameters: bytes) -> bytes:
    """A chat with one tool, whose parameters may be of any shape."""
    tool = b'{"type": "function", "function": {"name": "f", "parameters": {"a": ' + parameters + b"}}}"
    return json.dumps({**CHAT, "tools": ["?"]}).encode().replace(b'"?"', tool)


TEXT = {"model": "policy", "prompt": "abc"}
VECTOR = {"model": "policy", "input": "abc"}
BODIES: dict[str, tuple[str, Any, int]] = {
    **{f"max_tokens of {of!r}": (TEXTS, {**TEXT, "max_tokens": of}, 400) for of in (-1, 0, 8193, 10**30, 1.5, "9")},
    "max_completion_tokens of half a token": (CHATS, {**CHAT, "max_completion_tokens": 0.5}, 400),
    **{f"n of {of}": (TEXTS, {**TEXT, "n": of}, 400) for of in (-1, 0, 65, 10**30, 2.5)},
    **{f"dimensions of {of}": (VECTORS, {**VECTOR, "dimensions": of}, 400) for of in (-1, 0, 2049, 10**30)},
    "an integer of 5000 digits": (TEXTS, b'{"model": "policy", "prompt": "", "n": ' + b"9" * 5000 + b"}", 400),
    "no number": (TEXTS, b'{"model": "policy", "prompt": "", "temperature": NaN}', 400),
    "no prompt": (TEXTS, {**TEXT, "prompt": []}, 400),
    "257 prompts": (TEXTS, {**TEXT, "prompt": ["x"] * 257}, 400),
    "a prompt that is too long": (TEXTS, {**TEXT, "prompt": "x" * 200_001}, 400),
    "all limits at once": (TEXTS, {**TEXT, "prompt": ["x"] * 256, "n": 64, "max_tokens": 8192}, 400),
    "no texts": (VECTORS, {**VECTOR, "input": []}, 400),
    "a list of 20,000 texts": (VECTORS, {**VECTOR, "input": [""] * 20_000}, 400),
    "texts beyond the budget": (VECTORS, {**VECTOR, "input": ["x" * 200_000] * 6}, 402),
    "17 stops": (TEXTS, {**TEXT, "stop": ["x"] * 17}, 400),
    "20,000 empty choices": (TEXTS, {**TEXT, "structured_outputs": {"choice": [""] * 20_000}}, 400),
    "20,000 turns": (CHATS, {**CHAT, "messages": [{"role": "user"}] * 20_000}, 400),
    "deep nesting": (CHATS, b'{"model": "policy", "messages": [], "tools": ' + b"[" * 100_000, 400),
    "deep nesting where anything may stand": (CHATS, with_parameters(b"[" * 100_000 + b"]" * 100_000), 400),
    "values without end where anything may stand": (CHATS, with_parameters(b"[[]" + b",[]" * 500_000 + b"]"), 400),
    "half a surrogate pair": (TEXTS, b'{"model": "policy", "prompt": "\\ud800"}', 400),
    "bad UTF-8": (TEXTS, b'{"model": "policy", "prompt": "\xff"}', 400),
    "a field twice": (TEXTS, b'{"model": "policy", "prompt": "a", "n": 1, "n": 64, "n": 65}', 400),
}  # fmt: skip


@pytest.mark.parametrize("attack", BODIES)
def test_a_body_gets_its_status_and_costs_nothing(served: Bridge, policy: BackwardsPolicy, attack: str) -> None:
    route, body, expected = BODIES[attack]
    assert post(served.path, body, route)[0] == expected
    assert not policy.calls and not any(served.budget.spent.values()) and served.failure is None


# time


def test_a_request_that_comes_drop_by_drop_is_cut_off(served: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TRANSFER_TIMEOUT", 0.3)
    for sent in (b"POST /v1/completions HTTP/1.1\r\n", head("Content-Length: 9999")):
        with connected(served) as end:
            end.sendall(sent)
            over = threading.Event()

            def drip(end: socket.socket = end, over: threading.Event = over) -> None:
                with suppress(OSError):
                    while not over.wait(0.05):
                        end.sendall(b"X")

            with ThreadPoolExecutor(1) as pool:
                pool.submit(drip)
                assert received(end) == [408]
                over.set()
    assert not served._server._open


def test_a_connection_that_says_nothing_is_closed(served: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_TIMEOUT", 0.2)
    with connected(served) as silent:
        assert received(silent) == []
    with connected(served) as spoken:
        spoken.sendall(head(line="GET /v1/models HTTP/1.1"))
        assert received(spoken) == [200]


def test_a_reply_that_nobody_reads_is_let_go(served: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TRANSFER_TIMEOUT", 0.3)
    monkeypatch.setattr(server, "IDLE_TIMEOUT", 0.3)
    body = {**VECTOR, "input": [f"{number}" for number in range(256)], "dimensions": 2048}
    with connected(served) as end:
        end.sendall(request(body, VECTORS))
        wait_until(lambda: served._replies._left < server.REPLIES_LIMIT, "the reply is made")
        wait_until(lambda: not served._server._open, "the connection is closed")
    assert served._replies._left == server.REPLIES_LIMIT


# memory


def test_bodies_wait_for_one_another_and_not_for_those_of_another_key(
    tmp_path: Path, policy: BackwardsPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODIES_LIMIT", 1000)
    body = json.dumps({**TEXT, "prompt": "x" * 600}).encode()
    with serving(tmp_path, policy) as served, connected(served) as first, ThreadPoolExecutor(1) as pool:
        first.sendall(head("Connection: close", f"Content-Length: {len(body)}") + body[:-1])
        wait_until(lambda: served.bodies._left < 1000, "the first body is being read")
        second = pool.submit(post, served.path, body, TEXTS)
        assert post(served.path, b"", "/v1/models", method="GET")[0] == 200
        assert statuses(served, head("Content-Length: 900", key="")) == [401]
        assert not second.done() and not policy.calls
        first.sendall(body[-1:])
        assert received(first) == [200] and second.result()[0] == 200
    assert served.bodies._left == 1000


@pytest.mark.slow
def test_64_connections_of_16_mib_take_the_memory_of_four(served: Bridge) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    head_and_body = head(f"Content-Length: {16 * MIB}") + b"x" * (16 * MIB - 1)
    before, sent = resident(), []

    def send(end: socket.socket) -> None:
        with suppress(OSError):
            end.sendall(head_and_body)
            sent.append(end)

    ends = [connected(served) for _ in range(64)]
    with ThreadPoolExecutor(64) as pool:
        for end in ends:
            pool.submit(send, end)
        wait_until(lambda: len(sent) >= 4, "four bodies have come")
        grown = resident() - before
        for end in ends:
            end.shutdown(socket.SHUT_RDWR)
            end.close()
    assert len(sent) == 4 and grown < 128 * MIB


def test_what_needs_all_bytes_gets_all_and_no_more() -> None:
    limit = ByteLimit(10)
    with limit.holding(4), limit.holding(6):
        assert limit._left == 0
    with limit.holding(99):
        assert limit._left == 0
    assert limit._left == 10


def test_of_replies_the_latest_are_kept_for_retries(
    served: Bridge, policy: BackwardsPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "KEPT_LIMIT", 1000)
    bodies = [{**TEXT, "prompt": f"{number:0200}"} for number in range(9)]
    first = [post(served.path, body, TEXTS) for body in bodies]
    again = [post(served.path, body, TEXTS, retry=1) for body in bodies]
    assert [status for status, _, _ in again] == [410] * 7 + [200] * 2 and again[-2:] == first[-2:]
    assert len(policy.calls) == 9 and served._kept_size <= 1000


def test_requests_of_an_attempt_are_counted_those_that_fail_among_them(
    served: Bridge, policy: BackwardsPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_REQUESTS", 3)

    def refuse(call: BridgeCall) -> None:
        raise UsageError("The choice 'x' is no label.")

    policy.before = refuse
    assert [post(served.path, {**TEXT, "seed": seed}, TEXTS)[0] for seed in range(5)] == [400, 400, 400, 402, 402]
    assert post(served.path, b"[", TEXTS)[0] == post(served.path, TEXT, TEXTS, retry=1)[0] == 402
    assert served.budget.spent["calls"] == 3 and len(served._entries) == 3


# the budget


@pytest.mark.parametrize(
    ("route", "body", "cost"),
    [
        (CHATS, {**CHAT, "messages": [{"role": "user", "content": "x" * 900}], "max_tokens": 1}, 901),
        (TEXTS, {**TEXT, "prompt": ["x" * 450] * 2, "max_tokens": 1}, 902),
        (TEXTS, {**TEXT, "prompt": "x", "n": 64, "max_tokens": 15}, 65),
        (VECTORS, {**VECTOR, "input": ["x" * 100] * 9}, 900),
    ],
)
def test_100_calls_at_once_spend_what_one_after_the_other_could(
    tmp_path: Path, policy: BackwardsPolicy, route: str, body: dict[str, Any], cost: int
) -> None:
    gate, budget = threading.Barrier(100), CallBudget(tokens=1000)
    policy.before = lambda call: time.sleep(0.01)  # so that the calls are in flight together

    with serving(tmp_path, policy, budget) as bridge, ThreadPoolExecutor(100) as pool:

        def ask(number: int) -> int:
            gate.wait(PATIENCE)
            return post(bridge.path, {**body, "user": f"{number}"}, route)[0]

        got = list(pool.map(ask, range(100)))
    paid = budget.spent["tokens"]
    assert set(got) == {200, 402} and paid <= 1000
    assert paid == cost * got.count(200) if cost > 500 else 1000 - paid < 961


def test_a_call_that_waits_when_the_attempt_ends_is_never_made(tmp_path: Path, policy: BackwardsPolicy) -> None:
    begun, go = threading.Event(), threading.Event()

    def before(call: BridgeCall) -> None:
        begun.set()
        assert go.wait(PATIENCE)

    policy.before = before
    budget = CallBudget(tokens=300)
    with serving(tmp_path, policy, budget) as bridge, connected(bridge) as first, connected(bridge) as second:
        for end, prompt in ((first, "a"), (second, "b")):
            end.sendall(request({**TEXT, "prompt": prompt, "max_tokens": 200}, TEXTS))
            assert begun.wait(PATIENCE)
        wait_until(lambda: len(bridge._entries) == 2, "both calls came")
    go.set()
    wait_until(lambda: not bridge._server._open, "both have ended")
    assert len(policy.calls) == 1 and budget.spent["calls"] == 1


def test_a_call_pays_its_answer_and_not_what_it_reserved() -> None:
    budget = CallBudget(tokens=1000)
    call = BridgeCall(key="k", kind="embedding", model="m", prompts=("é" * 100, "x"), n=0)
    assert call.reserved_tokens == 201
    for _ in range(4):
        with budget.paying(call) as settle:
            settle(BridgeAnswer(prompt_tokens=201))
    assert budget.spent["tokens"] == 804
