"""Events as an AsyncAPI 3.0.0 document: a channel for each type's subject, and who sends and receives it."""

from typing import Any

from events import docstrings
from events.catalogue import DURABLES, ENTRIES, SERVICES, Entry, durables_of
from events.fact import Fact
from events.pages import json_schema
from events.run import DecisionMade
from events.subjects import GOLD, HEAD, LOG, PREFIX, RUN_NAME, subject

VERSION = "1"
"""The version of the description itself: a type or a field that is added keeps it."""
SCHEMA = "schema.json"
SCHEMA_FORMAT = "application/schema+json;version=2020-12"
CONTENT_TYPE = "application/cloudevents+json"
DESCRIPTION = f"""
The facts that evolog's services append to its log, as structured CloudEvents in JSON. Each event stands on a subject of
its own, `{PREFIX[LOG]}.>` in the JetStream stream {LOG} and `{PREFIX[GOLD]}.>` in the stream {GOLD}. A service sends an
event by appending it to the stream. A receiver that is named here is handed the event as work, and handed it again
until it acknowledges. Besides, the controller and the archivist read all of {LOG}, the auditor and the command line
read both streams, and the other services look up in {LOG} what they need.
"""


def document() -> dict[str, Any]:
    """The AsyncAPI document; its payloads refer to `schema.json`."""
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "evolog", "version": VERSION, "description": docstrings.flat(DESCRIPTION)},
        "defaultContentType": CONTENT_TYPE,
        "channels": {entry.fact.tag(): _channel(entry) for entry in ENTRIES},
        "operations": {name: node for entry in ENTRIES for name, node in _operations(entry)},
        "components": {
            "messages": {entry.fact.tag(): _message(entry) for entry in ENTRIES},
            "parameters": {
                "run": {"description": f"The run's name, {RUN_NAME}."},
                "entity": {"description": "The event's id, 24 hexadecimal digits that follow from run, type and key."},
            },
        },
    }


def address(fact: type[Fact], stream: str) -> str:
    """The subject of a type's events, with parameters in braces."""
    return subject(stream, "{run}", HEAD if fact is DecisionMade else "{entity}", fact.tag())


def receivers(tag: str) -> list[str]:
    """The services that are handed events of this type as work."""
    return [service for service in SERVICES for durable in durables_of(service) if tag in DURABLES[durable]]


def _channel(entry: Entry) -> dict[str, Any]:
    tag, where = entry.fact.tag(), address(entry.fact, entry.stream)
    return {
        "address": where,
        "title": tag,
        "description": f"On the stream {entry.stream}.",
        "tags": [{"name": entry.family}],
        "messages": {tag: {"$ref": f"#/components/messages/{tag}"}},
        "parameters": {
            name: {"$ref": f"#/components/parameters/{name}"} for name in ("run", "entity") if f"{{{name}}}" in where
        },
    }


def _operations(entry: Entry) -> list[tuple[str, dict[str, Any]]]:
    tag = entry.fact.tag()
    rows = [(service, "send", "sends") for service in entry.publishers]
    rows += [(service, "receive", "receives") for service in receivers(tag)]
    return [
        (
            f"{service}_{verb}_{tag}",
            {
                "action": action,
                "channel": {"$ref": f"#/channels/{tag}"},
                "tags": [{"name": service}],
                "messages": [{"$ref": f"#/channels/{tag}/messages/{tag}"}],
            },
        )
        for service, action, verb in rows
    ]


def _message(entry: Entry) -> dict[str, Any]:
    envelope = {"$ref": f"{SCHEMA}#/$defs/{json_schema.ENVELOPE}"}
    return {
        "name": entry.fact.tag(),
        "title": entry.fact.tag(),
        "description": docstrings.summary(entry.fact),
        "contentType": CONTENT_TYPE,
        "tags": [{"name": entry.family}],
        "payload": {
            "schemaFormat": SCHEMA_FORMAT,
            "schema": {"allOf": [envelope, {"properties": json_schema.attributes(entry, SCHEMA)}]},
        },
    }
