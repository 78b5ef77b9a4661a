"""Makes the folder of a new task from the templates in this folder, of which each is a task that runs as it is."""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Literal, get_args

from events.errors import UsageError
from tasks.loading import known

TaskKind = Literal["labelled", "csv", "graded", "unlabelled", "program", "submission"]
LAYERS: dict[TaskKind, tuple[str, ...]] = {
    "labelled": ("labelled",),
    "csv": ("labelled", "csv"),
    "graded": ("graded",),
    "unlabelled": ("unlabelled",),
    "program": ("program",),
    "submission": ("labelled", "submission"),
}
"""The templates of each kind; the files of a later one replace those of the ones before it."""
PLACEHOLDER = "TASK_NAME"
"""What stands for the task's name in a template."""
NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")


def new_task(name: str, kind: str, parent: Path) -> Path:
    """Make the folder `name` in `parent`, a task of this kind, and return its path.

    Raises UsageError for a name that is none or is taken, and for a kind that there is not; then nothing is written.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r:.60} is no name for a task: expected a small letter, then small letters, digits, - or _, at most "
            "40 in all."
        )
    if name in known():
        raise UsageError(f"{name} is a task that comes with evolog, and would be found first; take another name.")
    if kind not in get_args(TaskKind):
        raise UsageError(f"There is no kind of task {kind!r:.40}; expected one of {', '.join(get_args(TaskKind))}.")
    folder = parent / name
    if folder.exists():
        raise UsageError(f"{folder} is there already, and nothing is overwritten; take another name, or move it away.")
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as temporary:
        new = Path(temporary) / name
        for layer in LAYERS[kind]:  # type: ignore[index]  # looked at above
            source = Path(__file__).parent / layer
            shutil.copytree(source, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (path for path in new.rglob("*") if path.is_file()):
            file.write_text(file.read_text("utf-8").replace(PLACEHOLDER, name), "utf-8")
        new.rename(folder)
    return folder
