"""Finds where code reaches for a task's gold labels, by whatever way of writing it: by name, by a loaded module, or by a path.

It reads source, so it finds what somebody writes without meaning harm. Code that hides its words from a reader hides them from this too.
"""

import ast
from collections.abc import Collection, Iterator

GETTERS = frozenset({"getattr", "hasattr", "attrgetter", "methodcaller"})
LOADERS = frozenset({"import_module", "__import__", "_module", "_part", "_call"})
FILES = ("gold.py", "gold_blobs", "gold.duckdb")
"""Where gold labels, and what the auditor made of them, are on a disk."""
PATHS = frozenset({"gold_blobs", "gold_archive"})
"""The node's properties that give such a path."""


def gold_methods(loading: str) -> set[str]:
    """The public methods of `Task` that load gold.py, from the text of tasks/loading.py."""
    tasks = (node for node in ast.parse(loading).body if isinstance(node, ast.ClassDef) and node.name == "Task")
    return {
        method.name
        for task in tasks
        for method in task.body
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
        if any(isinstance(node, ast.Constant) and node.value == "gold" for node in ast.walk(method))
    }


def reaches(source: str, methods: Collection[str], fields_of: Collection[str] = (), may: Collection[str] = ()) -> list[str]:
    """Where a module reaches for gold, as "line: what".

    `methods` are the names that read it. `fields_of` are the expressions, such as `row`, that have fields of the same names.
    `may` are words that this module may write: the names of `FILES`, and of `PATHS`.
    """
    tree = ast.parse(source)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        for what in _reach(node, methods, fields_of, may, id(node) in called, id(node) in prose):
            found.append(f"{node.lineno}: {what}")  # type: ignore[attr-defined]
    return sorted(set(found), key=lambda line: int(line.partition(":")[0]))


def _reach(
    node: ast.AST, methods: Collection[str], fields_of: Collection[str], may: Collection[str], called: bool, prose: bool
) -> Iterator[str]:
    match node:
        case ast.Attribute(attr=name, value=owner) if name in methods and (called or ast.unparse(owner) not in fields_of):
            yield f"{ast.unparse(owner)}.{name}"
        case ast.Attribute(attr=name) if name in PATHS and name not in may:
            yield f"the path {name}"
        case ast.Import(names=names):
            yield from (f"import {alias.name}" for alias in names if _is_gold_module(alias.name))
        case ast.ImportFrom(module=module, names=names, level=level):
            for alias in names:
                if _is_gold_module(f"{'.' * level}{module or ''}.{alias.name}") or _is_gold_module(f"{'.' * level}{module or ''}"):
                    yield f"from {module or '.'} import {alias.name}"
        case ast.Call(func=function, args=arguments):
            name = ast.unparse(function).rpartition(".")[2]
            words = {text for argument in arguments if (text := _text(argument))}
            if name in GETTERS and words & set(methods):
                yield f"{name} of {min(words & set(methods))!r}"
            if name in LOADERS and "gold" in words:
                yield f"{name} of the module 'gold'"
        case ast.BinOp(op=ast.Div(), right=right) if _text(right) == "gold":
            yield "a path that ends in 'gold'"
        case _:
            pass
    if prose or not isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
        return
    text = _text(node)
    if text.endswith(".gold") and text != "events.gold":
        yield f"the module {text!r}"
    yield from (f"the path {file!r}" for file in FILES if file in text and file not in may)


def _is_gold_module(name: str) -> bool:
    """Whether a dotted name is a task's module `gold`; events.gold holds only facts."""
    return name.rpartition(".")[2] == "gold" and name != "events.gold"


def _text(node: ast.AST) -> str:
    """What is known of a string before the program runs; parts that are not known are a space."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(value) or " " for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return f"{_text(left) or ' '}{_text(right) or ' '}".strip() if _text(left) or _text(right) else ""
    return ""
