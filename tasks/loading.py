"""Finds a task by name or by the path of a folder, and checks that the folder keeps the contract before anything runs."""

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from events.errors import Misconfigured, NotFound
from tasks.contract import Edit, Public, Scored

FILES = ("task.py", "data.py", "verifier.py", "gold.py", "scaffold/agent.py", "README.md")
NAMES = {
    "task": ("NAME", "DESCRIPTION", "COUNTS", "DEFAULTS"),
    "data": ("default_root", "get", "load", "labels"),
    "verifier": ("score", "VERSION"),
}


class Task(msgspec.Struct, frozen=True):
    """A task folder, loaded. `package` + ".gold" is the gold verifier, which only the auditor imports."""

    name: str
    description: str
    counts: Mapping[str, int]
    defaults: Mapping[str, Any]
    folder: Path
    package: str
    root: Path
    get: Callable[[Path, Path | None], None]
    load: Callable[[Path, int], Public]
    labels: Callable[[Path, int], dict[str, str]]
    score: Callable[[str | None, str], Scored]
    version: str
    scaffold: Mapping[str, str]
    edits: tuple[Edit, ...]


def known() -> list[str]:
    """The names of the tasks that come with evolog."""
    return sorted(p.parent.name for p in Path(__file__).parent.glob("*/task.py"))


def load(name: str) -> Task:
    """The task `name`, one of `known()` or the path of a folder.

    Raises NotFound where there is no such task, Misconfigured where its folder does not keep the contract.
    """
    if name in known():
        folder, package = Path(__file__).parent / name, f"tasks.{name}"
    elif Path(name).is_dir():
        folder = Path(name).resolve()
        package = _package(folder)
    else:
        raise NotFound(f"There is no task {name!r}: the known ones are {', '.join(known())}; a path to a task folder will do too.")
    for file in FILES:
        if not (folder / file).is_file():
            raise Misconfigured(f"The task folder {folder} has no {file}; a task needs {', '.join(FILES)}.")
    module = {part: _module(folder, package, part) for part in NAMES}
    edits = _module(folder, package, "catalogue").EDITS if (folder / "catalogue.py").is_file() else ()
    task, data, verifier = module["task"], module["data"], module["verifier"]
    return Task(
        name=task.NAME,
        description=task.DESCRIPTION,
        counts=task.COUNTS,
        defaults=task.DEFAULTS,
        folder=folder,
        package=package,
        root=data.default_root(),
        get=data.get,
        load=data.load,
        labels=data.labels,
        score=verifier.score,
        version=verifier.VERSION,
        scaffold=read_tree(folder / "scaffold"),
        edits=tuple(edits),
    )


def read_tree(folder: Path) -> dict[str, str]:
    """The Python and text files under `folder`, by relative path with forward slashes, in order."""
    files = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in sorted(files)}


def _package(folder: Path) -> str:
    package = "evolog_task_" + re.sub(r"\W", "_", folder.as_posix())
    module = ModuleType(package)
    module.__path__ = [str(folder)]
    sys.modules.setdefault(package, module)
    return package


def _module(folder: Path, package: str, part: str) -> ModuleType:
    try:
        module = importlib.import_module(f"{package}.{part}")
    except Exception as error:
        raise Misconfigured(f"{folder / part}.py cannot be imported ({type(error).__name__}: {error}); mend it and try again.") from error
    for name in NAMES.get(part, ()):
        if not hasattr(module, name):
            raise Misconfigured(f"{folder / part}.py defines no {name!r}; the contract asks it for {', '.join(NAMES[part])}.")
    return module
