"""What the source says of a struct's fields and of a closed set's words: the string literal that follows each."""

import ast
import functools
import inspect
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import NamedTuple, get_args

import msgspec

from events import kinds


class FieldText(NamedTuple):
    """A field's name, its annotation as it is written, and what its docstring says; empty if it has none."""

    name: str
    annotation: ast.expr
    meaning: str


class WordSet(NamedTuple):
    """A closed set of words: its name, what it is for, and what its docstring says of each word; empty if nothing."""

    name: str
    purpose: str
    meanings: dict[str, str]


def fields(struct: type[msgspec.Struct]) -> list[FieldText]:
    """The fields of a struct that is defined at the top of a module, its own and inherited ones, in the order of the
    wire.
    """
    written = {
        name: (node.annotation, flat(text))
        for base in reversed(struct.__mro__)
        if base.__module__.startswith("events.")
        for name, node, text in _documented(_body(base))
        if isinstance(node, ast.AnnAssign)
    }
    return [FieldText(name, *written[name]) for name in struct.__struct_fields__]


def _body(struct: type) -> list[ast.stmt]:
    tree = _tree(sys.modules[struct.__module__])
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == struct.__name__).body


def word_sets() -> list[WordSet]:
    """The closed sets of words, in the order of `events/kinds.py`."""
    sets = []
    for name, _, text in _documented(_tree(kinds).body):
        purpose, *lines = text.split("\n`")
        meanings = dict.fromkeys(get_args(getattr(kinds, name)), "")
        for line in lines:
            word, _, meaning = line.partition("`:")
            meanings[word] = flat(meaning)
        sets.append(WordSet(name, flat(purpose), meanings))
    return sets


def summary(documented: type | ModuleType) -> str:
    """The docstring of a class or module, without its line breaks but for those between paragraphs."""
    return "\n\n".join(map(flat, inspect.cleandoc(documented.__doc__ or "").split("\n\n")))


def flat(text: str) -> str:
    """The text in one line."""
    return " ".join(text.split())


@functools.cache
def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def _documented(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.Assign | ast.AnnAssign, str]]:
    """Each assignment to a name, with the string that follows it; an empty one where none does."""
    statements = list(body)
    for node, following in zip(statements, [*statements[1:], None], strict=True):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name):
            match following:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield target.id, node, inspect.cleandoc(text)
                case _:
                    yield target.id, node, ""
