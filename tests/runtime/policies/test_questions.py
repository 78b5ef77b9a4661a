"""Completions over the broker: the same as over HTTP, only of models whose canary agreed, whoever holds them."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from events.errors import HostUnfit, NotHere, TryAgain, UserError
from runtime.blobs.directory import Blobs
from runtime.broker.accounts import status_subject
from runtime.broker.credentials import credentials_file, read_credentials
from runtime.broker.server import EmbeddedServer
from runtime.log.jetstream import Connection, connect
from runtime.log.questions import QUESTION_LIMIT, Answering, Asking
from runtime.policies.client import PolicyClient
from runtime.policies.interface import Sampled, SampleRequest
from runtime.policies.questions import ANY_BASE, SERVICE, AskedPolicy, ModelHost, model_of, subject_of
from runtime.policies.server import PolicyServer
from runtime.status import UNHEARD, StatusReporter, Waits
from tests.harness.broker import account, broker, bundled, tls_broker

BASE, ADAPTER = "b" * 64, "a" * 64
MODEL = f"{BASE}@{ADAPTER}"


class Models:
    """Models that say who answered and what was asked, of which a host holds two."""

    def __init__(self, name: str = "host", *, differs: bool = False) -> None:
        self.name, self.differs = name, differs
        self.loaded: list[str] = []
        self.asked: list[SampleRequest] = []
        self.busy = 0

    def sample(self, name: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        self.asked += requests
        if self.busy:
            self.busy -= 1
            raise TryAgain("the engine is busy")
        if any(request.prompt == "too long" for request in requests):
            raise UserError("the prompt is too long")
        return [
            Sampled(
                (f"{self.name} {request.prompt}"[:80],) * request.n,
                ((1, 2),) * request.n,
                ((-0.1, -1 / 3),) * request.n,
                7,
            )
            for request in requests
        ]

    def require_agreed(self, name: str) -> None:
        if self.differs:
            raise NotHere("a canary differs")
        self.loaded = [*self.loaded, name][-2:]

    def names(self) -> list[str]:
        return self.loaded


@contextlib.asynccontextmanager
async def hosting(server: EmbeddedServer, models: Models, blobs: Blobs) -> AsyncIterator[ModelHost]:
    async with account(server, "policy") as connection, listening(connection, models, blobs) as host:
        yield host


@contextlib.asynccontextmanager
async def listening(connection: Connection, models: Models, blobs: Blobs) -> AsyncIterator[ModelHost]:
    loop = asyncio.get_running_loop()
    host = ModelHost(
        models, blobs, lambda subjects: asyncio.run_coroutine_threadsafe(answering.listen(subjects), loop).result()
    )
    answering = Answering(connection, SERVICE, host.answer)
    await answering.listen([ANY_BASE])
    serving = asyncio.create_task(answering.serve())
    try:
        yield host
    finally:
        serving.cancel()


def client(
    server: EmbeddedServer, blobs: Blobs, patience: float = 0.0, user: str = "executor", waits: Waits = UNHEARD
) -> AskedPolicy:
    asking = Asking(read_credentials(credentials_file(server.directory, user)))
    return AskedPolicy(asking, blobs, patience=patience, waits=waits)


async def sample(policy: AskedPolicy, *requests: SampleRequest, model: str = MODEL) -> list[Sampled]:
    return await asyncio.to_thread(policy.sample, model, requests)


def test_a_subject_names_a_model() -> None:
    for model in (BASE, MODEL, f"{BASE}@uniform"):
        assert model_of(subject_of(model)) == model
    assert subject_of(MODEL) == f"policy.{BASE}.{ADAPTER}"


def test_a_model_that_nobody_holds_is_loaded_when_it_is_asked_for_and_forgotten_when_others_take_its_place(
    tmp_path: Path,
) -> None:
    async def check() -> None:
        blobs, models = Blobs(tmp_path / "blobs"), Models()
        async with broker(tmp_path) as server, hosting(server, models, blobs):
            policy = client(server, blobs)
            for model in (MODEL, BASE, f"{BASE}@uniform", MODEL):
                (sampled,) = await sample(policy, SampleRequest(prompt="p"), model=model)
                assert sampled.texts == ("host p",) and models.loaded[-1] == model
            assert models.loaded == [f"{BASE}@uniform", MODEL]

    asyncio.run(check())


def test_what_is_asked_and_answered_is_what_goes_over_http(tmp_path: Path) -> None:
    requests = [
        SampleRequest(prompt="p", hint=" and a hint", n=2, temperature=0.5, seed=2**62, max_tokens=2, plain=True),
        SampleRequest(prompt="ü\0", choices=("a", "b"), bias=(0.1, -2.0), sampling={"top_p": 0.9, "min_p": 0}),
    ]
    over_http, over_nats = Models(), Models()
    endpoint = PolicyServer(0, "token", over_http.sample, over_http.names)
    thread = threading.Thread(target=endpoint.serve_forever, args=(0.05,))
    thread.start()
    try:
        wanted = PolicyClient(f"http://127.0.0.1:{endpoint.server_address[1]}", "token").sample(MODEL, requests)
    finally:
        endpoint.shutdown()
        thread.join()
        endpoint.server_close()

    async def check() -> None:
        blobs = Blobs(tmp_path / "blobs")
        async with broker(tmp_path) as server, hosting(server, over_nats, blobs):
            assert await sample(client(server, blobs), *requests) == wanted
            assert over_nats.asked == over_http.asked
            with pytest.raises(UserError, match="The policy server refused a call: the policy knows no setting 'top'"):
                await sample(client(server, blobs), SampleRequest(prompt="p", sampling={"top": 1}))

    asyncio.run(check())


def test_large_requests_go_as_the_blob_that_they_are_recorded_by(tmp_path: Path) -> None:
    async def check() -> None:
        blobs, models = Blobs(tmp_path / "blobs"), Models()
        large = SampleRequest(prompt="x" * QUESTION_LIMIT)
        async with broker(tmp_path) as server, hosting(server, models, blobs):
            await sample(client(server, blobs), large)
            assert [request.prompt for request in models.asked] == [large.prompt]
            (path,) = (path for path in blobs.root.rglob("?" * 64))
            assert b'"prompt":"xxx' in path.read_bytes()[:50]

    asyncio.run(check())


def test_a_host_whose_canary_differs_takes_no_calls(tmp_path: Path) -> None:
    async def check() -> None:
        blobs, wrong, right = Blobs(tmp_path / "blobs"), Models("wrong", differs=True), Models("right")
        async with broker(tmp_path) as server, hosting(server, wrong, blobs):
            with pytest.raises(NotHere, match="The policy's host lacks the model: a canary differs"):
                await sample(client(server, blobs), SampleRequest(prompt="p"))
            async with hosting(server, right, blobs) as host:
                await asyncio.to_thread(host.load, MODEL)
                for _ in range(20):
                    (sampled,) = await sample(client(server, blobs), SampleRequest(prompt="p"))
                    assert sampled.texts == ("right p",)
        assert wrong.asked == []

    asyncio.run(check())


def test_nobody_and_a_busy_host_are_waited_for_and_a_refusal_is_not(tmp_path: Path) -> None:
    async def check() -> None:
        blobs, models = Blobs(tmp_path / "blobs"), Models()
        async with broker(tmp_path) as server:
            with pytest.raises(TryAgain, match=f"No policy takes calls of model {MODEL}.*Nobody listens"):
                await sample(client(server, blobs), SampleRequest(prompt="p"))
            waiting = asyncio.create_task(sample(client(server, blobs, patience=60), SampleRequest(prompt="p")))
            await asyncio.sleep(0.1)
            async with hosting(server, models, blobs):
                assert (await waiting)[0].texts == ("host p",)
                models.busy = 2
                assert (await sample(client(server, blobs, patience=60), SampleRequest(prompt="q")))[0].prompt_tokens
                with pytest.raises(UserError, match="The policy server refused a call: the prompt is too long"):
                    await sample(client(server, blobs, patience=60), SampleRequest(prompt="too long"))

    asyncio.run(check())


def test_who_waits_for_the_policy_says_so_until_it_is_answered_or_gives_up(tmp_path: Path) -> None:
    async def check() -> None:
        blobs, status = Blobs(tmp_path / "blobs"), StatusReporter("executor")
        async with broker(tmp_path) as server:
            policy = client(server, blobs, patience=60, waits=status.waits())
            waiting = asyncio.create_task(sample(policy, SampleRequest(prompt="p")))
            while not (waits := status.status().waiting):
                assert not waiting.done()
                await asyncio.sleep(0.01)
            assert waits[0].waiting_for == "the policy server" and waits[0].error == "none is up that has the model"
            async with hosting(server, Models(), blobs):
                await waiting
            assert status.status().waiting == ()
            with pytest.raises(TryAgain):
                await sample(client(server, blobs, waits=status.waits()), SampleRequest(prompt="p"))
            assert status.status().waiting == ()

    asyncio.run(check())


@pytest.mark.parametrize("user", ["executor", "auditor", "meta_agent", "feedback_agent"])
def test_a_key_of_a_bundle_gives_the_right_to_ask_and_to_answer(tmp_path: Path, user: str) -> None:
    async def check() -> None:
        blobs, models = Blobs(tmp_path / "blobs"), Models()
        async with tls_broker(tmp_path) as server:
            connection = await connect(bundled(server, "policy"))
            operator = await connect(bundled(server, "operator"))
            login = bundled(server, user)
            try:
                await connection.respond(status_subject("policy"), lambda: b"its status")
                async with listening(connection, models, blobs):
                    (sampled,) = await sample(AskedPolicy(Asking(login(), login), blobs), SampleRequest(prompt="p"))
                    assert sampled.texts == ("host p",)
                    assert await operator.gather([status_subject("policy")]) == [b"its status"]
            finally:
                await connection.close()
                await operator.close()

    asyncio.run(check())


def test_an_account_that_may_not_ask_is_the_hosts_fault_and_no_refused_call(tmp_path: Path) -> None:
    async def check() -> None:
        blobs: Any = Blobs(tmp_path / "blobs")
        async with broker(tmp_path) as server:
            with pytest.raises(HostUnfit, match="may not do this"):
                await sample(client(server, blobs, user="verifier"), SampleRequest(prompt="p"))

    asyncio.run(check())
