"""Values that must never be stored: `Secret` has no encoder, so that a fact with one in it has no bytes; `Scanner`
finds known ones.
"""

import base64
import codecs
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import quote, quote_plus

MARKER = "[a secret was here]"
SHORTEST = 8
"""Characters that a value must have to count as a secret: shorter ones, such as `EMPTY` for a local server, would be
found everywhere.
"""
VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY", "VLLM_API_KEY", "HF_TOKEN")
"""Environment variables whose values are secrets of every service."""


class SecretFound(ValueError):
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
    """Searches bytes that are about to be stored for known secrets, in any of the nine encodings."""

    def __init__(self, secrets: Sequence[Secret]) -> None:
        self.secrets = list(secrets)
        needles = {
            needle: None
            for secret in secrets
            if len(secret.reveal()) >= SHORTEST
            for forms in encodings(secret.reveal()).values()
            for needle in forms
        }
        rare = {
            b"%": (b"%",),
            b"\\u00": (b"\\u00", b"\\\\u00"),
        }  # what a text must hold before it can hold these needles
        self._rare = [
            (sign, [needle for needle in needles if needle.startswith(begins)]) for sign, begins in rare.items()
        ]
        self._common = [
            needle for needle in needles if not any(needle in rare_needles for _, rare_needles in self._rare)
        ]

    def check(self, payload: bytes) -> None:
        """Raise `SecretFound` if the payload holds a known secret."""
        if next(self._matches(payload), None) is not None:
            raise SecretFound(
                "an event held a known secret and was not appended; find where it came from before going on"
            )

    def redact(self, payload: bytes) -> bytes:
        """The payload with a marker in the place of each known secret; JSON stays JSON."""
        for needle in sorted(self._matches(payload), key=len, reverse=True):
            payload = payload.replace(needle, MARKER.encode())
        return payload

    def _matches(self, payload: bytes) -> Iterator[bytes]:
        for needle in self._common:
            if needle in payload:
                yield needle
        for sign, needles in self._rare:
            if sign in payload:
                yield from (needle for needle in needles if needle in payload)


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
