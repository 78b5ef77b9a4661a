"""Finds a task by name or by the path of a folder, and checks that the folder keeps the contract before anything runs."""

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from events.errors import Misconfigured, NotFound, UserError
from tasks.contract import Edit, Item, Public, Scored

FILES = ("task.py", "data.py", "verifier.py", "gold.py", "scaffold/agent.py", "README.md")
NAMES = {
    "task": ("NAME", "DESCRIPTION", "POLICY", "GENERATIONS"),
    "data": ("default_root", "get", "load", "labels"),
    "verifier": ("score", "VERSION"),
    "gold": ("labels",),
    "catalogue": ("EDITS",),
    "baselines": ("BASELINES",),
}
AT_ONCE = ("task", "data", "verifier")
"""What is looked at when a task is loaded; gold is the auditor's, and the rest may be missing."""

Predict = Callable[[Public, Sequence[Item]], Mapping[str, str]]
"""Labels by item id, from what is public."""


class Task(msgspec.Struct, frozen=True):
    """A task folder that keeps the contract. Its data live in one place a machine; its gold labels are for the auditor only."""

    name: str
    description: str
    folder: Path
    package: str
    policy: str
    """The policy that runs use by default."""
    generations: int
    verifier: str
    """The verifier's name and version."""

    def get(self, source: Path | None = None) -> Path:
        """Fetch the data, from `source` if given, and say where they are."""
        root: Path = self._call("data", "default_root")
        self._call("data", "get", root, source)
        return root

    def public(self, seed: int) -> Public:
        """Items and train labels, split by `seed`; raises NotFound if the data are not here."""
        public: Public = self._call("data", "load", self._call("data", "default_root"), seed)
        return public

    def labels(self, seed: int) -> dict[str, str]:
        """The labels of train and dev by item id, for the verifier."""
        labels: dict[str, str] = self._call("data", "labels", self._call("data", "default_root"), seed)
        return labels

    def gold(self) -> dict[str, str]:
        """The labels of test by item id. Only the auditor may call this."""
        labels: dict[str, str] = self._call("gold", "labels", self._call("data", "default_root"))
        return labels

    def score(self, answer: str | None, label: str) -> Scored:
        """The verifier's judgement of an answer; raises Misconfigured where it fails or gives no number."""
        scored = self._call("verifier", "score", answer, label)
        try:
            return Scored(float(scored.reward), scored.outcome)
        except (AttributeError, TypeError, ValueError) as error:
            raise Misconfigured(f"{self.folder}/verifier.py gave {scored!r:.100}; expected a Scored whose reward is a number.") from error

    def scaffold(self) -> dict[str, str]:
        """The files of the reference scaffold by relative path."""
        try:
            return read_tree(self.folder / "scaffold")
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(f"{self.folder}/scaffold holds a file that is no UTF-8 text ({error}); take it away.") from error

    def edits(self) -> tuple[Edit, ...]:
        """The edits that the rules agent may make; none where the task has no catalogue.py."""
        return tuple(self._part("catalogue", "EDITS")) if (self.folder / "catalogue.py").is_file() else ()

    def baselines(self) -> dict[str, Predict]:
        """Predictors to hold a run against, by name; none where the task has no baselines.py."""
        return dict(self._part("baselines", "BASELINES")) if (self.folder / "baselines.py").is_file() else {}

    def _part(self, part: str, name: str) -> Any:
        return getattr(_module(self.folder, self.package, part), name)

    def _call(self, part: str, name: str, *given: object) -> Any:
        function = self._part(part, name)
        try:
            return function(*given)
        except UserError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise Misconfigured(f"{self.folder / part}.py: {name} raised {why}; mend it and try again.") from error


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
    task, _, verifier = (_module(folder, package, part) for part in AT_ONCE)
    return Task(
        name=task.NAME,
        description=task.DESCRIPTION,
        folder=folder,
        package=package,
        policy=task.POLICY,
        generations=task.GENERATIONS,
        verifier=f"{task.NAME}/{verifier.VERSION}",
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
