"""Looks at the files of a task's folder, and at the packages that scaffolds can read, for ways to the answers."""

import ast
import os
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from events.errors import Misconfigured
from runtime.sandbox.bwrap import visible
from tasks.contract import Item

GOLD = "gold.py"
CONSTANTS = {
    "task.py": (
        *("NAME", "DESCRIPTION", "POLICY", "GENERATIONS", "MAX_TOKENS", "SOLVED", "SIGNAL", "SHARED_STATE"),
        *("SHARED_PROMPTS", "PRIVATE_PROMPTS"),
    ),
    "verifier.py": ("VERSION", "OUTCOMES", "REPEATS", "SECONDS", "NEEDS", "JUDGE"),
    GOLD: ("EXTRA_METRICS", "PERTURBATIONS", "RELIABILITY"),
}
"""The constants that the contract knows, by file."""
NEAR = 0.85
"""How alike two names are that may be one misspelt."""
IMPORTERS = ("import_module", "__import__")
NEEDLE = (24, 80)
"""Least and most characters of a prompt that are looked for: a shorter one could stand anywhere."""
COMPILED = ("*.so", "*.so.*", "*.a", "*.h")
"""Files that hold no data, and are many."""
PATIENCE = 120.0
"""Seconds for which the installed packages are searched."""


class AnswersFound(NamedTuple):
    """Where answers of test can be had among the packages, and what was looked at."""

    files: Mapping[str, Sequence[str]]
    """By file, the test items whose prompts stand in it."""
    labelled: Collection[str]
    """Those of the files whose package holds the labels of these items too."""
    folders: Sequence[Path]
    looked_for: int
    """Test items whose prompts were long enough to be looked for."""


def ways_to_gold(folder: Path) -> list[str]:
    """Where modules of a task's folder other than gold.py name gold, as "FILE, line N, ...".

    Raises Misconfigured for a file that is no Python, as the next function does.
    """
    return [
        f"{path.relative_to(folder).as_posix()}, line {line}, {what}"
        for path in sorted(folder.rglob("*.py"))
        if path != folder / GOLD
        for line, what in _names_gold(_parsed(path.read_text(encoding="utf-8"), path.relative_to(folder).as_posix()))
    ]


def ways_out_of_scaffold(files: Mapping[str, str], prefix: str) -> list[str]:
    """Where a scaffold imports what is not there when it runs: the task's data, verifier or gold, or evolog itself.

    `files` are the scaffold's by relative path; places are given as "PREFIXfile, line N, ...".
    """
    own = {path.partition("/")[0].removesuffix(".py") for path in files}
    found = []
    for path, text in sorted(files.items()):
        if path.endswith(".py"):
            for line, name in _imports(_parsed(text, f"{prefix}{path}")):
                first = name.lstrip(".").partition(".")[0]
                outside = first in ("data", "gold", "tasks") or first.startswith("verifier")
                if outside and (name.startswith("..") or first not in own):
                    found.append(f"{prefix}{path}, line {line}, imports {name}")
    return found


def misspelt(folder: Path) -> Iterator[str]:
    """The constants of a task's files that are no word of the contract, but nearly one, in sentences."""
    for file, words in CONSTANTS.items():
        own = [name for name in _defined(folder / file) if name.isupper() and name not in words]
        unused = [word for word in words if word not in _defined(folder / file)]
        for name in own:
            for meant in get_close_matches(name, unused, 1, NEAR):
                yield f"{file} defines {name}, which nobody reads; call it {meant} if that is meant."


def has_no_solve(files: Mapping[str, str]) -> bool:
    """Whether a scaffold's agent.py gives nothing the name `solve`; a star import may."""
    names = _names(_parsed(files.get("agent.py", ""), "scaffold/agent.py"))
    return not {"solve", "*"} & set(names)


def _defined(file: Path) -> list[str]:
    return list(_names(_parsed(file.read_text("utf-8"), file.name))) if file.is_file() else []


def _names(tree: ast.Module) -> Iterator[str]:
    """What a module gives a name to, at any depth."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.alias(name=name, asname=other):
                yield other or name


def takes_seed(folder: Path) -> bool:
    """Whether `labels` of gold.py has a place for the seed."""
    for node in ast.parse((folder / GOLD).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == "labels":
            return bool(node.args.vararg) or len(node.args.posonlyargs + node.args.args) > 1
    return True


def answers_in_packages(test: Sequence[Item], labels: Mapping[str, str]) -> AnswersFound:
    """Search the text files of installed packages, as far as the sandbox shows them, for prompts and labels of test.

    Raises TimeoutError where that takes too long, and FileNotFoundError where there is no `grep`.
    """
    folders = [
        folder
        for source in visible()[0]
        for pattern in ("python3*/site-packages", "python3*/dist-packages", "python3/dist-packages")
        for folder in source.glob(pattern)
    ]
    folders = sorted({folder.resolve() for folder in folders})
    needles: dict[str, str] = {}
    for item in test:
        if needle := _needle(item.prompt):
            needles[needle] = item.id
            needles[needle.encode("unicode_escape").decode()] = item.id  # as JSON writes it
    files: dict[str, list[str]] = defaultdict(list)
    for file, match in _grep(needles, folders):
        if (id := needles.get(match)) and id not in files[file]:
            files[file].append(id)
    labelled = set()
    for file, ids in files.items():
        package = _package(Path(file), folders)
        wanted = {labels[id] for id in ids if labels.get(id)}
        if wanted and {match for _, match in _grep(wanted, [package])} >= wanted:
            labelled.add(file)
    return AnswersFound(files, labelled, folders, len(set(needles.values())))


def _parsed(text: str, file: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as wrong:
        raise Misconfigured(f"{file} is no Python (line {wrong.lineno}: {wrong.msg}); mend it and try again.") from None


def _names_gold(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for line, name in _imports(tree):
        if "gold" in name.split(".") and not name.startswith("events.gold"):
            yield line, f"imports {name}"
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in prose and GOLD in str(node.value):
            yield node.lineno, f"names the file {GOLD}"


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The modules and names that are imported, also by a function of importlib, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                start = "." * level + (module or "")
                for alias in names:
                    yield node.lineno, f"{start}.{alias.name}" if module else f"{start}{alias.name}"
            case ast.Call(func=function, args=[ast.Constant(value=str() as name), *_]):
                if ast.unparse(function).rpartition(".")[2] in IMPORTERS:
                    yield node.lineno, name


def _needle(prompt: str) -> str:
    """The longest part of a prompt that files of any form would hold as it is; empty where that is short."""
    for mark in '"\\\t\r':
        prompt = prompt.replace(mark, "\n")
    longest = max((part.strip() for part in prompt.split("\n")), key=len, default="")
    return longest[: NEEDLE[1]].strip() if len(longest) >= NEEDLE[0] else ""


def _grep(needles: Collection[str], folders: Sequence[Path]) -> list[tuple[str, str]]:
    """(file, text) for each of the texts that stands in a file below the folders."""
    if not needles or not folders:
        return []
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as patterns:
        patterns.write("\n".join(needles) + "\n")
        patterns.flush()
        options = ["-r", "-I", "-F", "-o", "-H", "-Z", "-f", patterns.name]
        left_out = ["--exclude-dir=__pycache__", *(f"--exclude={pattern}" for pattern in COMPILED)]
        command = ["grep", *options, *left_out, "--", *map(str, folders)]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=PATIENCE, check=False, env={**os.environ, "LC_ALL": "C"}
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
    lines = done.stdout.decode(errors="replace").splitlines()
    return [(file, match) for file, _, match in (line.partition("\0") for line in lines)]


def _package(file: Path, folders: Sequence[Path]) -> Path:
    """The folder or file of the package that a file belongs to."""
    for folder in folders:
        if folder in file.parents:
            return folder / file.relative_to(folder).parts[0]
    return file
