"""Which hosts are this machine, so that a server there needs no key and costs nothing."""

import socket

import pytest

from runtime.agents.prices import FREE
from runtime.agents.providers import LanguageModel, price_of_model, require_key
from runtime.agents.this_machine import is_this_machine

OWN = socket.gethostname()
HERE = ["localhost", "LOCALHOST.", "llm.localhost", "127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", OWN]


@pytest.mark.parametrize("host", [*HERE, OWN.upper(), OWN.partition(".")[0]])
def test_loopback_addresses_and_the_machines_own_name_are_here(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize(
    "host",
    ["", None, "api.openai.com", "10.0.0.1", "128.0.0.1", "::2", "localhost.example.org", f"{OWN}x", "127.0.0.1.x"],
)
def test_other_hosts_are_not(host: str | None) -> None:
    assert not is_this_machine(host)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "[::1]", OWN])
def test_a_server_here_is_free_and_needs_no_key(host: str) -> None:
    model, environment = LanguageModel("openai", "a-model-of-ones-own"), {"OPENAI_BASE_URL": f"http://{host}:11434/v1"}
    assert price_of_model(model, environment) == FREE
    assert require_key(model, environment).reveal() == "none"
