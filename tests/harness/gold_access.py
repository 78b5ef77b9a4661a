"""Finds where code reaches for a task's gold labels, by whatever way of writing it: by name, by a loaded module, or by
a path.

It reads source, so it finds what somebody writes without meaning harm. Code that hides its words from a reader hides
them from this too.
"""

import ast
import re
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase

GETTERS = frozenset({"getattr", "hasattr", "attrgetter", "methodcaller"})
TASK_MAKERS = ("load", "load_task", "with_judge", "with_verifier")
"""The functions that give a task."""
LOADERS = frozenset({"import_module", "__import__", "_module", "_part", "_call"})
BY_NAME = frozenset({"import_module", "__import__", "resolve_name"})
"""What imports a module whose name may be made up while the program runs."""
GLOBS = frozenset({"glob", "rglob", "iglob"})
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


def reaches(
    source: str, methods: Collection[str], fields_of: Collection[str] = (), may: Collection[str] = ()
) -> list[str]:
    """Where a module reaches for gold, as "line: what".

    `methods` are the names that read it. `fields_of` are the expressions, such as `row`, that have fields of the same
    names; a name that the module gives to a task anywhere is none of them. `may` are words that this module may write:
    the names of `FILES` and of `PATHS`, a pattern of `GLOBS` that finds such a file, "gold" as an argument or a key,
    and "import_module" of a name that is made up.
    """
    nodes = list(ast.walk(ast.parse(source)))
    fields_of = set(fields_of) - _names_of_tasks(nodes)
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    found = {
        (node.lineno, what)
        for node in nodes
        if isinstance(node, ast.expr | ast.stmt)
        for what in _reach(node, methods, fields_of, may, id(node) in called, id(node) in prose)
    }
    return [f"{line}: {what}" for line, what in sorted(found)]


def _reach(
    node: ast.AST, methods: Collection[str], fields_of: Collection[str], may: Collection[str], called: bool, prose: bool
) -> Iterator[str]:
    match node:
        case ast.Attribute(attr=name, value=owner) if name in methods and (
            called or ast.unparse(owner) not in fields_of
        ):
            yield f"{ast.unparse(owner)}.{name}"
        case ast.Attribute(attr=name) if name in PATHS and name not in may:
            yield f"the path {name}"
        case ast.Import(names=names):
            yield from (f"import {alias.name}" for alias in names if _is_gold_module(alias.name))
        case ast.ImportFrom(module=module, names=names, level=level):
            for alias in names:
                if alias.name in BY_NAME | GLOBS and alias.asname not in (None, alias.name):
                    yield f"{alias.name} under another name"
                if _is_gold_module(f"{'.' * level}{module or ''}.{alias.name}") or _is_gold_module(
                    f"{'.' * level}{module or ''}"
                ):
                    yield f"from {module or '.'} import {alias.name}"
        case ast.Call(func=function, args=arguments):
            name = _last_name(function)
            words = {text for argument in arguments if (text := _text(argument))}
            if name in GETTERS and words & set(methods):
                yield f"{name} of {min(words & set(methods))!r}"
            if name in LOADERS and "gold" in words:
                yield f"{name} of the module 'gold'"
            if (
                name in BY_NAME
                and "import_module" not in may
                and not (arguments and isinstance(arguments[0], ast.Constant))
            ):
                yield f"{name} of a name that is made up"
            if name in GLOBS:
                yield from (
                    f"the pattern {text!r}"
                    for argument in arguments
                    if (text := _text(argument, "*")) not in may and _finds(text)
                )
            if "gold" not in may and "gold" in {*words, *(_text(keyword.value) for keyword in node.keywords)}:
                yield f"{name} of 'gold'"
        case ast.Subscript(value=owner, slice=key) if (_text(key) == "gold" and "gold" not in may) or (
            _text(key) in methods and re.search(r"__dict__$|^vars\(", ast.unparse(owner))
        ):
            yield f"{ast.unparse(owner)} at {_text(key)!r}"
        case ast.BinOp(op=ast.Div(), right=right) if _text(right) == "gold":
            yield "a path that ends in 'gold'"
        case _:
            pass
    if prose or not isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
        return
    text = _text(node)
    if re.search(r"[.:]gold$|\.gold:", text) and not text.startswith("events.gold"):
        yield f"the module {text!r}"
    yield from (f"the path {file!r}" for file in FILES if file in text and file not in may)


def _last_name(function: ast.expr) -> str:
    """The name by which a function is called, without what it is a part of."""
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ast.unparse(function)


def _is_gold_module(name: str) -> bool:
    """Whether a dotted name is a task's module `gold`; events.gold holds only facts."""
    return name.rpartition(".")[2] == "gold" and name != "events.gold"


def _finds(pattern: str) -> bool:
    """Whether a pattern of files finds one of those where gold is; one that is not known at all does not count."""
    last = pattern.rpartition("/")[2]
    return any(fnmatchcase(file, last) for file in FILES)


def _names_of_tasks(nodes: Sequence[ast.AST]) -> set[str]:
    """The names to which a module gives a task anywhere: by assignment, or as a parameter that is annotated so."""
    names = {
        node.arg
        for node in nodes
        if isinstance(node, ast.arg) and node.annotation and re.search(r"\bTask\b", ast.unparse(node.annotation))
    }
    pairs = [pair for node in nodes for pair in _assigned(node)]
    while (
        more := {target.id for target, value in pairs if isinstance(target, ast.Name) and _is_task(value, names)}
        - names
    ):
        names |= more
    return names


def _assigned(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What a node assigns to what; a tuple part by part."""
    match node:
        case ast.Assign(targets=targets, value=value):
            given = [(target, value) for target in targets]
        case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value):
            given = [(target, value)]
        case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
            given = [(target, value)]
        case _:
            given = []
    for target, value in given:
        if isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
            yield from zip(target.elts, value.elts, strict=False)
        else:
            yield target, value


def _is_task(value: ast.expr, names: Collection[str]) -> bool:
    """Whether an expression is what one of `TASK_MAKERS` gave, a field `task`, or a name of one of them."""
    match value:
        case ast.Call(func=function) if _last_name(function) in TASK_MAKERS:
            return True
        case ast.Attribute(attr="task"):
            return True
        case ast.Name(id=name):
            return name in names
        case ast.IfExp(body=one, orelse=other):
            return _is_task(one, names) or _is_task(other, names)
        case ast.BoolOp(values=values):
            return any(_is_task(each, names) for each in values)
        case ast.Await(value=inner) | ast.NamedExpr(value=inner):
            return _is_task(inner, names)
    return False


def _text(node: ast.AST, unknown: str = " ") -> str:
    """What is known of a string before the program runs; parts that are not known are `unknown`."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(value, unknown) or unknown for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            one, other = _text(left, unknown), _text(right, unknown)
            return f"{one or unknown}{other or unknown}".strip() if one or other else ""
    return ""
