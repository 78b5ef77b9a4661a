"""What many tests need: the tiny language model, pre-trained once, and their order."""

import os
from pathlib import Path

import pytest

from services.host.hints import remember_directory

LONGEST = (
    "system/test_pages.py",
    "system/test_page_one.py",
    "system/test_resume.py",
    "services/dashboard/test_in_a_browser.py",
    "simulation/test_simulation.py",
    "services/cli/test_cli.py",
    "replay/audit/test_audit_itself.py",
    "services/cli/test_bad_input.py",
    "system/test_watching.py",
    "system/test_llm_runs.py",
    "system/test_hosts.py",
    "replay/test_perform.py",
    "runtime/policies/test_trl_backend.py",
    "runtime/policies/test_sharding.py",
    "algorithms/demos/test_learning_curves.py",
    "sandbox/test_attacks.py",
    "runtime/policies/test_hf.py",
    "services/host/test_supervisor.py",
    "runtime/rollouts/test_openai_session.py",
    "replay/test_integrity.py",
)
"""Of `make test` and of `make test-slow`, whichever runs what is in them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: no worker is left with one of them when the others are done."""
    places = {f"tests/{file}": place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inspect's package sets COLUMNS where it is imported, and tables are as wide as that says."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def no_directory() -> None:
    """A command that a test calls in this process leaves its --dir to the sentences of the next."""
    remember_directory(None)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder (XDG_CACHE_HOME) that tests share, of all of pytest-xdist's workers: pre-training takes half a
    minute.
    """
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    cache.mkdir(exist_ok=True)
    return cache
