"""Which module of the repository imports which, from their source: at import time, or also later."""

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.harness.paths import ROOT

PACKAGES = ("events", "algorithms", "tasks", "runtime", "replay", "services")


def source_files(package: str, *, data: bool = False) -> list[Path]:
    """The package's Python files; with `data` also those that are data: scaffolds, and the steps that edits put into
    them.
    """
    files = sorted((ROOT / package).rglob("*.py"))
    return [path for path in files if data or not {"scaffold", "steps"} & set(path.relative_to(ROOT).parts)]


def module_name(path: Path) -> str:
    """`runtime/log/port.py` is `runtime.log.port`; a package's `__init__.py` is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports_of(path: Path, lazy: bool) -> frozenset[str]:
    """As `names_imported`, of a file of the repository."""
    return names_imported(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py", lazy=lazy)


def names_imported(source: str, module: str, is_package: bool = False, *, lazy: bool = True) -> frozenset[str]:
    """Every dotted name that a module imports; of `from a import b` both `a` and `a.b`.

    Without `lazy` those of import time only.
    """
    found: set[str] = set()
    for node in _nodes(ast.parse(source), lazy):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            found |= {name, *(f"{name}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def _nodes(tree: ast.AST, lazy: bool) -> Iterator[ast.AST]:
    """The statements of a module; without `lazy`, those outside functions and outside `if TYPE_CHECKING`.

    What stands under `if __name__ == "__main__"` is a program that uses the module, and no part of it.
    """
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.expr):  # no import stands in one
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "__name__ == '__main__'":
            continue
        if not lazy and (
            isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        ):
            continue
        yield from _nodes(child, lazy)


@functools.cache
def import_graph(*, lazy: bool = True) -> dict[str, set[str]]:
    """For each module of the repository the modules of it that it imports."""
    files = {module_name(path): path for package in PACKAGES for path in source_files(package)}
    graph = {}
    for module, path in files.items():
        names = imports_of(path, lazy)
        used = {name for name in names if name in files}
        # `from a import b` of a module a.b needs b; it needs what a/__init__.py says only where that says anything
        packages = {
            name
            for name in used
            if any(other.startswith(f"{name}.") for other in used) and not _says_something(files[name])
        }
        graph[module] = used - packages - {module}
    return graph


def _says_something(path: Path) -> bool:
    return any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text(encoding="utf-8")).body)


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules of which each imports each, directly or not (strongly connected components of more than
    one).
    """
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for other in graph.get(todo.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
        reach[start] = seen
    groups = {
        tuple(sorted(other for other in reach[module] if module in reach[other]))
        for module in graph
        if module in reach[module]
    }
    return [list(group) for group in sorted(groups)]


def public_types(source: str) -> set[str]:
    """The names of the types that a module defines: its public classes, and aliases in CamelCase; type variables are
    none.
    """
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found.add(node.name)
        elif (
            isinstance(node, ast.Assign | ast.AnnAssign)
            and node.value is not None
            and "TypeVar(" not in ast.unparse(node.value)
        ):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            found |= {name for name in names if name[0].isupper() and not name.isupper() and "_" not in name}
    return found
