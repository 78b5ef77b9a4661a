"""`evolog credentials`, and services that run by a bundle on a host of their own."""

import json
import shutil
from pathlib import Path

import pytest

from runtime.broker.children import free_port
from runtime.broker.credentials import bundle_login, read_bundle
from services.cli.main import main
from services.host.context import with_url
from services.host.node import Node
from tests.harness.cli import RUN, CliHarness, one_sentence
from tests.harness.polling import wait_until


def evolog(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    """What a command prints on both of its streams."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == code, err
    return out, err


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_bundles_are_made_listed_rotated_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = evolog(capsys, "credentials", "init", "--address", "broker.example.org:4333")
    assert len(paths := out.split()) == 9 and all(read_bundle(Path(path)) for path in paths)
    assert "evolog up --listen 0.0.0.0:4333" in err
    out, err = evolog(capsys, "credentials", "add", "gpu-1", "policy", "trainer")
    assert out == ".evolog/hosts/bundles/gpu-1.json\n" and "holds from the next `evolog up` on" in err
    out, err = evolog(capsys, "credentials", "add", "gpu-2", "policy", "--dir", str(tmp_path / ".evolog"))
    assert f"holds from the next `evolog up --dir {tmp_path / '.evolog'}` on" in err
    evolog(capsys, "credentials", "rotate", "gpu-1", "--keep-old")
    evolog(capsys, "credentials", "revoke", "executor")
    out, _ = evolog(capsys, "credentials", "list", "--json")
    listed = json.loads(out)
    assert (listed["version"], listed["address"]) == (1, "tls://broker.example.org:4333")
    rows = {row["name"]: row for row in listed["bundles"]}
    assert rows["gpu-1"]["services"] == ["policy", "trainer"] and rows["gpu-1"]["old_keys_hold"]
    assert (rows["executor"]["status"], rows["executor"]["file"]) == ("revoked", None)
    assert {row["status"] for name, row in rows.items() if name != "executor"} == {"valid"}
    out, _ = evolog(capsys, "credentials", "list")
    assert "gpu-1           valid    until 20" in out and "executor        revoked  since 20" in out
    assert read_bundle(Path(paths[0])).accounts["controller"].seed not in out + json.dumps(listed)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("credentials", "list"), 4, "No credentials were made"),
        (("credentials", "init", "--address", "nats://broker"), 2, "is no address"),
        (("credentials", "init", "--address", "b", "--tls-cert", "b.pem"), 2, "go together"),
        (("up", "--only", "executor,nobody"), 2, "There is no service 'nobody'"),
        (("up", "--listen", "0.0.0.0", "--credentials", "x.json"), 2, "exclude one another"),
        (("up", "--listen", "0.0.0.0"), 78, "make them with `evolog credentials init"),
        (("up", "--nats", "nats://10.0.0.1:4222"), 78, "There are no credentials for"),
        (("up", "--credentials", "x.json"), 4, "There is no bundle at x.json"),
        (("service", "executor", "--credentials", "x.json"), 4, "There is no bundle at x.json"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    out, err = evolog(capsys, *arguments, code=code)
    assert out == "" and err.startswith("evolog: ") and err.count("\n") == 1 and words in err


def test_a_tunnel_leads_to_the_broker_that_the_bundle_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (path, *_) = evolog(capsys, "credentials", "init", "--address", "broker.example.org")[0].split()
    login = with_url(bundle_login(Path(path), "controller"))
    assert (login().url, login().server_name) == ("tls://broker.example.org:4222", "")
    monkeypatch.setenv("EVOLOG_NATS_URL", "tls://127.0.0.1:9999")
    assert (login().url, login().server_name) == ("tls://127.0.0.1:9999", "broker.example.org")


@pytest.mark.slow
def test_services_run_on_a_host_of_their_own_until_their_key_is_revoked(tmp_path: Path) -> None:
    address = f"localhost:{free_port()}"
    broker, host = CliHarness(tmp_path / "broker"), CliHarness(tmp_path / "host")
    broker.evolog("credentials", "init", "--address", address)
    made = broker.folder / broker.evolog("credentials", "add", "gpu-1", "executor", "verifier").out.strip()
    bundle = host.folder / "gpu-1.json"
    shutil.copy2(made, bundle)
    one_sentence(host.evolog("up", "--credentials", "gpu-1.json", code=69), "No broker answers at tls://localhost")
    started = [
        broker.start("up", "--only", "controller", "--listen", f"127.0.0.1:{address.rpartition(':')[2]}"),
    ]
    try:
        wait_until(broker.node.alive, "the broker is up")
        one_sentence(
            host.evolog("up", "--credentials", "gpu-1.json", "--only", "auditor", code=2), "has no key for auditor"
        )
        started.append(host.start("up", "--credentials", "gpu-1.json", "--executors", "1"))
        wait_until(lambda: working(host.node) == {"executor-0", "verifier-0"}, "both work")
        assert not (host.node.directory / "nats").exists() and not host.node.credentials("operator").exists()
        broker.evolog("credentials", "revoke", "gpu-1")
        wait_until(lambda: len(host.node.require_up().unfit) == 2, "both are refused")
        assert "does not take the key of executor" in host.node.require_up().unfit["executor 0"]
        alone = host.evolog("service", "executor", "--index", "1", "--credentials", "gpu-1.json", code=77)
        assert "does not take the key of executor" in alone.err
        broker.evolog("credentials", "rotate", "gpu-1")
        shutil.copy2(made, bundle)
        wait_until(lambda: not host.node.require_up().unfit, "both work again")
    finally:
        for process in reversed(started):
            process.terminate()
            process.communicate()


@pytest.mark.slow
def test_a_run_over_tls_goes_as_any_other(tmp_path: Path) -> None:
    place = CliHarness(tmp_path, EVOLOG_START_ATTEMPTS="0")
    address = f"127.0.0.1:{free_port()}"
    place.evolog("credentials", "init", "--address", address)
    place.supervisor = place.start("up", "--listen", address)
    try:
        wait_until(place.node.alive, "all is up")
        assert place.node.require_up().url == f"tls://{address}"
        place.order("--generations", "0")
        place.wait_until_audited(RUN)
        assert "final candidate" in place.evolog("show", RUN).out
    finally:
        place.down()


def working(node: Node) -> set[str]:
    """The processes that have a folder to work in, and so are let in."""
    return {path.name for path in node.in_hand("", 0).parent.glob("*-*")} if node.alive() else set()
