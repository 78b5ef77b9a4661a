"""What an order needs of this host and of the services that are up."""

import os
import sys
from pathlib import Path

import msgspec
import pytest

from events.errors import Misconfigured
from runtime.run.order import RunOrder
from services.host.node import Node, Running
from services.host.orders import check, check_agent
from services.host.supervisor import service_environment
from tests.harness.paths import TOY


def test_services_that_are_up_without_a_key_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("anthropic")
    order = RunOrder(task=str(TOY), levers="both", seed=0, generations=None, budget="", agent="anthropic:claude-opus-5")
    up = Running(pid=1, url="nats://127.0.0.1:4222", policy_url="", started="", version="", providers=("openai",))
    with pytest.raises(Misconfigured, match=r"services that are up have no key.*ANTHROPIC_API_KEY"):
        check_agent(order, up)
    check_agent(order, msgspec.structs.replace(up, providers=("anthropic",)))
    check_agent(order, msgspec.structs.replace(up, url="nats://broker.example:4222"))  # its agents may be elsewhere
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    check_agent(order, None)
    assert "ANTHROPIC_API_KEY" in service_environment(os.environ)


@pytest.mark.parametrize(
    ("missing", "levers", "words"),
    [
        ("torch", "both", r"needs torch: pip install 'evolog\[policy,tasks\]', or ask for --levers scaffold"),
        ("peft", "weights", "needs peft"),
        ("numpy", "scaffold", r"needs numpy: pip install 'evolog\[policy,tasks\]'\.$"),
        ("torch", "scaffold", ""),
    ],
)
def test_an_order_says_what_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, levers: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    order = RunOrder(task=str(TOY), levers=levers, seed=0, generations=None, budget="")
    if not words:
        check(order, Node(tmp_path))
        return
    with pytest.raises(Misconfigured, match=words):
        check(order, Node(tmp_path))
