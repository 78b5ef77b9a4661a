"""The dashboard on a host that has a bundle and no folder of anybody else's."""

import shutil
from pathlib import Path

import pytest

from events.catalogue import SERVICES
from events.errors import UsageError
from runtime.broker.accounts import API, DASHBOARD, permissions_of, status_subject
from runtime.broker.children import free_port
from runtime.broker.issuing import add_bundle, start_issuing
from services.dashboard.broker import Broker
from tests.harness.cli import CliHarness
from tests.harness.dashboard import addresses, client
from tests.harness.paths import TOY
from tests.harness.polling import PATIENCE, wait_until


def test_a_bundle_that_may_not_read_is_refused(tmp_path: Path) -> None:
    start_issuing(tmp_path, "127.0.0.1:4222")
    bundle = add_bundle(tmp_path, "desk", ["executor", "verifier"])
    with pytest.raises(UsageError, match=r"is for executor, verifier.*add NAME dashboard"):
        Broker(bundle, tmp_path / "blobs")


def test_a_bundle_of_the_dashboard_reads_no_gold_and_the_operators_does(tmp_path: Path) -> None:
    start_issuing(tmp_path, "127.0.0.1:4222")
    for account, reads in (("dashboard", False), ("operator", True)):
        broker = Broker(add_bundle(tmp_path, f"for-{account}", [account, "executor"]), tmp_path / "blobs")
        assert broker.reads_gold is reads and broker.login().user == account


def test_its_account_asks_and_reads_and_appends_nothing() -> None:
    publish, subscribe = permissions_of(DASHBOARD)
    assert subscribe == ("_INBOX_dashboard.>",)
    assert set(publish) == {
        "archive.>",
        f"{API}.DIRECT.GET.BLOBS.blob.*.*",
        *(status_subject(service) for service in SERVICES),
    }


@pytest.mark.slow
def test_every_page_is_shown_over_the_broker_and_gold_to_the_operator_alone(tmp_path: Path) -> None:
    system = CliHarness(tmp_path / "first")
    system.patience = 600.0
    address = f"127.0.0.1:{free_port()}"
    system.evolog("credentials", "init", "--address", address)
    made = {
        account: system.folder / system.evolog("credentials", "add", f"for-{account}", account).out.strip()
        for account in ("dashboard", "operator")
    }
    up = system.start("up", "--listen", address, "--blobs", "stream")
    try:
        wait_until(lambda: system.node.alive() or up.poll() is not None, "evolog is up")
        system.evolog("run", str(TOY), "--name", "r", "--generations", "2")
        system.wait_until_audited("r")
        for account, path in made.items():
            bundle = Path(shutil.copy(path, tmp_path / f"{account}.json"))  # it says now where blobs stand
            elsewhere = tmp_path / f"desk of {account}"
            with client(elsewhere, broker=Broker(bundle, elsewhere / "blobs")) as page:
                for place in addresses(page, "r"):
                    answer = page.get(place)
                    assert answer.status_code == 200, (place, answer.text)
                    assert ("gold-mark" in answer.text) is (account == "operator"), place
                assert "def solve" in page.get("/runs/r/candidates/0").text, "the scaffold comes from the stream"
                overview = page.get("/runs/r").text
                assert "controller-0" in overview, "services are asked for what they do"
                assert ("Final table" in overview) is (account == "operator")
                assert list((elsewhere / "blobs").rglob("?" * 64)), "what was read is kept"
    finally:
        up.terminate()
        up.communicate(timeout=PATIENCE)
