"""Smaller copies of the toy task, for runs that are made many times or go wrong."""

import shutil
from pathlib import Path

from tests.harness.paths import TOY


def small_toy(folder: Path, **files: str) -> Path:
    """A copy of the toy task with 20 train, 8 dev and 8 test items and one generation; `files` replaces some of it, by
    name.
    """
    shutil.copytree(TOY, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "data.py", folder / "gold.py", folder / "task.py"):
        text = (
            path.read_text()
            .replace('"train", 80', '"train", 20')
            .replace('"dev", 40', '"dev", 8')
            .replace('"test", 40', '"test", 8')
        )
        path.write_text(text.replace("GENERATIONS = 2", "GENERATIONS = 1"))
    for name, text in files.items():
        (folder / name.replace("__", "/")).with_suffix(".py").write_text(text)
    return folder
