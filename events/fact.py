"""The base of every fact: a frozen struct with a tag and a logical key, which refuses a number that is not finite."""

import math
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar, cast

import msgspec

from events.digest import sha256


class NotFinite(ValueError):
    """A fact cannot be made with NaN or an infinity in it."""


class Fact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data of one event: something that happened, named in the past tense.

    `TAG` is the type's name on the wire. It is written by hand and stays, whatever becomes of the class's name.
    `KEY` names the fields that identify it within its run; two facts of one type with equal keys are the same fact.
    `VERSION` counts changes of shape: a field added with a default keeps it, anything else is a new type.
    """

    TAG: ClassVar[str] = ""
    KEY: ClassVar[tuple[str, ...]] = ()
    EXCLUSIVE_KEY: ClassVar[str] = ""
    """A name that types share which exclude each other, such as a recorded and a failed attempt: of equal keys, one
    alone can be stored.
    """
    VERSION: ClassVar[int] = 1
    SINCE: ClassVar[Mapping[str, int]] = {}
    """For a fact that the decider makes: fields that were added, with the version of the decider that first wrote each.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__dict__.get("TAG"):
            raise TypeError(
                f"{cls.__name__} is a fact without a TAG of its own: write the name that it is to have on the wire."
            )

    def __post_init__(self) -> None:
        for name in _fields_with_floats(type(self)):
            value = getattr(self, name)
            if value is not None and (type(value) is not float or not math.isfinite(value)):
                _require_finite(value, self, name)

    @classmethod
    def tag(cls) -> str:
        """The type's name on the wire."""
        return cls.TAG

    def key(self) -> tuple[str | int, ...]:
        """The values of the fields that identify this fact within its run."""
        return tuple(cast("str | int", getattr(self, name)) for name in self.KEY)


@cache
def _fields_with_floats(kind: type[Fact]) -> tuple[str, ...]:
    """The fields of a fact whose types have a place for a float; most have none."""
    from msgspec import inspect  # when the first fact is made

    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    # a type's text names all that it is made of
    return tuple(
        field.name for field in info.fields if "FloatType(" in repr(field.type) or "AnyType(" in repr(field.type)
    )


def _require_finite(value: object, fact: Fact, field: str) -> None:
    kind = type(value)
    if kind is str or kind is int:
        return
    if kind is float:
        if not math.isfinite(cast(float, value)):
            raise NotFinite(
                f"{type(fact).__name__}.{field} is {value}; a fact holds finite numbers only, record a failure instead"
            )
    elif kind is tuple or kind is list:
        parts = cast("tuple[Any, ...]", value)
        with suppress(TypeError, OverflowError):  # no numbers, or one that no float holds
            if math.isfinite(sum(parts)):
                return  # the many at once
        if set(map(type, parts)) <= {str, int}:
            return
        for part in parts:
            _require_finite(part, fact, field)
    elif kind is dict:
        for part in cast("dict[str, object]", value).values():
            _require_finite(part, fact, field)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            _require_finite(getattr(value, name), fact, f"{field}.{name}")


def derive(*key: str | int) -> str:
    """A 24-digit hexadecimal name (96 bits of SHA-256) that follows from a logical key and from nothing else."""
    return sha256("\x1f".join(map(str, key)).encode())[:12].hex()


def derive_seed(*key: str | int) -> int:
    """A 63-bit seed that follows from a logical key; the first part is the run's seed, never its id."""
    return int.from_bytes(sha256("\x1f".join(map(str, key)).encode())[:8], "big") >> 1
