"""Events as bytes: structured CloudEvents 1.0 in JSON, the same bytes for the same event always."""

import base64
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from events import subjects
from events.catalogue import BY_FACT, BY_TAG
from events.fact import Fact, derive
from events.run import DecisionMade, EventSetAside
from events.subjects import LOG

SET_ASIDE_BYTES = 64 * 1024
NOW = 1 << 30
"""A version of the decider that is after all others."""
_HEAD_TAG = DecisionMade.tag()


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A fact with its envelope. `cause` is the id of the event that it answers; `time` is RFC 3339 in UTC."""

    id: str
    run: str
    source: str
    cause: str
    time: str
    data: Fact

    @property
    def tag(self) -> str:
        """The type's name on the wire."""
        return self.data.tag()

    @property
    def stream(self) -> str:
        """The stream that this type of event belongs to."""
        return BY_FACT[type(self.data)].stream

    @property
    def subject(self) -> str:
        """Where the event stands on its stream."""
        entity = subjects.HEAD if self.tag == _HEAD_TAG else self.id
        return subjects.subject(self.stream, self.run, entity, self.tag)


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it stands on the log: a structured CloudEvent 1.0.

    `run`, `cause`, `version` and `traceparent` are extension attributes.
    """

    specversion: str
    """The version of CloudEvents: `1.0`."""
    id: str
    """The event's id: 24 hexadecimal digits that follow from run, type and key."""
    source: str
    """The service that made it, or `operator`, the command line."""
    type: str
    """The tag of its type."""
    time: str
    """When it was made, RFC 3339 in UTC; of a decision, when the log stored what it answers."""
    subject: str
    """The subject that it stands on."""
    run: str
    """The name of the run that it is about."""
    cause: str
    """The id of the event that it answers; empty where it answers none."""
    version: int
    """The version of its type's shape, counted from 1."""
    data: msgspec.Raw
    """The fact: what happened."""
    traceparent: str = ""
    """A W3C trace context; nothing sets it, so it is empty."""


class UntypedEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename={"tag": "type"}):
    """An event for readers that only pass it on: its envelope, and its data as an ordinary struct with the fact's
    fields.

    It is decoded at a quarter of the time, since no `Fact` is made.
    """

    id: str
    run: str
    source: str
    cause: str
    tag: str
    version: int
    subject: str
    specversion: str
    time: str
    data: Any


class Unreadable(ValueError):
    """A message is no event that this version of the program can read; the text says why."""


_OF_HISTORIES = "test"
"""The source of recorded runs that tests made before sources were looked at (tests/histories)."""
_sources = {tag: frozenset((*entry.publishers, _OF_HISTORIES)) for tag, entry in BY_TAG.items()}
_encoder = msgspec.json.Encoder(order="deterministic")
_envelope_decoder = msgspec.json.Decoder(Envelope)
_data_decoders: dict[str, msgspec.json.Decoder[Any]] = {
    tag: msgspec.json.Decoder(entry.fact) for tag, entry in BY_TAG.items()
}


class _Shape(NamedTuple):
    """How one type of event is read at once, as an `UntypedEvent`, whose data are that or its fact."""

    prefix: str
    """The beginning of its subjects."""
    version: int
    decode: Callable[[bytes], UntypedEvent]
    key: Callable[[UntypedEvent], tuple[str | int, ...]]
    """The values that the event's id is derived from."""


def _shape(fact: type[Fact], stream: str) -> _Shape:
    # no __post_init__ is needed: JSON cannot hold the numbers that it refuses
    fields = [(field.name, field.type, _default(field)) for field in msgspec.structs.fields(fact)]
    data = msgspec.defstruct(
        fact.__name__,
        fields,
        kw_only=True,
        forbid_unknown_fields=True,
        omit_defaults=fact.__struct_config__.omit_defaults,
        gc=False,
    )
    return _shape_with(data, fact, stream)


def _shape_with(data: type[msgspec.Struct], fact: type[Fact], stream: str) -> _Shape:
    namespace = {"exclusive_key": fact.EXCLUSIVE_KEY or fact.tag()}
    untyped: type[Any] = msgspec.defstruct(
        "Untyped", [("data", data)], bases=(UntypedEvent,), namespace=namespace, frozen=True, kw_only=True, gc=False
    )
    key = attrgetter("run", "exclusive_key", *(f"data.{name}" for name in fact.KEY))
    return _Shape(f"{subjects.PREFIX[stream]}.", fact.VERSION, msgspec.json.Decoder(untyped).decode, key)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=field.default_factory)
    return field.default


_shapes = {tag: _shape(entry.fact, entry.stream) for tag, entry in BY_TAG.items()}
_typed = {tag: _shape_with(entry.fact, entry.fact, entry.stream) for tag, entry in BY_TAG.items()}

UPCASTS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By (tag, version as written), functions that give old data the present shape.

A line of each old shape is in tests/histories.
"""


def event(fact: Fact, *, run: str, source: str, cause: str, time: str) -> Event:
    """Wrap a fact; its id is derived from the run, its type and its key."""
    return Event(id=event_id(run, type(fact), *fact.key()), run=run, source=source, cause=cause, time=time, data=fact)


def event_id(run: str, fact: type[Fact], *key: str | int) -> str:
    """The id that the fact of this type with this key has, or will have, in this run."""
    return derive(run, fact.EXCLUSIVE_KEY or fact.tag(), *key)


def encode(event: Event, version: int = NOW) -> bytes:
    """The event's bytes; equal events have equal bytes.

    With a version of the decider, fields that came later are left out.
    """
    data = _encoder.encode(event.data)
    if later := [name for name, since in event.data.SINCE.items() if since > version]:
        fields = msgspec.json.decode(data)
        data = msgspec.json.encode({name: value for name, value in fields.items() if name not in later})
    return _encoder.encode(
        Envelope(
            specversion="1.0",
            id=event.id,
            source=event.source,
            type=event.tag,
            time=event.time,
            subject=event.subject,
            run=event.run,
            cause=event.cause,
            version=event.data.VERSION,
            data=msgspec.Raw(data),
        )
    )


def decode(payload: bytes) -> Event:
    """The event in these bytes, or `Unreadable` with a sentence that says what is wrong."""
    return _decode(payload)[0]


def _decode(payload: bytes) -> tuple[Event, str]:
    # with its subject
    try:
        envelope = _envelope_decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise Unreadable(f"not a CloudEvent: {wrong}") from wrong
    entry = BY_TAG.get(envelope.type)
    if entry is None:
        raise Unreadable(f"unknown event type {envelope.type!r}")
    try:
        if envelope.version == entry.fact.VERSION:
            data = _data_decoders[envelope.type].decode(envelope.data)
        elif (upcast := UPCASTS.get((envelope.type, envelope.version))) is not None:
            data = msgspec.convert(upcast(msgspec.json.decode(envelope.data)), entry.fact)
        else:
            raise Unreadable(f"{envelope.type} has version {envelope.version}, this program knows {entry.fact.VERSION}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise Unreadable(f"{envelope.type} has another shape: {wrong}") from wrong
    decoded = Event(
        id=envelope.id, run=envelope.run, source=envelope.source, cause=envelope.cause, time=envelope.time, data=data
    )
    if decoded.source not in _sources[envelope.type]:
        may = " or ".join(entry.publishers)
        raise Unreadable(f"says that its source is {decoded.source!r}, and {envelope.type} comes from {may} alone")
    if (subject := decoded.subject) != envelope.subject:
        raise Unreadable(f"says that its subject is {envelope.subject!r}, expected {subject!r}")
    if decoded.id != (id := event_id(decoded.run, entry.fact, *data.key())):
        raise Unreadable(f"has the id {decoded.id!r}, and {id!r} follows from its key")
    return decoded, subject


def decode_at(subject: str, payload: bytes) -> Event:
    """As `decode`; raises `Unreadable` also where the event says that it stands on another subject than `subject`."""
    if found := _at_once(subject, payload, _typed):
        return Event(
            id=found.id, run=found.run, source=found.source, cause=found.cause, time=found.time, data=found.data
        )
    decoded, own = _decode(payload)
    if own != subject:
        raise Unreadable(f"stands on subject {subject!r}, expected {own!r}")
    return decoded


def plain_at(subject: str, payload: bytes) -> UntypedEvent | Event:
    """As `decode_at` at half of the time.

    An event of an older shape, or one that cannot be read, goes to `decode_at`.
    """
    return _at_once(subject, payload, _shapes) or decode_at(subject, payload)


def _at_once(subject: str, payload: bytes, shapes: Mapping[str, _Shape]) -> UntypedEvent | None:
    """The event, if it is whole, of the present shape, and where it belongs; None for any that is to be looked at
    closely.
    """
    tag = subjects.tag_of(subject)
    try:
        prefix, version, decode_untyped, key = shapes[tag]
        decoded = decode_untyped(payload)
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    entity = subjects.HEAD if tag == _HEAD_TAG else decoded.id
    stands_right = decoded.subject == subject == f"{prefix}{decoded.run}.{entity}.{tag}"
    follows = decoded.id == derive(*key(decoded))
    whole = decoded.tag == tag and decoded.version == version and decoded.source in _sources[tag]
    return decoded if stands_right and follows and whole else None


def set_aside(sequence: int, subject: str, payload: bytes, reason: str, *, source: str, time: str) -> Event | None:
    """The `EventSetAside` that records an unreadable message of the log; None where its subject names no run."""
    run = subjects.run_of(subject)
    if not run or not subject.startswith(subjects.PREFIX[LOG]):
        return None
    fact = EventSetAside(
        sequence=sequence,
        subject=subject,
        reason=reason,
        size=len(payload),
        bytes=base64.b64encode(payload[:SET_ASIDE_BYTES]).decode(),
    )
    return event(fact, run=run, source=source, cause="", time=time)
