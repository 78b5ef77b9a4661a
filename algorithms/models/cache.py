"""Models that are made once for a machine, and kept in the cache."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from events.errors import CheckFailed, NotFound


def cache_folder() -> Path:
    """Where they are: $XDG_CACHE_HOME/evolog/models, or ~/.cache/evolog/models."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolog" / "models"


def build_cached(target: Path, load: Callable[[Path], object], build: Callable[[Path], object]) -> Path:
    """`target`, a folder that `load` takes: as it is there, or made by `build` where `load` raises NotFound or CheckFailed."""
    try:
        load(target)
    except (NotFound, CheckFailed):  # not made yet, or cut short
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as room:
            made = Path(room) / "made"
            build(made)
            try:
                made.rename(target)
            except OSError:  # another process was first
                pass
        load(target)
    return target
