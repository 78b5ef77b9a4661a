"""Digests of hidden texts, by which a table keyed by them is found: whole, by their ends, and as numbers."""

import binascii
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from replay.audit.provenance.encodings import BASE64, HEX, has_run

MANY = 5
"""So many different short digests of hidden texts stand together in no honest file."""

_HASHES: Mapping[str, Any] = {
    name: getattr(hashlib, name)
    for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256", "sha3_512", "blake2b", "blake2s")
}
_BLAKE2B_SIZES = (8, 16, 32)
_CHECKSUMS = {"crc32": zlib.crc32, "adler32": zlib.adler32}
_BITS = (64, 128, 160, 224, 256, 384, 512)
_MODULI = (10**8, 10**9, 10**10, 10**12, 2**31)
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:0[xX])?([0-9a-fA-F]{8,})(?![0-9A-Za-z])")
_DECIMAL = re.compile(r"(?<![\w.])-?[0-9]{8,155}(?![\w.])")
_BASE64 = re.compile(r"(?<![\w+/-])[\w+/-]{22,86}(?![\w+/-])", re.ASCII)
_BASE64_LENGTHS = (22, 27, 38, 43, 64, 86)
"""The lengths that whole digests have without padding."""
_URL_SAFE = str.maketrans("-_", "+/")
_LONGEST_DIGEST = 128


class DigestsSeen(NamedTuple):
    """Digests of hidden texts in a text: pairs of the item's id and the digest's name."""

    whole: frozenset[tuple[str, str]] = frozenset()
    """Of 16 hexadecimal digits or more, so that one is proof."""
    short: frozenset[tuple[str, str]] = frozenset()
    """Shorter ones, which `chance` can show."""
    tokens: int = 0
    """How much of the text had the form of a short one."""


class HiddenDigests:
    """The digests of texts, by id; `variants` are all forms of a text that are looked for, the text itself first."""

    def __init__(
        self, texts: Iterable[tuple[str, str]], variants: Callable[[str], Iterable[str]], public: Iterable[str]
    ):
        known = {variant for text in public for variant in variants(text)}
        self._whole: dict[int, tuple[str, str]] = {}
        self._short: dict[int, tuple[str, str]] = {}
        for id, text in texts:
            for place, variant in enumerate(dict.fromkeys(variants(text))):
                if variant and variant not in known:
                    self._add(id, variant.encode(errors="replace"), first=place == 0)

    def _add(self, id: str, data: bytes, first: bool) -> None:
        digests = [(name, make(data, usedforsecurity=False).digest()) for name, make in _HASHES.items()]
        digests += [("blake2b", hashlib.blake2b(data, digest_size=size).digest()) for size in _BLAKE2B_SIZES]
        for name, digest in digests:
            source = id, name
            for part in (digest[:8], digest[-8:], digest[7::-1]):
                self._whole[int.from_bytes(part)] = source
            if first:
                for part in (digest[:4], digest[-4:], digest[3::-1]):
                    self._short[int.from_bytes(part)] = source
                if name in ("md5", "sha1", "sha256"):
                    number = int.from_bytes(digest)
                    self._short |= {number % modulus: source for modulus in _MODULI}
        if first:
            self._short |= {checksum(data): (id, name) for name, checksum in _CHECKSUMS.items()}

    def seen(self, text: str) -> DigestsSeen:
        """The digests in a text."""
        whole: set[tuple[str, str]] = set()
        short: set[tuple[str, str]] = set()
        tokens = 0
        eight = has_run(text, HEX, 8)
        for token in _HEX.findall(text) if eight else ():
            if len(token) < 16:
                tokens += 1
                _take(self._short, int(token[:8], 16), short)
                _take(self._short, int(token[-8:], 16), short)
                continue
            starts = range(len(token) - 15) if len(token) > _LONGEST_DIGEST else (0, len(token) - 16)
            for start in starts:
                _take(self._whole, int(token[start : start + 16], 16), whole)
        for token in _DECIMAL.findall(text) if eight else ():
            number = int(token)
            tokens += 1
            _take(self._short, number % 2**32 if -(2**31) <= number < 2**32 else number, short)
            for bits in _BITS:
                if bits - 24 < number.bit_length() <= bits:
                    _take(self._whole, number % 2**bits >> bits - 64, whole)
        for token in _BASE64.findall(text) if has_run(text, BASE64, 22) else ():
            if len(token) not in _BASE64_LENGTHS:
                continue
            data = binascii.a2b_base64(token.translate(_URL_SAFE) + "=" * (-len(token) % 4))
            _take(self._whole, int.from_bytes(data[:8]), whole)
        return DigestsSeen(frozenset(whole), frozenset(short), tokens)

    def leaked(self, seen: Iterable[DigestsSeen]) -> set[tuple[str, str]]:
        """The digests in the texts that stand together, without short ones where there are no more than chance gives.

        At most one in 10^8 / `len(self._short)` tokens of chance is one.
        """
        whole: set[tuple[str, str]] = set()
        short: set[tuple[str, str]] = set()
        expected = 0.0
        for one in seen:
            whole |= one.whole
            short |= one.short
            expected += one.tokens * len(self._short) / 1e8
        return whole | short if len({id for id, _ in short}) >= MANY + 4 * expected else whole


def _take(digests: Mapping[int, tuple[str, str]], number: int, found: set[tuple[str, str]]) -> None:
    if number in digests:
        found.add(digests[number])
