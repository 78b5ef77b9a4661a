"""What many tests need: imports from this folder, and the tiny language model, pre-trained once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder (XDG_CACHE_HOME) that tests share, since pre-training takes half a minute."""
    return tmp_path_factory.mktemp("cache")
