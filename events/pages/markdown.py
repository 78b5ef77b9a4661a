"""The envelope, the catalogue of events and the sets of words as Markdown: the part of README.md that is made."""

import ast
import sys
import textwrap
from collections.abc import Iterator, Sequence

import msgspec

from events import docstrings, kinds
from events.catalogue import ENTRIES, Entry
from events.codec import Envelope
from events.pages import asyncapi, json_schema

WIDTH = 120
JSON_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "msgspec.Raw": "object"}
"""The names in JSON of Python's types."""


def reference() -> str:
    """The part of README.md that follows from the code."""
    lines = [
        *("## Envelope", "", *_prose(docstrings.summary(Envelope)), "", *_table(Envelope)),
        *("", "## Catalogue", "", *_catalogue()),
        *("", "## Words", "", *_prose(docstrings.summary(kinds)), *_words()),
    ]
    return "\n".join(lines) + "\n"


def _catalogue() -> Iterator[str]:
    families: dict[str, list[Entry]] = {}
    for entry in ENTRIES:
        families.setdefault(entry.family, []).append(entry)
    yield from ("| family | events |", "|---|---|")
    for family, entries in families.items():
        yield f"| {_link(family)} | {', '.join(_link(entry.fact.tag()) for entry in entries)} |"
    for family, entries in families.items():
        yield from ("", f"### {family}", "", *_prose(docstrings.summary(sys.modules[entries[0].fact.__module__])))
        for entry in entries:
            yield from ("", f"#### {entry.fact.tag()}", "", *_entry(entry))


def _entry(entry: Entry) -> Iterator[str]:
    yield from (*_prose(docstrings.summary(entry.fact)), "")
    for line in _rules(entry):
        yield from textwrap.wrap(f"- {line}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    yield from ("", *_table(entry.fact))
    for part in json_schema.parts_of(entry.fact):
        as_array = " It is written as an array of its fields, in this order." * part.__struct_config__.array_like
        yield from ("", f"##### {part.__name__}", "", *_prose(docstrings.summary(part) + as_array), "", *_table(part))


def _rules(entry: Entry) -> Iterator[str]:
    """Who publishes a type of event and is handed it, where it stands, what its id follows from, what it excludes."""
    fact, tag = entry.fact, entry.fact.tag()
    yield f"Published by {_list([f'`{service}`' for service in entry.publishers])}."
    if receivers := asyncapi.receivers(tag):
        yield f"Handed as work to {_list([f'`{service}`' for service in receivers])}."
    yield f"Stands on the stream `{entry.stream}`, subject `{asyncapi.address(fact, entry.stream)}`."
    kind = f"the exclusive key `{fact.EXCLUSIVE_KEY}`" if fact.EXCLUSIVE_KEY else "its type"
    if fact.KEY:
        yield f"Its id follows from the run, {kind}, and the data's {_list([f'`{field}`' for field in fact.KEY])}."
    else:
        yield f"Its id follows from the run and {kind}, so a run has one at most."
    if others := [
        other
        for other in ENTRIES
        if fact.EXCLUSIVE_KEY and other.fact.EXCLUSIVE_KEY == fact.EXCLUSIVE_KEY and other is not entry
    ]:
        names = _list([_link(other.fact.tag()) for other in others])
        yield f"Shares that exclusive key with {names}: of two with equal keys, one alone can be stored."


def _table(struct: type[msgspec.Struct]) -> Iterator[str]:
    since = getattr(struct, "SINCE", {})
    yield from ("| field | type | meaning |", "|---|---|---|")
    for field, info in zip(docstrings.fields(struct), msgspec.structs.fields(struct), strict=True):
        added = f" Written since version {since[field.name]} of the decider." if field.name in since else ""
        yield f"| {field.name} | {_type(field.annotation)}{_default(info)} | {_cell(field.meaning)}{added} |"


def _type(annotation: ast.expr) -> str:
    """A type as it is in JSON; a set of words or a struct as a link to it."""
    match annotation:
        case ast.BinOp(left=left, right=ast.Constant(value=None)):
            return f"{_type(left)} or null"
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[item, ast.Constant()])):
            return f"array of {_type(item)}"
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[_, value])):
            return f"object of {_type(value)}"
    name = ast.unparse(annotation)
    return JSON_TYPES.get(name) or _link(name)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return ""
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return f", default `{msgspec.json.encode(value).decode()}`"


def _words() -> Iterator[str]:
    for words in docstrings.word_sets():
        yield from ("", f"### {words.name}", "", *_prose(words.purpose), "", "| word | meaning |", "|---|---|")
        yield from (
            f"| {f'`{word}`' if word else '(empty)'} | {_cell(_sentence(text))} |"
            for word, text in words.meanings.items()
        )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _prose(text: str) -> list[str]:
    return "\n\n".join(
        textwrap.fill(paragraph, WIDTH, break_on_hyphens=False) for paragraph in text.split("\n\n")
    ).split("\n")


def _list(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
