"""What many tests need: the tiny language model, pre-trained once, and their order."""

import os
from pathlib import Path

import pytest

from services.host.hints import remember_directory

LONGEST = ("system/test_page_one.py", "system/test_pages.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: no worker is left with one of them when the others are done."""
    items.sort(key=lambda item: [not item.path.match(file) for file in LONGEST])


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
