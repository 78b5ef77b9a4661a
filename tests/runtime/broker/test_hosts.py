"""Services on other hosts: bundles, keys and certificates, and what is said where one of them does not hold."""

import asyncio
import functools
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
from pathlib import Path

import msgspec
import pytest

from events import codec
from events.catalogue import SERVICES
from events.errors import Misconfigured, NotFound, Unavailable, UsageError, UserError
from events.judgement import TrajectoryScored
from events.subjects import GOLD, LOG
from runtime.broker import issuing
from runtime.broker.accounts import BOOTSTRAP, USERS, accounts_of, draw_passwords, permissions_of
from runtime.broker.binary import find_binary
from runtime.broker.certificates import Certified, certify, make_authority, shake_hands
from runtime.broker.children import free_port
from runtime.broker.client import open_client
from runtime.broker.credentials import (
    Credentials,
    bundle_login,
    draw_key,
    read_bundle,
    require_encrypted,
    signature,
    write_private,
)
from runtime.broker.issuing import (
    OwnCertificate,
    add_bundle,
    broker_url,
    bundle_file,
    read_issued,
    revoke,
    revoke_old,
    rotate,
    start_issuing,
    valid_keys,
)
from runtime.broker.leaf import write_leaf
from runtime.broker.listener import make_listener
from runtime.broker.server import EmbeddedServer, reload_keys
from runtime.broker.streams import bootstrap
from runtime.broker.tls import client_context, handshake_error, load_chain
from runtime.log.jetstream import Connection, connect
from runtime.log.port import Message, Refused
from runtime.log.socket import NatsSocket
from runtime.log.worker import retry_until_available
from tests.harness.broker import account, bundled, tls_broker
from tests.harness.facts import TIME, example
from tests.harness.polling import PATIENCE, wait_until

HOST = "broker.example.org"
AUTHORITY, STRANGER = make_authority("one"), make_authority("another")


def nothing() -> None:
    """In the place of a broker that would take the keys anew."""


def issue(directory: Path, address: str = HOST) -> Path:
    """A project directory with a bundle for each service."""
    start_issuing(directory, address)
    return directory


def with_certificate(login: Credentials, certified: Certified) -> Credentials:
    """The login, showing another certificate."""
    return msgspec.structs.replace(login, certificate=certified.certificate, key=certified.key)


# --- addresses


@pytest.mark.parametrize("url", ["nats://127.0.0.1:4222", "nats://localhost", "nats://[::1]:4222", "tls://10.0.0.1:1"])
def test_an_address_is_taken_where_nothing_crosses_a_network_in_the_open(url: str) -> None:
    require_encrypted(url)


@pytest.mark.parametrize(
    "url", ["nats://10.0.0.1:4222", "nats://broker", "nats://0.0.0.0:4222", "nats://127.0.0.1.evil.org"]
)
def test_facts_cross_no_network_in_the_open(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"would go over the network in the open: reach a broker .* by tls://"):
        require_encrypted(url)
    login = Credentials(url, "executor", "password", "_INBOX_executor")
    with pytest.raises(Misconfigured, match="in the open"):
        NatsSocket(login, "EVOLOG").read(1, 1)
    with pytest.raises(Misconfigured, match="in the open"):
        asyncio.run(open_client(login, lambda _: asyncio.sleep(0)))


@pytest.mark.parametrize("url", ["broker:4222", "http://broker", "tls://", ""])
def test_what_is_no_brokers_address_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match="is no broker's address: expected tls://HOST:PORT"):
        require_encrypted(url)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("broker.example.org:4333", "tls://broker.example.org:4333"),
        ("broker", "tls://broker:4222"),
        ("tls://10.0.0.1", "tls://10.0.0.1:4222"),
        ("[::1]:1", "tls://[::1]:1"),
    ],
)
def test_the_brokers_address_is_a_host_and_a_port(address: str, url: str) -> None:
    assert broker_url(address) == url


@pytest.mark.parametrize("address", ["", ":4222", "nats://broker:4222", "broker:port", "broker:70000", "broker/path"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is no address; expected HOST:PORT"):
        broker_url(address)


# --- bundles


def test_each_service_has_a_bundle_with_its_key_and_rights_that_its_owner_alone_can_read(tmp_path: Path) -> None:
    issue(tmp_path)
    for service in SERVICES:
        path = bundle_file(tmp_path, service)
        bundle = read_bundle(path)
        (grant,) = bundle.accounts.values()
        assert (bundle.url, list(bundle.accounts)) == (f"tls://{HOST}:4222", [service])
        assert (grant.publish, grant.subscribe) == permissions_of(service)
        assert (
            signature(grant.seed, "nonce")["nkey"]
            == grant.public
            == read_issued(tmp_path).bundles[service].accounts[service]
        )
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    private = [path for path in (tmp_path / "hosts").rglob("*") if path.suffix in (".json", ".key", ".pem")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "hosts", tmp_path / "hosts/bundles")} == {0o700}
    issued = (tmp_path / "hosts/issued.json").read_text()
    assert not any(secret.reveal() in issued for secret in issuing.held_secrets(tmp_path))


def test_a_bundle_has_no_secret_of_a_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "a-key-of-a-provider")
    issue(tmp_path)
    assert "a-key-of-a-provider" not in "".join(
        path.read_text() for path in (tmp_path / "hosts").rglob("*") if path.is_file()
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_bundle_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = bundle_file(issue(tmp_path), "executor")
    path.chmod(mode)
    with pytest.raises(UserError, match=rf"may be read by others .*\(mode 0{mode:o}\): say `chmod 600") as raised:
        bundle_login(path, "executor")()
    assert raised.value.code == 77


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
def test_a_bundle_that_a_platform_hands_out_is_roots_and_read_by_its_group(tmp_path: Path) -> None:
    path = bundle_file(issue(tmp_path), "executor")
    os.chown(path, 10_001, -1)
    path.chmod(0o440)
    bundle_login(path, "executor")()
    path.chmod(0o444)
    with pytest.raises(UserError, match=r"may be read by others .*\(mode 0444\)"):
        bundle_login(path, "executor")()


def test_a_bundle_is_there_whole_valid_and_for_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundle_file(issue(tmp_path), "executor")
    with pytest.raises(UsageError, match=r"has no key for auditor: it is for executor"):
        bundle_login(path, "auditor")()
    with pytest.raises(NotFound, match=r"There is no bundle at .*nothing"):
        bundle_login(tmp_path / "nothing", "executor")()
    expired = msgspec.json.encode(msgspec.structs.replace(read_bundle(path), expires="2020-01-01T00:00:00Z")).decode()
    write_private(path, expired)
    with pytest.raises(
        Misconfigured, match=r"expired at 2020-01-01T00:00:00Z: .* `evolog credentials rotate executor`"
    ):
        bundle_login(path, "executor")()
    write_private(path, "{}")
    with pytest.raises(Misconfigured, match="is no bundle"):
        bundle_login(path, "executor")()
    with pytest.raises(Misconfigured, match="is a folder"):
        bundle_login(tmp_path, "executor")()


def test_a_bundle_for_a_host_has_a_key_for_each_of_its_services(tmp_path: Path) -> None:
    path = add_bundle(issue(tmp_path), "gpu-1", ["policy", "trainer"])
    assert list(read_bundle(path).accounts) == ["policy", "trainer"]
    assert len(valid_keys(tmp_path)["trainer"]) == 2
    for name, accounts, words in (
        ("gpu-1", ["executor"], "There is a bundle 'gpu-1' already"),
        ("../gpu", ["executor"], "cannot name a bundle"),
        ("gpu-2", ["bootstrap"], "There is no service 'bootstrap'"),
    ):
        with pytest.raises(UsageError, match=words):
            add_bundle(tmp_path, name, accounts)


def test_credentials_are_begun_once(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="begin with `evolog credentials init"):
        add_bundle(tmp_path, "gpu-1", ["policy"])
    with pytest.raises(NotFound, match="begin with `evolog credentials init"):
        rotate(tmp_path, "executor", nothing)
    before = read_issued(issue(tmp_path))
    with pytest.raises(UsageError, match=rf"There are credentials in .* already, for tls://{HOST}:4222"):
        start_issuing(tmp_path, "elsewhere")
    assert read_issued(tmp_path) == before
    for withdraw in (revoke, rotate, revoke_old):
        with pytest.raises(NotFound, match="There is no bundle 'nobody'"):
            withdraw(tmp_path, "nobody", nothing)
    (tmp_path / "hosts/issued.json").write_text("{")
    with pytest.raises(Misconfigured, match="is not what `evolog credentials` wrote"):
        read_issued(tmp_path)


def test_a_rotated_bundle_is_replaced_while_its_old_and_new_keys_hold(tmp_path: Path) -> None:
    path = bundle_file(issue(tmp_path), "executor")
    first = read_bundle(path).accounts["executor"].public
    seen: list[tuple[list[str], str]] = []

    def reload() -> None:
        seen.append((valid_keys(tmp_path)["executor"], read_bundle(path).accounts["executor"].public))

    assert rotate(tmp_path, "executor", reload) == path
    second = read_bundle(path).accounts["executor"].public
    assert first != second
    assert seen == [([second, first], first), ([second], second)]
    rotate(tmp_path, "executor", nothing, keep_old=True)
    third = read_bundle(path).accounts["executor"].public
    assert valid_keys(tmp_path)["executor"] == [third, second]
    revoke_old(tmp_path, "executor", nothing)
    assert valid_keys(tmp_path)["executor"] == [third]


def test_a_revoked_bundle_is_gone_until_it_is_rotated(tmp_path: Path) -> None:
    path = bundle_file(issue(tmp_path), "executor")
    rotate(tmp_path, "executor", nothing, keep_old=True)
    revoke(tmp_path, "executor", nothing)
    assert "executor" not in valid_keys(tmp_path) and not path.exists()
    assert read_issued(tmp_path).bundles["executor"].revoked
    rotate(tmp_path, "executor", nothing)
    assert valid_keys(tmp_path)["executor"] == [read_bundle(path).accounts["executor"].public]


@pytest.mark.parametrize("user", USERS)
def test_a_key_gives_the_rights_of_its_accounts_password_and_no_others(user: str) -> None:
    _, public = draw_key()
    accounts = msgspec.convert(accounts_of(draw_passwords(), {user: [public]}), dict[str, dict[str, object]])
    with_password, with_key = msgspec.convert(accounts[user]["users"], list[dict[str, object]])
    assert with_key["nkey"] == public and with_key["permissions"] == with_password["permissions"]
    assert [name for name, account in accounts.items() if public in json.dumps(account)] == [user]
    assert "bootstrap" not in issuing.ISSUABLE


# --- certificates


def contexts(
    broker: Certified, client: Certified, trust: str = AUTHORITY.certificate
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Both sides of a connection: the broker takes the clients of AUTHORITY."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(cadata=AUTHORITY.certificate)
    load_chain(server, broker.certificate, broker.key)
    login = Credentials(f"tls://{HOST}", "executor", "", "", ca=trust, bundle="x.json")
    context = client_context(with_certificate(login, client))
    assert context
    return server, context


@pytest.mark.parametrize(
    ("broker", "client", "words"),
    [
        (certify(AUTHORITY, "b", [HOST], days=-1), AUTHORITY, "is not trusted, since its certificate has expired"),
        (certify(AUTHORITY, "b", ["other"]), AUTHORITY, "names another host"),
        (certify(AUTHORITY, "b", ["10.0.0.1"]), AUTHORITY, "names another host"),
        (certify(STRANGER, "b", [HOST]), AUTHORITY, "is not signed by the authority in x.json"),
        (certify(AUTHORITY, "b"), AUTHORITY, "does not hold"),
        (certify(AUTHORITY, "b", [HOST]), STRANGER, "does not take the certificate in x.json"),
    ],
    ids=["expired", "another host", "another address", "another authority", "a client's", "another's client"],
)
def test_both_sides_check_the_others_certificate(broker: Certified, client: Certified, words: str) -> None:
    server, context = contexts(broker, certify(client, "executor"))
    with pytest.raises(ssl.SSLError) as raised:
        shake_hands(server, context, HOST)
    if words.startswith("does not take"):  # the server is the one that complains here; the client hears an alert
        return
    error = handshake_error(Credentials(f"tls://{HOST}", "executor", "", "", bundle="x.json"), raised.value)
    assert error and words in str(error) and error.code == 78


def test_a_broker_that_stops_in_the_midst_of_a_handshake_is_away_and_not_wrong() -> None:
    context = client_context(Credentials(f"tls://{HOST}", "executor", "", "", ca=AUTHORITY.certificate))
    assert context
    here, there = socket.socketpair()
    there.shutdown(socket.SHUT_WR)
    with here, there, pytest.raises(ssl.SSLEOFError) as raised:
        context.wrap_socket(here, server_hostname=HOST)
    assert handshake_error(Credentials(f"tls://{HOST}", "executor", "", ""), raised.value) is None


def test_certificates_that_hold_are_taken_by_name_and_by_address() -> None:
    for host in (HOST, "10.0.0.1", "::1"):
        shake_hands(*contexts(certify(AUTHORITY, "b", [HOST, "10.0.0.1", "::1"]), certify(AUTHORITY, "executor")), host)


def test_certificates_that_are_none_are_an_error_in_a_sentence() -> None:
    for broken in ({"ca": "nonsense"}, {"certificate": "nonsense", "key": "nonsense"}):
        with pytest.raises(Misconfigured, match=r"certificates of executor in .* cannot be read"):
            client_context(Credentials(f"tls://{HOST}", "executor", "", "", **broken))


def own(folder: Path, certified: Certified, *, key: str = "", ca: str = AUTHORITY.certificate) -> OwnCertificate:
    """A user's own certificate, in files."""
    texts = {"b.pem": certified.certificate, "b.key": key or certified.key, "ca.pem": ca}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return OwnCertificate(*(str(folder / name) for name in texts))


@pytest.mark.parametrize(
    ("certified", "files", "words"),
    [
        (certify(AUTHORITY, "b", [HOST]), {"key": AUTHORITY.key}, "are no certificate and its key"),
        (certify(AUTHORITY, "b", [HOST]), {"ca": "nonsense"}, "holds no certificate of an authority"),
        (certify(AUTHORITY, "b", [HOST], days=-1), {}, f"does not hold for {HOST} .*expired"),
        (certify(AUTHORITY, "b", ["other"]), {}, f"does not hold for {HOST} .*not valid for"),
        (certify(STRANGER, "b", [HOST]), {}, f"does not hold for {HOST} .*issuer certificate"),
    ],
    ids=["another's key", "no authority", "expired", "another host", "another authority"],
)
def test_a_certificate_of_the_users_own_must_hold_for_the_address(
    tmp_path: Path, certified: Certified, files: dict[str, str], words: str
) -> None:
    with pytest.raises(Misconfigured, match=words):
        start_issuing(tmp_path, HOST, own(tmp_path, certified, **files))
    assert issuing.find_issued(tmp_path) is None


def test_the_users_own_certificate_is_what_clients_trust_and_is_looked_at_anew_at_each_start(tmp_path: Path) -> None:
    certificate = own(tmp_path, certify(AUTHORITY, "b", [HOST]))
    start_issuing(tmp_path, HOST, certificate)
    assert read_bundle(bundle_file(tmp_path, "executor")).ca == AUTHORITY.certificate
    listener = make_listener(tmp_path, "0.0.0.0:4333")
    assert (listener.url, listener.server_name, listener.certificate) == (
        "tls://127.0.0.1:4333",
        HOST,
        certificate.certificate,
    )
    assert Path(listener.client_authority).read_text() != AUTHORITY.certificate  # who is let in is not for it to say
    own(tmp_path, certify(AUTHORITY, "b", [HOST], days=-1))
    with pytest.raises(Misconfigured, match=r"cannot listen at 0\.0\.0\.0:4333: .* does not hold for"):
        make_listener(tmp_path, "0.0.0.0:4333")
    (tmp_path / "b.key").unlink()
    with pytest.raises(Misconfigured, match=r"cannot listen at 0\.0\.0\.0:4333: There is no .*b\.key"):
        make_listener(tmp_path, "0.0.0.0:4333")


def test_nothing_listens_for_other_hosts_without_credentials(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"--listen 0\.0\.0\.0 needs certificates .* `evolog credentials init"):
        EmbeddedServer(tmp_path, listen="0.0.0.0")
    (issue(tmp_path) / "hosts/ca.key").unlink()
    with pytest.raises(NotFound, match=r"There is no .*ca\.key, by which certificates are signed"):
        EmbeddedServer(tmp_path, listen="0.0.0.0")


# --- a nats-server


def refusal(login: Credentials) -> UserError:
    """What both ways to connect say of a login that does not hold: the same."""
    with pytest.raises(UserError) as by_client:
        asyncio.run(open_client(login, lambda _: asyncio.sleep(0)))
    with pytest.raises(UserError) as by_socket:
        NatsSocket(login, "EVOLOG").read(1, 1)
    said = [(str(raised.value), raised.value.code, type(raised.value)) for raised in (by_client, by_socket)]
    assert said[0] == said[1]
    return by_client.value


def test_each_thing_that_does_not_hold_is_said_in_a_sentence(tmp_path: Path) -> None:
    async def check() -> None:
        async with tls_broker(tmp_path) as server:
            authority = issuing.authority_of(tmp_path)
            login = bundled(server, "executor")()
            other_key, _ = draw_key()
            cases: list[tuple[Credentials, str, int]] = [
                (msgspec.structs.replace(login, seed=other_key), "does not take the key of executor in", 77),
                (msgspec.structs.replace(login, ca=STRANGER.certificate), "is not signed by the authority in", 78),
                (msgspec.structs.replace(login, server_name=HOST), "its certificate names another host", 78),
                (msgspec.structs.replace(login, certificate="", key=""), "does not take the certificate in", 78),
                (with_certificate(login, certify(STRANGER, "x")), "does not take the certificate in", 78),
                (with_certificate(login, certify(authority, "x", days=-1)), "does not take the certificate in", 78),
                (with_certificate(login, certify(authority, "x", [HOST])), "does not take the certificate in", 78),
            ]
            for wrong, words, code in cases:
                error = await asyncio.to_thread(refusal, wrong)
                assert words in str(error) and str(error).endswith(".") and error.code == code, (words, error)
            async with account(server, "operator") as operator:  # nothing of this has disturbed it
                assert await operator.log().end() == 0

    asyncio.run(check())


@pytest.mark.slow
def test_a_broker_whose_certificate_has_expired_is_not_trusted(tmp_path: Path) -> None:
    async def check() -> None:
        async with tls_broker(tmp_path) as server:
            expired = certify(issuing.authority_of(tmp_path), "broker", ["127.0.0.1"], days=-1)
            write_private(tmp_path / "hosts/broker.pem", expired.certificate)
            write_private(tmp_path / "hosts/broker.key", expired.key)
            assert await asyncio.to_thread(reload_keys, server.directory)
            error = await asyncio.to_thread(refusal, bundled(server, "executor")())
            assert "is not trusted, since its certificate has expired" in str(error) and error.code == 78

    asyncio.run(check())


@pytest.mark.slow
def test_the_broker_shows_the_users_own_certificate_and_takes_clients_of_the_projects_authority(tmp_path: Path) -> None:
    async def check() -> None:
        start_issuing(
            tmp_path, address := f"localhost:{free_port()}", own(tmp_path, certify(AUTHORITY, "b", ["localhost"]))
        )
        server = EmbeddedServer(tmp_path, listen=address.replace("localhost", "127.0.0.1"))
        await server.start()
        try:
            await bootstrap(server.credentials(BOOTSTRAP))  # by 127.0.0.1, which the certificate does not name
            async with account(server, "operator") as operator:
                assert await operator.log().end() == 0
            login = bundled(server, "executor")()
            connection = await connect(lambda: login)
            assert await append(connection, "evolog.r.e.model_called") == 1
            assert len(await connection.log().read(1, 1)) == 1
            await connection.close()
            error = await asyncio.to_thread(refusal, with_certificate(login, certify(AUTHORITY, "executor")))
            assert "does not take the certificate in" in str(error)
        finally:
            await server.stop()

    asyncio.run(check())


@pytest.mark.slow
def test_what_does_not_speak_tls_is_no_broker_of_a_bundle(tmp_path: Path) -> None:
    async def check() -> None:
        server = EmbeddedServer(issue(tmp_path))
        await server.start()
        try:
            login = msgspec.structs.replace(bundled(server, "executor")(), url=server.url.replace("nats", "tls"))
            error = await asyncio.to_thread(refusal, login)
            assert "does not speak TLS from its first byte" in str(error) and error.code == 78
        finally:
            await server.stop()

    asyncio.run(check())


@pytest.mark.slow
def test_who_does_not_speak_tls_is_told_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        async with tls_broker(tmp_path) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
            said = await asyncio.wait_for(reader.read(), PATIENCE)
            assert b"INFO" not in said and b"PONG" not in said
            writer.close()

    asyncio.run(check())


def test_an_executor_on_another_host_forges_no_score_and_reads_no_gold(tmp_path: Path) -> None:
    async def check() -> None:
        async with tls_broker(tmp_path) as server:
            connection = await connect(bundled(server, "executor"))
            assert await connection.log().append([Message("evolog.r.e.model_called", b"x")]) == 1
            forged = Message("evolog.r.e.trajectory_scored", b"x")
            for messages in ([forged], [forged, Message("evolog.r.f.trajectory_scored", b"x")]):
                with pytest.raises(Misconfigured, match="may not do this"):
                    await connection.log().append(messages)
            with pytest.raises(Misconfigured, match="may not do this"):
                await connection.log(GOLD).read(1, 1)
            assert await connection.log().end() == 1
            await connection.close()

    asyncio.run(check())


async def append(connection: Connection, subject: str) -> int:
    """Append one message."""
    return await connection.log().append([Message(subject, b"x")])


@pytest.mark.slow
def test_a_key_is_rotated_and_revoked_while_others_go_on(tmp_path: Path) -> None:
    async def check() -> None:
        async with tls_broker(tmp_path) as server:
            reload = functools.partial(reload_keys, server.directory)
            old = tmp_path / "old.json"
            write_private(old, bundle_file(tmp_path, "executor").read_text())
            here, left_behind = await connect(bundled(server, "executor")), await connect(bundle_login(old, "executor"))
            verifier, operator = (
                await connect(bundled(server, "verifier")),
                await connect(lambda: server.credentials("operator")),
            )
            others = [await verifier.client(), await operator.client()]
            waiting = asyncio.create_task(verifier.log().fetch(1, PATIENCE))
            await asyncio.to_thread(rotate, tmp_path, "executor", reload)
            # whether it was cut off in the middle of an append or before, it is the next try that counts
            assert await retry_until_available(lambda: append(here, "evolog.r.e.trajectory_recorded")) == 1
            assert [delivery.stored.sequence for delivery in await waiting] == [1]
            assert here.scanner.finds(bundled(server, "executor")().seed.encode())
            with pytest.raises(UserError, match=r"does not take the key of executor in .*old\.json") as raised:
                await retry_until_available(lambda: append(left_behind, "evolog.r.f.model_called"))
            assert raised.value.code == 77
            await asyncio.to_thread(revoke, tmp_path, "executor", reload)
            with pytest.raises(NotFound, match="There is no bundle"):  # it was deleted here
                await retry_until_available(lambda: append(here, "evolog.r.g.model_called"))
            assert [await verifier.client(), await operator.client()] == others
            assert all(client.is_connected for client in others)
            for connection in (here, left_behind, verifier, operator):
                await connection.close()

    asyncio.run(check())


@pytest.mark.slow
def test_a_leaf_node_hands_on_what_its_keys_allow_as_long_as_they_hold(tmp_path: Path) -> None:
    """The broker enforces the rights, also where the leaf node itself lets all through."""
    address, leaves, here = (f"127.0.0.1:{free_port()}" for _ in range(3))
    start_issuing(tmp_path, address)
    add_bundle(tmp_path, "site", ["trainer", "verifier"])
    add_bundle(tmp_path, "other", ["trainer"])
    with pytest.raises(Misconfigured, match="a key for policy, and questions do not pass"):
        write_leaf(read_bundle(bundle_file(tmp_path, "policy")), tmp_path / "none", leaves, here)
    site = read_bundle(bundle_file(tmp_path, "site"))
    with pytest.raises(UsageError, match=r"0\.0\.0\.0:4222 would let services in without TLS"):
        write_leaf(site, tmp_path / "none", leaves, "0.0.0.0:4222")
    assert not (tmp_path / "none").exists()
    config = write_leaf(site, tmp_path / "leaf", leaves, here)
    assert {path.stat().st_mode & 0o777 for path in config.parent.iterdir()} == {0o600}
    open_to_all = json.loads(config.read_text())
    for each in open_to_all["accounts"].values():
        del each["users"][0]["permissions"]
    write_private(config, json.dumps(open_to_all))

    def behind(user: str) -> NatsSocket:
        login = bundle_login(bundle_file(tmp_path, "site"), user)()
        return NatsSocket(msgspec.structs.replace(login, url=f"nats://{here}"), LOG)

    def reads() -> bool:
        try:
            return len(behind("verifier").read(1, 10)) == 3
        except UserError:
            return False

    async def check() -> None:
        server = EmbeddedServer(tmp_path, listen=address, leaf=leaves)
        await server.start()
        leaf = subprocess.Popen([str(find_binary()), "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            await bootstrap(server.credentials(BOOTSTRAP))
            score = event_message("verifier")
            wait_until(lambda: _appended(behind("verifier"), score), "the leaf node has joined")
            with pytest.raises(UserError):
                await asyncio.to_thread(behind("trainer").append, [event_message("verifier", "forged")])
            with pytest.raises(Refused, match="wrong last sequence"):
                await asyncio.to_thread(behind("verifier").append, [score])
            batch = [event_message("verifier", f"run{number}") for number in range(2)]
            assert await asyncio.to_thread(behind("verifier").append, batch) == 3
            await asyncio.to_thread(revoke, tmp_path, "other", lambda: reload_keys(server.directory))
            wait_until(reads, "the leaf node is back, as its keys hold")
            await asyncio.to_thread(revoke, tmp_path, "site", lambda: reload_keys(server.directory))
            wait_until(lambda: not reads(), "the leaf node is shut out")
        finally:
            leaf.kill()
            leaf.wait()
            await server.stop()

    asyncio.run(check())


def event_message(source: str, run: str = "r") -> Message:
    """An event of a service's own, where none stands."""
    scored = codec.event(example(TrajectoryScored), run=run, source=source, cause="", time=TIME)
    return Message(scored.subject, codec.encode(scored), 0)


def _appended(wire: NatsSocket, message: Message) -> bool:
    try:
        return wire.append([message]) == 1
    except UserError:
        return False


@pytest.mark.slow
def test_keys_that_were_revoked_while_nothing_was_up_do_not_hold_afterwards(tmp_path: Path) -> None:
    assert not reload_keys(tmp_path)

    async def check() -> None:
        async with tls_broker(tmp_path) as server:
            assert server.pid
            os.kill(server.pid, signal.SIGKILL)
            await server.wait()
            login = bundled(server, "executor")()
            await asyncio.to_thread(revoke, tmp_path, "executor", lambda: reload_keys(server.directory))
            await server.start()
            error = await asyncio.to_thread(refusal, login)
            assert error.code == 77

    asyncio.run(check())


@pytest.mark.slow
def test_a_configuration_that_the_server_does_not_take_is_said(tmp_path: Path) -> None:
    async def check() -> None:
        async with tls_broker(tmp_path) as server:
            (tmp_path / "hosts/broker.pem").write_text("nonsense")
            with pytest.raises(Unavailable, match=r"did not take the new keys: .*Failed to reload"):
                await asyncio.to_thread(reload_keys, server.directory)

    asyncio.run(check())
