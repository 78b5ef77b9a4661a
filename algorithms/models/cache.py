"""A cache of models, so that each is built once for a machine."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from events.errors import CheckFailed, NotFound


def cache_folder() -> Path:
    """The folder of all cached models: $XDG_CACHE_HOME/evolog/models, or ~/.cache/evolog/models."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolog" / "models"


def build_cached(target: Path, load: Callable[[Path], object], build: Callable[[Path], object]) -> Path:
    """The folder `target`, built unless it is there and whole. Returns `target`.

    `load` reads the model of a folder, and raises NotFound or CheckFailed where there is no whole one. `build` writes
    one into a folder that does not exist yet. Where two processes build at once, the first is kept. Raises what either
    raises otherwise.
    """
    try:
        load(target)
    except (NotFound, CheckFailed):  # not built yet, or cut short
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            new = Path(folder) / "new"
            build(new)
            try:
                new.rename(target)
            except OSError:  # another process was first
                pass
        load(target)
    return target
