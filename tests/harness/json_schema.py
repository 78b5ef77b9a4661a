"""Whether a value is what a JSON Schema says, for the keywords that `events/schema.json` uses."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
SAYS_NOTHING = {"$schema", "$defs", "title", "description", "default", "format", "then"}
"""Keywords that no value breaks."""

Schema = Mapping[str, Any] | Literal[False]


def errors(value: Any, schema: Schema, root: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """What is wrong with a value, each with where it is; an AssertionError for a keyword that is not known here."""
    if schema is False:
        yield f"{path} is not known"
        return
    for keyword, rule in schema.items():
        match keyword:
            case "type":
                if type(value) not in TYPES[rule]:
                    yield f"{path}: {value!r:.60} is no {rule}"
                    return
            case "const" | "enum":
                if value not in (rule if keyword == "enum" else [rule]):
                    yield f"{path}: {value!r:.60}, expected {rule}"
            case "pattern":
                if not re.search(rule, value):
                    yield f"{path}: {value!r:.60} does not match {rule}"
            case "required":
                yield from (f"{path}.{name} is missing" for name in rule if name not in value)
            case "properties":
                for name in rule.keys() & value.keys():
                    yield from errors(value[name], rule[name], root, f"{path}.{name}")
            case "additionalProperties":
                for name in value.keys() - schema.get("properties", {}).keys():
                    yield from errors(value[name], rule, root, f"{path}.{name}")
            case "items":
                for index, item in enumerate(value):
                    yield from errors(item, rule, root, f"{path}[{index}]")
            case "prefixItems":
                for index, (item, one) in enumerate(zip(value, rule, strict=False)):
                    yield from errors(item, one, root, f"{path}[{index}]")
            case "minItems":
                if len(value) < rule:
                    yield f"{path} has {len(value)} items, expected {rule} at least"
            case "$ref":
                yield from errors(value, root["$defs"][rule.removeprefix("#/$defs/")], root, path)
            case "allOf":
                for one in rule:
                    yield from errors(value, one, root, path)
            case "anyOf":
                if all(any(errors(value, one, root)) for one in rule):
                    yield f"{path}: {value!r:.60} is none of {rule}"
            case "if":
                if not any(errors(value, rule, root)):
                    yield from errors(value, schema["then"], root, path)
            case _:
                assert keyword in SAYS_NOTHING, keyword
