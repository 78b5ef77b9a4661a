"""Values that must never be stored: `Secret` has no encoder, so that a fact with one in it has no bytes; `Scanner`
finds known ones.
"""

import base64
import codecs
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

import msgspec

from events.errors import UserError

MARKER = "[a secret was here]"
SHORTEST = 8
"""Characters that a value must have to count as a secret: shorter ones, such as `EMPTY` for a local server, would be
found everywhere.
"""
VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY", "VLLM_API_KEY", "HF_TOKEN")
"""Environment variables whose values are secrets of every service."""


T = TypeVar("T")


class SecretFound(UserError):
    """A known secret was about to be appended to a log."""


class Secret:
    """A password or key; only `reveal()` gives it out, and printing or encoding it does not."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"


def of_environment(environment: Mapping[str, str]) -> list[Secret]:
    """The keys among the variables of an environment."""
    return [Secret(value) for name in VARIABLES if (value := environment.get(name, "").strip())]


def encodings(value: str) -> dict[str, tuple[bytes, ...]]:
    """The nine forms in which a secret is searched for, by name.

    Those of base64 are the characters that no neighbour changes.
    """
    plain = value.encode()
    escapes = "".join(f"\\u{ord(letter):04x}" for letter in value)
    return {
        "as it is": _texts(value),
        "reversed": _texts(value[::-1]),
        "rot13": _texts(codecs.encode(value, "rot13")),
        "hexadecimal": (plain.hex().encode(),),
        "upper-case hexadecimal": (plain.hex().upper().encode(),),
        "base64": tuple(_inner(plain, base64.b64encode)),
        "URL-safe base64": tuple(_inner(plain, base64.urlsafe_b64encode)),
        "percent-encoded": _texts(
            quote(value, safe=""), quote(value), quote_plus(value), "".join(f"%{byte:02X}" for byte in plain)
        ),
        "escaped": _texts(json.dumps(value)[1:-1], escapes),
    }


class Scanner:
    """Searches what is about to be stored for known secrets, in any of the nine encodings.

    Percent-encoding and escapes are undone first, whatever their case, also where they stand for a part of a secret
    alone.
    """

    def __init__(self, secrets: Sequence[Secret]) -> None:
        self.secrets: list[Secret] = []
        self._hexadecimal: dict[bytes, None] = {}
        self._needles: dict[bytes, None] = {}
        self.learn(secrets)

    def learn(self, secrets: Sequence[Secret]) -> None:
        """Search for these too, such as a key that took the place of another."""
        known = {secret.reveal() for secret in self.secrets}
        new = [secret for secret in secrets if secret.reveal() not in known]
        if self.secrets and not new:
            return
        self.secrets = [*self.secrets, *new]
        forms = [encodings(secret.reveal()) for secret in new if len(secret.reveal()) >= SHORTEST]
        # new dicts, and not changed ones: another thread may be searching
        self._hexadecimal = self._hexadecimal | dict.fromkeys(
            form for each in forms for form in each.pop("hexadecimal")
        )
        self._needles = self._needles | dict.fromkeys(
            needle
            for each in forms
            for name, named in each.items()
            if name != "upper-case hexadecimal"
            for form in named
            for needle in ((form, _unescaped(form)) if name == "as it is" else (_unescaped(form),))
        )

    def finds(self, payload: bytes) -> bool:
        """Whether the payload holds a known secret."""
        return next(self._matches(payload), None) is not None

    def check(self, payload: bytes) -> None:
        """Raise `SecretFound` if the payload holds a known secret."""
        if self.finds(payload):
            raise SecretFound(
                "An event held a known secret and was not appended; find where it came from before going on."
            )

    def redact(self, text: str) -> str:
        """The text with a marker in the place of each known secret."""
        for needle in sorted(set(self._matches(text.encode())), key=len, reverse=True):
            any_form = "".join(map(_forms_of, needle.decode(errors="replace")))
            text = re.sub(any_form, MARKER, text, flags=re.IGNORECASE if needle in self._hexadecimal else 0)
        return MARKER if self.finds(text.encode()) else text

    def redacted(self, value: T) -> T:
        """The value, of whatever JSON can hold, with a marker in the place of each known secret in its strings."""
        if not self.finds(msgspec.json.encode(value)):
            return value
        plain = msgspec.to_builtins(value, str_keys=True)
        return msgspec.convert(self._redacted(plain), type(value), str_keys=True)

    def _redacted(self, value: Any) -> Any:
        match value:
            case str():
                return self.redact(value)
            case dict():
                return {self.redact(name): self._redacted(entry) for name, entry in value.items()}
            case list() | tuple():
                return [self._redacted(entry) for entry in value]
        return value

    def _matches(self, payload: bytes) -> Iterator[bytes]:
        plain = _unescaped(payload)
        for view in (payload,) if plain == payload else (payload, plain):
            for needle in self._needles:
                if needle in view:
                    yield needle
            lower = view.lower()
            for needle in self._hexadecimal:
                if needle in lower:
                    yield needle


_PERCENT = re.compile(rb"%(?:25)*([0-9a-fA-F]{2})")
_ESCAPE = re.compile(
    rb"(?<!\\)\\++(?:[xX](HEX{2})|[uU](?:0000)?(HEX{4})|u\{(HEX{1,6})\}|(/))".replace(b"HEX", b"[0-9a-fA-F]")
)
"""A run of backslashes is matched from its beginning alone, and as a whole: it takes time by its length, not by its
square.
"""
_ANY_ESCAPE = re.compile(rb"\\[xXuU/]")
"""Found ten times as fast as `_ESCAPE`, which may begin with several backslashes."""


def _unescaped(payload: bytes) -> bytes:
    """The payload with bytes and characters themselves in the place of percent-encoded and escaped ones."""
    payload = _PERCENT.sub(lambda coded: bytes.fromhex(coded[1].decode()), payload)
    return _ESCAPE.sub(_escaped, payload) if _ANY_ESCAPE.search(payload) else payload


def _escaped(escape: re.Match[bytes]) -> bytes:
    code = next(filter(None, escape.groups()))
    return code if code == b"/" else chr(min(int(code, 16), sys.maxunicode)).encode(errors="replace")


def _forms_of(character: str) -> str:
    """A pattern for the character as it is, percent-encoded, or escaped."""
    code = f"{ord(character):x}"
    percent = "".join(f"%(?:25)*(?i:{byte:02x})" for byte in character.encode())
    escapes = rf"(?i:x{code:0>2}|u(?:0000)?{code:0>4}|u\{{0*{code}\}}){'|/' * (character == '/')}"
    return rf"(?:{re.escape(character)}|{percent}|(?<!\\)(?:\\|%(?:25)*5[cC])++(?:{escapes}))"


def _texts(*texts: str) -> tuple[bytes, ...]:
    """Texts as they are and as they stand in a string of JSON."""
    return tuple(
        dict.fromkeys(form.encode() for text in texts for form in (text, json.dumps(text, ensure_ascii=False)[1:-1]))
    )


def _inner(plain: bytes, encode: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """The base64 of the bytes at each of three alignments, without the characters that their neighbours share in."""
    for before in range(3):
        coded = encode(bytes(before) + plain)
        whole = (before + len(plain)) // 3 * 4
        yield coded[(0, 2, 3)[before] : whole + (0, 1, 2)[(before + len(plain)) % 3]]
