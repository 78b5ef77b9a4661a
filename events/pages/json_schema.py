"""Events as JSON Schema, draft 2020-12: a definition of each type's data, of the structs in it, and of the envelope.

The whole schema describes one event: the envelope, with the data that its type calls for.
"""

from typing import Any

import msgspec

from events import docstrings
from events.catalogue import ENTRIES, Entry
from events.codec import Envelope
from events.run import DecisionMade
from events.subjects import HEAD, PREFIX, RUN_NAME

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ID = "[0-9a-f]{24}"
"""A derived id, as a regular expression."""
ENVELOPE = "envelope"
"""The name of the envelope's definition."""
ENVELOPE_RULES: dict[str, dict[str, str]] = {
    "specversion": {"const": "1.0"},
    "id": {"pattern": f"^{ID}$"},
    "time": {"format": "date-time"},
    "run": {"pattern": f"^{RUN_NAME}$"},
}
"""What the struct's types do not say of the envelope's attributes."""

Schema = dict[str, Any]


def document() -> Schema:
    """The schema of an event, with all definitions."""
    return {
        "$schema": DIALECT,
        "title": "An event of evolog",
        "description": docstrings.summary(Envelope),
        "allOf": [
            {"$ref": f"#/$defs/{ENVELOPE}"},
            {"properties": {"type": {"enum": [entry.fact.tag() for entry in ENTRIES]}}},
            *(
                {
                    "if": {"properties": {"type": {"const": entry.fact.tag()}}},
                    "then": {"properties": attributes(entry)},
                }
                for entry in ENTRIES
            ),
        ],
        "$defs": definitions(),
    }


def definitions() -> dict[str, Schema]:
    """The envelope's definition, that of each type's data by tag, and those of the structs in them by name."""
    structs: dict[str, type[msgspec.Struct]] = {
        ENVELOPE: Envelope,
        **{entry.fact.tag(): entry.fact for entry in ENTRIES},
        **{part.__name__: part for part in parts()},
    }
    _, components = msgspec.json.schema_components(list(structs.values()), ref_template="#/$defs/{name}")
    named = {name: _described(struct, components[struct.__name__]) for name, struct in structs.items()}
    for name, rule in ENVELOPE_RULES.items():
        named[ENVELOPE]["properties"][name] |= rule
    return {name: {**schema, "title": name} for name, schema in named.items()}


def parts() -> list[type[msgspec.Struct]]:
    """The structs in the data of events, in the order of the catalogue."""
    return list(dict.fromkeys(part for entry in ENTRIES for part in parts_of(entry.fact)))


def parts_of(struct: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """The structs in the fields of a struct, each once."""
    return list(dict.fromkeys(_structs_in(msgspec.inspect.type_info(struct))[1:]))


def attributes(entry: Entry, file: str = "") -> Schema:
    """What the envelope's attributes are for this type of event; `file` holds the definitions, empty for this one."""
    tag = entry.fact.tag()
    entity = HEAD if entry.fact is DecisionMade else ID
    return {
        "type": {"const": tag},
        "version": {"const": entry.fact.VERSION},
        "subject": {"pattern": rf"^{PREFIX[entry.stream]}\.{RUN_NAME}\.{entity}\.{tag}$"},
        "data": {"$ref": f"{file}#/$defs/{tag}"},
    }


def _structs_in(node: msgspec.inspect.Type) -> list[type[msgspec.Struct]]:
    match node:
        case msgspec.inspect.StructType(cls=struct, fields=fields):
            return [struct, *(part for field in fields for part in _structs_in(field.type))]
        case msgspec.inspect.VarTupleType(item_type=item):
            return _structs_in(item)
        case msgspec.inspect.DictType(value_type=value):
            return _structs_in(value)
        case msgspec.inspect.UnionType(types=types):
            return [part for one in types for part in _structs_in(one)]
    return []


def _described(struct: type[msgspec.Struct], schema: Schema) -> Schema:
    """The schema that msgspec makes of a struct, with the docstrings of the struct and of its fields."""
    texts = {field.name: field.meaning for field in docstrings.fields(struct)}
    described = {**schema, "description": docstrings.summary(struct)}
    if struct.__struct_config__.array_like:
        items = zip(schema["prefixItems"], texts.items(), strict=True)
        return described | {
            "prefixItems": [{**item, "title": name, "description": text} for item, (name, text) in items]
        }
    properties = {name: {**value, "description": texts[name]} for name, value in schema["properties"].items()}
    return described | {"properties": properties}
