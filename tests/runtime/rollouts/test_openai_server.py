"""The bridge: plain `openai` clients over the relay, nothing released before it is recorded, and nothing
sampled twice.
"""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from events.errors import Misconfigured, TryAgain, Unavailable, UsageError
from runtime.policies.interface import Sampled
from runtime.rollouts.openai import dialect, relay, server
from runtime.rollouts.openai.dialect import BridgeAnswer, BridgeCall, hashed_ngrams
from runtime.rollouts.openai.server import Bridge, CallBudget, Exhausted, Overloaded
from tests.harness.openai_server import CHAT, TOKEN, BackwardsPolicy, RecordedAnswers, answered, post, serving
from tests.harness.polling import PATIENCE, wait_until

RELAY = relay.__file__


@pytest.fixture
def policy() -> BackwardsPolicy:
    return BackwardsPolicy()


@pytest.fixture
def served(tmp_path: Path, policy: BackwardsPolicy) -> Iterator[Bridge]:
    with serving(tmp_path, policy) as made:
        yield made


@contextmanager
def relayed(path: Path) -> Iterator[str]:
    """The base URL of a relay, a process of its own, which lasts as long as the command that it runs."""
    tell = "import os, sys; print(os.environ['OPENAI_BASE_URL'], flush=True); sys.stdin.read()"
    command = [sys.executable, "-I", RELAY, str(path), "0", "60", "-", ".", sys.executable, "-I", "-c", tell]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
        process.stdout.close()


@pytest.fixture
def client(served: Bridge) -> Iterator[openai.OpenAI]:
    with relayed(served.path) as url, openai.OpenAI(base_url=url, api_key=TOKEN) as made:
        yield made


# what clients use


def test_a_chat_is_answered_and_logprobs_come_only_when_asked_for(
    client: openai.OpenAI, policy: BackwardsPolicy
) -> None:
    reply = client.chat.completions.create(model="policy", messages=[{"role": "user", "content": "hello"}])
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason, reply.choices[0].logprobs) == (
        "olleh",
        "stop",
        None,
    )
    assert reply.usage and (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (
        5,
        5,
        10,
    )
    assert (policy.calls[0].prompts, policy.calls[0].n, policy.calls[0].model) == (("hello",), 1, "policy")
    more = client.chat.completions.create(
        model="policy", messages=[{"role": "user", "content": "ab"}], logprobs=True, n=2, max_tokens=2
    )
    assert len(more.choices) == 2 and more.choices[1].finish_reason == "length"
    logprobs = more.choices[0].logprobs
    assert logprobs and logprobs.content and [one.token for one in logprobs.content] == ["token_id:98", "token_id:49"]


def test_several_messages_become_lines_with_their_roles(client: openai.OpenAI, policy: BackwardsPolicy) -> None:
    client.chat.completions.create(
        model="policy",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        ],
        temperature=0.1,
        response_format={"type": "json_object"},
        tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    )
    assert policy.calls[0].prompts == ("system: Be brief.\nuser: one\ntwo\nassistant:",)
    assert json.loads(policy.calls[0].body)["temperature"] == 0.1


def test_an_answer_can_be_handed_back_as_a_turn(client: openai.OpenAI, policy: BackwardsPolicy) -> None:
    first = client.chat.completions.create(model="policy", messages=[{"role": "user", "content": "hello"}])
    turns: Any = [
        {"role": "user", "content": "hello"},
        first.choices[0].message.model_dump(),
        {"role": "user", "content": "on"},
    ]
    client.chat.completions.create(model="policy", messages=turns)
    assert policy.calls[1].prompts == ("user: hello\nassistant: olleh\nuser: on\nassistant:",)


def test_completions_take_prompts_choices_and_stops(client: openai.OpenAI, policy: BackwardsPolicy) -> None:
    reply = client.completions.create(model="policy", prompt=["abc", "de"], n=2, stop="a", logprobs=1)
    assert [(one.index, one.text) for one in reply.choices] == [(0, "cb"), (1, "cb"), (2, "ed"), (3, "ed")]
    assert reply.choices[0].logprobs and reply.choices[0].logprobs.token_logprobs == [-0.5, -0.5, -0.5]
    chosen: Any = {"structured_outputs": {"choice": ["x", "y"]}, "choice_bias": [0.5, -1]}
    client.completions.create(model="policy", prompt="which?", extra_body=chosen)
    assert (policy.calls[1].choices, policy.calls[1].bias) == (("x", "y"), (0.5, -1.0))


def test_embeddings_come_as_floats_and_as_base64(client: openai.OpenAI) -> None:
    same = client.embeddings.create(model="policy", input=["the cat", "the cats", "zebra"])
    plain = client.embeddings.create(model="policy", input=["the cat"], encoding_format="float", dimensions=64)
    assert [len(one.embedding) for one in (*same.data, *plain.data)] == [256, 256, 256, 64]
    cat, cats, zebra = (one.embedding for one in same.data)
    assert cat == pytest.approx(hashed_ngrams("the cat"), abs=1e-6)
    assert sum(map(float.__mul__, cat, cats)) > 0.8 > 0.3 > sum(map(float.__mul__, cat, zebra))


def test_models_are_the_aliases(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["policy", "openai/gpt-oss-120b"]


def test_streams_end_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="policy",
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert [choice.delta.content for chunk in chunks for choice in chunk.choices] == ["olleh"]
    assert chunks[-1].usage and chunks[-1].usage.total_tokens == 10
    texts = [chunk.choices[0].text for chunk in client.completions.create(model="policy", prompt="abc", stream=True)]
    assert texts == ["cba1"]


def test_a_program_needs_nothing_but_openai(served: Bridge, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, openai\n"
        "said = openai.OpenAI().chat.completions.create(model='policy', messages=[{'role': 'user', 'content': "
        "'hello'}])\n"
        "print(said.choices[0].message.content)\nsys.exit(3)\n"
    )
    command = [sys.executable, "-I", RELAY, str(served.path), "0", "60", "-", ".", sys.executable, str(program)]
    ended = subprocess.run(command, env={"OPENAI_API_KEY": TOKEN}, capture_output=True, text=True)
    assert (ended.stdout.strip(), ended.returncode) == ("olleh", 3), ended.stderr


def test_the_relay_ends_as_its_command_does(tmp_path: Path) -> None:
    def run(code: str) -> int:
        return subprocess.run(
            [sys.executable, "-I", RELAY, str(tmp_path / "none"), "0", "60", "-", ".", sys.executable, "-c", code]
        ).returncode

    assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == 128 + 9
    no_bridge = (
        "import os, sys, urllib.request\ntry: urllib.request.urlopen(os.environ['OPENAI_BASE_URL'])\nexcept "
        "OSError: sys.exit(5)"
    )
    assert run(no_bridge) == 5


def test_32_threads_are_all_answered_and_recorded(client: openai.OpenAI, policy: BackwardsPolicy) -> None:
    def ask(number: int) -> str | None:
        said = client.chat.completions.create(model="policy", messages=[{"role": "user", "content": f"{number:03}"}])
        return said.choices[0].message.content

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(256)))
    assert [answer and answer[:3] for answer in answers] == [f"{number:03}"[::-1] for number in range(256)]
    assert len(policy.record) == 256


# what is refused

FIELDS: dict[str, Any] = {
    "web_search_options": {},
    "store": True,
    "metadata": {"a": "b"},
    "service_tier": "auto",
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "x"},
    "functions": [],
    "logit_bias": {"1": 5},
    "mcp_servers": [{"url": "https://example.com"}],
    "plugins": [{"id": "web"}],
    "file_ids": ["file-1"],
    "reasoning_effort": "high",
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_is_not_allowed_is_named(served: Bridge, policy: BackwardsPolicy, field: str) -> None:
    status, _, said = post(served.path, {**CHAT, field: FIELDS[field]})
    assert (status, said["error"]["param"], said["error"]["code"]) == (400, field, "unknown_field")
    assert field in said["error"]["message"] and not policy.calls


REACHING: dict[str, Any] = {
    "tools[0].type": {"tools": [{"type": "mcp", "function": {"name": "f"}}]},
    "server_url": {"tools": [{"type": "function", "server_url": "https://example.com", "function": {"name": "f"}}]},
    "messages[0].content[0].type": {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]},
    "image_url": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "", "image_url": {"url": "https://e.com"}}]}]
    },
    "file": {"messages": [{"role": "user", "content": [{"type": "text", "text": "", "file": {"file_id": "f"}}]}]},
    "messages[0].role": {"messages": [{"role": "function", "content": "x"}]},
    "messages": {"messages": []},
    "n": {"n": 65},
    "max_tokens": {"max_tokens": 8193},
    "choice_bias": {"structured_outputs": {"choice": ["x"]}, "choice_bias": [1, 2]},
    "structured_outputs": {"structured_outputs": {"choice": ["x" * 200_001]}},
}


@pytest.mark.parametrize("param", REACHING)
def test_what_would_reach_out_or_is_too_much_is_refused(served: Bridge, policy: BackwardsPolicy, param: str) -> None:
    status, _, said = post(served.path, {**CHAT, **REACHING[param]})
    assert (status, said["error"]["param"]) == (400, param), said
    assert not policy.calls


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'{"model": "\xff"}', b"[" * 100_000, b'{"model":"policy","messages":"' + b"x" * 9]
)
def test_a_body_that_is_no_request_is_refused(served: Bridge, body: bytes) -> None:
    assert post(served.path, body)[0] == 400


def test_everything_else_is_not_there(served: Bridge, policy: BackwardsPolicy) -> None:
    assert post(served.path, CHAT, "/v1/responses")[0] == 404
    assert post(served.path, CHAT, "/v1/files")[0] == 404
    assert post(served.path, b"", "/v1/models/policy", method="GET")[0] == 404
    assert post(served.path, b"", "/v1/models", method="DELETE")[0] == 404
    assert post(served.path, {**CHAT, "model": "gpt-5"})[2]["error"]["code"] == "model_not_found"
    assert post(served.path, CHAT, token="another")[0] == 401
    assert not policy.calls


def test_one_connection_too_many_is_told_to_come_back(served: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        for end in (first, second):
            end.connect(str(served.path))
        status, headers, _ = answered(second)
        assert (status, headers["retry-after"]) == (429, "1")
    wait_until(lambda: not served._server._open, "both connections are closed")
    assert post(served.path, b"", "/v1/models", method="GET")[0] == 200


# recorded first, and once


def test_nothing_is_released_before_the_record_is_made(served: Bridge, policy: BackwardsPolicy) -> None:
    stored = threading.Event()
    policy.before = lambda call: assert_waited(stored)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(post, served.path, CHAT)
        time.sleep(0.2)
        assert not reply.done()
        stored.set()
        assert reply.result()[0] == 200


def assert_waited(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


@pytest.mark.parametrize("away", [TryAgain("The log is full."), Unavailable("No broker.")])
def test_a_call_that_cannot_be_recorded_fails_and_a_retry_takes_its_place(
    served: Bridge, policy: BackwardsPolicy, away: Exception
) -> None:
    policy.before = raising(away)
    status, _, said = post(served.path, CHAT)
    assert (status, said["error"]["code"], served.failure) == (503, "recorder_unavailable", away)
    assert "choices" not in said and not policy.record
    policy.before = lambda call: None
    assert post(served.path, CHAT, retry=1)[0] == 200
    assert [call.occurrence for call in policy.calls] == [0]


def raising(wrong: Exception) -> Callable[[BridgeCall], None]:
    def raise_it(call: BridgeCall) -> None:
        raise wrong

    return raise_it


def test_a_defect_says_nothing_to_the_scaffold_and_is_kept_for_the_host(
    served: Bridge, policy: BackwardsPolicy
) -> None:
    policy.before = raising(ZeroDivisionError("a path on the host"))
    status, headers, said = post(served.path, CHAT)
    assert (status, headers["x-should-retry"]) == (500, "false") and "path" not in said["error"]["message"]
    assert isinstance(served.failure, ZeroDivisionError)


def test_a_refusal_of_the_policy_is_final(served: Bridge, policy: BackwardsPolicy) -> None:
    policy.before = raising(UsageError("The choice 'x' is no label."))
    status, _, said = post(served.path, CHAT)
    assert (status, said["error"]["message"], served.failure) == (400, "The choice 'x' is no label.", None)


def test_a_retry_gets_the_recorded_answer(served: Bridge, policy: BackwardsPolicy) -> None:
    first, again, retried = (post(served.path, CHAT, retry=count)[2] for count in (0, 0, 1))
    assert first["choices"] != again["choices"] and retried == again
    assert [call.occurrence for call in policy.calls] == [0, 1]
    assert post(served.path, json.dumps(CHAT, indent=3).encode(), retry=2)[2] == again
    assert post(served.path, {**CHAT, "seed": 1}, retry=1)[0] == 200 and len(policy.calls) == 3


def test_a_retry_waits_for_a_call_in_flight(served: Bridge, policy: BackwardsPolicy) -> None:
    begun, go = threading.Event(), threading.Event()

    def before(call: BridgeCall) -> None:
        begun.set()
        assert_waited(go)

    policy.before = before
    with ThreadPoolExecutor(8) as pool:
        replies = [pool.submit(post, served.path, CHAT)]
        assert_waited(begun)
        replies += [pool.submit(post, served.path, CHAT, retry=1) for _ in range(7)]
        time.sleep(0.1)
        go.set()
        bodies = [reply.result()[2] for reply in replies]
    assert bodies == [bodies[0]] * 8 and len(policy.calls) == 1


def test_a_client_that_is_cut_off_after_the_record_asks_again_and_pays_once(
    served: Bridge, policy: BackwardsPolicy
) -> None:
    """A proxy reads the whole of the first reply from the bridge and hangs up on the client."""
    front = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []

    def proxy() -> None:
        for turn in range(2):
            near, _ = front.accept()
            with near, socket.socket(socket.AF_UNIX) as far:
                near.settimeout(10)
                far.connect(str(served.path))
                head = b""
                while b"\r\n\r\n" not in head:
                    head += near.recv(65536)
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                data = head.partition(b"\r\n\r\n")[2]
                while len(data) < length:
                    data += near.recv(65536)
                far.sendall(head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + data)
                reply = far.recv(1 << 20)
                seen.append(reply)
                if turn == 1:
                    near.sendall(reply)

    thread = threading.Thread(target=proxy)
    thread.start()
    with front, openai.OpenAI(base_url=f"http://127.0.0.1:{front.getsockname()[1]}/v1", api_key=TOKEN) as client:
        said = client.chat.completions.create(**CHAT)
        thread.join()
    assert said.choices[0].message.content == "olleh"
    assert len(policy.calls) == 1 and seen[0] == seen[1]


# budgets


def test_a_spent_budget_is_said_at_once_and_never_asked_again(
    tmp_path: Path, policy: BackwardsPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, policy, CallBudget(calls=1)) as served, relayed(served.path) as url:
        arrived: list[str] = []
        replying = served.replying

        def counted(path: str, data: bytes, retry: bool) -> AbstractContextManager[server.HttpReply]:
            arrived.append(path)
            return replying(path, data, retry)

        monkeypatch.setattr(served, "replying", counted)
        with openai.OpenAI(base_url=url, api_key=TOKEN, max_retries=5) as client:
            client.chat.completions.create(**CHAT)
            with pytest.raises(openai.APIStatusError, match="The budget of 1 calls is spent: 1 were used") as caught:
                client.chat.completions.create(**CHAT)
        assert caught.value.status_code == 402 and caught.value.code == "run_budget_exhausted"
        assert len(arrived) == 2
        status, headers, _ = post(served.path, CHAT, retry=1)
        assert (status, headers["x-should-retry"]) == (402, "false")


def test_overload_says_when_to_come_back(served: Bridge, policy: BackwardsPolicy) -> None:
    policy.before = raising(Overloaded("The policy is busy.", 3))
    status, headers, said = post(served.path, CHAT)
    assert (status, headers["retry-after"], said["error"]["code"], served.failure) == (429, "3", "overloaded", None)


def spend(budget: CallBudget, most: int, used: int | None, n: int = 1, micro_usd: int = 0) -> None:
    call = BridgeCall(key="k", kind="chat", model="m", prompts=("p",), n=n, max_tokens=most)
    with budget.paying(call) as settle:
        if used is not None:
            settle(BridgeAnswer(samples=(Sampled(("",), ((1,) * used,), ((0.0,) * used,)),), micro_usd=micro_usd))


def test_tokens_are_reserved_and_settled() -> None:
    budget = CallBudget(tokens=100)
    spend(budget, 60, 10)  # 10 used, 90 left
    spend(budget, 89, 10)  # exactly all that is left may be reserved, with the prompt's byte; 20 used, 80 left
    with pytest.raises(Exhausted, match="budget of 100 tokens is spent: 20 were used and this call may need 81"):
        spend(budget, 80, 0)
    with pytest.raises(Exhausted, match="may need 81"):
        spend(budget, 40, 0, n=2)
    spend(budget, 39, 80, n=2)
    with pytest.raises(Exhausted):
        spend(budget, 0, 0)
    assert budget.spent == {"calls": 3, "tokens": 100, "micro_usd": 0}


def test_money_is_reserved_at_its_price() -> None:
    budget = CallBudget(micro_usd=100, token_price=2.5)
    spend(budget, 39, 10, micro_usd=26)  # (1 + 39) x 2.5 = 100 reserved, 26 used
    with pytest.raises(Exhausted, match="budget of 100 micro_usd is spent: 26 were used and this call may need 75"):
        spend(budget, 29, 0)
    spend(budget, 28, 10, micro_usd=26)  # 72.5 of 74


def test_a_call_that_failed_costs_nothing() -> None:
    budget = CallBudget(calls=1, tokens=11)
    with (
        pytest.raises(ZeroDivisionError),
        budget.paying(BridgeCall(key="k", kind="chat", model="m", prompts=("p",), max_tokens=10)),
    ):
        raise ZeroDivisionError
    spend(budget, 10, 10)
    assert budget.spent["calls"] == 1


def test_time_runs_out() -> None:
    now = [0.0]
    budget = CallBudget(seconds=5, clock=lambda: now[0])
    now[0] = 5.0
    spend(budget, 1, 1)
    now[0] = 5.1
    with pytest.raises(Exhausted, match="budget of 5 seconds is spent"):
        spend(budget, 1, 1)


def test_what_others_have_reserved_is_waited_for(tmp_path: Path, policy: BackwardsPolicy) -> None:
    """Of 32 calls that reserve 50 of 400 tokens each, 8 fit at once; each uses 10 in the end, and all are answered."""
    budget = CallBudget(tokens=400)
    inside: list[str] = []
    most: list[int] = []

    def stay(call: BridgeCall) -> None:
        inside.append(call.key)
        most.append(len(inside))
        time.sleep(0.005)
        inside.remove(call.key)

    policy.before = stay
    with serving(tmp_path, policy, budget) as served, ThreadPoolExecutor(32) as pool:
        bodies = [{"model": "policy", "prompt": f"{number:05}", "max_tokens": 50} for number in range(32)]
        statuses = list(pool.map(lambda body: post(served.path, body, "/v1/completions")[0], bodies))
    assert statuses == [200] * 32 and max(most) <= 8 and 32 * 10 <= budget.spent["tokens"] <= 32 * 11


# replay


def reply_of(served: Bridge, route: str, body: bytes) -> server.HttpReply:
    with served.replying(route, body, False) as reply:
        return reply


def test_a_replay_gives_the_same_bytes_in_any_order(tmp_path: Path, policy: BackwardsPolicy) -> None:
    bodies = [CHAT, {**CHAT, "stream": True}, CHAT, {**CHAT, "logprobs": True, "n": 3}]
    routes = ["/v1/chat/completions"] * 4 + ["/v1/embeddings"]
    bodies.append({"model": "policy", "input": "the cat"})
    asked = [(route, json.dumps(body).encode()) for route, body in zip(routes, bodies, strict=True)]
    with serving(tmp_path, policy) as served:
        first = [reply_of(served, *one) for one in asked]
    replayed = RecordedAnswers(policy.record)
    with serving(tmp_path, replayed) as served:
        order = [4, 3, 0, 1, 2]
        again = {place: reply_of(served, *asked[place]) for place in order}
    assert [again[place] for place in range(5)] == first and first[0] != first[2]
    assert len(policy.record) == 5 and not replayed.first_miss


def test_a_replay_names_its_first_miss(tmp_path: Path, policy: BackwardsPolicy) -> None:
    replayed = RecordedAnswers(policy.record)
    with serving(tmp_path, replayed) as served:
        messages = [post(served.path, {**CHAT, "seed": seed})[2]["error"]["message"] for seed in (1, 2)]
        assert messages[0] == messages[1] == replayed.first_miss == str(served.failure)
    assert "occurrence 0, whose prompt begins 'hello'; none of the 0 recorded calls" in replayed.first_miss


# one attempt after the other


def test_attempts_follow_each_other_only_where_that_is_wanted(
    tmp_path: Path, policy: BackwardsPolicy, served: Bridge
) -> None:
    begins = {"item": "a", "attempt": 1}
    assert post(served.path, begins, server.ATTEMPT_PATH)[0] == 404
    begun: list[tuple[str, int]] = []

    def begin(item: str, attempt: int) -> None:
        if item != "a":
            raise UsageError("It is the turn of 'a'.")
        begun.append((item, attempt))

    with Bridge(tmp_path / "c.sock", policy, token=TOKEN, models=["policy"], begin=begin) as several:
        for attempt in (0, 1):
            assert post(several.path, {**begins, "attempt": attempt}, server.ATTEMPT_PATH)[0] == 200
            post(several.path, CHAT)
            post(several.path, CHAT)
        assert (
            post(several.path, {**begins, "item": "b"}, server.ATTEMPT_PATH)[2]["error"]["message"]
            == "It is the turn of 'a'."
        )
        assert post(several.path, begins, server.ATTEMPT_PATH, token="x")[0] == 401
        assert post(several.path, b"[", server.ATTEMPT_PATH)[0] == 400
    assert begun == [("a", 0), ("a", 1)] and [call.occurrence for call in policy.calls] == [0, 1, 0, 1]


# the rest


def test_a_body_is_one_key_however_it_is_written() -> None:
    plain, spaced = ({**CHAT, "n": 1}, {"n": 1, **CHAT})
    read = dialect.read
    keys = {
        read("/v1/chat/completions", json.dumps(body, indent=i).encode())[1].key
        for i, body in enumerate((plain, spaced))
    }
    assert len(keys) == 1


def test_an_ngram_vector_is_worked_by_hand() -> None:
    """ "a" has one n-gram: CRC-32 of b"a" is 0xE8B7BE43, whose top bit gives +1 and whose remainder by 8
    the place 3.
    """
    assert hashed_ngrams("A", 8) == (0, 0, 0, 1.0, 0, 0, 0, 0)
    assert hashed_ngrams("", 4) == (0, 0, 0, 0)


def test_a_closed_bridge_answers_nobody(tmp_path: Path, policy: BackwardsPolicy) -> None:
    with serving(tmp_path, policy) as served:
        end = socket.socket(socket.AF_UNIX)
        end.connect(str(served.path))
        time.sleep(0.1)
    with end:
        assert end.recv(1) == b""
    assert not served.path.exists()


def test_a_path_that_is_too_long_is_said(tmp_path: Path, policy: BackwardsPolicy) -> None:
    with pytest.raises(Misconfigured, match="use a shorter folder"):
        Bridge(tmp_path / ("x" * 120), policy, token=TOKEN, models=["policy"])
